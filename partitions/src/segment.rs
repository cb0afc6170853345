//! One segment: its file, how far it is filled, and where batches stand in it.
//!
//! The index is sparse: an entry for the first batch after every so many bytes.
//! It is fine while the segment grows, because consumers read at the end, and
//! thinned when the segment is sealed, so that long logs cost little memory.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consensus::Index;

use crate::error::{StorageError, failed, sync_failed};
use crate::files::{Files, ManagedFile, OnClose};
use crate::format::{Base, FileHeader, Format, Kept, Reach};
use crate::key::PartitionKey;
use crate::record::RecordHeader;
use crate::replication::{Position, Sessions};

/// Index entries of the last segment are at least so far apart: at most 1.5 MiB of
/// index for 1 GiB of messages.
const INDEX_EVERY_BYTES: u64 = 16 << 10;
/// Those of sealed segments: at most 192 KiB for 1 GiB.
const SEALED_INDEX_EVERY_BYTES: u64 = 128 << 10;

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) timestamp: u64,
    /// Of its first message.
    pub(super) offset: u64,
    /// Indices between the segment's base and the record.
    pub(super) index: u32,
    pub(super) position: u32,
}

/// How far a segment is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Bytes of the file in use, its header among them.
    pub(super) position: u64,
    /// The last record, here or in an earlier segment.
    pub(super) last: Position,
    pub(super) next_offset: u64,
    /// Of the last record.
    pub(super) timestamp: u64,
    /// Messages in the segment.
    pub(super) messages: u64,
}

impl End {
    pub(super) fn of(base: &Base, records_at: u64) -> Self {
        Self {
            position: records_at,
            last: base.position,
            next_offset: base.offset,
            timestamp: base.timestamp,
            messages: 0,
        }
    }

    /// Where the log ends, as the base of what follows.
    pub(super) fn base(&self) -> Base {
        Base {
            position: self.last,
            offset: self.next_offset,
            timestamp: self.timestamp,
        }
    }

    pub(super) fn reach(&self) -> Reach {
        self.base().reach()
    }

    /// After one more record, which stands at the end.
    pub(super) fn after(&self, record: &RecordHeader) -> Self {
        let messages = u64::from(record.batch.message_count);
        Self {
            position: self.position + record.batch.batch_length,
            last: record.position,
            next_offset: record.batch.base_offset + messages,
            timestamp: self.timestamp.max(record.batch.base_timestamp),
            messages: self.messages + messages,
        }
    }
}

pub(super) struct Segment {
    pub(super) file: Arc<ManagedFile>,
    pub(super) format: Format,
    pub(super) base: Base,
    pub(super) salt: u64,
    /// What is before it no longer belongs to the log.
    pub(super) starts_log: bool,
    /// The sessions before its first record.
    pub(super) kept: Kept,
    /// Where that record stands.
    pub(super) records_at: u64,
    pub(super) end: End,
    pub(super) index: Vec<IndexEntry>,
    /// The first record of each epoch that starts here.
    pub(super) epochs: Vec<Position>,
    /// Up to here it is on the disk.
    pub(super) synced: u64,
    /// Up to here its hint records the positions of batches.
    pub(super) hinted: u64,
}

/// The sessions that are kept with a segment, to be read.
pub(super) struct KeptBytes {
    file: Arc<ManagedFile>,
    at: u64,
    kept: Kept,
}

impl KeptBytes {
    /// Whether they are as they were written.
    pub(super) fn are_whole(&self) -> Result<bool, StorageError> {
        let bytes = self.file.read(self.at, self.kept.len())?;
        Ok(self.kept.is(&bytes))
    }

    pub(super) fn decode(&self) -> Result<Sessions, StorageError> {
        let bytes = self.file.read(self.at, self.kept.len())?;
        Sessions::decode(&bytes)
            .map_err(|error| StorageError::corrupt(&self.file.path, self.at, error.to_string()))
    }
}

/// The name of a segment's file.
pub(super) fn log_path(dir: &Path, base_index: u64) -> PathBuf {
    dir.join(format!("{base_index:020}.log"))
}

impl Segment {
    /// The header of a new segment with these sessions.
    pub(super) fn header(
        key: &PartitionKey,
        base: Base,
        starts_log: bool,
        sessions: &[u8],
    ) -> FileHeader {
        FileHeader {
            format: Format::V2,
            key: *key,
            base,
            // Every instance hashes the same differently: that is random enough.
            salt: RandomState::new().hash_one(base.offset),
            starts_log,
            kept: Kept::of(sessions),
        }
    }

    /// Creates a segment with these sessions. Neither its name nor its content is durable on
    /// return.
    pub(super) fn create(
        dir: &Path,
        files: &Arc<Files>,
        key: &PartitionKey,
        base: Base,
        sessions: &[u8],
    ) -> Result<Self, StorageError> {
        let path = log_path(dir, base.position.index.0);
        let header = Self::header(key, base, false, sessions);
        let handle = files.create(&path, &[&header.encode(), sessions].concat())?;
        let file = ManagedFile::created(path, files, handle, OnClose::Sync);
        Ok(Self::empty(file, &header))
    }

