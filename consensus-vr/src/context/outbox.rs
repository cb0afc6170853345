//! What a step leaves for the driver: messages that are not yet encoded, and effects.

use std::collections::VecDeque;

use consensus::{Effect, PersistId, ReplicaId};

use crate::ids::View;
use crate::message::{Envelope, Message};

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Outbox {
    messages: Vec<Outgoing>,
    effects: VecDeque<Effect>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Outgoing {
    to: ReplicaId,
    message: Message,
    view: View,
    /// Not before everything up to now is durable.
    after_batch: bool,
}

impl Outbox {
    pub(super) fn queue(&mut self, to: ReplicaId, view: View, message: Message, after_batch: bool) {
        self.messages.push(Outgoing {
            to,
            message,
            view,
            after_batch,
        });
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(super) fn pop(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub(super) fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// Turns the queued messages into effects. `pending` is the last batch that is not
    /// durable yet.
    pub(super) fn send(&mut self, from: ReplicaId, group: u128, pending: Option<PersistId>) {
        for outgoing in std::mem::take(&mut self.messages) {
            let to = outgoing.to;
            let envelope = Envelope {
                from,
                to,
                view: outgoing.view,
                message: outgoing.message,
            };
            self.effects.push_back(Effect::Send {
                to,
                message: envelope.encode(group),
                after: pending.filter(|_| outgoing.after_batch),
            });
        }
    }
}
