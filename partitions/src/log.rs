//! The log of a partition as its readers see it: only what is acknowledged.
//!
//! It is guarded by one lock, which is never held while a file is read, written
//! or synced: readers copy a plan, writers the end of the log, and work without the lock.

use std::path::PathBuf;
use std::sync::Arc;

use consensus::Index;

use crate::files::ManagedFile;
use crate::format::{Base, Format, Reach};
use crate::hint::Hint;
use crate::reader::{Piece, ReadPlan, Start};
use crate::recovery::{Cut, Recovered};
use crate::replication::{Chain, Position};
use crate::segment::{End, Segment};
use crate::types::{PartitionStats, ReadFrom, Trim};

/// A hint of the last segment is written again when so many bytes have been
/// added: less is read quickly.
const HINT_EVERY_BYTES: u64 = 1 << 20;

#[derive(Default)]
pub(super) struct Log {
    pub(super) segments: Vec<Segment>,
    /// Where the log starts, if it has no segment.
    base: Base,
    /// The records before this place are on the disk.
    pub(super) synced: Reach,
    /// What has to be removed before the next write.
    pub(super) cut: Option<Cut>,
    /// Directories with names that may not be on the disk.
    pub(super) unsynced_dirs: Vec<PathBuf>,
    /// Bytes written since the last sync started.
    pub(super) unsynced_bytes: u64,
    /// A background sync runs.
    pub(super) syncing: bool,
    /// Counts how often records were removed: what a reader has planned to read may then
    /// be gone.
    pub(super) removals: u64,
    /// Counts how often the log was started elsewhere.
    pub(super) resets: u64,
}

/// What of one segment is not durable.
pub(super) struct Unsynced {
    pub(super) file: Arc<ManagedFile>,
    pub(super) end: End,
    pub(super) hint: Option<Hint>,
    base_index: Index,
}

impl Log {
    pub(super) fn new(recovered: Recovered) -> Self {
        Self {
            segments: recovered.segments,
            base: recovered.base,
            synced: recovered.synced,
            cut: recovered.cut,
            ..Self::default()
        }
    }

    /// Where the log starts.
    pub(super) fn base(&self) -> Base {
        self.segments.first().map_or(self.base, |first| first.base)
    }

    /// Where the log ends.
    pub(super) fn end(&self) -> Base {
        self.segments
            .last()
            .map_or(self.base, |last| last.end.base())
    }

    pub(super) fn first_offset(&self) -> u64 {
        self.base().offset
    }

    pub(super) fn next_offset(&self) -> u64 {
        self.end().offset
    }

    /// The record before the first one that can be read by itself, or cut off.
    pub(super) fn first_record(&self) -> Position {
        let of_v1 = self
            .segments
            .iter()
            .rev()
            .find(|it| it.format == Format::V1);
        of_v1.map_or(self.base().position, |segment| segment.end.last)
    }

    /// Offset of the message after that record.
    pub(super) fn first_record_offset(&self) -> u64 {
        let of_v1 = self
            .segments
            .iter()
            .rev()
            .find(|it| it.format == Format::V1);
        of_v1.map_or(self.base().offset, |segment| segment.end.next_offset)
    }

    /// The epochs of the records.
    pub(super) fn chain(&self) -> Chain {
        let base = self.first_record();
        let starts = self.segments.iter().flat_map(|segment| &segment.epochs);
        Chain::of(base, starts.copied(), self.end().position.index)
    }

