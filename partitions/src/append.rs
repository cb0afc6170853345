//! What waits to be written to a log.

use bytes::Bytes;
use iggy_binary_protocol::batch::BatchHeader;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::StorageError;
use crate::operation::{Operation, Submitted};
use crate::types::{Appended, PartitionOptions};

/// A batch that waits to be written.
pub(super) struct Append {
    pub(super) header: BatchHeader,
    pub(super) batch: Bytes,
    pub(super) options: PartitionOptions,
    pub(super) now_micros: u64,
    pub(super) result: oneshot::Sender<Result<Appended, StorageError>>,
    /// Its place in the queue.
    pub(super) _room: OwnedSemaphorePermit,
}

impl Append {
    pub(super) fn finish(self, result: Result<Appended, StorageError>) {
        // The caller may have dropped its future.
        let _ = self.result.send(result);
    }
}

/// The work of the writer.
pub(super) enum Work {
    /// A batch that gets its position from the writer.
    Append(Append),
    /// Everything else.
    Submitted(Submitted),
}

/// Which work is done together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Append,
    Write,
    /// Alone.
    Other,
}

impl Work {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Append(_) => Kind::Append,
            Self::Submitted(submitted) => match submitted.operation {
                // A mark does not separate the writes before it from those after it.
                Operation::Write(_) | Operation::Commit { .. } => Kind::Write,
                _ => Kind::Other,
            },
        }
    }

    /// How many records it has, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        match self {
            Self::Append(append) => (1, append.batch.len()),
            Self::Submitted(submitted) => match &submitted.operation {
                Operation::Write(records) => (
                    records.len(),
                    records.iter().map(crate::record::Record::bytes).sum(),
                ),
                _ => (0, 0),
            },
        }
    }

    pub(super) fn refuse(self, error: StorageError) {
        match self {
            Self::Append(append) => append.finish(Err(error)),
            Self::Submitted(submitted) => submitted.completion.finish(Err(error)),
        }
    }
}
