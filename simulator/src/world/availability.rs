//! A leader that cannot lead is replaced: the others, which are a majority, do not wait for
//! it.

use super::{Event, World};
use crate::fault::Fault;
use crate::process::Process;

/// A leader that cannot lead is replaced, and clients have found the new one, within this
/// time.
const REPLACED: u64 = 8_000_000;
/// A disk that hangs does so for longer than any run.
const HANGS: u64 = 1_000_000_000_000;
/// How long a replica is away at most that is to need a snapshot.
const LAGS: u64 = 4_000_000;
/// A replica has what it lacked within this time.
const CAUGHT_UP: u64 = 25_000_000;
/// The operator ends a process whose disk hangs, and it is started again after this time.
const BACK: (u64, u64) = (1_000, 3_000_000);

impl World {
    /// Nothing reaches the leader, and everything that it sends arrives: the majority that
    /// receives its heartbeats must not wait for it.
    pub(super) fn check_leader_without_quorum(&mut self) -> Result<(), String> {
        let Some(leader) = self.leader() else {
            return Ok(());
        };
        self.trace
            .line(self.now, format_args!("nothing reaches replica {leader}"));
        for other in (0..self.processes.len()).filter(|other| *other != leader) {
            self.cut_link(other, leader, REPLACED, Fault::CutOneWay);
        }
        self.wait_for_progress(|| format!("nothing reaches the leader, replica {leader}"))?;
        self.network.mend();
        Ok(())
    }

    /// The disk of the leader hangs, and everything else of it works: no write of its log
    /// ends any more, sometimes no work on snapshots either. In the end an operator starts
    /// it again.
    pub(super) fn check_hung_disk(&mut self) -> Result<(), String> {
        let Some(leader) = self.leader() else {
            return Ok(());
        };
        self.trace
            .line(self.now, format_args!("the disk of replica {leader} hangs"));
        let files = self.random.per_mille(500);
        let process = &mut self.processes[leader];
        process.stalled_until = self.now + HANGS;
        if files {
            process.files_stalled_until = self.now + HANGS;
        }
        self.wait_for_progress(|| format!("the disk of the leader, replica {leader}, hangs"))?;
        let back = self.random.between_powers(BACK.0, BACK.1);
        self.stop_for(leader, true, back);
        self.processes[leader].stalled_until = self.now;
        self.processes[leader].files_stalled_until = self.now;
        Ok(())
    }

    /// The source of a snapshot is gone while a replica fetches it: the replica gets one
    /// from another, and does not wait for that source.
    pub(super) fn check_lost_source(&mut self) -> Result<(), String> {
        let voters = self.plan.voters;
        let Some(leader) = self.leader() else {
            return Ok(());
        };
        let lagging = ((leader as u64 + 1 + self.random.below(voters - 1)) % voters) as usize;
        self.resume_clients();
        self.fetch = Some((lagging, None));
        self.cut_off(lagging, LAGS, Fault::Isolate);
        self.check_lag(lagging);
        let deadline = self.now + LAGS;
        while self.now < deadline && self.fetch.is_some_and(|(_, source)| source.is_none()) {
            self.next()?;
        }
        self.network.mend();
        let Some((_, Some(source))) = self.fetch.take() else {
            return Ok(());
        };
        self.trace.line(
            self.now,
            format_args!("replica {source} is gone while replica {lagging} fetches its snapshot"),
        );
        let applied = |process: &Process| {
            let running = process.running.as_ref();
            running.map_or(0, |it| it.replica.brief_status().applied.0)
        };
        let goal = self.processes.iter().map(applied).max().unwrap_or(0);
        self.stop_for(source, false, HANGS);
        // Snapshots that are taken faster than they travel would never arrive.
        self.clients_rest = true;
        let deadline = self.now + CAUGHT_UP;
        while applied(&self.processes[lagging]) < goal {
            if self.now > deadline {
                return Err(format!(
                    "replica {lagging} gets no snapshot {} s after the source of one is gone",
                    CAUGHT_UP / 1_000_000
                ));
            }
            self.next()?;
        }
        self.after(0, Event::Start(source));
        Ok(())
    }

    /// Waits until a client's operation is acknowledged.
    fn wait_for_progress(&mut self, why: impl FnOnce() -> String) -> Result<(), String> {
        let done = |world: &Self| -> u64 {
            let done = world.clients.iter().map(|client| client.acknowledged);
            done.sum()
        };
        let (before, deadline) = (done(self), self.now + REPLACED);
        self.resume_clients();
        while done(self) == before {
            if self.now > deadline {
                let statuses: Vec<_> = self.processes.iter().map(Process::describe).collect();
                return Err(format!(
                    "{}, and no other leads after {} s: {}",
                    why(),
                    REPLACED / 1_000_000,
                    statuses.join("; ")
                ));
            }
            self.next()?;
        }
        Ok(())
    }

    /// Clients that rest continue.
    pub(super) fn resume_clients(&mut self) {
        if std::mem::take(&mut self.clients_rest) {
            for client in 0..self.clients.len() {
                self.after(1, Event::Act(client));
            }
        }
    }
}
