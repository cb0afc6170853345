//! Processes and their disks.

use consensus::{ReplicaId, Role};
use replica::driver::{Channel, Event as Input, FileEvent, Output, ReplicaStatus};

use super::{Event, World};
use crate::durable::quorum_holds;
use crate::fault::Fault;
use crate::plan::Backend;
use crate::process::{Running, Seen, StartError, StartFails};

/// How often a start makes the superblock durable.
pub(super) const SUPERBLOCK_SYNCS: u64 = 2;
/// What VR adds to a payload.
const VR_LINK_BYTES: usize = 16;
/// A process that ended is started again within this time.
const BACK: (u64, u64) = (1_000, 3_000_000);
/// A start that failed is tried again after so long.
const START_AGAIN: (u64, u64) = (50_000, 500_000);
/// Of a thousand times so often the thread of the log starts before all jobs are there.
const EARLY_PER_MILLE: u64 = 200;

impl World {
    pub(super) fn start(&mut self, node: usize) -> Result<(), String> {
        let process = &mut self.processes[node];
        if process.running.is_some() {
            return Ok(());
        }
        let failed_before = process.disk.failed();
        let interrupted = process.start_fails_at.take();
        process.power_fails_with_disk = false;
        process.disk.fail_after(None);
        match interrupted {
            Some((StartFails::Operation(at), _)) => process.disk.fail_after(Some(at)),
            Some((StartFails::Superblock(at), _)) => {
                process.read_errors.fail_at_superblock_sync(at);
            }
            None => {}
        }
        let reads_failed_before = process.read_errors.failed();
        let reads_fail_at = std::mem::take(&mut process.start_reads_fail_at);
        process.read_errors.fail_at(reads_fail_at);
        let started = process.start(&self.plan, &self.checks.history);
        let failed = process.disk.failed() > failed_before;
        process.disk.fail_after(None);
        process.read_errors.fail_at_superblock_sync(0);
        process.read_errors.fail_at(0);
        if process.read_errors.failed() > reads_failed_before {
            return self.start_could_not_read(node, started);
        }
        match started {
            Ok(()) => {
                self.trace
                    .line(self.now, format_args!("replica {node} starts"));
                let start = self.processes[node].starts;
                self.after(1, Event::Tick { node, start });
                Ok(())
            }
            Err(StartError::Open(error)) if failed => {
                self.trace.line(
                    self.now,
                    format_args!("replica {node} cannot start: {error}"),
                );
                if let Some((at, power)) = interrupted {
                    self.delivered.note(Fault::CrashWhileStarting);
                    let process = &mut self.processes[node];
                    if power {
                        self.power_fails(node);
                    } else if self.faulty && process.random.per_mille(500) {
                        // What this start could not make durable, the next one reads.
                        let random = &mut process.random;
                        let next = match at {
                            StartFails::Operation(at) => {
                                StartFails::Operation(at + random.between(0, 4))
                            }
                            StartFails::Superblock(_) => {
                                StartFails::Superblock(random.between(1, SUPERBLOCK_SYNCS))
                            }
                        };
                        process.start_fails_at = Some((next, true));
                    }
                } else {
                    self.delivered.note(Fault::DiskFull);
                }
                let again = self.processes[node]
                    .random
                    .between(START_AGAIN.0, START_AGAIN.1);
                self.after(again, Event::Start(node));
                Ok(())
            }
            Err(error) => Err(format!("replica {node} cannot start: {error}")),
        }
    }

    /// What could not be read may be anything: the replica refuses to start, and is started
    /// again.
    fn start_could_not_read(
        &mut self,
        node: usize,
        started: Result<(), StartError>,
    ) -> Result<(), String> {
        match started {
            Err(StartError::Open(error)) => {
                self.delivered.note(Fault::ReadError);
                self.trace.line(
                    self.now,
                    format_args!("replica {node} cannot start: {error}"),
                );
                let random = &mut self.processes[node].random;
                let again = random.between(START_AGAIN.0, START_AGAIN.1);
                self.after(again, Event::Start(node));
                Ok(())
            }
            Err(error) => Err(format!("replica {node} cannot start: {error}")),
            Ok(()) => Err(format!(
                "replica {node} starts, although it could not read its disk"
            )),
        }
    }

    /// The process ends; with power loss, what was not fsynced is lost. Returns whether it
    /// ran.
    pub(super) fn stop(&mut self, node: usize, power: bool) -> bool {
        let back = self.processes[node].random.between_powers(BACK.0, BACK.1);
        self.stop_for(node, power, back)
    }

