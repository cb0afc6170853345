//! What the driver was given to make durable, and what is durable.
//!
//! Everything that a step changes leaves in one batch, entries together with the
//! hard state that describes them: a crash leaves both or neither.

use std::collections::VecDeque;

use bytes::Bytes;
use consensus::rule;
use consensus::{Index, PersistBatch, PersistId, Term};

use crate::log::Log;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Durability {
    last: PersistId,
    persisted: PersistId,
    /// The first op whose present content is in no batch yet.
    unsaved_from: Option<Index>,
    reset: Option<(Index, Term)>,
    state_changed: bool,
    /// Batches in flight, and up to which op the present log is durable with them.
    writes: VecDeque<(PersistId, Index)>,
    /// When the first of them became the first.
    waiting_since: u64,
    durable: Index,
}

impl Durability {
    /// Of a replica whose log is on disk up to here.
    pub(crate) fn new(durable: Index) -> Self {
        Self {
            durable,
            ..Self::default()
        }
    }

    /// The last op of the present log that is durable, with all before it.
    pub(crate) fn durable(&self) -> Index {
        self.durable
    }

    /// The batch that will have what has changed up to now.
    pub(crate) fn next_batch(&self) -> PersistId {
        PersistId(self.last.0 + 1)
    }

    pub(crate) fn is_durable(&self, batch: PersistId) -> bool {
        batch <= self.persisted
    }

    /// What a message that reveals the present state has to wait for.
    pub(crate) fn pending(&self) -> Option<PersistId> {
        (self.last > self.persisted).then_some(self.last)
    }

    /// For how long the oldest batch in flight has been the oldest.
    pub(crate) fn waits_for(&self, now: u64) -> u64 {
        match self.writes.is_empty() {
            true => 0,
            false => now.saturating_sub(self.waiting_since),
        }
    }

    /// The log has new content from this op on.
    pub(crate) fn wrote(&mut self, first: Index) {
        self.unsaved_from = Some(self.unsaved_from.map_or(first, |from| from.min(first)));
        if rule!(ReplacedLogNotDurable) {
            self.durable = self.durable.min(first.prev());
        }
        for (_, through) in &mut self.writes {
            if rule!(ReplacedSuffixNotDurable) {
                *through = (*through).min(first.prev());
            }
        }
    }

    /// View, log view or membership changed.
    pub(crate) fn state_changed(&mut self) {
        self.state_changed = true;
    }

    /// The log is now empty and follows a snapshot that is durable.
    pub(crate) fn reset(&mut self, index: Index, term: Term) {
        self.reset = Some((index, term));
        self.unsaved_from = None;
        self.state_changed = true;
        self.durable = index;
        for (_, through) in &mut self.writes {
            *through = index;
        }
    }

    /// Whether anything has changed since the last batch.
    pub(crate) fn is_dirty(&self) -> bool {
        self.unsaved_from.is_some() || self.state_changed
    }

    /// The next batch, when anything has changed.
    pub(crate) fn flush(&mut self, now: u64, log: &Log, hard_state: Bytes) -> Option<PersistBatch> {
        if !self.is_dirty() {
            return None;
        }
        if self.writes.is_empty() {
            self.waiting_since = now;
        }
        let id = self.next_batch();
        self.last = id;
        self.state_changed = false;
        self.writes.push_back((id, log.last()));
        let entries = self.unsaved_from.take();
        Some(PersistBatch {
            id,
            reset_to: self.reset.take(),
            entries: entries.map_or_else(Vec::new, |from| log.slice(from, usize::MAX)),
            hard_state: Some(hard_state),
        })
    }

    /// These batches are durable. Whether the durable log has grown.
    pub(crate) fn persisted(&mut self, now: u64, id: PersistId) -> bool {
        self.persisted = self.persisted.max(id);
        self.waiting_since = now;
        let before = self.durable;
        while let Some((batch, through)) = self.writes.front()
            && *batch <= id
        {
            self.durable = self.durable.max(*through);
            self.writes.pop_front();
        }
        self.durable > before
    }
}

#[cfg(test)]
mod tests {
    use consensus::EntryKind;

    use super::*;
    use crate::ids::View;

    #[test]
    fn a_replaced_suffix_is_not_durable_by_the_batch_of_the_old_one() {
        let mut log = Log::new(Index::ZERO, Term(0), None);
        let mut durability = Durability::new(Index::ZERO);
        for body in [b"a", b"b", b"c"] {
            let op = log.prepare(View(1), EntryKind::Command, body);
            durability.wrote(op);
        }
        let old = durability.flush(0, &log, Bytes::new()).unwrap();
        assert_eq!(old.entries.len(), 3);
        log.truncate_from(Index(2));
        durability.wrote(log.prepare(View(2), EntryKind::Command, b"x"));
        let new = durability.flush(0, &log, Bytes::new()).unwrap();
        assert_eq!(new.entries[0].index, Index(2));
        assert!(durability.persisted(0, old.id));
        assert_eq!(durability.durable(), Index(1));
        assert!(!durability.is_durable(new.id));
        assert!(durability.persisted(0, new.id));
        assert_eq!(durability.durable(), Index(2));
        assert_eq!(durability.pending(), None);
        assert!(durability.flush(0, &log, Bytes::new()).is_none());
    }

    #[test]
    fn the_oldest_batch_waits_from_when_it_became_the_oldest() {
        let mut log = Log::new(Index::ZERO, Term(0), None);
        let mut durability = Durability::new(Index::ZERO);
        let mut write = |durability: &mut Durability, now| {
            durability.wrote(log.prepare(View(1), EntryKind::Command, b"a"));
            durability.flush(now, &log, Bytes::new()).unwrap().id
        };
        assert_eq!(durability.waits_for(50), 0);
        let first = write(&mut durability, 10);
        let second = write(&mut durability, 12);
        assert_eq!(durability.waits_for(15), 5);
        durability.persisted(20, first);
        assert_eq!(durability.waits_for(25), 5);
        durability.persisted(30, second);
        assert_eq!(durability.waits_for(90), 0);
    }
}
