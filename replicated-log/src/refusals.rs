//! Logging of what the core refused, at a bounded rate.
//!
//! A faulty peer may send thousands of such messages per second. Each of them is counted
//! (`peer_messages_refused`), and one per peer, kind, reason and interval is logged.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use consensus::{RefusedMessage, ReplicaId, StepError};
use tracing::{error, warn};

/// At most one line per peer, kind and reason in this time.
const INTERVAL: Duration = Duration::from_secs(10);
/// Peers with kinds and reasons that are limited apart. Peers are members of the cluster,
/// and kinds and reasons are few, so this bound is not reached; beyond it nothing is logged.
const KEYS_MAX: usize = 4_096;

/// Peer, kind and reason; a request of this replica has no peer.
type Key = (Option<ReplicaId>, &'static str, &'static str);

#[derive(Clone, Copy)]
struct Line {
    logged_at: Instant,
    suppressed: u64,
}

/// What was logged last.
#[derive(Default)]
pub(crate) struct Refusals {
    lines: BTreeMap<Key, Line>,
}

impl Refusals {
    /// Logs a refusal, unless the same was logged within the interval. A message of the
    /// leader is one that this replica should have followed.
    pub(crate) fn log(&mut self, now: Instant, error: &StepError, leader: Option<ReplicaId>) {
        let Some(suppressed) = self.due(now, key(error)) else {
            return;
        };
        match error {
            StepError::Message(RefusedMessage { from, kind, reason }) if leader == Some(*from) => {
                error!(leader = %from, kind, %reason, suppressed, "this node refuses what its leader sends, and is not ready: see \"A node refuses its leader\" in the troubleshooting guide");
            }
            StepError::Message(RefusedMessage { from, kind, reason }) => {
                warn!(peer = %from, kind, %reason, suppressed, "refused a message of a peer");
            }
            StepError::Request(reason) => {
                warn!(reason, suppressed, "the consensus core refused a request");
            }
        }
    }

    /// The refusals of this key that were not logged since the last that was, when this one
    /// is to be logged.
    fn due(&mut self, now: Instant, key: Key) -> Option<u64> {
        let first = Line {
            logged_at: now,
            suppressed: 0,
        };
        let is_full = self.lines.len() >= KEYS_MAX;
        match self.lines.get_mut(&key) {
            Some(line) if now.saturating_duration_since(line.logged_at) < INTERVAL => {
                line.suppressed += 1;
                None
            }
            Some(line) => Some(std::mem::replace(line, first).suppressed),
            None if is_full => None,
            None => {
                self.lines.insert(key, first);
                Some(0)
            }
        }
    }
}

fn key(error: &StepError) -> Key {
    match error {
        StepError::Message(message) => (Some(message.from), message.kind, message.reason.label()),
        StepError::Request(_) => (None, "request", "refused"),
    }
}

#[cfg(test)]
mod tests {
    use consensus::RefusalReason;

    use super::*;

    fn refused(peer: u64, kind: &'static str, reason: RefusalReason) -> Key {
        let from = ReplicaId(peer);
        key(&RefusedMessage { from, kind, reason }.into())
    }

    fn malformed(what: &str) -> RefusalReason {
        RefusalReason::Malformed(what.into())
    }

    #[test]
    fn the_same_refusal_is_logged_once_per_interval_with_the_number_suppressed() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(
            refusals.due(start, refused(1, "Prepare", malformed("a"))),
            Some(0)
        );
        // Another text of the same reason is the same.
        for text in ["b", "c"] {
            assert_eq!(
                refusals.due(start, refused(1, "Prepare", malformed(text))),
                None
            );
        }
        let just_before = start + INTERVAL - Duration::from_millis(1);
        assert_eq!(
            refusals.due(just_before, refused(1, "Prepare", malformed("a"))),
            None
        );
        let later = start + INTERVAL;
        assert_eq!(
            refusals.due(later, refused(1, "Prepare", malformed("a"))),
            Some(3)
        );
        assert_eq!(
            refusals.due(later, refused(1, "Prepare", malformed("a"))),
            None
        );
        let again = later + INTERVAL;
        assert_eq!(
            refusals.due(again, refused(1, "Prepare", malformed("a"))),
            Some(1)
        );
    }

    #[test]
    fn peers_kinds_reasons_and_own_requests_are_limited_apart() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        for key in [
            refused(1, "Prepare", malformed("a")),
            refused(2, "Prepare", malformed("a")),
            refused(1, "Commit", malformed("a")),
            refused(1, "Prepare", RefusalReason::WrongGroup),
            key(&StepError::Request("not now".into())),
        ] {
            assert_eq!(refusals.due(now, key), Some(0));
            assert_eq!(refusals.due(now, key), None);
        }
    }

    #[test]
    fn the_keys_are_bounded() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        for peer in 0..2 * KEYS_MAX as u64 {
            refusals.due(now, refused(peer, "Prepare", RefusalReason::UnknownPeer));
        }
        assert_eq!(refusals.lines.len(), KEYS_MAX);
    }
}
