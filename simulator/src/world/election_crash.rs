//! Faults that wait for their moment.
//!
//! A missing fsync or a missing quorum shows only when several things coincide: a replica
//! that has sent something and forgets it, another that is isolated and has what was
//! sent, and a third that is back in time to continue without both. Faults that are drawn
//! one by one coincide like this in one run of thousands.

use super::{Event, World};
use crate::fault::{Fault, Planned};
use crate::process::ElectionCrash;
use crate::random::Random;

/// A leader that is silent for so long is replaced.
const ELECTION: (u64, u64) = (220_000, 600_000);
/// How long those are away who would know better.
const AWAY: (u64, u64) = (300_000, 1_500_000);
/// A machine that forgets is back within this time.
const BACK: (u64, u64) = (1_000, 30_000);
/// So long after the moment, at most.
const LATE: (u64, u64) = (64, 32_000);
/// How long a replica is away that is to need a snapshot, at most, and how often it
/// is looked whether it does.
const LAG_MAX: u64 = 3_000_000;
pub(super) const CHECK_EVERY: u64 = 20_000;
/// How long disks stall before power fails: messages may leave meanwhile about what is not
/// on them.
const MOMENT: (u64, u64) = (500, 128_000);
/// Effects that a process still has in a new term, at most.
const EFFECTS_MAX: u64 = 24;

impl World {
    pub(super) fn arm_forgotten_election(&mut self, node: usize, draw: u64) {
        let mut random = Random::new(draw);
        let leader = self.leader();
        let silent = random.between(ELECTION.0, ELECTION.1);
        if let Some(leader) = leader {
            // It is paused, not stopped: when it continues, it believes that it leads, and
            // has received nothing that contradicts.
            self.processes[leader].paused_until = self.now + silent;
            self.cut_off(leader, silent, Fault::ForgottenElection);
        }
        if random.per_mille(500) {
            self.processes[node].stalled_until = self.now + silent;
        }
        self.processes[node].election_crash = Some(ElectionCrash {
            term_changed: false,
            effects: random.between_powers(1, EFFECTS_MAX),
            leader,
            away: random.between(AWAY.0, AWAY.1),
            back: random.between_powers(BACK.0, BACK.1),
        });
    }

    /// Whether the election_crash forgets_election before the next effect of the process.
    pub(super) fn forgets_election(&mut self, node: usize) -> bool {
        let Some(election_crash) = &mut self.processes[node].election_crash else {
            return false;
        };
        if !election_crash.term_changed || election_crash.effects > 0 {
            election_crash.effects -= u64::from(election_crash.term_changed);
            return false;
        }
        let election_crash = *election_crash;
        self.delivered.note(Fault::ForgottenElection);
        self.stop_for(node, true, election_crash.back);
        let kept = |other: &usize| *other == node || Some(*other) == election_crash.leader;
        self.processes[node].stalled_until = self.now;
        if let Some(leader) = election_crash.leader {
            self.wake(leader);
            self.network.rejoin(leader);
        }
        let voters = self.plan.voters as usize;
        let majority = voters / 2 + 1;
        // As many as are needed stay with the old leader.
        let others: Vec<usize> = (0..voters).filter(|other| !kept(other)).collect();
        let cut_off = others.len().min(voters - majority);
        for other in others.into_iter().take(cut_off) {
            self.cut_off(other, election_crash.away, Fault::ForgottenElection);
        }
        true
    }

