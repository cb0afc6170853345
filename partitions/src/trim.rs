//! Removing the oldest segments of a partition.
//!
//! Only whole segments are removed, never the one that is written to, and one after the
//! other: the removal of each is durable before that of the next, so that
//! what a crash leaves is what follows some offset, without a hole. Offsets
//! continue.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::warn;

use crate::error::StorageError;
use crate::files::lock;
use crate::hint::hint_path;
use crate::log::Oldest;
use crate::operation::Completion;
use crate::partition::{Partition, blocking};
use crate::replication::Start;
use crate::segment::Segment;
use crate::types::{Trim, Trimmed};

impl Partition {
    /// Removes segments whose messages are all below offset `end`.
    pub(super) async fn trim_below(
        self: &Arc<Self>,
        trim: Trim,
        end: u64,
    ) -> Result<Trimmed, StorageError> {
        let partition = Arc::clone(self);
        blocking(move || partition.trim_now(trim, end)).await
    }

    /// Removes segments that have only records up to this start. Nothing waits for it.
    pub(super) fn trim_later(self: &Arc<Self>, start: Start, completion: Completion) {
        let partition = Arc::clone(self);
        let resets = lock(&self.log).resets;
        self.runtime.spawn_blocking(move || {
            completion.finish(partition.trim_to(start, resets));
        });
    }

    fn trim_to(&self, start: Start, resets: u64) -> Result<(), StorageError> {
        loop {
            let _no_sync_runs = lock(&self.syncing);
            self.check_trimmable()?;
            let oldest = {
                let mut log = lock(&self.log);
                // It was the start of another log.
                if log.resets != resets {
                    return Ok(());
                }
                log.take_before(start.base.index)
            };
            let Some(oldest) = oldest else { return Ok(()) };
            self.remove_oldest(&oldest)?;
        }
    }

    fn check_trimmable(&self) -> Result<(), StorageError> {
        if self.retired.load(Ordering::SeqCst) {
            return Err(StorageError::Closed);
        }
        // After a removal that failed, removing the next would leave a hole.
        self.failure().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Removes the files of the oldest segment, which is not in the list any more.
    fn remove_oldest(&self, oldest: &Segment) -> Result<(), StorageError> {
        // The next one then states where the log starts.
        let next = lock(&self.log)
            .segments
            .first()
            .map(|it| Arc::clone(&it.file));
        let synced = next.map_or(Ok(()), |next| next.sync());
        let removed = synced.and_then(|()| self.remove_file(&oldest.file.path));
        // Part of it may be removed: what is there is known after a reopening.
        removed.inspect_err(|error| self.fail(error))
    }

    fn trim_now(&self, trim: Trim, end: u64) -> Result<Trimmed, StorageError> {
        let mut trimmed = Trimmed::default();
        while trimmed.segments < trim.segments_max {
            // A sync works on the list of segments that it has read.
            let _no_sync_runs = lock(&self.syncing);
            self.check_trimmable()?;
            let lowest = self.offsets.lowest();
            let needed_after = lowest.map(|(_, offset)| offset);
            // Readers no longer find the segment when its file is removed.
            let segment = match lock(&self.log).take_oldest(&trim, needed_after, end) {
                Oldest::Taken(segment) => segment,
                Oldest::Needed => {
                    trimmed.kept_for = lowest;
                    break;
                }
                Oldest::Kept => break,
            };
            self.remove_oldest(&segment)?;
            trimmed.segments += 1;
        }
        Ok(trimmed)
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        let files = &self.shared.files;
        files.remove(path)?;
        files.sync_dir(&self.dir)?;
        if let Err(error) = files.remove(&hint_path(path)) {
            warn!(%error, "cannot remove the hint of a removed segment; it is ignored");
        }
        Ok(())
    }
}