    /// Creates a segment in place of the file with its name, durably.
    pub(super) fn replace(
        dir: &Path,
        files: &Arc<Files>,
        header: &FileHeader,
        sessions: &[u8],
    ) -> Result<Self, StorageError> {
        let path = log_path(dir, header.base.position.index.0);
        let tmp = path.with_extension("tmp");
        let handle = files.create(&tmp, &[&header.encode(), sessions].concat())?;
        handle.sync().map_err(sync_failed("sync", &tmp))?;
        let renamed = files.disk.rename(&tmp, &path);
        renamed.map_err(failed("rename", &tmp))?;
        files.sync_dir(dir)?;
        let file = ManagedFile::created(path, files, handle, OnClose::Sync);
        Ok(Self::empty(file, header))
    }

    /// A segment with nothing but its header.
    pub(super) fn empty(file: Arc<ManagedFile>, header: &FileHeader) -> Self {
        Self {
            file,
            format: header.format,
            base: header.base,
            salt: header.salt,
            starts_log: header.starts_log,
            kept: header.kept,
            records_at: header.records_at(),
            end: End::of(&header.base, header.records_at()),
            index: Vec::new(),
            epochs: Vec::new(),
            synced: 0,
            hinted: 0,
        }
    }

    /// Adds a record that was read or written at the end.
    pub(super) fn add(&mut self, record: &RecordHeader) {
        let due = self
            .index
            .last()
            .is_none_or(|last| self.end.position - u64::from(last.position) >= INDEX_EVERY_BYTES);
        let before = self.end.last;
        let index = u32::try_from(before.index.0 - self.base.position.index.0);
        let position = u32::try_from(self.end.position);
        // Segments are bounded far below what 32 bits can express; one that is larger,
        // because another program wrote it, is read from an earlier position.
        if due && let (Ok(index), Ok(position)) = (index, position) {
            self.index.push(IndexEntry {
                timestamp: record.batch.base_timestamp,
                offset: record.batch.base_offset,
                index,
                position,
            });
        }
        if record.position.epoch > before.epoch {
            self.epochs.push(record.position);
        }
        self.end = self.end.after(record);
    }

    /// Whether this record may be the next one.
    pub(super) fn accepts(&self, record: &RecordHeader) -> bool {
        let (end, offset) = (&self.end, record.batch.base_offset);
        match self.format {
            Format::V1 => offset == end.next_offset,
            Format::V2 => {
                record.position.index == end.last.index.next()
                    && record.position.epoch >= end.last.epoch
                    && offset >= end.next_offset
            }
        }
    }

    /// Removes the records from this end on from what is known of the segment.
    pub(super) fn cut(&mut self, end: End) {
        self.index
            .retain(|entry| u64::from(entry.position) < end.position);
        self.epochs.retain(|first| first.index <= end.last.index);
        self.synced = self.synced.min(end.position);
        self.hinted = 0;
        self.end = end;
    }

    /// The sessions that are kept with it.
    pub(super) fn kept_bytes(&self) -> KeptBytes {
        KeptBytes {
            file: Arc::clone(&self.file),
            at: self.format.header_bytes(),
            kept: self.kept,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end.last.index == self.base.position.index
    }

    /// Nothing will be appended; the index becomes sparser.
    pub(super) fn seal(&mut self) {
        let mut next = 0;
        self.index.retain(|entry| {
            let keep = u64::from(entry.position) >= next;
            if keep {
                next = u64::from(entry.position) + SEALED_INDEX_EVERY_BYTES;
            }
            keep
        });
        self.index.shrink_to_fit();
    }

    /// Whether further batches belong into another segment. An empty one is never full.
    pub(super) fn is_full(&self, bytes_max: u64) -> bool {
        self.end.position >= bytes_max && !self.is_empty()
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced == self.end.position
    }

    /// The average bytes of so many messages, and those to be skipped before the first of
    /// them.
    pub(super) fn likely_bytes(&self, messages: u32) -> u64 {
        let messages_here = self.end.messages.max(1);
        let bytes =
            u128::from(self.end.position) * u128::from(messages) / u128::from(messages_here);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        bytes.saturating_add(SEALED_INDEX_EVERY_BYTES)
    }

    /// A position at or before the batch that contains this offset.
    pub(super) fn position_before(&self, offset: u64) -> u64 {
        let after = self.index.partition_point(|entry| entry.offset <= offset);
        self.position_of(after.checked_sub(1))
    }

    /// A position at or before the record after this one.
    pub(super) fn position_after_index(&self, index: Index) -> u64 {
        let base = self.base.position.index.0;
        let after = self
            .index
            .partition_point(|entry| base + u64::from(entry.index) <= index.0);
        self.position_of(after.checked_sub(1))
    }

    /// A position before the first batch that is not older than this.
    pub(super) fn position_before_time(&self, timestamp: u64) -> u64 {
        let after = self
            .index
            .partition_point(|entry| entry.timestamp < timestamp);
        self.position_of(after.checked_sub(1))
    }

    /// A position after the message before this offset.
    pub(super) fn position_after(&self, offset: u64) -> u64 {
        let after = self.index.partition_point(|entry| entry.offset < offset);
        self.index
            .get(after)
            .map_or(self.end.position, |entry| u64::from(entry.position))
    }

    fn position_of(&self, entry: Option<usize>) -> u64 {
        entry
            .and_then(|entry| self.index.get(entry))
            .map_or(self.records_at, |entry| u64::from(entry.position))
    }
}
