//! Faults.

use consensus::Role;
use replica::disk::MemoryDisk;
use replica::driver::Event as Input;
use replica::open::OpenError;
use replica::snapshots::CHUNK_BYTES;
use replica::superblock::SuperblockError;

use super::clients::Waiting;
use super::processes::SUPERBLOCK_SYNCS;
use super::{Event, World};
use crate::fault::{Fault, Planned};
use crate::process::{FilesFail, StartError, StartFails};
use crate::random::Random;

/// A fault without a target is tried again after this time, at most so often.
const AGAIN: u64 = 100_000;
const TRIES: usize = 100;
/// After so many, what is slow is made faster for it.
const SLOW_TRIES: usize = 5;
/// How many effects a process has before it ends between two, at most.
const EFFECTS_MAX: u64 = 40;
/// The same for the operations of its disk.
const OPERATIONS_MAX: u64 = 12;
/// The same for those of a start.
const START_OPERATIONS_MAX: u64 = 20;
/// The same for the operations of work that makes a log shorter.
const COMPACTION_MAX: u64 = 6;
/// How long an outage lasts: longer than a replica waits for anything.
const OUTAGE: (u64, u64) = (6_000_000, 10_000_000);
/// The same for work on snapshot files.
const FILE_OPERATIONS_MAX: u64 = 4;
/// A transfer breaks after so many pieces at most, the header included.
const PIECES: u64 = 2;
/// The same where pieces are small.
const SMALL_PIECES: u64 = 6;
/// Power fails within this time after a disk error.
const POWER_LATE: (u64, u64) = (10_000, 1_000_000);
/// How far a wall clock jumps, either way, in microseconds.
pub(super) const WALL_JUMP_MAX: u64 = 3_600_000_000;
/// A clock that is wrong by years.
const FAR_AHEAD: i64 = 10 * 365 * 24 * 3_600_000_000;
/// How far the ticks of a process jump.
const TICK_JUMP_MAX: u64 = 10_000;

impl World {
    pub(super) fn fault(&mut self, mut planned: Planned) -> Result<(), String> {
        if !self.faulty {
            return Ok(());
        }
        let Some(node) = self.target(&planned) else {
            self.after(AGAIN, Event::Fault(planned));
            return Ok(());
        };
        if planned.other == node {
            planned.other = planned.node;
        }
        planned.node = node;
        self.trace.line(
            self.now,
            format_args!(
                "fault {}: {} at replica {node}",
                planned.number,
                planned.fault.name()
            ),
        );
        self.trace.fact(self.now, 4, node, &[planned.fault as u8]);
        self.strike(&planned)
    }

    /// The target of a fault: the replica that it was drawn for, or the next on which it can
    /// have an effect.
    fn target(&self, planned: &Planned) -> Option<usize> {
        let count = self.processes.len();
        // Every fourth is for the leader at that time.
        let aimed = match planned.fault {
            Fault::ForgottenElection | Fault::SplitWrites | Fault::OvertakenTransfer => false,
            // What it has proposed and not yet sent is in its log.
            Fault::StalledInstall => planned.draw >> 40 & 3 != 0,
            _ => planned.draw >> 40 & 3 == 0,
        };
        let leader = self.leader().filter(|_| aimed);
        let first = leader.unwrap_or(planned.node);
        let mut nodes = (first..first + count).map(|node| node % count);
        nodes.find(|node| match &self.processes[*node].running {
            Some(_) => match planned.fault {
                Fault::Transfer => self.leads(*node),
                Fault::ForgottenElection => !self.leads(*node),
                Fault::SplitWrites | Fault::OvertakenTransfer => {
                    !self.leads(*node) && *node < self.plan.voters as usize
                }
                _ => true,
            },
            None => false,
        })
    }

    pub(super) fn leader(&self) -> Option<usize> {
        (0..self.processes.len()).find(|node| self.leads(*node))
    }

    fn leads(&self, node: usize) -> bool {
        let running = self.processes[node].running.as_ref();
        running.is_some_and(|running| running.replica.brief_status().core.role == Role::Leader)
    }

