//! A log that overtakes the snapshot which was to replace it.
//!
//! The leader takes a snapshot and cuts its log. A replica lags and fetches the snapshot,
//! while no other replica knows that what it covers is committed. Then the leader is gone,
//! and another, which still has the log, sends that: the lagging replica acknowledges more
//! than the snapshot covers, and receives the last piece of it before it knows of the
//! commits.

use consensus::{Index, ReplicaId};
use replica::driver::{FileJob, ReplicaStatus};

use super::election_crash::CHECK_EVERY;
use super::{Event, World};
use crate::fault::{Fault, Planned};

/// How long all of it takes after the snapshot was taken, at most.
const LASTS: u64 = 3_000_000;

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct OvertakenTransfer {
    lagging: usize,
    leader: usize,
    until: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The replica is cut off.
    Lags,
    /// The leader stores a snapshot, and no other replica receives anything of it.
    Saves,
    /// The replica fetches it.
    Fetches,
    /// Its last piece is not stored yet, and the leader is gone.
    Held(Index),
}

impl World {
    pub(super) fn arm_overtaken_transfer(&mut self, planned: &Planned) {
        let lagging = planned.node;
        let Some(leader) = self.leader().filter(|leader| *leader != lagging) else {
            return;
        };
        let lags = self.lags_at_most(planned);
        let until = self.now + lags + LASTS;
        self.cut_off(lagging, lags, Fault::OvertakenTransfer);
        for other in self.bystanders(lagging, leader) {
            // They keep their logs.
            self.processes[other].files_stalled_until = until;
        }
        self.overtaken = Some(OvertakenTransfer {
            lagging,
            leader,
            until,
            stage: Stage::Lags,
        });
    }

    fn bystanders(&self, lagging: usize, leader: usize) -> Vec<usize> {
        let all = 0..self.processes.len();
        all.filter(|node| ![lagging, leader].contains(node))
            .collect()
    }

    /// The log of a replica that runs: its first index, its last, and what is committed.
    fn log_of(&self, node: usize) -> Option<(Index, Index, Index)> {
        let core = self.processes[node]
            .running
            .as_ref()?
            .replica
            .brief_status()
            .core;
        Some((core.first, core.last, core.commit))
    }

    /// Work on snapshot files is to be done.
    pub(super) fn overtaken_file_job(&mut self, node: usize, job: &FileJob) {
        let Some(overtaken) = self.overtaken.filter(|it| self.now < it.until) else {
            return;
        };
        let OvertakenTransfer {
            lagging,
            leader,
            until,
            stage,
        } = overtaken;
        match (stage, job) {
            (Stage::Lags, FileJob::Save { meta, .. }) if node == leader => {
                let Some((_, last, _)) = self.log_of(lagging) else {
                    return;
                };
                if meta.index.0 <= last.0 + self.plan.limits.log_tail_entries + 1 {
                    return;
                }
                for other in self.bystanders(lagging, leader) {
                    self.cut_link(leader, other, until - self.now, Fault::OvertakenTransfer);
                }
                self.set_overtaken(Stage::Saves);
                self.after(0, Event::CheckOvertaken);
            }
            (
                Stage::Fetches,
                FileJob::Receive {
                    meta,
                    offset,
                    total,
                    bytes,
                },
            ) if node == lagging && offset + bytes.len() as u64 == *total => {
                self.processes[lagging].files_stalled_until = until;
                self.network.rejoin(lagging);
                self.processes[leader].paused_until = until;
                self.cut_off(leader, until - self.now, Fault::OvertakenTransfer);
                self.set_overtaken(Stage::Held(meta.index));
            }
            _ => {}
        }
    }

    fn set_overtaken(&mut self, stage: Stage) {
        if let Some(overtaken) = &mut self.overtaken {
            overtaken.stage = stage;
        }
    }

    /// Connects the lagging replica with the leader when that has cut its log.
    pub(super) fn check_overtaken(&mut self) {
        let Some(overtaken) = self.overtaken.filter(|it| self.now < it.until) else {
            return;
        };
        let OvertakenTransfer {
            lagging, leader, ..
        } = overtaken;
        if overtaken.stage != Stage::Saves {
            return;
        }
        match (self.log_of(lagging), self.log_of(leader)) {
            (Some((_, last, _)), Some((first, ..))) if first > last.next() => {
                self.network.join_pair(lagging, leader);
                self.delivered.note(Fault::OvertakenTransfer);
                self.set_overtaken(Stage::Fetches);
            }
            _ => self.after(CHECK_EVERY / 10, Event::CheckOvertaken),
        }
    }

    /// A replica is in this state. When it leads, and the lagging replica has acknowledged
    /// more than the snapshot covers, that receives the rest of it.
    pub(super) fn overtake(&mut self, status: &ReplicaStatus) {
        let Some(OvertakenTransfer {
            lagging,
            leader,
            stage: Stage::Held(snapshot),
            ..
        }) = self.overtaken
        else {
            return;
        };
        let id = ReplicaId(lagging as u64 + 1);
        let mut peers = status.core.peers.iter();
        let acknowledged = peers.any(|peer| peer.id == id && peer.matched > snapshot);
        let open = self
            .log_of(lagging)
            .is_some_and(|(.., commit)| commit < snapshot);
        if acknowledged && open {
            let process = &mut self.processes[lagging];
            process.files_stalled_until = self.now;
            let start = process.starts;
            self.wake(leader);
            self.network.rejoin(leader);
            self.overtaken = None;
            self.after(
                0,
                Event::Filed {
                    node: lagging,
                    start,
                },
            );
        }
    }
}
