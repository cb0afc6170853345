//! What the roles of a copy share: its log, its disk operations, and what it knows.

use std::collections::VecDeque;
use std::time::Duration;

use consensus::{Index, ReplicaId, rule};

use super::assignment::Assignment;
use super::chain::{Chain, Epoch, Position};
use super::effect::{Alarm, Effect, Ticket};
use super::message::{Message, Trust};
use super::sessions::Sessions;
use super::settings::{Recovered, Settings};
use super::table::{OffsetTable, Start, TableVersion, TableWrite};
use crate::record::{Record, RecordFlags};
use crate::types::Durability;

/// Marks of the log that is not on the disk, at most about: each covers this part of the
/// messages that may be acknowledged there.
const UNSYNCED_MARKS: u64 = 64;

/// A disk operation that has not been reported as done.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Write { through: Index },
    Truncate,
    Sync { through: Index, next_offset: u64 },
    Adopt { epoch: Epoch },
    Reset { start: Start },
    Table { at: TableVersion },
}

/// Adjacent records that are not on the disk.
#[derive(Clone, Copy, Debug)]
struct Unsynced {
    first: Index,
    last: Index,
    /// Offset of its first message.
    first_offset: u64,
    /// Offset of the message after the last.
    next_offset: u64,
}

/// The state that survives a change of the role.
pub(super) struct Context {
    pub(super) me: ReplicaId,
    pub(super) settings: Settings,
    pub(super) assignment: Assignment,
    pub(super) now: Duration,
    pub(super) chain: Chain,
    /// Offset of the first message after the chain's base.
    pub(super) first_offset: u64,
    /// Offset of the message after the last record.
    pub(super) next_offset: u64,
    /// Time of the last record: the next one is not earlier.
    pub(super) last_timestamp: u64,
    /// Bytes of the records in the last segment; more than any segment has if unknown.
    segment_bytes: u64,
    /// Up to here the operating system has the log.
    written: Index,
    /// Up to here it is on the disk.
    synced: Index,
    /// Up to here records are known to be committed.
    pub(super) commit: Index,
    pub(super) trust: Trust,
    /// Where an untrusted copy is trusted again.
    trusted_from: Option<Index>,
    /// Consumer offsets and the start of the log.
    pub(super) table: OffsetTable,
    /// The table that is written, as durably as is promised.
    table_written: TableVersion,
    pub(super) table_trust: Trust,
    /// Up to this offset the caller knows that messages may be removed.
    trim_emitted: u64,
    pub(super) sessions: Sessions,
    /// The latest epoch in which it may acknowledge.
    pub(super) adopted: Epoch,
    /// The records after `synced`, oldest first.
    unsynced: VecDeque<Unsynced>,
    unsynced_bytes: usize,
    /// At most the offset of the message after the last record on the disk.
    synced_offset: u64,
    last_sync: Duration,
    is_syncing: bool,
    pending: VecDeque<(Ticket, Pending, Duration)>,
    pending_writes: usize,
    pending_resets: usize,
    next_ticket: u64,
    effects: VecDeque<Effect>,
    /// Why it takes no further part.
    pub(super) stopped: Option<Alarm>,
}

impl Context {
    pub(super) fn new(
        me: ReplicaId,
        settings: Settings,
        recovered: Recovered,
        assignment: Assignment,
        now: Duration,
    ) -> Self {
        let end = recovered.chain.last().index;
        let synced = recovered.synced.min(end);
        let tail = Unsynced {
            first: synced.next(),
            last: end,
            first_offset: recovered.synced_offset,
            next_offset: recovered.next_offset,
        };
        let unsynced = (tail.first <= tail.last).then_some(tail);
        Self {
            me,
            settings,
            assignment,
            now,
            first_offset: recovered.first_offset,
            next_offset: recovered.next_offset,
            last_timestamp: recovered.last_timestamp,
            segment_bytes: recovered.segment_bytes,
            written: end,
            synced,
            commit: recovered.commit.min(end),
            trust: recovered.trust,
            trusted_from: None,
            table_written: recovered.table.at,
            table: recovered.table,
            table_trust: recovered.table_trust,
            trim_emitted: 0,
            sessions: recovered.sessions,
            adopted: recovered.adopted,
            unsynced: unsynced.into_iter().collect(),
            unsynced_bytes: 0,
            synced_offset: recovered.synced_offset,
            last_sync: now,
            is_syncing: false,
            pending: VecDeque::new(),
            pending_writes: 0,
            pending_resets: 0,
            next_ticket: 0,
            effects: VecDeque::new(),
            stopped: None,
            chain: recovered.chain,
        }
    }

