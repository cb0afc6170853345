//! What must hold at every step.

use std::collections::BTreeMap;

use consensus::{ReplicaId, Role, Term};
use replica::driver::ReplicaStatus;

use crate::history::History;

/// Batches that a replica proposes before the first is committed.
const PIPELINE_MAX: usize = 4;

/// What all replicas have shown so far, for all time.
#[derive(Default)]
pub(crate) struct Checks {
    pub(crate) history: History,
    /// The state after each applied entry, by index.
    digests: BTreeMap<u64, u128>,
    leaders: BTreeMap<Term, ReplicaId>,
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
    pub(crate) fn replica(&mut self, id: ReplicaId, status: &ReplicaStatus) -> Result<(), String> {
        if status.batches_in_flight > PIPELINE_MAX {
            return Err(format!(
                "replica {id} has {} batches in flight, at most {PIPELINE_MAX} may be",
                status.batches_in_flight
            ));
        }
        if status.core.role == Role::Follower && status.batches_in_flight > 0 {
            return Err(format!(
                "replica {id} follows another and has {} proposals of its own",
                status.batches_in_flight
            ));
        }
        if status.core.role != Role::Leader {
            return Ok(());
        }
        let known = *self.leaders.entry(status.core.term).or_insert(id);
        if known != id {
            return Err(format!(
                "replicas {known} and {id} lead term {}",
                status.core.term
            ));
        }
        Ok(())
    }

    /// What whatever a client begins now has to come behind.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// A command that was begun when `before` had been seen took its place in the
    /// log.
    pub(crate) fn written(&mut self, before: u64, index: u64) -> Result<(), String> {
        if index <= before {
            return Err(format!(
                "a command has the place {index}, and was begun when {before} had been seen"
            ));
        }
        self.seen = self.seen.max(index);
        Ok(())
    }

    /// A read that was begun when `before` had been seen returned the state at
    /// `applied`, whose last command is at `command`.
    pub(crate) fn read(&mut self, before: u64, applied: u64, command: u64) -> Result<(), String> {
        if applied < before {
            return Err(format!(
                "a read returned the state at {applied}, and was begun when {before} had been seen"
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
