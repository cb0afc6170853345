//! The lanes' two ends at this node.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use ::partitions::replication::Envelope;
use bytes::Bytes;
use consensus::ReplicaId;
use replicated_log::Throttle;
use replicated_log::links::{Channel, Credit, LaneFrame, LaneSink, LaneSource};
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::lock;
use super::registry::Copies;

/// Takes the copies' messages from them, and delivers those of other nodes.
pub(crate) struct CopyLanes {
    copies: Arc<Copies>,
    runtime: Handle,
    refused: Mutex<Throttle>,
}

impl CopyLanes {
    /// To be called in a tokio runtime.
    pub(crate) fn new(copies: Arc<Copies>) -> Self {
        Self {
            copies,
            runtime: Handle::current(),
            refused: Mutex::default(),
        }
    }

    fn refuse(&self, from: ReplicaId, why: &dyn std::fmt::Display) {
        if let Some(suppressed) = lock(&self.refused).due(Instant::now()) {
            warn!(peer = %from, error = %why, suppressed, "refused a message between copies of a partition");
        }
    }
}

impl LaneSource for CopyLanes {
    fn next(&self, lane: Channel, to: ReplicaId) -> Option<LaneFrame> {
        self.copies.node.outbound.next(lane, to)
    }

    fn connected(&self, lane: Channel, to: ReplicaId) {
        self.copies.node.outbound.connected(lane, to);
        for copy in self.copies.all_opened() {
            copy.reconnected(to);
        }
    }
}

impl LaneSink for CopyLanes {
    fn frame(
        &self,
        from: ReplicaId,
        incarnation: u64,
        _lane: Channel,
        _connection: u64,
        frame: Bytes,
        credit: Credit,
    ) {
        let envelope = match Envelope::decode(frame) {
            Ok(envelope) => envelope,
            Err(error) => return self.refuse(from, &error),
        };
        let Envelope {
            key,
            registration,
            message,
        } = envelope;
        if registration != incarnation {
            return self.refuse(from, &"it is of another start of its sender");
        }
        match self.copies.opened(&key) {
            Some(copy) => copy.received(from, registration, message, Some(credit)),
            None => {
                let copies = Arc::clone(&self.copies);
                // Messages that arrive meanwhile may overtake it: the protocol repeats.
                self.runtime.spawn(async move {
                    match copies.open(key).await {
                        Ok(copy) => copy.received(from, registration, message, Some(credit)),
                        Err(code) => debug!(?key, %code, "a message reached no copy"),
                    }
                });
            }
        }
    }
}
