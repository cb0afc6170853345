//! Counts of all links of a node.

use std::sync::atomic::{AtomicU64, Ordering};

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
}

impl LinkCounters {
    pub(super) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}
