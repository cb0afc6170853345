//! The log of a partition as its readers see it: only what is acknowledged.
//!
//! It is guarded by one lock, which is never held while a file is read, written
//! or synced: readers copy a plan, writers the end of the log, and work without the lock.

use std::path::PathBuf;
use std::sync::Arc;

use crate::files::ManagedFile;
use crate::format::FILE_HEADER_BYTES;
use crate::hint::Hint;
use crate::reader::{Piece, ReadPlan, Start};
use crate::recovery::Recovered;
use crate::segment::{End, Segment};
use crate::types::{PartitionStats, ReadFrom, Trim};

/// A hint of the last segment is written again when so many bytes have been
/// added: less is read quickly.
const HINT_EVERY_BYTES: u64 = 1 << 20;

#[derive(Default)]
pub(super) struct Log {
    pub(super) segments: Vec<Segment>,
    /// Messages below this offset are on the disk.
    pub(super) synced_offset: u64,
    /// Directories with names that may not be on the disk.
    pub(super) unsynced_dirs: Vec<PathBuf>,
    /// Bytes written since the last sync started.
    pub(super) unsynced_bytes: u64,
    /// A background sync runs.
    pub(super) syncing: bool,
}

/// What of one segment is not durable.
pub(super) struct Unsynced {
    pub(super) file: Arc<ManagedFile>,
    pub(super) end: End,
    pub(super) hint: Option<Hint>,
    base_offset: u64,
}

impl Log {
    pub(super) fn new(recovered: Recovered) -> Self {
        Self {
            segments: recovered.segments,
            synced_offset: recovered.synced_offset,
            ..Self::default()
        }
    }

    pub(super) fn first_offset(&self) -> u64 {
        self.segments.first().map_or(0, |first| first.base_offset)
    }

