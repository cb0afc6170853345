//! One replica of the harness: a core, its disk, and what it has applied.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::{
    Consensus, Entry, Index, PersistBatch, PersistId, Recovered, ReplicaId, SnapshotMeta, Term,
};

/// What a replica's disk holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Durable {
    /// The newest hard state.
    pub hard_state: Option<Bytes>,
    /// What the first entry follows.
    pub start: (Index, Term),
    /// The log.
    pub entries: Vec<Entry>,
    /// Snapshots, with the state that they stand for.
    pub snapshots: BTreeMap<Index, (SnapshotMeta, Vec<Bytes>)>,
}

impl Durable {
    /// Writes a batch.
    ///
    /// # Panics
    /// When it leaves a gap.
    pub fn write(&mut self, batch: &PersistBatch) {
        if let Some(start) = batch.reset_to {
            self.start = start;
            self.entries.clear();
        }
        if let Some(first) = batch.entries.first() {
            let keep = first.index.0.checked_sub(self.start.0.0 + 1);
            let keep = keep.expect("entries behind the start of the log") as usize;
            assert!(keep <= self.entries.len(), "a gap is written to the log");
            self.entries.truncate(keep);
            self.entries.extend_from_slice(&batch.entries);
        }
        if let Some(state) = &batch.hard_state {
            self.hard_state = Some(state.clone());
        }
    }

    /// Drops entries up to and including `through`.
    pub fn compact(&mut self, through: Index) {
        while let Some(first) = self.entries.first()
            && first.index <= through
        {
            self.start = (first.index, first.term);
            self.entries.remove(0);
        }
    }

    /// The last index of the log.
    #[must_use]
    pub fn last(&self) -> Index {
        Index(self.start.0.0 + self.entries.len() as u64)
    }

    /// Index and term of the last entry.
    #[must_use]
    pub fn end(&self) -> (Index, Term) {
        let last = self.entries.last();
        last.map_or(self.start, |entry| (entry.index, entry.term))
    }

    /// What a restart finds.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        Recovered {
            hard_state: self.hard_state.clone(),
            snapshot: self.newest_snapshot().map(|(meta, _)| meta.clone()),
            entries: self.entries.clone(),
        }
    }

    pub(super) fn newest_snapshot(&self) -> Option<&(SnapshotMeta, Vec<Bytes>)> {
        self.snapshots.values().next_back()
    }
}

pub(super) struct Held {
    pub(super) after: PersistId,
    pub(super) to: ReplicaId,
    pub(super) message: Bytes,
}

#[derive(Default)]
pub(super) struct Node {
    pub(super) core: Option<Box<dyn Consensus>>,
    pub(super) disk: Durable,
    pub(super) incarnation: u64,
    /// Whether batches become durable on their own.
    pub(super) manual_sync: bool,
    pub(super) unsynced: VecDeque<PersistBatch>,
    pub(super) durable: PersistId,
    pub(super) held: Vec<Held>,
    pub(super) fetch: Option<(ReplicaId, SnapshotMeta)>,
    pub(super) applied: Index,
    pub(super) applied_term: Term,
    pub(super) state: Vec<Bytes>,
    pub(super) reads_ready: Vec<(u64, Index)>,
    pub(super) reads_rejected: Vec<u64>,
    /// Every effect of this life, for comparing two runs.
    pub(super) trace: Vec<String>,
}
