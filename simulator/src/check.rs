//! What must hold at every step.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use consensus::{Index, ReplicaId, Role, Status, Term};
use replica::driver::ReplicaStatus;

use crate::history::History;

/// A start of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// Counts the starts of the replica.
    pub(crate) number: u64,
    /// The latest term of which its disk had anything: a vote, or entries.
    pub(crate) recovered: Term,
}

/// What all replicas have shown so far, for all time.
#[derive(Default)]
pub(crate) struct Checks {
    pub(crate) history: History,
    /// The state after each applied entry, by index.
    digests: BTreeMap<u64, u128>,
    /// The leader of each term, and the number of its start.
    leaders: BTreeMap<Term, (ReplicaId, u64)>,
    /// What replicas have acknowledged to the leader of the newest term that
    /// counts on them.
    acknowledged: BTreeMap<ReplicaId, (Term, Index)>,
    /// The term that each replica was last in.
    terms: BTreeMap<ReplicaId, Term>,
    committed: u64,
    /// The highest index that any client has seen the effect of.
    seen: u64,
}

impl Checks {
    /// Equal states at equal positions: one history, applied in one order.
    pub(crate) fn state(
        &mut self,
        id: ReplicaId,
        applied: u64,
        digest: u128,
    ) -> Result<(), String> {
        self.history.check()?;
        let known = *self.digests.entry(applied).or_insert(digest);
        if known != digest {
            return Err(format!(
                "replica {id} has another state at {applied} than a replica had before"
            ));
        }
        Ok(())
    }

    /// A term has one leader, and nothing grows beyond its bound.
    pub(crate) fn replica(
        &mut self,
        id: ReplicaId,
        start: Start,
        status: &ReplicaStatus,
        pipeline_max: u64,
    ) -> Result<(), String> {
        if status.batches_in_flight as u64 > pipeline_max {
            return Err(format!(
                "replica {id} has {} batches in flight, at most {pipeline_max} may be",
                status.batches_in_flight
            ));
        }
        if status.core.role == Role::Follower && status.batches_in_flight > 0 {
            return Err(format!(
                "replica {id} follows another and has {} proposals of its own",
                status.batches_in_flight
            ));
        }
        self.kept(id, &status.core)?;
        self.known(id, &status.core)?;
        if status.core.role != Role::Leader {
            return Ok(());
        }
        self.count(&status.core);
        self.leads_once(id, start, &status.core)
    }

    /// A term has one leadership: of one replica, in one of its incarnations. What a
    /// restarted leader had sent and not written is lost to it, so it may send other entries
    /// under the same indexes.
    fn leads_once(&mut self, id: ReplicaId, start: Start, status: &Status) -> Result<(), String> {
        let term = status.term;
        let known = self.leaders.entry(term).or_insert((id, start.number));
        let (leader, led_by) = *known;
        if leader != id {
            return Err(format!("replicas {leader} and {id} lead term {term}"));
        }
        if led_by == start.number {
            return Ok(());
        }
        // A single voter leads before it has written that down, and nothing of the term has
        // left it until then: where its disk has nothing of the term, it was never led.
        if status.membership.quorum() > 1 || start.recovered >= term {
            return Err(format!(
                "replica {id} leads term {term} again after a restart, which has lost what it knew of its followers"
            ));
        }
        known.1 = start.number;
        Ok(())
    }

    /// The indexes that no replica had committed before.
    pub(crate) fn newly_committed(&mut self, commit: u64) -> RangeInclusive<u64> {
        let before = self.committed;
        self.committed = before.max(commit);
        before + 1..=self.committed
    }

    /// A replica that has acknowledged an entry has it, or is in a later term.
    pub(crate) fn kept(&self, id: ReplicaId, status: &Status) -> Result<(), String> {
        let Some((term, index)) = self.acknowledged.get(&id) else {
            return Ok(());
        };
        if status.term < *term || status.term == *term && status.last < *index {
            return Err(format!(
                "replica {id} has acknowledged {index} in term {term}, and its log ends at {} in term {}",
                status.last, status.term
            ));
        }
        Ok(())
    }

    /// A majority is in the term of the newest leader, and does not forget it.
    fn known(&mut self, id: ReplicaId, status: &Status) -> Result<(), String> {
        if self.terms.insert(id, status.term) == Some(status.term) {
            return Ok(());
        }
        let Some((newest, _)) = self.leaders.last_key_value() else {
            return Ok(());
        };
        if status.membership.quorum() == 1 {
            // It needs no other vote, and leads before its term is durable; no message
            // of it leaves earlier.
            return Ok(());
        }
        let voters = status.membership.voters();
        let term_of = |voter| self.terms.get(voter).copied().unwrap_or_default();
        let know = voters.iter().filter(|voter| term_of(voter) >= *newest);
        if know.count() < status.membership.quorum() {
            let terms = self.terms.iter();
            let terms: Vec<_> = terms
                .map(|(id, term)| format!("replica {id} is in {term}"))
                .collect();
            return Err(format!(
                "term {newest} had a leader, and most replicas do not know it: {}",
                terms.join(", ")
            ));
        }
        Ok(())
    }

    /// Notes what a leader counts on.
    fn count(&mut self, leader: &Status) {
        for peer in leader
            .peers
            .iter()
            .filter(|peer| peer.matched > Index::ZERO)
        {
            let known = self.acknowledged.entry(peer.id).or_default();
            *known = (*known).max((leader.term, peer.matched));
        }
    }

    /// The index that every operation which a client starts now must follow.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// A command that was started when `before` had been seen is at `index` of the log.
    pub(crate) fn written(&mut self, before: u64, index: u64) -> Result<(), String> {
        if index <= before {
            return Err(format!(
                "a command is at {index}, and was started when {before} had been seen"
            ));
        }
        self.seen = self.seen.max(index);
        Ok(())
    }

    /// A read that was started when `before` had been seen returned the state at
    /// `applied`, whose last command is at `command`.
    pub(crate) fn read(&mut self, before: u64, applied: u64, command: u64) -> Result<(), String> {
        if applied < before {
            return Err(format!(
                "a read returned the state at {applied}, and was started when {before} had been seen"
            ));
        }
        self.seen = self.seen.max(command);
        Ok(())
    }

    /// Entries that were applied anywhere.
    pub(crate) fn applied(&self) -> u64 {
        self.digests.last_key_value().map_or(0, |(index, _)| *index)
    }

    pub(crate) fn terms(&self) -> usize {
        self.leaders.len()
    }
}
