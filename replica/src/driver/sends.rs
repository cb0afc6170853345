//! Messages that wait until the write-ahead log holds what they reveal.

use std::collections::VecDeque;

use consensus::rule;
use consensus::{Parts, PersistId, ReplicaId};

use super::events::{Channel, Output, Outputs};

/// Bytes of messages that wait for the write-ahead log. While its disk hangs, further ones
/// are dropped: peers send again what is not answered.
const PENDING_BYTES_MAX: usize = 64 << 20;
/// Counted for a waiting message in addition to its bytes: tiny ones are not free.
const PENDING_OVERHEAD_BYTES: usize = 64;

/// The messages that wait, and how much is durable.
#[derive(Default)]
pub(super) struct Sends {
    durable: PersistId,
    /// In the order of the batches that they wait for.
    pending: VecDeque<(PersistId, ReplicaId, Parts)>,
    pending_bytes: usize,
}

impl Sends {
    /// Sends a message now, or when `after` is durable. Whether there was room for it.
    pub(super) fn send(
        &mut self,
        to: ReplicaId,
        message: Parts,
        after: PersistId,
        outputs: &mut Outputs,
    ) -> bool {
        if after <= self.durable || !rule!(SendAfterSync) {
            outputs.push_back(consensus_message(to, message));
            return true;
        }
        let bytes = self.pending_bytes + pending_bytes(&message);
        let fits = bytes <= PENDING_BYTES_MAX;
        if fits {
            self.pending_bytes = bytes;
            self.pending.push_back((after, to, message));
        }
        fits
    }

    pub(super) fn persisted(&mut self, id: PersistId) {
        self.durable = self.durable.max(id);
    }

    /// Sends what has waited for batches that are durable.
    pub(super) fn release(&mut self, outputs: &mut Outputs) {
        // Batches become durable in order, so the message that waits longest is in front.
        while let Some((after, ..)) = self.pending.front()
            && (*after <= self.durable || !rule!(SendAfterOwnWrite))
        {
            if let Some((_, to, message)) = self.pending.pop_front() {
                self.pending_bytes -= pending_bytes(&message);
                outputs.push_back(consensus_message(to, message));
            }
        }
    }
}

fn consensus_message(to: ReplicaId, message: Parts) -> Output {
    Output::Send {
        to,
        channel: Channel::Consensus,
        message,
    }
}

fn pending_bytes(message: &Parts) -> usize {
    message.len() + PENDING_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// As long as the disk hangs, nothing that waits for it may exhaust the memory.
    #[test]
    fn what_waits_for_the_log_is_bounded_and_sent_when_the_log_has_it() {
        let (mut sends, mut outputs) = (Sends::default(), Outputs::new());
        let message = Parts::from(Bytes::from(vec![7; 1 << 20]));
        let to = ReplicaId(2);
        let waiting = (1..1_000)
            .take_while(|id| sends.send(to, message.clone(), PersistId(*id), &mut outputs))
            .count();
        assert_eq!(waiting, 63, "64 MiB with what is counted for each");
        assert!(outputs.is_empty());
        assert!(sends.send(to, message.clone(), PersistId(0), &mut outputs));
        assert_eq!(outputs.len(), 1, "what waits for nothing needs no room");
        sends.persisted(PersistId(1));
        sends.release(&mut outputs);
        assert_eq!(outputs.len(), 2);
        assert!(sends.send(to, message, PersistId(64), &mut outputs));
        sends.persisted(PersistId(64));
        sends.release(&mut outputs);
        assert_eq!((outputs.len(), sends.pending_bytes), (2 + 63, 0));
    }
}
