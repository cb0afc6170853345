//! What a copy does with its log.

use consensus::Index;

use crate::error::StorageError;
use crate::record::Record;
use crate::replication::Position;

/// An operation on the log of an open partition.
#[derive(Clone, Debug)]
pub enum Operation {
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
    /// Removes all records, durably; the next one follows `base`. Consumer offsets stay.
    Reset {
        /// The record before the next one.
        base: Position,
        /// Offset of the next message.
        first_offset: u64,
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
