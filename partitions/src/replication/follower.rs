//! A copy that follows the leader of its epoch.

use consensus::{Index, ReplicaId, rule};

use super::chain::Position;
use super::context::Context;
use super::message::{Ack, Beat, Message, Trust};
use super::sessions::Sessions;
use super::table::{OffsetTable, Start, TableChange, TableVersion, TableWrite};
use crate::record::Record;

#[derive(Default)]
pub(super) struct Follower {
    /// Up to here its log equals the leader's.
    matched: Index,
    /// Whether the leader has sent anything in this epoch.
    contacted: bool,
    /// The latest beat, by the leader's clock.
    beat_micros: u64,
    /// The acknowledgement that the leader has.
    sent: Option<Ack>,
    /// Whether the leader waits for one, whatever has changed.
    owed: bool,
    /// Up to this version the leader's table is committed.
    table_commit: u64,
}

impl Follower {
    pub(super) fn append(&mut self, context: &mut Context, from: ReplicaId, append: Append) {
        if context.is_resetting() {
            // The leader asks again.
            return;
        }
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
        let beat = append.beat;
        context.trust_from(beat.end);
        let matched = context.reconcile(append.predecessor, append.records, self.matched);
        let Some(matched) = matched else { return };
        self.matched = self.matched.max(matched);
        self.beat_micros = self.beat_micros.max(beat.sent_micros);
        self.table_commit = self.table_commit.max(beat.table_commit);
        context.set_commit(beat.commit.min(self.matched));
        context.table_committed(self.table_commit);
        // The leader repeats what it has no answer to.
        self.owed = true;
        self.contacted = true;
    }

    /// The leader's log starts after the end of this one, or both have nothing in common.
    pub(super) fn start(&mut self, context: &mut Context, start: Start, sessions: Sessions) {
        if !context.is_resetting() && context.reset(start, sessions) {
            self.matched = start.base.index;
            self.contacted = true;
            self.owed = true;
        }
    }

    /// The leader's whole table.
    pub(super) fn table(&mut self, context: &mut Context, table: OffsetTable) {
        self.owed = true;
        if table.at.epoch != context.assignment.epoch || table.at <= context.table.at {
            return;
        }
        context.table = table.clone();
        context.write_table(TableWrite::Whole(table));
        context.table_committed(self.table_commit);
    }

    /// A change of the leader's table; ignored when one before it was lost: the whole table
    /// follows.
    pub(super) fn offset(&mut self, context: &mut Context, version: u64, change: TableChange) {
        let before = context.table.at;
        let at = TableVersion {
            epoch: context.assignment.epoch,
            version,
        };
        let next = before.epoch == at.epoch && before.version + 1 == version;
        let later = before.epoch == at.epoch && before < at && !rule!(TableChangesInOrder);
        if next || later {
            context.table.apply(at, change);
            context.write_table(TableWrite::Change { at, change });
            context.table_committed(self.table_commit);
        }
    }

    /// Tells the leader what has changed. While a write is in flight, what it has not
    /// written waits for that: so an append has one answer, unless the disk hangs.
    pub(super) fn advance(&mut self, context: &mut Context, hurry: bool) {
        if context.is_resetting() {
            return;
        }
        context.sync_if_due();
        context.trust_if_caught_up(self.matched);
        if !self.contacted {
            return;
        }
        let Some(leader) = context.assignment.leader else {
            return;
        };
        let (written, synced) = context.acknowledged(self.matched);
        let ack = Ack {
            matched: self.matched,
            written,
            synced,
            trusted: context.trust == Trust::Trusted,
            table: context.table_acknowledged(),
            beat_micros: self.beat_micros,
        };
        let durable = self.sent.is_none_or(|sent| {
            (written, synced, ack.table, ack.trusted)
                != (sent.written, sent.synced, sent.table, sent.trusted)
        });
        let news = self.owed || self.sent != Some(ack);
        if news && (durable || hurry || !context.is_writing()) {
            self.owed = false;
            self.sent = Some(ack);
            let epoch = context.assignment.epoch;
            context.send(leader, Message::Ack { epoch, ack });
        }
    }

    /// The connection to the leader is a new one: what was sent may be lost.
    pub(super) fn reconnected(&mut self) {
        self.owed = true;
    }
}

/// The contents of [`Message::Append`].
pub(super) struct Append {
    pub(super) predecessor: Position,
    pub(super) records: Vec<Record>,
    pub(super) beat: Beat,
}
