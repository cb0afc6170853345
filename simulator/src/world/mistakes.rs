//! Starts that an operator has configured wrong: the replica refuses them, and changes
//! nothing on its disk.

use replica::disk::Disk;
use replica::open::OpenError;
use replica::superblock::SuperblockError;

use super::World;
use crate::fault::Fault;
use crate::plan::Backend;
use crate::process::StartError;

impl World {
    /// The replica is started with other members, with the other backend, on the disk of
    /// another replica, or without its log. Then all is as it was.
    pub(super) fn start_by_mistake(
        &mut self,
        node: usize,
        other: usize,
        draw: u64,
    ) -> Result<(), String> {
        self.stop(node, false);
        let mut plan = self.plan.clone();
        plan.schedule.clear();
        let of = if draw % 4 == 2 { other } else { node };
        let disk = self.processes[of].disk.copy();
        let process = &mut self.processes[node];
        let own = std::mem::replace(&mut process.disk, disk);
        let what = match draw % 4 {
            0 => {
                plan.voters = match draw >> 8 & 1 == 0 {
                    true => 1,
                    false => plan.voters + 2,
                };
                plan.voters += u64::from(plan.voters == self.plan.voters);
                plan.learners = 0;
                "with other members"
            }
            1 => {
                plan.backend = match plan.backend {
                    Backend::Raft => Backend::Vr,
                    Backend::Vr => Backend::Raft,
                };
                "with the other backend"
            }
            2 => "on the disk of another replica",
            _ => {
                let names = process.disk.list("wal").map_err(|it| it.to_string())?;
                for name in names.iter().filter(|name| name.ends_with(".wal")) {
                    let path = format!("wal/{name}");
                    process.disk.remove(&path).map_err(|it| it.to_string())?;
                }
                "without its log"
            }
        };
        let process = &mut self.processes[node];
        let before = process.disk.operations();
        let started = process.start(&plan, &self.checks.history);
        process.running = None;
        let changed = process.disk.operations() - before;
        process.disk = own;
        let Err(StartError::Open(OpenError::Superblock(error))) = started else {
            return Err(format!("replica {node} starts {what}"));
        };
        let expected = match draw % 4 {
            0 => matches!(error, SuperblockError::Members { .. }),
            3 => matches!(error, SuperblockError::LogLost),
            _ => matches!(error, SuperblockError::Mismatch { .. }),
        };
        if !expected || changed > 0 {
            return Err(format!(
                "replica {node}, started {what}, refuses with \"{error}\" after {changed} changes of its disk"
            ));
        }
        self.delivered.note(Fault::Mistake);
        Ok(())
    }
}
