//! The log together with what of it is on disk: every change of the log is also a change
//! that the next batch must make durable.

use bytes::Bytes;
use consensus::rule;
use consensus::{Entry, EntryKind, Index, PersistBatch, PersistId, SnapshotMeta};

use crate::durability::Durability;
use crate::ids::{Checksum, Head, View};
use crate::log::Log;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Journal {
    log: Log,
    durability: Durability,
}

impl Journal {
    /// Of a replica that found this log on its disk.
    pub(crate) fn recovered(log: Log) -> Self {
        Self {
            durability: Durability::new(log.last()),
            log,
        }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The last op that is durable, with all before it.
    pub(crate) fn durable(&self) -> Index {
        self.durability.durable()
    }

    pub(crate) fn is_durable(&self, batch: PersistId) -> bool {
        self.durability.is_durable(batch)
    }

    /// The batch that will have what has changed up to now.
    pub(crate) fn next_batch(&self) -> PersistId {
        self.durability.next_batch()
    }

    /// For how long the oldest batch that is not durable has been the oldest.
    pub(crate) fn waits_for(&self, now: u64) -> u64 {
        self.durability.waits_for(now)
    }

    /// The last batch that is not durable yet.
    pub(crate) fn pending(&self) -> Option<PersistId> {
        self.durability.pending()
    }
}

/// Changes.
impl Journal {
    /// Appends what this primary prepares.
    pub(crate) fn prepare(&mut self, view: View, kind: EntryKind, body: &[u8]) -> Index {
        let op = self.log.prepare(view, kind, body);
        self.durability.wrote(op);
        op
    }

    /// Replaces the log from the first of the entries on.
    ///
    /// # Panics
    /// When they do not follow from the log: the caller has checked that.
    pub(crate) fn replace(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            self.durability.wrote(first.index);
            self.log.replace(entries);
        }
    }

    /// Drops what is after `end`, in memory and on disk. `snapshot` is the newest one.
    pub(crate) fn truncate_after(&mut self, end: Index, snapshot: Option<&SnapshotMeta>) {
        self.log.truncate_from(end.next());
        match snapshot {
            Some(snapshot) if self.log.get(end).is_none() => {
                assert_eq!(snapshot.index, end, "a log starts after a snapshot");
                self.durability.reset(end, snapshot.term);
            }
            _ => self.durability.wrote(end),
        }
    }

    /// Records the checksum before the first op, when it was unknown.
    pub(crate) fn learn_base(&mut self, head: &Head) {
        self.log.learn_base(head);
    }

    /// The log is now empty and follows this snapshot, which is durable.
    pub(crate) fn restart_after(&mut self, snapshot: &SnapshotMeta, checksum: Option<Checksum>) {
        if rule!(LogDroppedAtInstall) {
            self.log = Log::new(snapshot.index, snapshot.term, checksum);
        }
        self.durability.reset(snapshot.index, snapshot.term);
    }

    pub(crate) fn compact_through(&mut self, through: Index) {
        self.log.compact_through(through);
    }
}

/// Batches.
impl Journal {
    /// The hard state changed.
    pub(crate) fn state_changed(&mut self) {
        self.durability.state_changed();
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.durability.is_dirty()
    }

    /// The next batch, when anything has changed.
    pub(crate) fn flush(&mut self, now: u64, hard_state: Bytes) -> Option<PersistBatch> {
        self.durability.flush(now, &self.log, hard_state)
    }

    /// These batches are durable. Whether the durable log has grown.
    pub(crate) fn persisted(&mut self, now: u64, batch: PersistId) -> bool {
        self.durability.persisted(now, batch)
    }
}