    pub(super) fn stop_for(&mut self, node: usize, power: bool, back: u64) -> bool {
        if self.processes[node].running.take().is_none() {
            return false;
        }
        let how = if power { "loses power" } else { "is killed" };
        self.trace
            .line(self.now, format_args!("replica {node} {how}"));
        if power {
            self.power_fails(node);
        }
        let process = &mut self.processes[node];
        process.read_errors.fail_at(0);
        process.crashes_after = None;
        process.election_crash = None;
        process.split_writes = None;
        process.power_fails_with_disk = false;
        self.after(back, Event::Start(node));
        true
    }

    fn power_fails(&mut self, node: usize) {
        let process = &mut self.processes[node];
        let random = &mut process.random;
        process.disk.crash(&mut || random.next());
    }

    fn is_current(&self, node: usize, start: u64) -> bool {
        let process = &self.processes[node];
        process.starts == start && process.running.is_some()
    }

    /// Whether the process stands still.
    pub(super) fn is_paused(&mut self, node: usize) -> bool {
        let paused = self.processes[node].paused_until > self.now;
        if paused {
            self.delivered.note(Fault::Pause);
        }
        paused
    }

    /// An event waits until the process continues.
    pub(super) fn defer(&mut self, node: usize, event: Event) {
        let deferred = self.deferred.entry(node).or_default();
        deferred.push(event);
        if deferred.len() == 1 {
            let rest = self.processes[node].paused_until - self.now;
            self.after(rest, Event::Continue(node));
        }
    }

    /// The process continues now.
    pub(super) fn wake(&mut self, node: usize) {
        self.processes[node].paused_until = self.now;
        self.after(0, Event::Continue(node));
    }

    /// What has happened while a process was paused happens to it now, unless it is paused
    /// for longer.
    pub(super) fn continues(&mut self, node: usize) {
        let rest = self.processes[node].paused_until.saturating_sub(self.now);
        if rest > 0 {
            self.after(rest, Event::Continue(node));
            return;
        }
        for event in self.deferred.remove(&node).unwrap_or_default() {
            self.after(0, event);
        }
    }

    pub(super) fn tick(&mut self, node: usize, start: u64) -> Result<(), String> {
        if !self.is_current(node, start) {
            return Ok(());
        }
        if self.is_paused(node) {
            self.defer(node, Event::Tick { node, start });
            return Ok(());
        }
        let again = self.processes[node].tick_micros();
        if let Some(running) = &mut self.processes[node].running {
            running.ticked(1);
        }
        self.after(again, Event::Tick { node, start });
        self.input(node, Input::Tick)
    }

    /// Passes an event to a replica, and carries out its outputs.
    pub(super) fn input(&mut self, node: usize, input: Input) -> Result<(), String> {
        let now = self.now;
        let process = &mut self.processes[node];
        let (id, wall_offset) = (process.id, process.wall_offset);
        let Some(running) = &mut process.running else {
            return Ok(());
        };
        let is_tick = matches!(input, Input::Tick);
        running.replica.handle(running.now(now, wall_offset), input);
        running
            .replica
            .flush()
            .map_err(|error| format!("replica {id} must stop: {error}"))?;
        let mut outputs = Vec::new();
        while let Some(output) = running.replica.poll() {
            outputs.push(output);
        }
        if is_tick && outputs.is_empty() {
            // Nothing was due.
            return Ok(());
        }
        let (start, status) = (running.start, running.replica.brief_status());
        let before = std::mem::replace(&mut running.seen, Seen::of(&status));
        if status.core.term != before.term {
            if let Some(election_crash) = &mut process.election_crash {
                election_crash.term_changed = true;
            }
            if self.replay_at_term {
                self.replay_to(node);
            }
        }
        if status.core.role == Role::Leader && before.role != Role::Leader {
            self.elected(node);
        }
        if status.core.commit < before.commit {
            let commit = status.core.commit;
            return Err(format!("replica {id} takes its commit back to {commit}"));
        }
        if status.applied != before.applied {
            let Some(running) = &self.processes[node].running else {
                return Ok(());
            };
            let digest = running.reader.digest();
            self.checks.state(id, status.applied.0, digest)?;
            self.trace
                .fact(now, 1, node, &status.applied.0.to_le_bytes());
        }
        if let Some(index) = status
            .snapshot
            .filter(|_| status.snapshot != before.snapshot)
            && !self.processes[node].keeps_snapshot(index)
        {
            return Err(format!(
                "replica {id} counts on snapshot {index}, which is not durable"
            ));
        }
        self.checks
            .replica(id, start, &status, self.plan.pipeline_max)?;
        self.committed(id, &status)?;
        for output in outputs {
            if self.crashes_here(node) {
                return Ok(());
            }
            self.carry_out(node, output)?;
        }
        self.uncommitted(node, &status)?;
        if status.core.term != before.term {
            self.split_writes(node);
        }
        self.overtake(&status);
        self.start_disk_work(node)
    }

