//! Counts of all links of a node.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use consensus::ReplicaId;

use super::lanes::LaneCountsMap;
use crate::log_limit::LogLimit;

/// Peer, kind and reason. A connection that was refused before it was known whose it is has
/// no peer.
type Refusal = (Option<ReplicaId>, &'static str, &'static str);

/// Counts of all links of a node since its start.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// One-way messages passed to a connection.
    pub sent: AtomicU64,
    /// Bytes of those messages.
    pub sent_bytes: AtomicU64,
    /// Messages dropped at a full queue or a broken connection.
    pub dropped: AtomicU64,
    /// Frames and handshakes that were refused, here or by a peer.
    pub refused: AtomicU64,
    /// Connections that were established to peers.
    pub connected: AtomicU64,
    pub(crate) lanes: LaneCountsMap,
    refusals: Mutex<LogLimit<Refusal>>,
}

impl LinkCounters {
    pub(super) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Counts a refusal. When it is to be logged, how many of the same were not.
    pub(super) fn refuse(
        &self,
        peer: Option<ReplicaId>,
        kind: &'static str,
        reason: &'static str,
    ) -> Option<u64> {
        Self::add(&self.refused, 1);
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.due(Instant::now(), (peer, kind, reason))
    }
}