    pub(super) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub(super) fn emit(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(super) fn send(&mut self, to: ReplicaId, message: Message) {
        self.emit(Effect::Send { to, message });
    }

    /// Takes no further part, since what it has contradicts the others.
    pub(super) fn stop(&mut self, alarm: Alarm) {
        if self.stopped.is_none() {
            self.stopped = Some(alarm);
            self.emit(Effect::Alarm(alarm));
        }
    }

    fn start(&mut self, pending: Pending) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.pending_writes += usize::from(matches!(pending, Pending::Write { .. }));
        self.pending.push_back((ticket, pending, self.now));
        ticket
    }

    /// Properties of the next record that this copy stamps.
    pub(super) fn next_flags(&self) -> RecordFlags {
        if self.segment_bytes >= self.settings.segment_bytes_max {
            RecordFlags::STARTS_SEGMENT
        } else {
            RecordFlags::NONE
        }
    }

    /// Appends records that follow the log's end. What starts a segment is written by
    /// itself, after the state that is kept with the segment.
    pub(super) fn append(&mut self, mut records: Vec<Record>) {
        let starts = |record: &Record| record.flags.contains(RecordFlags::STARTS_SEGMENT);
        while let Some(first) = records.first() {
            if starts(first) {
                let sessions = if rule!(SessionsKeptWithSegments) {
                    self.sessions.encode()
                } else {
                    Sessions::default().encode()
                };
                self.emit(Effect::StartSegment { sessions });
            }
            let next = records.iter().skip(1).position(starts);
            let later = records.split_off(next.map_or(records.len(), |next| next + 1));
            self.write(records);
            records = later;
        }
    }

    fn write(&mut self, records: Vec<Record>) {
        for record in &records {
            self.extend(record);
        }
        let through = self.chain.last().index;
        let ticket = self.start(Pending::Write { through });
        self.emit(Effect::Write { ticket, records });
    }

    fn extend(&mut self, record: &Record) {
        self.chain.push(record.position);
        let bytes = record.bytes();
        if record.flags.contains(RecordFlags::STARTS_SEGMENT) {
            self.segment_bytes = 0;
        }
        self.segment_bytes = self.segment_bytes.saturating_add(bytes as u64);
        self.unsynced_bytes += bytes;
        self.next_offset = record.next_offset();
        self.sessions.apply(record);
        self.last_timestamp = self.last_timestamp.max(record.timestamp);
        let messages_max = self.settings.unsynced_messages_max / UNSYNCED_MARKS;
        if let Some(mark) = self.unsynced.back_mut() {
            // After a cut it may name a later one.
            mark.next_offset = mark.next_offset.min(record.first_offset);
        }
        let next_offset = self.next_offset;
        let fits =
            |mark: &Unsynced| next_offset - mark.first_offset.min(next_offset) <= messages_max;
        match self.unsynced.back_mut() {
            Some(mark) if fits(mark) => {
                mark.last = record.position.index;
                mark.next_offset = next_offset;
            }
            _ => self.unsynced.push_back(Unsynced {
                first: record.position.index,
                last: record.position.index,
                first_offset: record.first_offset,
                next_offset,
            }),
        }
    }

