//! One segment: its file, how far it is filled, and where batches stand in it.
//!
//! The index is sparse: an entry for the first batch after every so many bytes.
//! It is fine while the segment grows, because consumers read at the end, and
//! thinned when the segment is sealed, so that long logs cost little memory.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::StorageError;
use crate::files::{Files, ManagedFile, OnClose};
use crate::format::{FILE_HEADER_BYTES, FileHeader};
use crate::key::PartitionKey;

/// Index entries of the last segment are at least so far apart: at most 1 MiB of
/// index for 1 GiB of messages.
const INDEX_EVERY_BYTES: u64 = 16 << 10;
/// Those of sealed segments: at most 128 KiB for 1 GiB.
const SEALED_INDEX_EVERY_BYTES: u64 = 128 << 10;

/// Where a batch stands, relative to its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) timestamp: u64,
    /// Offset above the segment's base.
    pub(super) offset: u32,
    pub(super) position: u32,
}

/// How far a segment is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Bytes of the file in use, its header among them.
    pub(super) position: u64,
    pub(super) next_offset: u64,
    /// Of the last batch, here or in an earlier segment.
    pub(super) timestamp: u64,
}

pub(super) struct Segment {
    pub(super) file: Arc<ManagedFile>,
    pub(super) base_offset: u64,
    pub(super) salt: u64,
    pub(super) end: End,
    pub(super) index: Vec<IndexEntry>,
    /// Up to here it is on the disk.
    pub(super) synced: u64,
    /// Up to here its hint records the positions of batches.
    pub(super) hinted: u64,
}

/// The name of a segment's file.
pub(super) fn log_path(dir: &Path, base_offset: u64) -> PathBuf {
    dir.join(format!("{base_offset:020}.log"))
}

impl Segment {
    /// Creates a segment. Neither its name nor its header is durable on return.
    pub(super) fn create(
        dir: &Path,
        files: &Arc<Files>,
        key: &PartitionKey,
        base_offset: u64,
        timestamp: u64,
    ) -> Result<Self, StorageError> {
        let path = log_path(dir, base_offset);
        // Every instance hashes the same differently: that is random enough.
        let salt = RandomState::new().hash_one(base_offset);
        let header = FileHeader {
            key: *key,
            base_offset,
            salt,
        };
        let handle = files.create(&path, &header.encode())?;
        Ok(Self {
            file: ManagedFile::created(path, files, handle, OnClose::Sync),
            base_offset,
            salt,
            end: End {
                position: FILE_HEADER_BYTES as u64,
                next_offset: base_offset,
                timestamp,
            },
            index: Vec::new(),
            synced: 0,
            hinted: 0,
        })
    }

    /// Adds a batch that was read or written at the end.
    pub(super) fn add(&mut self, timestamp: u64, bytes: u64, messages: u32) {
        let due = self
            .index
            .last()
            .is_none_or(|last| self.end.position - u64::from(last.position) >= INDEX_EVERY_BYTES);
        let offset = u32::try_from(self.end.next_offset - self.base_offset);
        let position = u32::try_from(self.end.position);
        // Segments are bounded far below what 32 bits can express; one that is larger,
        // because another program wrote it, is read from an earlier position.
        if due && let (Ok(offset), Ok(position)) = (offset, position) {
            self.index.push(IndexEntry {
                timestamp,
                offset,
                position,
            });
        }
        self.end.position += bytes;
        self.end.next_offset += u64::from(messages);
        self.end.timestamp = timestamp;
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
        self.end.position >= bytes_max && self.end.next_offset > self.base_offset
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced == self.end.position
    }

    /// The average bytes of so many messages, and those to be skipped before the first of
    /// them.
    pub(super) fn likely_bytes(&self, messages: u32) -> u64 {
        let messages_here = (self.end.next_offset - self.base_offset).max(1);
        let bytes =
            u128::from(self.end.position) * u128::from(messages) / u128::from(messages_here);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        bytes.saturating_add(SEALED_INDEX_EVERY_BYTES)
    }

    /// A position at or before the batch that contains this offset.
    pub(super) fn position_before(&self, offset: u64) -> u64 {
        let after = self
            .index
            .partition_point(|entry| self.base_offset + u64::from(entry.offset) <= offset);
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
        let after = self
            .index
            .partition_point(|entry| self.base_offset + u64::from(entry.offset) < offset);
        self.index
            .get(after)
            .map_or(self.end.position, |entry| u64::from(entry.position))
    }

    fn position_of(&self, entry: Option<usize>) -> u64 {
        entry
            .and_then(|entry| self.index.get(entry))
            .map_or(FILE_HEADER_BYTES as u64, |entry| u64::from(entry.position))
    }
}
