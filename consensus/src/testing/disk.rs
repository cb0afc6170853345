//! What a replica's disk holds.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{Entry, Index, PersistBatch, Recovered, SnapshotMeta, Term};

/// The durable part of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Disk {
    /// The newest hard state.
    pub hard_state: Option<Bytes>,
    /// Index and term of the entry before the first.
    pub start: (Index, Term),
    /// The log.
    pub entries: Vec<Entry>,
    /// Snapshots, with the commands that are applied in their state.
    pub snapshots: BTreeMap<Index, (SnapshotMeta, Vec<Bytes>)>,
}

impl Disk {
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
            let keep = keep.expect("entries after the start of the log") as usize;
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
        self.end().0
    }

    /// Index and term of the last entry.
    #[must_use]
    pub fn end(&self) -> (Index, Term) {
        let last = self.entries.last();
        last.map_or(self.start, |entry| (entry.index, entry.term))
    }

    /// The newest snapshot.
    #[must_use]
    pub fn newest_snapshot(&self) -> Option<&(SnapshotMeta, Vec<Bytes>)> {
        self.snapshots.values().next_back()
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

    /// What a restart finds, checked; a log that its snapshot replaces is reset on the
    /// disk too.
    ///
    /// # Panics
    /// When the log has a gap.
    pub fn recover(&mut self) -> Recovered {
        let recovered = self.recovered().checked();
        let recovered = recovered.expect("what is durable is gap-free");
        if recovered.log_is_void(self.end())
            && let Some(snapshot) = &recovered.snapshot
        {
            self.start = (snapshot.index, snapshot.term);
            self.entries.clear();
        }
        recovered
    }
}
