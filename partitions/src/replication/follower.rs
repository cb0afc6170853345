//! A copy that follows the leader of its epoch.

use consensus::{Index, ReplicaId, rule};

use super::chain::Position;
use super::context::Context;
use super::message::{Message, Trust};
use crate::record::Record;

#[derive(Default)]
pub(super) struct Follower {
    /// Up to here its log equals the leader's.
    matched: Index,
    /// Whether the leader has sent anything in this epoch.
    contacted: bool,
    /// The acknowledgement that the leader has.
    sent: Option<(Index, Index, Index, bool)>,
}

impl Follower {
    pub(super) fn append(&mut self, context: &mut Context, from: ReplicaId, append: Append) {
        let epoch = context.assignment.epoch;
        if rule!(PredecessorMatches) && !context.chain.contains(append.predecessor) {
            let mismatch = Message::Mismatch {
                epoch,
                probed: append.predecessor,
                have: context.chain.candidate(append.predecessor),
            };
            context.send(from, mismatch);
            return;
        }
        if !rule!(PredecessorMatches) && context.chain.last().index < append.predecessor.index {
            return;
        }
        context.trust_from(append.end);
        let matched = context.reconcile(append.predecessor, append.records, self.matched);
        let Some(matched) = matched else { return };
        self.matched = self.matched.max(matched);
        context.commit = context.commit.max(append.commit.min(self.matched));
        // The leader repeats what it has no answer to.
        self.sent = None;
        self.contacted = true;
    }

    /// Tells the leader what has changed.
    pub(super) fn advance(&mut self, context: &mut Context) {
        context.sync_if_due();
        context.trust_if_caught_up(self.matched);
        if !self.contacted {
            return;
        }
        let Some(leader) = context.assignment.leader else {
            return;
        };
        let (written, synced) = context.acknowledged(self.matched);
        let trusted = context.trust == Trust::Trusted;
        let ack = (self.matched, written, synced, trusted);
        if self.sent != Some(ack) {
            self.sent = Some(ack);
            let message = Message::Ack {
                epoch: context.assignment.epoch,
                matched: self.matched,
                written,
                synced,
                trusted,
            };
            context.send(leader, message);
        }
    }

    /// The connection to the leader is a new one: what was sent may be lost.
    pub(super) fn reconnected(&mut self) {
        self.sent = None;
    }
}

/// The contents of [`Message::Append`].
pub(super) struct Append {
    pub(super) predecessor: Position,
    pub(super) records: Vec<Record>,
    pub(super) commit: Index,
    pub(super) end: Index,
}
