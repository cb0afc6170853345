//! Removing the oldest segments of a partition.
//!
//! Only whole segments go, never the one that is written to, and one after the
//! other: the removal of each is on the disk before the next one goes, so that
//! what a crash leaves is what follows some offset, without a hole. Offsets go on
//! from where they are.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::warn;

use super::StorageError;
use super::files::lock;
use super::hint::hint_path;
use super::log::Log;
use super::partition::{Partition, blocking};
use super::segment::Segment;

/// Which segments may go. A segment goes when it is the oldest, every consumer whose
/// offset is stored has read it to its end, and one of the reasons holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trim {
    /// So many at most.
    pub segments_max: u32,
    /// Reason: it ends at this offset or before.
    pub through: Option<u64>,
    /// Reason: sealed segments take more bytes than this.
    pub sealed_bytes_max: Option<u64>,
    /// Reason: its newest batch arrived at this time or before, in microseconds
    /// since the Unix epoch.
    pub not_after: Option<u64>,
}

impl Partition {
    /// Removes segments; returns how many.
    pub(super) async fn trim(self: &Arc<Self>, trim: Trim) -> Result<u32, StorageError> {
        let partition = Arc::clone(self);
        blocking(move || partition.trim_now(trim)).await
    }

    fn trim_now(&self, trim: Trim) -> Result<u32, StorageError> {
        let mut removed = 0;
        while removed < trim.segments_max {
            // Whoever syncs works on segments that are there.
            let _nobody_syncs = lock(&self.syncing);
            if self.retired.load(Ordering::SeqCst) {
                return Err(StorageError::Closed);
            }
            // Behind a segment whose removal failed a hole would open.
            if let Some(failure) = self.failure() {
                return Err(failure.clone());
            }
            let needed_behind = self.offsets.lowest();
            // Readers no longer find it before it goes.
            let segment = lock(&self.log).take_oldest(&trim, needed_behind);
            let Some(segment) = segment else {
                break;
            };
            self.remove_file(&segment.file.path).inspect_err(|error| {
                // Some of it may be gone: only opening the directory tells.
                self.fail(error);
            })?;
            removed += 1;
        }
        Ok(removed)
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        let files = &self.shared.files;
        files.remove(path)?;
        files.sync_dir(&self.dir)?;
        if let Err(error) = files.remove(&hint_path(path)) {
            warn!(%error, "the hint of a removed segment stays behind");
        }
        Ok(())
    }
}

impl Log {
    /// The last offset of the `count` oldest segments that are not written to any
    /// more; of fewer, when there are fewer.
    pub(super) fn sealed_end(&self, count: u32) -> Option<u64> {
        let (_, sealed) = self.segments.split_last()?;
        let last = sealed[..sealed.len().min(count as usize)].last()?;
        Some(last.end.next_offset.saturating_sub(1))
    }

    /// The oldest segment, when it may go.
    fn take_oldest(&mut self, trim: &Trim, needed_behind: Option<u64>) -> Option<Segment> {
        let (_, sealed) = self.segments.split_last()?;
        let oldest = sealed.first()?;
        let last_offset = oldest.end.next_offset.saturating_sub(1);
        let needed = needed_behind.is_some_and(|behind| last_offset > behind);
        let bytes: u64 = sealed.iter().map(|segment| segment.end.position).sum();
        let too_large = trim.sealed_bytes_max.is_some_and(|max| bytes > max);
        let time = oldest.end.timestamp;
        let expired = trim.not_after.is_some_and(|at| time > 0 && time <= at);
        let named = trim.through.is_some_and(|through| last_offset <= through);
        let reason = named || too_large || expired;
        (reason && !needed).then(|| self.segments.remove(0))
    }
}
