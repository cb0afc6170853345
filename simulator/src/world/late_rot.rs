//! Damage at the moment when nothing else on the disk makes up for it.
//!
//! A byte changes in the newest frame of a log that was just made shorter, or in a snapshot
//! that has just replaced the log.

use super::World;
use crate::fault::{Fault, Planned};
use crate::process::Rot;
use crate::random::Random;

impl World {
    pub(super) fn arm_late_rot(&mut self, planned: &Planned) {
        let node = planned.node;
        let mut random = Random::new(planned.draw);
        if random.per_mille(600) {
            self.processes[node].rot = Some(Rot::Compacted(planned.draw));
            return;
        }
        let away = self.lags_at_most(planned);
        self.processes[node].rot = Some(Rot::Installed(planned.draw));
        self.cut_off(node, away, Fault::LateRot);
        self.check_lag(node);
    }

    /// A write has ended, and what follows it. Returns whether the replica has stopped.
    pub(super) fn rots(&mut self, node: usize) -> Result<bool, String> {
        let process = &mut self.processes[node];
        let Some(running) = &process.running else {
            return Ok(false);
        };
        let (shortened, installed) = running.last_work();
        let rot = match process.rot {
            Some(rot @ Rot::Compacted(_)) if shortened => rot,
            Some(rot @ Rot::Installed(_)) if installed => rot,
            _ => return Ok(false),
        };
        process.rot = None;
        self.delivered.note(Fault::LateRot);
        self.stop(node, false);
        match rot {
            Rot::Compacted(draw) => {
                let mut random = Random::new(draw ^ 2);
                self.flip_newest(node, "wal/", ".wal", &mut random)?;
            }
            Rot::Installed(draw) => {
                let mut random = Random::new(draw ^ 2);
                self.flip_newest(node, "snapshots/", ".snap", &mut random)?;
            }
        }
        Ok(true)
    }
}
