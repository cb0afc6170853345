//! Messages that wait until the write-ahead log holds what they reveal.

use std::collections::VecDeque;

use consensus::rule;
use consensus::{Parts, PersistId, ReplicaId};

use super::events::{Channel, Output, Outputs};

/// The messages that wait, and how much is durable.
#[derive(Default)]
pub(super) struct Sends {
    durable: PersistId,
    /// In the order of the batches that they wait for.
    pending: VecDeque<(PersistId, ReplicaId, Parts)>,
}

impl Sends {
    /// Sends a message now, or when `after` is durable.
    pub(super) fn send(
        &mut self,
        to: ReplicaId,
        message: Parts,
        after: PersistId,
        outputs: &mut Outputs,
    ) {
        if after <= self.durable || !rule!(SendAfterSync) {
            outputs.push_back(consensus_message(to, message));
        } else {
            self.pending.push_back((after, to, message));
        }
    }

    pub(super) fn persisted(&mut self, id: PersistId) {
        self.durable = self.durable.max(id);
    }

    /// Sends what has waited for batches that are durable.
    pub(super) fn release(&mut self, outputs: &mut Outputs) {
        // Batches become durable in order, so the message that waits longest is in front.
        while let Some((after, ..)) = self.pending.front()
            && *after <= self.durable
        {
            if let Some((_, to, message)) = self.pending.pop_front() {
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