    pub(super) fn stats(&self) -> PartitionStats {
        let segments = self.segments.iter();
        let bytes = segments.map(|it| it.end.position - it.records_at);
        PartitionStats {
            segments: u32::try_from(self.segments.len()).unwrap_or(u32::MAX),
            bytes: bytes.sum(),
            messages: self.segments.iter().map(|it| it.end.messages).sum(),
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
                base_index: segment.base.position.index.0,
                end: segment.end,
                index: segment.index.clone(),
                epochs: segment.epochs.clone(),
            });
            Unsynced {
                file: Arc::clone(&segment.file),
                end: segment.end,
                hint,
                base_index: segment.base.position.index,
            }
        });
        (self.unsynced_dirs.clone(), segments.collect())
    }

    /// The writer has synced everything.
    pub(super) fn synced_to_end(&mut self) {
        self.unsynced_bytes = 0;
        self.synced = self.end().reach();
        if let Some(last) = self.segments.last_mut() {
            last.synced = last.end.position;
        }
    }

    pub(super) fn synced_dirs(&mut self, count: usize) {
        self.unsynced_dirs.drain(..count);
    }

    pub(super) fn synced(&mut self, what: &Unsynced) {
        self.synced = self.synced.max(what.end.reach());
        let at = self
            .segments
            .binary_search_by_key(&what.base_index, |segment| segment.base.position.index);
        if let Some(segment) = at.ok().and_then(|at| self.segments.get_mut(at)) {
            segment.synced = segment.synced.max(what.end.position);
            if what.hint.is_some() {
                segment.hinted = what.end.position;
            }
        }
    }

    /// Where to read messages below offset `end`; `None` when there is nothing to be read.
    pub(super) fn plan(
        &self,
        from: ReadFrom,
        messages_max: u32,
        bytes_max: usize,
        end: u64,
    ) -> Option<ReadPlan> {
        let (first, next) = (self.first_offset(), self.next_offset().min(end));
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
        let is_after = matches!(start, Start::Offset(offset) if offset >= next);
        if messages_max == 0 || at == self.segments.len() || is_after {
            return None;
        }
        Some(ReadPlan {
            start,
            messages_max,
            bytes_max,
            pieces: self.pieces(at, start, messages_max, bytes_max, next),
            end: next,
        })
    }

    /// The parts of segments from number `at` on that are certain to suffice.
    fn pieces(
        &self,
        at: usize,
        start: Start,
        messages_max: u32,
        bytes_max: usize,
        end: u64,
    ) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (mut bytes, mut messages, mut gaps) = (0, 0, false);
        let mut stop = match start {
            Start::Offset(offset) => Some(offset.saturating_add(u64::from(messages_max))),
            Start::Timestamp(_) => None,
        };
        for (number, segment) in self.segments[at..].iter().enumerate() {
            let from = match start {
                _ if number > 0 => segment.records_at,
                Start::Offset(offset) => segment.position_before(offset),
                Start::Timestamp(timestamp) => segment.position_before_time(timestamp),
            };
            if segment.base.offset >= end {
                break;
            }
            let likely = stop.map_or_else(
                || from.saturating_add(segment.likely_bytes(messages_max)),
                |stop| segment.position_after(stop),
            );
            pieces.push(Piece {
                file: Arc::clone(&segment.file),
                format: segment.format,
                salt: segment.salt,
                start: from,
                end: segment.end.position,
                likely_bytes: likely.saturating_sub(from),
            });
            if number > 0 {
                bytes += segment.end.position - from;
                messages += segment.end.messages;
            }
            // Offsets that were left out are no messages.
            gaps |= segment.end.next_offset - segment.base.offset != segment.end.messages;
            // The bytes of the first segment after an unknown start are not counted.
            let next = segment.end.next_offset;
            let stop = *stop.get_or_insert(next.saturating_add(u64::from(messages_max)));
            let enough = next >= stop && !gaps || messages >= u64::from(messages_max);
            if enough || bytes >= bytes_max as u64 {
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

    /// Whether this segment is not the last one, nor the one whose sessions the records
    /// after it are applied to.
    fn may_start_after(&self, segment: usize) -> bool {
        let next = self.segments.get(segment + 1);
        let needed = self
            .segments
            .get(segment)
            .is_some_and(|it| it.kept.exists())
            && next.is_some_and(|it| !it.kept.exists());
        next.is_some() && !needed
    }

    /// Removes the oldest segment from the list, if it has only records up to this one.
    pub(super) fn take_before(&mut self, through: Index) -> Option<Segment> {
        let oldest = self.segments.first()?;
        let removable = oldest.end.last.index <= through && self.may_start_after(0);
        removable.then(|| {
            self.removals += 1;
            self.segments.remove(0)
        })
    }

    /// Removes the oldest segment from the list, when it may be removed. Consumers need
    /// what follows `needed_after`, and other copies what follows `end`.
    pub(super) fn take_oldest(
        &mut self,
        trim: &Trim,
        needed_after: Option<u64>,
        end: u64,
    ) -> Oldest {
        match self.judge(0, trim, needed_after, end) {
            Judged::Removable => {
                self.removals += 1;
                Oldest::Taken(self.segments.remove(0))
            }
            Judged::Needed => Oldest::Needed,
            Judged::Kept => Oldest::Kept,
        }
    }

    /// Where the log would start without the oldest segments that may be removed, and whether
    /// a consumer needs the next one.
    pub(super) fn trimmable(
        &self,
        trim: &Trim,
        needed_after: Option<u64>,
        end: u64,
    ) -> (Option<crate::replication::Start>, bool) {
        let mut removable = 0;
        let needed = loop {
            if removable == trim.segments_max as usize {
                break false;
            }
            match self.judge(removable, trim, needed_after, end) {
                Judged::Removable => removable += 1,
                Judged::Needed => break true,
                Judged::Kept => break false,
            }
        };
        let next = self.segments.get(removable).filter(|_| removable > 0);
        let start = next.map(|next| crate::replication::Start {
            base: next.base.position,
            first_offset: next.base.offset,
        });
        (start, needed)
    }

    /// Whether this segment may be removed once those before it are.
    fn judge(&self, segment: usize, trim: &Trim, needed_after: Option<u64>, end: u64) -> Judged {
        let Some((last, sealed)) = self.segments.split_last() else {
            return Judged::Kept;
        };
        let sealed = sealed.get(segment..).unwrap_or_default();
        let Some(oldest) = sealed.first() else {
            return Judged::Kept;
        };
        let last_offset = oldest.end.next_offset.saturating_sub(1);
        if oldest.end.next_offset > end || !self.may_start_after(segment) {
            return Judged::Kept;
        }
        let needed = needed_after.is_some_and(|read| last_offset > read);
        let bytes: u64 = sealed.iter().map(|segment| segment.end.position).sum();
        // However large, the newest batch stays: nothing could be read otherwise.
        let is_newest = sealed.len() == 1 && last.is_empty();
        let too_large = trim.sealed_bytes_max.is_some_and(|max| bytes > max) && !is_newest;
        let time = oldest.end.timestamp;
        let expired = trim.not_after.is_some_and(|at| time > 0 && time <= at);
        let named = trim.through.is_some_and(|through| last_offset <= through);
        match named || too_large || expired {
            true if needed => Judged::Needed,
            true => Judged::Removable,
            false => Judged::Kept,
        }
    }
}

/// Whether a segment may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Removable,
    /// There is a reason to remove it, and a consumer has not read it to its end.
    Needed,
    /// There is no reason to remove it.
    Kept,
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
