//! What must hold at every step.

use std::collections::BTreeMap;

use consensus::{ReplicaId, Role, Term};
use replica::driver::ReplicaStatus;

/// What all replicas have shown so far, for all time.
#[derive(Default)]
pub(crate) struct Checks {
    /// The state after each applied entry, by index.
    digests: BTreeMap<u64, u128>,
    leaders: BTreeMap<Term, ReplicaId>,
}

impl Checks {
    /// Equal states at equal positions: one history, applied in one order.
    pub(crate) fn state(
        &mut self,
        id: ReplicaId,
        applied: u64,
        digest: u128,
    ) -> Result<(), String> {
        let known = *self.digests.entry(applied).or_insert(digest);
        if known != digest {
            return Err(format!(
                "replica {id} has another state at {applied} than a replica had before"
            ));
        }
        Ok(())
    }

    /// A term has one leader.
    pub(crate) fn leader(&mut self, id: ReplicaId, status: &ReplicaStatus) -> Result<(), String> {
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

    /// Entries that were applied anywhere.
    pub(crate) fn applied(&self) -> u64 {
        self.digests.last_key_value().map_or(0, |(index, _)| *index)
    }

    pub(crate) fn terms(&self) -> usize {
        self.leaders.len()
    }
}
