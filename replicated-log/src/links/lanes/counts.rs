//! Counts of the lanes, for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use consensus::ReplicaId;

use crate::links::channel::Channel;

/// The peer's replica id and the name of the lane, as labels of metrics.
pub(crate) type LaneLabels = [(&'static str, String); 2];

/// Counts of one lane to and from one peer, since the start of this node.
#[derive(Debug, Default)]
pub(crate) struct LaneCounts {
    /// Frames and bytes that were taken from the source.
    pub(crate) sent: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    /// Frames and bytes that were delivered.
    pub(crate) received: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    /// Bytes that were sent and that the peer has not released, as far as is known.
    pub(crate) unreleased_bytes: AtomicU64,
    /// Bytes that were delivered here and not released.
    pub(crate) held_bytes: AtomicU64,
    /// How often a frame had to wait for credit.
    pub(crate) stalls: AtomicU64,
    /// Connections to the peer.
    pub(crate) connections: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// The counts of all lanes.
#[derive(Debug, Default)]
pub(crate) struct LaneCountsMap(Mutex<BTreeMap<(ReplicaId, Channel), Arc<LaneCounts>>>);

impl LaneCountsMap {
    /// The counts of a lane of a peer.
    pub(super) fn of(&self, peer: ReplicaId, lane: Channel) -> Arc<LaneCounts> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(counts.entry((peer, lane)).or_default())
    }

    /// All counts, with their labels.
    pub(crate) fn all(&self) -> Vec<(LaneLabels, Arc<LaneCounts>)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = counts.iter();
        each.map(|((peer, lane), counts)| {
            let lane = lane.lane_name().unwrap_or_default();
            let labels = [("peer", peer.to_string()), ("lane", lane.to_owned())];
            (labels, Arc::clone(counts))
        })
        .collect()
    }
}
