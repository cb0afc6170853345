//! When each peer last sent a message.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use consensus::ReplicaId;

/// When each peer last sent a one-way message, since the start of this node. A peer that
/// was removed is remembered.
#[derive(Debug)]
pub(crate) struct PeerActivity {
    started: Instant,
    /// Milliseconds from the start to the last message; zero without any.
    last: Mutex<BTreeMap<ReplicaId, Arc<AtomicU64>>>,
}

/// Notes the messages of one peer. Held by its connection, so that a message needs no look-up
/// and no lock.
pub(super) struct ActivityRecorder {
    started: Instant,
    last: Arc<AtomicU64>,
}

impl Default for PeerActivity {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            last: Mutex::default(),
        }
    }
}

impl PeerActivity {
    fn last(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, Arc<AtomicU64>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a peer has connected to send messages.
    pub(super) fn connected(&self, peer: ReplicaId) -> ActivityRecorder {
        ActivityRecorder {
            started: self.started,
            last: Arc::clone(self.last().entry(peer).or_default()),
        }
    }

    /// Whether a peer has connected to send messages since this node started.
    pub(super) fn has_connected(&self, peer: ReplicaId) -> bool {
        self.last().contains_key(&peer)
    }

    /// How long the peer has been silent, counted from `since` at the earliest.
    pub(super) fn silence(&self, peer: ReplicaId, since: Instant) -> Duration {
        let last = self
            .last()
            .get(&peer)
            .map_or(0, |last| last.load(Ordering::Relaxed));
        let since = since.saturating_duration_since(self.started);
        let from = Duration::from_millis(last).max(since);
        self.started.elapsed().saturating_sub(from)
    }
}

impl ActivityRecorder {
    /// Notes a message.
    pub(super) fn note(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_the_last_message_or_from_a_later_moment() {
        let peer = ReplicaId(2);
        let hour = Duration::from_secs(3_600);
        let started = Instant::now().checked_sub(hour).expect("the machine runs");
        let activity = PeerActivity {
            started,
            last: Mutex::default(),
        };
        assert!(!activity.has_connected(peer));
        assert!(activity.silence(peer, started) >= hour);
        let recorder = activity.connected(peer);
        assert!(activity.has_connected(peer));
        assert!(activity.silence(peer, started) >= hour);
        assert!(activity.silence(peer, Instant::now()) < hour);
        recorder.note();
        assert!(activity.silence(peer, started) < hour);
    }
}
