//! What the roles of a copy share: its log, its disk operations, and what it knows.

use std::collections::VecDeque;
use std::time::Duration;

use consensus::{Index, ReplicaId, rule};

use super::assignment::Assignment;
use super::chain::{Chain, Epoch, Position};
use super::message::{Message, Trust};
use super::replica::{Alarm, Effect, Recovered, Settings, Ticket};
use crate::record::Record;
use crate::types::Durability;

/// A disk operation that has not been reported as done.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Write { through: Index },
    Truncate,
    Sync { through: Index },
    Adopt { epoch: Epoch },
}

/// Adjacent records that are not on the disk.
#[derive(Clone, Copy, Debug)]
struct Unsynced {
    first: Index,
    last: Index,
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
    /// Offset of the message after the last record.
    pub(super) next_offset: u64,
    /// Up to here the operating system has the log.
    written: Index,
    /// Up to here it is on the disk.
    synced: Index,
    /// Up to here records are known to be committed.
    pub(super) commit: Index,
    pub(super) trust: Trust,
    /// Where an untrusted copy is trusted again.
    trusted_from: Option<Index>,
    /// The latest epoch in which it may acknowledge.
    pub(super) adopted: Epoch,
    /// The records after `synced`, oldest first.
    unsynced: VecDeque<Unsynced>,
    synced_offset: u64,
    last_sync: Duration,
    pending: VecDeque<(Ticket, Pending, Duration)>,
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
            next_offset: recovered.next_offset,
        };
        let unsynced = (tail.first <= tail.last).then_some(tail);
        Self {
            me,
            settings,
            assignment,
            now,
            next_offset: recovered.next_offset,
            written: end,
            synced,
            commit: recovered.commit.min(end),
            trust: recovered.trust,
            trusted_from: None,
            adopted: recovered.adopted,
            unsynced: unsynced.into_iter().collect(),
            synced_offset: recovered.synced_offset,
            last_sync: now,
            pending: VecDeque::new(),
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
        self.pending.push_back((ticket, pending, self.now));
        ticket
    }

    /// Appends records that follow the log's end.
    pub(super) fn append(&mut self, records: Vec<Record>) {
        let Some(last) = records.last() else { return };
        let through = last.position.index;
        self.next_offset = last.next_offset();
        for record in &records {
            self.chain.push(record.position);
            self.unsynced.push_back(Unsynced {
                first: record.position.index,
                last: record.position.index,
                next_offset: record.next_offset(),
            });
        }
        let ticket = self.start(Pending::Write { through });
        self.emit(Effect::Write { ticket, records });
    }

    /// Removes the records after this index; false, and the copy stops, when one of them is
    /// known to be committed.
    pub(super) fn truncate(&mut self, end: Index) -> bool {
        if end >= self.chain.last().index {
            return true;
        }
        // A recovery that this copy has not seen may have dropped what was committed.
        let recovery = self.assignment.recovery;
        let excused = recovery.is_some_and(|recovery| self.adopted < recovery.epoch);
        if end < self.commit && !excused || end < self.chain.base().index {
            self.stop(Alarm::CommittedRecordsConflict { after: end });
            return false;
        }
        self.chain.truncate(end);
        self.commit = self.commit.min(end);
        self.written = self.written.min(end);
        self.synced = self.synced.min(end);
        self.unsynced.retain(|tail| tail.first <= end);
        if let Some(tail) = self.unsynced.back_mut() {
            tail.last = tail.last.min(end);
        }
        for (_, pending, _) in &mut self.pending {
            if let Pending::Write { through } | Pending::Sync { through } = pending {
                *through = (*through).min(end);
            }
        }
        let ticket = self.start(Pending::Truncate);
        self.emit(Effect::Truncate { ticket, end });
        true
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
                    self.synced_offset = self.synced_offset.min(record.first_offset);
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
            Pending::Write { through } => self.written = self.written.max(through),
            Pending::Truncate => {}
            Pending::Sync { through } => {
                self.synced = self.synced.max(through);
                while let Some(tail) = self.unsynced.front() {
                    if tail.last > self.synced {
                        break;
                    }
                    self.synced_offset = tail.next_offset;
                    self.unsynced.pop_front();
                }
            }
            Pending::Adopt { epoch } => self.adopted = self.adopted.max(epoch),
        }
    }

    /// Syncs what is written: immediately where that is promised, else once per interval.
    pub(super) fn sync_if_due(&mut self) {
        let syncing =
            |pending: &(Ticket, Pending, Duration)| matches!(pending.1, Pending::Sync { .. });
        if self.synced >= self.chain.last().index || self.pending.iter().any(syncing) {
            return;
        }
        let due = match self.assignment.durability {
            Durability::Synced => true,
            Durability::Written => {
                let messages = self.next_offset.saturating_sub(self.synced_offset);
                self.now.saturating_sub(self.last_sync) >= self.settings.sync_interval
                    || messages > self.settings.unsynced_messages_max / 2
            }
        };
        if due {
            self.last_sync = self.now;
            let through = self.chain.last().index;
            let ticket = self.start(Pending::Sync { through });
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
        if rule!(UnsyncedBounded) {
            let bound = self.synced_offset + self.settings.unsynced_messages_max;
            let over = self.unsynced.iter().find(|tail| tail.next_offset > bound);
            if let Some(tail) = over {
                written = written.min(Index(tail.first.0 - 1));
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
            self.emit(Effect::Trusted);
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