    /// Removes the records after this index; false, and the copy stops, when one of them is
    /// known to be committed.
    pub(super) fn truncate(&mut self, end: Index) -> bool {
        if end >= self.chain.last().index {
            return true;
        }
        if end < self.commit && !self.is_excused() || end < self.chain.base().index {
            self.stop(Alarm::CommittedRecordsConflict { after: end });
            return false;
        }
        self.chain.truncate(end);
        self.sessions.truncate(end);
        self.commit = self.commit.min(end);
        self.written = self.written.min(end);
        if end < self.synced {
            self.synced = end;
            // Which offset that was is not known any more.
            self.synced_offset = 0;
        }
        // Whether a segment started there is not known: the next one is early, not late.
        self.segment_bytes = u64::MAX;
        self.unsynced.retain(|tail| tail.first <= end);
        if let Some(tail) = self.unsynced.back_mut() {
            tail.last = tail.last.min(end);
        }
        for (_, pending, _) in &mut self.pending {
            match pending {
                Pending::Write { through } => *through = (*through).min(end),
                Pending::Sync {
                    through,
                    next_offset,
                } if *through > end => {
                    *through = end;
                    *next_offset = 0;
                }
                _ => {}
            }
        }
        let ticket = self.start(Pending::Truncate);
        self.emit(Effect::Truncate { ticket, end });
        true
    }

    /// Whether a recovery that this copy has not seen may have dropped what was committed.
    fn is_excused(&self) -> bool {
        let recovery = self.assignment.recovery;
        recovery.is_some_and(|recovery| self.adopted < recovery.epoch)
    }

    /// Replaces the whole log by an empty one that starts later; false when that is not
    /// done: the copy stops if it has committed records that the other log contradicts.
    pub(super) fn reset(&mut self, start: Start, sessions: Sessions) -> bool {
        if self.chain.contains(start.base) {
            return false;
        }
        if !self.is_excused() {
            // It may have been in sync until lately, and has to learn that first.
            let counts = self.assignment.is_in_sync(self.me) && self.trust == Trust::Trusted;
            if counts {
                return false;
            }
            if start.base.index < self.commit {
                let after = start.base.index;
                self.stop(Alarm::CommittedRecordsConflict { after });
                return false;
            }
        }
        self.chain = Chain::new(start.base);
        self.first_offset = start.first_offset;
        self.next_offset = start.first_offset;
        self.commit = start.base.index;
        self.segment_bytes = u64::MAX;
        (self.written, self.synced, self.synced_offset) = (Index(0), Index(0), 0);
        self.unsynced.clear();
        for (_, pending, _) in &mut self.pending {
            match pending {
                Pending::Write { through } => *through = Index(0),
                Pending::Sync {
                    through,
                    next_offset,
                } => (*through, *next_offset) = (Index(0), 0),
                Pending::Reset { start } => *start = Start::default(),
                _ => {}
            }
        }
        self.pending_resets += 1;
        let ticket = self.start(Pending::Reset { start });
        let kept = sessions.encode();
        self.sessions = sessions;
        self.emit(Effect::Reset {
            ticket,
            start,
            sessions: kept,
        });
        true
    }

    /// Whether the log is being replaced by an empty one.
    pub(super) fn is_resetting(&self) -> bool {
        self.pending_resets > 0
    }

    /// The storage has removed the front of the log.
    pub(super) fn trimmed(&mut self, start: Start) {
        if self.chain.contains(start.base) {
            self.chain.remove_front(start.base.index);
            self.first_offset = start.first_offset;
        }
    }

    /// Where the log starts.
    pub(super) fn log_start(&self) -> Start {
        Start {
            base: self.chain.base(),
            first_offset: self.first_offset,
        }
    }

    /// Records up to here are committed.
    pub(super) fn set_commit(&mut self, commit: Index) {
        if commit > self.commit {
            self.commit = commit;
            self.sessions.settle(commit);
        }
    }

    /// Writes the table, or the change that has led to it.
    pub(super) fn write_table(&mut self, write: TableWrite) {
        let at = self.table.at;
        let ticket = self.start(Pending::Table { at });
        self.emit(Effect::WriteTable { ticket, write });
    }

    /// The version of the table that the copy has in this epoch, as durable as promised;
    /// zero for none.
    pub(super) fn table_acknowledged(&self) -> u64 {
        if self.table_written.epoch == self.assignment.epoch {
            self.table_written.version
        } else {
            0
        }
    }

