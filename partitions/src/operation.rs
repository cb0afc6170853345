//! What a copy does with its log and its table of offsets.

use bytes::Bytes;
use consensus::Index;

use crate::error::StorageError;
use crate::record::Record;
use crate::replication::{Start, TableWrite};

/// An operation on an open partition.
#[derive(Clone, Debug)]
pub enum Operation {
    /// The next write starts a segment: these sessions, as of the record before it, are kept
    /// with that segment, and are on the disk when its first record is. Its first record has
    /// to have the flag [`STARTS_SEGMENT`](crate::RecordFlags::STARTS_SEGMENT).
    StartSegment {
        /// [`Sessions::encode`](crate::replication::Sessions::encode).
        sessions: Bytes,
    },
    /// Writes records at the end. Those that the log has already are skipped. When it is
    /// done, the operating system has them.
    Write(Vec<Record>),
    /// Removes the records after this one, durably.
    Truncate {
        /// The last record that stays.
        end: Index,
    },
    /// Makes all earlier writes durable.
    Sync,
    /// Removes all records, durably; the log starts again here. The table of offsets stays.
    Reset {
        /// Where the next record follows.
        start: Start,
        /// The sessions as of that place, kept with the first segment.
        sessions: Bytes,
    },
    /// Writes a change of the table of offsets, or all of it: in the order of the calls among
    /// themselves, not in that of the operations on the log. It is done when it is as durable
    /// as [`offset_durability`](crate::PartitionOptions::offset_durability) promises. What a
    /// power loss leaves is the table after one of the writes.
    Table(TableWrite),
    /// Removes the segments that have only records up to this start, but never the last one.
    /// Where the log starts then is in
    /// [`recovered`](crate::StoredPartition::recovered). Later operations do not wait for it.
    Trim {
        /// The start.
        start: Start,
    },
    /// Records up to here are committed. That is recorded with later operations, about once
    /// per second, and for no record before it is on the disk.
    Commit {
        /// The last of them.
        through: Index,
    },
    /// Starts a segment, unless the last one is empty, so that all records that are there may be
    /// trimmed. The next record has to have the flag
    /// [`STARTS_SEGMENT`](crate::RecordFlags::STARTS_SEGMENT).
    Seal,
    /// The log has again what may be expected of it: until then, what it has lost since it
    /// was acknowledged counts as missing with each start.
    Trust,
}

/// Receives the result of an operation, once, on a thread of the storage.
pub type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// An operation that waits.
pub(super) struct Submitted {
    pub(super) operation: Operation,
    pub(super) completion: Completion,
}

/// Reports the result of an operation, also when the thread that works on it panics.
pub(super) struct Completion(Option<Done>);

impl Completion {
    pub(super) fn new(done: Done) -> Self {
        Self(Some(done))
    }

    pub(super) fn finish(mut self, result: Result<(), StorageError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(StorageError::Closed.lasting()));
        }
    }
}
