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
use crate::partition::{Partition, blocking};
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

    fn trim_now(&self, trim: Trim, end: u64) -> Result<Trimmed, StorageError> {
        let mut trimmed = Trimmed::default();
        while trimmed.segments < trim.segments_max {
            // A sync works on the list of segments that it has read.
            let _no_sync_runs = lock(&self.syncing);
            if self.retired.load(Ordering::SeqCst) {
                return Err(StorageError::Closed);
            }
            // After a removal that failed, removing the next would leave a hole.
            if let Some(failure) = self.failure() {
                return Err(failure.clone());
            }
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
            // The next one then states where the log starts.
            let next = lock(&self.log)
                .segments
                .first()
                .map(|it| Arc::clone(&it.file));
            let synced = next.map_or(Ok(()), |next| next.sync());
            let removed = synced.and_then(|()| self.remove_file(&segment.file.path));
            removed.inspect_err(|error| {
                // Part of it may be removed: what is there is known after a reopening.
                self.fail(error);
            })?;
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
