//! Commands that this node has decided as the leader, and that are not applied yet.
//!
//! The partitions that they create are not in the state: without counting them,
//! concurrent commands would all be placed on the node that owned the fewest before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adapters::metadata::{Command, Intent, MetadataReader, PlacementError, decide};
use consensus::ReplicaId;

/// New partitions of each node whose commands are in flight.
type InFlight = Arc<Mutex<BTreeMap<ReplicaId, u64>>>;

#[derive(Default)]
pub(super) struct Decisions {
    in_flight: InFlight,
}

/// A decided command. It is in flight until this is dropped.
pub(super) struct Decision {
    pub(super) command: Command,
    in_flight: InFlight,
}

impl Decisions {
    /// The command to propose for an intent.
    pub(super) fn decide(
        &self,
        intent: Intent,
        reader: &MetadataReader,
    ) -> Result<Decision, PlacementError> {
        let mut in_flight = lock(&self.in_flight);
        let command = decide(intent, reader, &in_flight)?;
        for owner in command.owners() {
            *in_flight.entry(*owner).or_insert(0) += 1;
        }
        Ok(Decision {
            command,
            in_flight: Arc::clone(&self.in_flight),
        })
    }
}

impl Drop for Decision {
    fn drop(&mut self) {
        let owners = self.command.owners();
        if owners.is_empty() {
            return;
        }
        let mut in_flight = lock(&self.in_flight);
        for owner in owners {
            if let Some(count) = in_flight.get_mut(owner) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

fn lock(in_flight: &InFlight) -> MutexGuard<'_, BTreeMap<ReplicaId, u64>> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}