    /// The table is committed up to this version of this epoch: what the log loses at its
    /// front may be removed.
    pub(super) fn table_committed(&mut self, version: u64) {
        let table = &self.table;
        let start = table.start;
        let is_current = table.at.epoch == self.assignment.epoch;
        if is_current
            && table.start_version <= version
            && start.first_offset > self.trim_emitted
            && version > 0
        {
            self.trim_emitted = start.first_offset;
            self.emit(Effect::Trim { start });
        }
    }

    fn has_table(&mut self, at: TableVersion) {
        self.table_written = self.table_written.max(at);
        if at.epoch == self.assignment.epoch && self.table_trust != Trust::Trusted {
            self.table_trust = Trust::Trusted;
            self.emit_trust();
        }
    }

    fn emit_trust(&mut self) {
        if (self.trust, self.table_trust) == (Trust::Trusted, Trust::Trusted) {
            self.emit(Effect::Trusted);
        }
    }

    /// Takes over records that follow a common `predecessor`: skips those that are there,
    /// and replaces what differs. Returns the last common index; `None` when the copy has
    /// stopped, or when the records are not in a row.
    pub(super) fn reconcile(
        &mut self,
        predecessor: Position,
        records: Vec<Record>,
        matched: Index,
    ) -> Option<Index> {
        let mut last = predecessor;
        let mut new = Vec::new();
        for record in records {
            let position = record.position;
            if position.index != last.index.next() || position.epoch < last.epoch {
                return None;
            }
            last = position;
            if new.is_empty() {
                if self.chain.contains(position) {
                    continue;
                }
                let end = Index(position.index.0 - 1);
                if self.chain.last().index > end {
                    if end < matched {
                        self.stop(Alarm::CommittedRecordsConflict { after: end });
                        return None;
                    }
                    if !self.truncate(end) {
                        return None;
                    }
                }
            }
            new.push(record);
        }
        self.append(new);
        Some(last.index)
    }

    /// A disk operation has ended.
    pub(super) fn done(&mut self, ticket: Ticket) {
        let Some(at) = self.pending.iter().position(|(known, ..)| *known == ticket) else {
            return;
        };
        let Some((_, pending, _)) = self.pending.remove(at) else {
            return;
        };
        match pending {
            Pending::Write { through } => {
                self.pending_writes -= 1;
                self.written = self.written.max(through);
            }
            Pending::Truncate => {}
            Pending::Sync {
                through,
                next_offset,
            } => self.is_on_disk(through, next_offset),
            Pending::Adopt { epoch } => self.adopted = self.adopted.max(epoch),
            Pending::Reset { start } => {
                self.pending_resets -= 1;
                self.written = self.written.max(start.base.index);
                self.synced = self.synced.max(start.base.index);
                self.synced_offset = self.synced_offset.max(start.first_offset);
            }
            Pending::Table { at } => self.has_table(at),
        }
    }

    fn is_on_disk(&mut self, through: Index, next_offset: u64) {
        self.is_syncing = false;
        self.synced = self.synced.max(through);
        self.synced_offset = self.synced_offset.max(next_offset);
        while let Some(mark) = self.unsynced.front_mut() {
            if mark.last > self.synced {
                mark.first = mark.first.max(self.synced.next());
                break;
            }
            self.unsynced.pop_front();
        }
    }

    /// Up to here the own copy has the log, as durably as is promised.
    pub(super) fn stored(&self) -> Index {
        match self.assignment.durability {
            Durability::Written => self.written,
            Durability::Synced => self.synced,
        }
    }

    /// Whether records are being written.
    pub(super) fn is_writing(&self) -> bool {
        self.pending_writes > 0
    }

