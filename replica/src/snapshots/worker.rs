//! The file jobs of a replica.

use bytes::Bytes;
use consensus::SnapshotMeta;

use super::error::SnapshotError;
use super::store::SnapshotStore;
use crate::driver::{FileEvent, FileJob};

/// Carries out the file jobs of a replica.
///
/// The caller runs it concurrently with the replica, one job after the other.
pub struct FileWorker {
    store: SnapshotStore,
}

impl FileWorker {
    /// A worker that reads and writes this store.
    #[must_use]
    pub fn new(store: SnapshotStore) -> Self {
        Self { store }
    }

    /// Carries out one job. It blocks on the disk.
    pub fn execute(&self, job: FileJob) -> FileEvent {
        match job {
            FileJob::Save { meta, state } => {
                let state = state.encode();
                let saved = self.store.save(&meta, &state);
                let saved = saved.map(|()| (meta, state.len() as u64));
                FileEvent::Saved(saved.map_err(|error| error.to_string()))
            }
            FileJob::Read { to, index, offset } => match self.store.chunk(index, offset) {
                Ok(Some((bytes, total))) => FileEvent::Chunk {
                    to,
                    index,
                    offset,
                    total,
                    bytes,
                },
                Ok(None) | Err(_) => FileEvent::NoChunk { to, index },
            },
            FileJob::Resume(meta) => {
                let found = self.store.resume(&meta);
                received(meta, found)
            }
            FileJob::Receive {
                meta,
                offset,
                total,
                bytes,
            } => {
                let stored = self.store.receive(&meta, offset, total, &bytes);
                received(meta, stored)
            }
        }
    }
}

fn received(meta: SnapshotMeta, result: Result<(u64, Option<Bytes>), SnapshotError>) -> FileEvent {
    match result {
        Ok((next, state)) => FileEvent::Received { meta, next, state },
        Err(error) => FileEvent::ReceiveFailed {
            meta,
            why: error.to_string(),
        },
    }
}
