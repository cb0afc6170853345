//! Logging of what the core refused, at a bounded rate.
//!
//! A faulty peer may send thousands of such messages per second. Each of them is counted
//! (`peer_messages_refused`), and one per peer, kind, reason and interval is logged.

use std::time::Instant;

use consensus::{RefusedMessage, ReplicaId, StepError};
use tracing::{error, warn};

use crate::log_limit::LogLimit;

/// Peer, kind and reason; a request of this replica has no peer.
type Key = (Option<ReplicaId>, &'static str, &'static str);

/// What was logged last.
#[derive(Default)]
pub(crate) struct Refusals(LogLimit<Key>);

impl Refusals {
    /// Logs a refusal, unless the same was logged within the interval. A message of the
    /// leader is one that this replica should have followed.
    pub(crate) fn log(&mut self, now: Instant, error: &StepError, leader: Option<ReplicaId>) {
        let Some(suppressed) = self.0.due(now, key(error)) else {
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
            assert_eq!(refusals.0.due(now, key), Some(0));
            assert_eq!(refusals.0.due(now, key), None);
        }
        // Another text of the same reason is the same.
        let other = refused(1, "Prepare", malformed("b"));
        assert_eq!(refusals.0.due(now, other), None);
    }
}
