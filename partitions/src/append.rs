//! A batch on its way into the log.

use bytes::Bytes;
use iggy_binary_protocol::batch::BatchHeader;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::StorageError;
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
