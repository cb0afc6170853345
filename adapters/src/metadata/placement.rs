//! Which nodes own new partitions.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use consensus::ReplicaId;
use thiserror::Error;

use super::state::MetadataState;

/// Why partitions cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlacementError {
    /// No registered node is live.
    #[error("no registered node is live, so that no node can own new partitions")]
    NoLiveNode,
}

/// Owners for `count` new partitions: the owner of each is the live node with the fewest,
/// including those `in_flight`, and of several the one with the lowest id.
///
/// # Errors
/// When no node is live.
pub fn place(
    state: &MetadataState,
    in_flight: &BTreeMap<ReplicaId, u64>,
    count: u32,
) -> Result<Vec<ReplicaId>, PlacementError> {
    let mut nodes: BinaryHeap<_> = state
        .nodes()
        .filter(|node| node.live)
        .map(|node| {
            let id = node.info.node;
            let proposed = in_flight.get(&id).copied().unwrap_or(0);
            Reverse((node.partitions + proposed, id))
        })
        .collect();
    if nodes.is_empty() {
        return Err(PlacementError::NoLiveNode);
    }
    let mut owners = Vec::with_capacity(count as usize);
    for _ in 0..count {
        if let Some(mut fewest) = nodes.peek_mut() {
            owners.push(fewest.0.1);
            fewest.0.0 += 1;
        }
    }
    Ok(owners)
}
