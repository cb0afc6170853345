//! The leader's placements that are not applied yet.
//!
//! Commands under way at once must not all see the same least-loaded node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adapters::metadata::{Command, MetadataReader, PlacementError, place};
use consensus::ReplicaId;

type Pending = Arc<Mutex<BTreeMap<ReplicaId, u64>>>;

#[derive(Default)]
pub(super) struct Placer {
    pending: Pending,
}

/// A command that can be replicated, and the places it holds until it is applied.
pub(super) struct Placed {
    pub(super) command: Command,
    owners: Vec<ReplicaId>,
    pending: Pending,
}

impl Placer {
    /// Fills in the owners of the partitions that the command creates.
    pub(super) fn place(
        &self,
        reader: &MetadataReader,
        mut command: Command,
    ) -> Result<Placed, PlacementError> {
        let mut placed = Vec::new();
        if let Command::Client(request) = &mut command
            && let Some((count, owners)) = request.operation.placement()
        {
            let mut pending = lock(&self.pending);
            *owners = place(&reader.read(), &pending, count)?;
            for owner in owners.iter() {
                *pending.entry(*owner).or_insert(0) += 1;
            }
            placed.clone_from(owners);
        }
        Ok(Placed {
            command,
            owners: placed,
            pending: Arc::clone(&self.pending),
        })
    }
}

impl Placed {
    /// The command was applied, or will not be.
    pub(super) fn release(self) {
        drop(self);
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let mut pending = lock(&self.pending);
        for owner in &self.owners {
            if let Some(count) = pending.get_mut(owner) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

fn lock(pending: &Pending) -> MutexGuard<'_, BTreeMap<ReplicaId, u64>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}