    pub(super) fn majority_forgets(&mut self, planned: &Planned) {
        let mut random = Random::new(planned.draw);
        // The second time it comes here it is no longer to wait.
        let waits = random.per_mille(500) && planned.lasts > 0;
        if waits {
            if let Some(leader) = self.leader() {
                let silent = random.between(ELECTION.0, ELECTION.1);
                self.processes[leader].paused_until = self.now + silent;
            }
            self.at_election = Some(planned.clone());
            return;
        }
        self.delivered.note(Fault::ForgetfulMajority);
        let voters = self.plan.voters as usize;
        let mut nodes: Vec<usize> = (0..voters).collect();
        random.shuffle(&mut nodes);
        // The replica that is isolated is the leader, or one of its followers.
        if let Some(leader) = self.leader() {
            let first = random.per_mille(500);
            nodes.sort_by_key(|node| (*node == leader) != first);
        }
        let forget = random.per_mille(800);
        // Until then their disks stand still: what they tell is not there.
        let moment = random.between_powers(MOMENT.0, MOMENT.1);
        let (minority, majority) = nodes.split_at((voters - 1) / 2);
        for node in minority {
            let away = random.between(AWAY.0, AWAY.1);
            let cut_off = Event::CutOff(*node, away, Fault::ForgetfulMajority);
            self.after(moment, cut_off);
        }
        for node in majority {
            let back = random.between_powers(BACK.0, BACK.1);
            if forget {
                self.processes[*node].stalled_until = self.now + moment;
                self.after(moment, Event::PowerFails(*node, back));
            }
        }
    }

    /// How long a replica is away at most: a fault that has to be seen waits longer.
    pub(super) fn lags_at_most(&self, planned: &Planned) -> u64 {
        match planned.number < self.plan.schedule.len() {
            true => LAG_MAX,
            false => 5 * LAG_MAX,
        }
    }

    pub(super) fn break_transfer(&mut self, planned: &Planned) {
        let (node, away) = (planned.node, self.lags_at_most(planned));
        self.files_fail(node, planned.draw, true);
        self.cut_off(node, away, Fault::BrokenTransfer);
        self.check_lag(node);
    }

    pub(super) fn set_install(&mut self, planned: &Planned) {
        let (node, away) = (planned.node, self.lags_at_most(planned));
        let mut random = Random::new(planned.draw);
        self.processes[node].install_stalls = Some(random.between(AWAY.0, AWAY.1));
        self.cut_off(node, away, Fault::Isolate);
        self.check_lag(node);
    }

    /// The log is about to start again after a snapshot: before that is durable, the replica
    /// starts an election.
    pub(super) fn stall_install(&mut self, node: usize) {
        if let Some(lasts) = self.processes[node].install_stalls.take() {
            self.delivered.note(Fault::StalledInstall);
            self.processes[node].stalled_until = self.now + lasts;
            self.cut_off(node, lasts, Fault::StalledInstall);
            if self.processes[node].random.per_mille(500) {
                let back = self.processes[node].random.between_powers(BACK.0, BACK.1);
                self.after(lasts / 2, Event::PowerFails(node, back));
            }
        }
    }

    /// Restarts a replica when the leader's log starts after the end of its own.
    pub(super) fn check_lag(&mut self, node: usize) {
        let log = |node: usize| {
            let running = self.processes[node].running.as_ref()?;
            let core = running.replica.brief_status().core;
            Some((core.first, core.last))
        };
        let leaders = self.leader().and_then(log).map(|(first, _)| first);
        match (log(node), leaders) {
            (Some((_, last)), Some(first)) if first > last.next() => self.network.rejoin(node),
            _ if self.network.is_cut_off(node) => {
                self.after(CHECK_EVERY, Event::CheckLag(node));
            }
            _ => {}
        }
    }

    /// A leader was elected.
    pub(super) fn elected(&mut self, node: usize) {
        self.replay_at_term = false;
        if std::mem::take(&mut self.replay_at_election) {
            self.replay_to(node);
        }
        if let Some(mut planned) = self.at_election.take() {
            planned.lasts = 0;
            let mut random = Random::new(planned.draw ^ 1);
            let late = match random.per_mille(500) {
                true => 0,
                false => random.between_powers(LATE.0, LATE.1),
            };
            self.after(late, Event::Fault(planned));
        }
    }

    pub(super) fn cut_off(&mut self, node: usize, lasts: u64, fault: Fault) {
        for other in (0..self.processes.len()).filter(|other| *other != node) {
            self.cut_link(node, other, lasts, fault);
            self.cut_link(other, node, lasts, fault);
        }
    }
}