    /// What is committed is durable at a majority.
    fn committed(&mut self, id: ReplicaId, status: &ReplicaStatus) -> Result<(), String> {
        let quorum = status.core.membership.quorum();
        for index in self.checks.newly_committed(status.core.commit.0) {
            let voters = self.processes.iter().take(self.plan.voters as usize);
            let disks = voters.map(|process| &process.durable);
            if !quorum_holds(disks, quorum, index) {
                return Err(format!(
                    "replica {id} has committed {index}, which is durable at fewer than {quorum}"
                ));
            }
        }
        Ok(())
    }

    /// What a leader has proposed and not committed is bounded, unless it is one proposal.
    fn uncommitted(&self, node: usize, status: &ReplicaStatus) -> Result<(), String> {
        let Some(running) = &self.processes[node].running else {
            return Ok(());
        };
        if status.core.role != Role::Leader {
            return Ok(());
        }
        let link = match self.plan.backend {
            Backend::Raft => 0,
            Backend::Vr => VR_LINK_BYTES,
        };
        let sizes = running.payloads(status.core.commit, status.core.term);
        let sizes = sizes.map(|bytes| bytes.saturating_sub(link));
        let (count, bytes) = sizes
            .filter(|bytes| *bytes > 0)
            .fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
        let max = self.plan.limits.uncommitted_bytes_max;
        match count > 1 && bytes > max {
            true => Err(format!(
                "{bytes} bytes of {count} proposals are uncommitted at leader {node}, at most {max} may be"
            )),
            false => Ok(()),
        }
    }

    /// Whether the process ends before its next effect.
    fn crashes_here(&mut self, node: usize) -> bool {
        if self.forgets_election(node) {
            return true;
        }
        let Some((effects, power)) = self.processes[node].crashes_after else {
            return false;
        };
        if effects > 0 {
            self.processes[node].crashes_after = Some((effects - 1, power));
            return false;
        }
        self.delivered.note(Fault::CrashBetweenEffects);
        self.stop(node, power);
        true
    }

    fn carry_out(&mut self, node: usize, output: Output) -> Result<(), String> {
        let Some(running) = &mut self.processes[node].running else {
            return Ok(());
        };
        match output {
            Output::Persist(batch) => {
                let resets = batch.reset_to.is_some();
                self.first_write_starts(node, &batch);
                if let Some(running) = &mut self.processes[node].running {
                    running.write(batch);
                }
                if resets {
                    self.stall_install(node);
                }
            }
            Output::Compact(through) => running.compact(through),
            Output::File(job) => {
                self.overtaken_file_job(node, &job);
                if let Some(running) = &mut self.processes[node].running {
                    running.file_jobs.push_back(job);
                }
            }
            Output::Send {
                to,
                channel,
                message,
            } => {
                self.send(
                    node,
                    (to.0 - 1) as usize,
                    channel == Channel::Bulk,
                    message.to_bytes(),
                );
            }
            Output::ProposeResult { ticket, result } => self.replied(ticket, result)?,
            Output::ReadResult { ticket, result } => {
                self.read_done(node, ticket, result.is_ok())?;
            }
            Output::TransferResult { result, .. } => {
                if result.is_ok() {
                    self.delivered.note(Fault::Transfer);
                }
            }
            Output::Refused(error) => {
                self.trace
                    .line(self.now, format_args!("replica {node}: {error}"));
            }
            Output::LeaderChanged { term, leader } => {
                self.trace.fact(self.now, 2, node, &term.0.to_le_bytes());
                self.trace.line(
                    self.now,
                    format_args!(
                        "replica {node}: term {term}, leader {}",
                        leader.map_or_else(|| "unknown".into(), |id| id.to_string())
                    ),
                );
            }
        }
        Ok(())
    }

    /// Starts disk work that waits.
    fn start_disk_work(&mut self, node: usize) -> Result<(), String> {
        let start = self.processes[node].starts;
        loop {
            let process = &mut self.processes[node];
            let waiting = process.running.as_ref().map_or(0, Running::jobs_waiting) as u64;
            if waiting == 0 {
                break;
            }
            // The thread of the log may wake before all are there.
            let jobs = match process.random.per_mille(EARLY_PER_MILLE) {
                true => process.random.between(1, waiting),
                false => waiting,
            };
            self.fail_compaction(node);
            let process = &mut self.processes[node];
            let Some(running) = &mut process.running else {
                break;
            };
            match running.start_write(jobs as usize, &mut process.durable) {
                Ok(Some(write)) => {
                    self.split_write_starts(node);
                    let stalled_until = self.processes[node].stalled_until;
                    let takes = self.disk_time(node, stalled_until);
                    self.after(takes, Event::Written { node, start, write });
                    break;
                }
                Ok(None) => {
                    if self.rots(node)? {
                        return Ok(());
                    }
                }
                Err(error) => return self.disk_failed(node, &error.to_string()),
            }
        }
        if let Some(running) = &mut self.processes[node].running
            && !running.filing
            && !running.file_jobs.is_empty()
        {
            running.filing = true;
            let stalled_until = self.processes[node].files_stalled_until;
            let takes = self.disk_time(node, stalled_until);
            self.after(takes, Event::Filed { node, start });
        }
        Ok(())
    }