    /// Syncs what is written: immediately where that is promised, else once per interval.
    pub(super) fn sync_if_due(&mut self) {
        let through = self.chain.last().index;
        if self.synced >= through || self.is_syncing {
            return;
        }
        let due = match self.assignment.durability {
            Durability::Synced => true,
            Durability::Written => {
                let messages = self.next_offset.saturating_sub(self.synced_offset);
                self.now.saturating_sub(self.last_sync) >= self.settings.sync_interval
                    || messages > self.settings.unsynced_messages_max / 2
                    || self.unsynced_bytes >= self.settings.unsynced_bytes_max
            }
        };
        if due {
            self.last_sync = self.now;
            self.is_syncing = true;
            self.unsynced_bytes = 0;
            let next_offset = self.next_offset;
            let ticket = self.start(Pending::Sync {
                through,
                next_offset,
            });
            self.emit(Effect::Sync { ticket });
        }
    }

    /// Adopts the epoch, durably, before anything is acknowledged in it.
    fn adopt(&mut self, epoch: Epoch) {
        let adopting = |pending: &(Ticket, Pending, Duration)| match pending.1 {
            Pending::Adopt { epoch: other } => other >= epoch,
            _ => false,
        };
        if self.adopted < epoch && !self.pending.iter().any(adopting) {
            let ticket = self.start(Pending::Adopt { epoch });
            self.emit(Effect::Adopt { ticket, epoch });
        }
    }

    /// Up to where the copy may say that it has `(written, synced)` what equals its leader's
    /// log up to `matched`.
    pub(super) fn acknowledged(&mut self, matched: Index) -> (Index, Index) {
        let matched = if rule!(AckOnlyMatched) {
            matched
        } else {
            self.chain.last().index
        };
        let mut written = self.written.min(matched);
        let bound = self.synced_offset + self.settings.unsynced_messages_max;
        if self.next_offset > bound && rule!(UnsyncedBounded) {
            let within = |mark: &Unsynced| mark.next_offset <= bound;
            let over = self.unsynced.get(self.unsynced.partition_point(within));
            if let Some(mark) = over {
                written = written.min(Index(mark.first.0 - 1));
            }
        }
        let epoch = self.assignment.epoch;
        let in_epoch = self.chain.at(written).is_some_and(|at| at.epoch == epoch);
        if in_epoch && self.adopted < epoch {
            self.adopt(epoch);
            if rule!(AdoptedBeforeAck) {
                let before = Position {
                    epoch: Epoch(epoch.0 - 1),
                    index: written,
                };
                written = self.chain.candidate(before).index;
            }
        }
        (written, self.synced.min(written))
    }

    /// The copy is trusted again when its log has reached this index.
    pub(super) fn trust_from(&mut self, index: Index) {
        if self.trust != Trust::Trusted && self.trusted_from.is_none() {
            self.trusted_from = Some(index);
        }
    }

    /// Forgets that index: it was one of another epoch.
    pub(super) fn restart_catch_up(&mut self) {
        self.trusted_from = None;
    }

    /// Trusts the copy again if it could acknowledge its leader's log, which its own equals
    /// up to `matched`: with no more messages that are not on the disk than a trusted copy.
    pub(super) fn trust_if_caught_up(&mut self, matched: Index) {
        let Some(from) = self.trusted_from else {
            return;
        };
        let (written, synced) = self.acknowledged(matched);
        let has = match self.assignment.durability {
            Durability::Written => written,
            Durability::Synced => synced,
        };
        if !rule!(TrustAfterCatchUp) || has >= from {
            self.trusted_from = None;
            self.trust = Trust::Trusted;
            self.emit_trust();
        }
    }

    /// Whether the oldest disk operation has been started lately.
    pub(super) fn write_in_time(&self) -> bool {
        let started = self.pending.front().map(|(_, _, started)| *started);
        started
            .is_none_or(|started| self.now.saturating_sub(started) < self.settings.failover_timeout)
    }

    /// Whether a message is from the running process of that node.
    pub(super) fn is_current(&self, from: ReplicaId, registration: u64) -> bool {
        let member = self.assignment.members.get(&from);
        member.is_some_and(|member| member.registration == registration)
    }

    /// The other nodes with a copy.
    pub(super) fn others(&self) -> Vec<ReplicaId> {
        let others = self.assignment.replicas.iter().copied();
        others.filter(|&node| node != self.me).collect()
    }
}
