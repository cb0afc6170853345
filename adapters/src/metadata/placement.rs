//! Which node gets a new partition. The leader decides before it proposes, and
//! the decision travels in the command.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use consensus::ReplicaId;
use thiserror::Error;

use super::state::MetadataState;

/// Why partitions cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlacementError {
    /// No node is live.
    #[error("no live node can take partitions")]
    NoLiveNode,
}

/// Owners for `count` new partitions: each goes to the live node that has the
/// fewest, `pending` ones included; the lowest id wins a tie.
///
/// # Errors
/// When no node is live.
pub fn place(
    state: &MetadataState,
    pending: &BTreeMap<ReplicaId, u64>,
    count: u32,
) -> Result<Vec<ReplicaId>, PlacementError> {
    let mut nodes: BinaryHeap<_> = state
        .nodes()
        .filter(|node| node.live)
        .map(|node| {
            let id = node.info.node;
            let planned = pending.get(&id).copied().unwrap_or(0);
            Reverse((node.partitions + planned, id))
        })
        .collect();
    if nodes.is_empty() {
        return Err(PlacementError::NoLiveNode);
    }
    let mut owners = Vec::with_capacity(count as usize);
    for _ in 0..count {
        if let Some(mut least) = nodes.peek_mut() {
            owners.push(least.0.1);
            least.0.0 += 1;
        }
    }
    Ok(owners)
}