    fn strike(&mut self, planned: &Planned) -> Result<(), String> {
        let Planned {
            fault,
            node,
            other,
            lasts,
            draw,
            ..
        } = *planned;
        let until = self.now + lasts;
        match fault {
            Fault::Kill | Fault::PowerLoss => {
                if self.stop(node, fault == Fault::PowerLoss) {
                    self.delivered.note(fault);
                }
            }
            Fault::KillAll | Fault::PowerLossEverywhere => {
                let power = fault == Fault::PowerLossEverywhere;
                let stopped = (0..self.processes.len()).filter(|node| self.stop(*node, power));
                if stopped.count() > 0 {
                    self.delivered.note(fault);
                }
            }
            Fault::CrashBetweenEffects => {
                let power = draw >> 32 & 1 == 1;
                self.processes[node].crashes_after = Some((draw % EFFECTS_MAX, power));
            }
            Fault::ForgottenElection => self.arm_forgotten_election(node, draw),
            Fault::ForgetfulMajority => self.majority_forgets(planned),
            Fault::SplitWrites => self.arm_split_writes(node, draw),
            Fault::CrashInDiskWork => {
                self.processes[node].power_fails_with_disk = true;
                self.disk_errors(node, draw);
            }
            Fault::CrashWhileStarting => {
                self.stop(node, draw >> 32 & 1 == 1);
                let power = draw >> 33 & 1 == 1;
                let at = match draw >> 34 & 3 == 0 {
                    true => StartFails::Superblock(1 + draw % SUPERBLOCK_SYNCS),
                    false => StartFails::Operation(1 + draw % START_OPERATIONS_MAX),
                };
                self.processes[node].start_fails_at = Some((at, power));
            }
            Fault::Pause => self.processes[node].paused_until = until,
            Fault::WipedDisk => return self.wipe(node),
            Fault::RollingRestart => self.after(0, Event::RollingRestart(0)),
            Fault::Isolate => self.cut_off(node, lasts, fault),
            Fault::CutPair => {
                self.cut_link(node, other, lasts, fault);
                self.cut_link(other, node, lasts, fault);
            }
            Fault::CutOneWay => self.cut_link(node, other, lasts, fault),
            Fault::Clog => self.clog(node, other, lasts),
            Fault::Replay => self.replay(lasts),
            Fault::TargetedReplay => self.arm_targeted_replay(planned),
            Fault::Stall => {
                // The log, snapshot files, or both.
                let which = draw % 3;
                if which != 0 {
                    self.processes[node].stalled_until = until;
                }
                if which != 1 {
                    self.processes[node].files_stalled_until = until;
                }
            }
            Fault::CrashInCompaction => {
                self.stop(node, draw >> 32 & 1 == 1);
                self.processes[node].compaction_fails_at = Some(1 + draw % COMPACTION_MAX);
            }
            Fault::StalledInstall => self.set_install(planned),
            Fault::OvertakenTransfer => self.arm_overtaken_transfer(planned),
            Fault::BitRot => return self.flip_bit(node, draw),
            Fault::MisdirectedWrite => return self.misdirect_write(node, draw),
            Fault::ReadError => self.arm_read_error(node, draw),
            Fault::Reconnect => self.reconnect(node, other, draw),
            Fault::FullQueue => self.fill_queue(planned),
            Fault::Outage => {
                let lasts = OUTAGE.0 + draw % (OUTAGE.1 - OUTAGE.0);
                self.cut_off(node, lasts, fault);
            }
            Fault::DiskError => match draw >> 34 & 1 == 0 {
                true => self.disk_errors(node, draw),
                false => self.files_fail(node, draw, false),
            },
            Fault::BrokenTransfer => self.break_transfer(planned),
            Fault::DiskFull => {
                self.processes[node].set_full(true);
                self.after(lasts, Event::Room(node));
            }
            Fault::ClockJump => self.clocks_jump(node, draw),
            Fault::FirstWrite => self.arm_first_write(planned),
            Fault::LateRot => self.arm_late_rot(planned),
            Fault::Mistake => return self.start_by_mistake(node, other, draw),
            Fault::Transfer => {
                let to = self.processes[other].id;
                let ticket = self.ticket(Waiting::Setup);
                return self.input(node, Input::TransferLeadership { ticket, to });
            }
            // Of the network and the clocks, all the time.
            Fault::Loss | Fault::Duplicates | Fault::Reordering | Fault::ClockRate => {}
        }
        Ok(())
    }

    fn disk_errors(&mut self, node: usize, draw: u64) {
        self.processes[node]
            .disk
            .fail_after(Some(1 + draw % OPERATIONS_MAX));
    }

    /// The disk returns an error for snapshot files, after which a replica continues;
    /// sometimes until power fails.
    pub(super) fn files_fail(&mut self, node: usize, draw: u64, receiving: bool) {
        let mut random = Random::new(draw);
        let pieces = random.below(match self.plan.piece_bytes == CHUNK_BYTES {
            true => PIECES,
            false => SMALL_PIECES,
        });
        // The last operation, which makes a name durable, as often as all others.
        let at = match random.per_mille(500) {
            true => FILE_OPERATIONS_MAX,
            false => random.between(1, FILE_OPERATIONS_MAX),
        };
        let late = random.between_powers(POWER_LATE.0, POWER_LATE.1);
        self.processes[node].files_fail = Some(FilesFail {
            at,
            receiving: receiving.then_some(pieces),
            power: (receiving || random.per_mille(500)).then_some(late),
        });
    }

    fn clocks_jump(&mut self, node: usize, draw: u64) {
        let jump = (draw >> 8) % (2 * WALL_JUMP_MAX);
        let process = &mut self.processes[node];
        process.wall_offset = match draw >> 56 & 3 == 0 {
            true => FAR_AHEAD,
            false => jump as i64 - WALL_JUMP_MAX as i64,
        };
        if let Some(running) = &mut process.running {
            running.ticked(draw % TICK_JUMP_MAX);
        }
        self.delivered.note(Fault::ClockJump);
    }

