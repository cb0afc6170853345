//! What raft-rs reads of the log: the window in memory, never a disk.
//!
//! raft-rs turns an error of its storage into a panic, so every uncompacted
//! entry, and the term before the first, is in memory.

use consensus::{Index, LogWindow, Membership, SnapshotMeta};
use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

use crate::translate;

pub(crate) struct RaftStorage {
    pub(crate) window: LogWindow,
    pub(crate) membership: Membership,
    /// The newest snapshot, to offer to replicas that lag.
    pub(crate) snapshot: Option<SnapshotMeta>,
    /// Only read when the core is built.
    initial: HardState,
}

impl RaftStorage {
    pub(crate) fn new(
        window: LogWindow,
        membership: Membership,
        snapshot: Option<SnapshotMeta>,
        initial: HardState,
    ) -> Self {
        Self {
            window,
            membership,
            snapshot,
            initial,
        }
    }
}

impl Storage for RaftStorage {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(
            self.initial.clone(),
            translate::conf_state(&self.membership),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if Index(low) < self.window.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if Index(high) > self.window.last().next() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let bytes_max = max_size
            .into()
            .map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        Ok(self
            .window
            .slice(Index(low), Index(high), bytes_max)
            .iter()
            .map(translate::to_raft_entry)
            .collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        match self.window.term(Index(index)) {
            Some(term) => Ok(term.0),
            None if Index(index) < self.window.first() => {
                Err(Error::Store(StorageError::Compacted))
            }
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.window.first().0)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.window.last().0)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        match &self.snapshot {
            Some(meta) if meta.index.0 >= request_index => Ok(translate::to_raft_snapshot(meta)),
            _ => Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable)),
        }
    }
}