    /// Power fails in the first work that makes the log shorter.
    fn fail_compaction(&mut self, node: usize) {
        let process = &mut self.processes[node];
        let running = process.running.as_ref();
        if running.is_some_and(|it| it.compacts() || it.compacts_next())
            && let Some(at) = process.compaction_fails_at.take()
        {
            process.power_fails_with_disk = true;
            process.disk.fail_after(Some(at));
            self.delivered.note(Fault::CrashInCompaction);
        }
    }

    fn disk_time(&mut self, node: usize, stalled_until: u64) -> u64 {
        let (low, high) = self.plan.disk;
        let takes = self.processes[node].random.between(low, high);
        match stalled_until.checked_sub(self.now) {
            Some(rest) if rest > 0 => {
                self.delivered.note(Fault::Stall);
                takes + rest
            }
            _ => takes,
        }
    }

    pub(super) fn written(&mut self, node: usize, start: u64, write: u64) -> Result<(), String> {
        if !self.is_current(node, start) {
            return Ok(());
        }
        if self.is_paused(node) {
            self.defer(node, Event::Written { node, start, write });
            return Ok(());
        }
        self.fail_compaction(node);
        let process = &mut self.processes[node];
        let Some(running) = &mut process.running else {
            return Ok(());
        };
        match running.finish_write(write, &mut process.durable) {
            Ok(Some(last)) => match self.rots(node)? {
                true => Ok(()),
                false => self.input(node, Input::Persisted(last)),
            },
            Ok(None) => Ok(()),
            Err(error) => self.disk_failed(node, &error.to_string()),
        }
    }

    pub(super) fn filed(&mut self, node: usize, start: u64) -> Result<(), String> {
        if !self.is_current(node, start) {
            return Ok(());
        }
        if self.is_paused(node) {
            self.defer(node, Event::Filed { node, start });
            return Ok(());
        }
        let process = &mut self.processes[node];
        let failed_before = process.disk.failed();
        let Some(running) = &mut process.running else {
            return Ok(());
        };
        running.filing = false;
        let Some(job) = running.file_jobs.pop_front() else {
            return Ok(());
        };
        let planned = process.files_fail.as_mut();
        let fails = planned.and_then(|fails| fails.applies_to(&job).then_some(*fails));
        if let Some(fails) = fails {
            process.disk.fail_after(Some(fails.at));
        }
        let reads_failed_before = process.read_errors.failed();
        let done: FileEvent = running.files.execute(job);
        if process.read_errors.failed() > reads_failed_before {
            self.delivered.note(Fault::ReadError);
        }
        let process = &mut self.processes[node];
        if fails.is_some() || process.disk.failed() > failed_before {
            // The disk returns one error, and the replica continues.
            process.disk.fail_after(None);
        }
        if process.disk.failed() > failed_before {
            process.files_fail = None;
            if process.power_fails_with_disk {
                return self.disk_failed(node, "power fails while a snapshot is stored");
            }
            // It continues without the snapshot.
            match fails.is_some_and(|it| it.receiving.is_some()) {
                true => self.delivered.note(Fault::BrokenTransfer),
                false => self.note_disk_fault(node),
            }
            if let Some(late) = fails.and_then(|it| it.power) {
                let back = self.processes[node].random.between_powers(BACK.0, BACK.1);
                self.after(late, Event::PowerFails(node, back));
            }
        }
        self.input(node, Input::File(done))
    }

    fn note_disk_fault(&mut self, node: usize) {
        let full = self.processes[node].full;
        self.delivered.note(match full {
            true => Fault::DiskFull,
            false => Fault::DiskError,
        });
    }

    /// A replica whose log's disk fails stops: what is on it is unknown.
    fn disk_failed(&mut self, node: usize, error: &str) -> Result<(), String> {
        if !self.faulty {
            return Err(format!("replica {node}: {error}"));
        }
        self.trace
            .line(self.now, format_args!("replica {node}: {error}"));
        let power = self.processes[node].power_fails_with_disk;
        if power {
            self.delivered.note(Fault::CrashInDiskWork);
        } else {
            self.note_disk_fault(node);
        }
        self.stop(node, power);
        Ok(())
    }
}