    /// The replica is started on an empty disk, which it has to refuse; then its
    /// own comes back.
    fn wipe(&mut self, node: usize) -> Result<(), String> {
        self.stop(node, false);
        let process = &mut self.processes[node];
        let own = std::mem::replace(&mut process.disk, MemoryDisk::new());
        let started = process.start(&self.plan, &self.checks.history);
        process.running = None;
        process.disk = own;
        match started {
            Err(StartError::Open(OpenError::Superblock(SuperblockError::Blank))) => {
                self.delivered.note(Fault::WipedDisk);
                Ok(())
            }
            Err(error) => Err(format!("an empty disk is refused otherwise: {error}")),
            Ok(()) => Err(format!("replica {node} starts on an empty disk")),
        }
    }

    /// The operator restarts this replica when all are up, and continues with the next.
    pub(super) fn rolling_restart(&mut self, node: usize) {
        if !self.faulty {
            return;
        }
        if self
            .processes
            .iter()
            .any(|process| process.running.is_none())
        {
            self.after(AGAIN, Event::RollingRestart(node));
        } else if node == self.processes.len() {
            self.delivered.note(Fault::RollingRestart);
        } else {
            let back = self.random.between(10_000, 200_000);
            self.stop_for(node, false, back);
            self.after(back + 1, Event::RollingRestart(node + 1));
        }
    }

    /// Whatever was drawn has to have done something.
    /// Returns one that had no effect.
    pub(super) fn deliver_missing_faults(&mut self) -> Result<Option<Fault>, String> {
        if !self.plan.all_delivered {
            return Ok(None);
        }
        let kinds = self.plan.kinds();
        if kinds.contains(&Fault::ClockRate) {
            self.delivered.note(Fault::ClockRate);
        }
        let planned_already = self.plan.schedule.len();
        for turn in 0..TRIES {
            if turn == SLOW_TRIES {
                // Snapshots that travel for longer than they last never arrive.
                self.plan.bulk_latency = 0;
                self.plan.think_time *= 4;
            }
            let missing: Vec<_> = kinds
                .iter()
                .filter(|kind| self.delivered.of(**kind) == 0)
                .collect();
            if missing.is_empty() {
                return Ok(None);
            }
            // One at a time: several that stop a replica would leave no majority.
            let kind = *missing[turn % missing.len()];
            let replicas = self.plan.replicas();
            let planned =
                Planned::draw(&mut self.random, planned_already + turn, 0, kind, replicas);
            let lasts = match kind {
                kind if kind.needs_snapshot() => self.lags_at_most(&planned),
                Fault::CrashInCompaction => 50 * AGAIN,
                Fault::FirstWrite => 20 * AGAIN,
                Fault::SplitWrites => 20 * AGAIN,
                _ => 5 * AGAIN,
            };
            self.after(0, Event::Fault(planned));
            self.run_until_delivered(kind, lasts)?;
        }
        let mut kinds = kinds.into_iter();
        Ok(kinds.find(|kind| self.delivered.of(*kind) == 0))
    }

    /// Until the fault has had an effect, and a while longer; for this time at most.
    fn run_until_delivered(&mut self, fault: Fault, micros: u64) -> Result<(), String> {
        let end = self.now + micros;
        while self.now < end && self.delivered.of(fault) == 0 {
            self.next()?;
        }
        self.run_for((5 * AGAIN).min(end.saturating_sub(self.now)))
    }

    /// Work in flight on a disk that stands still ends now.
    fn resume_disk(&mut self, node: usize) {
        let process = &self.processes[node];
        let (start, now) = (process.starts, self.now);
        let (log, files) = (
            process.stalled_until > now,
            process.files_stalled_until > now,
        );
        let Some(running) = &process.running else {
            return;
        };
        let (write, filing) = (running.write_in_flight(), running.filing);
        if let Some(write) = write.filter(|_| log) {
            self.after(0, Event::Written { node, start, write });
        }
        if filing && files {
            self.after(0, Event::Filed { node, start });
        }
    }

    pub(super) fn end_faults(&mut self) {
        self.faulty = false;
        self.at_election = None;
        self.overtaken = None;
        self.first_write = None;
        self.replay_at_election = false;
        self.replay_at_term = false;
        self.network.mend();
        for node in 0..self.processes.len() {
            self.wake(node);
            self.resume_disk(node);
        }
        for process in &mut self.processes {
            process.stalled_until = self.now;
            process.files_stalled_until = self.now;
            process.compaction_fails_at = None;
            process.install_stalls = None;
            process.rot = None;
            if process.wall_offset == FAR_AHEAD {
                process.wall_offset = 0;
            }
            process.crashes_after = None;
            process.election_crash = None;
            process.split_writes = None;
            process.start_fails_at = None;
            process.start_reads_fail_at = 0;
            process.read_errors.fail_at(0);
            process.files_fail = None;
            process.power_fails_with_disk = false;
            process.disk.fail_after(None);
            process.set_full(false);
        }
    }
}