    pub(super) fn next_offset(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.end.next_offset)
    }

    pub(super) fn stats(&self) -> PartitionStats {
        PartitionStats {
            segments: u32::try_from(self.segments.len()).unwrap_or(u32::MAX),
            bytes: self
                .segments
                .iter()
                .map(|segment| segment.end.position - FILE_HEADER_BYTES as u64)
                .sum(),
            messages: self.next_offset() - self.first_offset(),
            first_offset: self.first_offset(),
            next_offset: self.next_offset(),
        }
    }

    /// Everything before the last segment's batches is on the disk.
    pub(super) fn is_synced_before_tail(&self) -> bool {
        self.unsynced_dirs.is_empty() && !self.has_unsynced_sealed()
    }

    pub(super) fn has_unsynced_sealed(&self) -> bool {
        // Segments become durable in order.
        let sealed = self
            .segments
            .split_last()
            .and_then(|(_, sealed)| sealed.last());
        sealed.is_some_and(|sealed| !sealed.is_synced())
    }

    /// The directories and segments that are not durable, in the order in which to sync them:
    /// directories first, then segments.
    pub(super) fn unsynced(&mut self) -> (Vec<PathBuf>, Vec<Unsynced>) {
        self.unsynced_bytes = 0;
        let last = self.segments.len().saturating_sub(1);
        let segments = self.segments.iter().enumerate();
        let segments = segments.filter(|(_, segment)| !segment.is_synced());
        let segments = segments.map(|(number, segment)| {
            let added = segment.end.position - segment.hinted;
            let hint = (number < last || added >= HINT_EVERY_BYTES).then(|| Hint {
                salt: segment.salt,
                base_offset: segment.base_offset,
                end: segment.end,
                index: segment.index.clone(),
            });
            Unsynced {
                file: Arc::clone(&segment.file),
                end: segment.end,
                hint,
                base_offset: segment.base_offset,
            }
        });
        (self.unsynced_dirs.clone(), segments.collect())
    }

    /// The writer has synced everything.
    pub(super) fn synced_to_end(&mut self) {
        self.unsynced_bytes = 0;
        self.synced_offset = self.next_offset();
        if let Some(last) = self.segments.last_mut() {
            last.synced = last.end.position;
        }
    }

    pub(super) fn synced_dirs(&mut self, count: usize) {
        self.unsynced_dirs.drain(..count);
    }

    pub(super) fn synced(&mut self, what: &Unsynced) {
        self.synced_offset = self.synced_offset.max(what.end.next_offset);
        let at = self
            .segments
            .binary_search_by_key(&what.base_offset, |segment| segment.base_offset);
        if let Some(segment) = at.ok().and_then(|at| self.segments.get_mut(at)) {
            segment.synced = segment.synced.max(what.end.position);
            if what.hint.is_some() {
                segment.hinted = what.end.position;
            }
        }
    }

    /// Where to read; `None` when there is nothing to be read.
    pub(super) fn plan(
        &self,
        from: ReadFrom,
        messages_max: u32,
        bytes_max: usize,
    ) -> Option<ReadPlan> {
        let (first, next) = (self.first_offset(), self.next_offset());
        let start = match from {
            ReadFrom::Offset(offset) => Start::Offset(offset.max(first)),
            ReadFrom::First => Start::Offset(first),
            ReadFrom::Last => {
                Start::Offset(next.saturating_sub(u64::from(messages_max)).max(first))
            }
            ReadFrom::Timestamp(timestamp) => Start::Timestamp(timestamp),
        };
        let at = match start {
            Start::Offset(offset) => self
                .segments
                .partition_point(|segment| segment.end.next_offset <= offset),
            Start::Timestamp(timestamp) => self
                .segments
                .partition_point(|segment| segment.end.timestamp < timestamp),
        };
        if messages_max == 0 || at == self.segments.len() {
            return None;
        }
        Some(ReadPlan {
            start,
            messages_max,
            bytes_max,
            pieces: self.pieces(at, start, messages_max, bytes_max),
            current_offset: next.saturating_sub(1),
        })
    }

    /// The parts of segments from number `at` on that are certain to suffice.
    fn pieces(&self, at: usize, start: Start, messages_max: u32, bytes_max: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut bytes = 0;
        let mut stop = match start {
            Start::Offset(offset) => Some(offset.saturating_add(u64::from(messages_max))),
            Start::Timestamp(_) => None,
        };
        for (number, segment) in self.segments[at..].iter().enumerate() {
            let from = match start {
                _ if number > 0 => FILE_HEADER_BYTES as u64,
                Start::Offset(offset) => segment.position_before(offset),
                Start::Timestamp(timestamp) => segment.position_before_time(timestamp),
            };
            let end = segment.end.position;
            let likely = stop.map_or_else(
                || from.saturating_add(segment.likely_bytes(messages_max)),
                |stop| segment.position_after(stop),
            );
            pieces.push(Piece {
                file: Arc::clone(&segment.file),
                salt: segment.salt,
                start: from,
                end,
                likely_bytes: likely.saturating_sub(from),
            });
            if number > 0 {
                bytes += end - from;
            }
            // The bytes of the first segment after an unknown start are not counted.
            let next = segment.end.next_offset;
            let stop = *stop.get_or_insert(next.saturating_add(u64::from(messages_max)));
            if next >= stop || bytes >= bytes_max as u64 {
                break;
            }
        }
        pieces
    }

    /// The last offset of the `count` oldest sealed segments, or of all when there are
    /// fewer.
    pub(super) fn sealed_end(&self, count: u32) -> Option<u64> {
        let (_, sealed) = self.segments.split_last()?;
        let last = sealed[..sealed.len().min(count as usize)].last()?;
        Some(last.end.next_offset.saturating_sub(1))
    }

    /// Removes the oldest segment from the list, when it may be removed. Consumers need
    /// what follows `needed_after`.
    pub(super) fn take_oldest(&mut self, trim: &Trim, needed_after: Option<u64>) -> Oldest {
        let Some((last, sealed)) = self.segments.split_last() else {
            return Oldest::Kept;
        };
        let Some(oldest) = sealed.first() else {
            return Oldest::Kept;
        };
        let last_offset = oldest.end.next_offset.saturating_sub(1);
        let needed = needed_after.is_some_and(|read| last_offset > read);
        let bytes: u64 = sealed.iter().map(|segment| segment.end.position).sum();
        // However large, the newest batch stays: nothing could be read otherwise.
        let is_newest = sealed.len() == 1 && last.end.next_offset == last.base_offset;
        let too_large = trim.sealed_bytes_max.is_some_and(|max| bytes > max) && !is_newest;
        let time = oldest.end.timestamp;
        let expired = trim.not_after.is_some_and(|at| time > 0 && time <= at);
        let named = trim.through.is_some_and(|through| last_offset <= through);
        match named || too_large || expired {
            true if needed => Oldest::Needed,
            true => Oldest::Taken(self.segments.remove(0)),
            false => Oldest::Kept,
        }
    }
}

/// What becomes of the oldest segment.
pub(super) enum Oldest {
    /// It is removed from the list.
    Taken(Segment),
    /// There is a reason to remove it, and a consumer has not read it to its end.
    Needed,
    /// There is no reason to remove it.
    Kept,
}
