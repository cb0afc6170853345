//! What is known of a segment up to a position that is on the disk, so that
//! opening it need not read all of it.
//!
//! ```text
//! <base offset, 20 digits>.idx:
//!   magic 8 | version u16 | 0 .. 16 | salt u64 | base offset u64 | position u64
//!   | next offset u64 | timestamp u64 | count u64
//!   | { timestamp u64 | offset u32 | position u32 } * | crc32c u32
//! ```
//! Without a valid hint the segment is read instead.
//! A valid one proves that the segment was on the disk up to its position, and
//! all segments before it entirely: it is written after their sync.

use std::path::{Path, PathBuf};

use crate::bytes_at::{u32_at, u64_at};
use crate::error::{StorageError, failed};
use crate::files::Files;
use crate::format::FILE_HEADER_BYTES;
use crate::segment::{End, IndexEntry};

const MAGIC: &[u8; 8] = b"IGGYIDX\n";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 64;
const ENTRY_BYTES: usize = 16;

/// A segment as it was at its last sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) salt: u64,
    pub(super) base_offset: u64,
    pub(super) end: End,
    pub(super) index: Vec<IndexEntry>,
}

/// Where the hint of a segment is.
pub(super) fn hint_path(log: &Path) -> PathBuf {
    log.with_extension("idx")
}

impl Hint {
    /// Writes it next to its segment. It need not be durable.
    pub(super) fn store(&self, log: &Path, files: &Files) -> Result<(), StorageError> {
        let path = hint_path(log);
        let tmp = path.with_extension("idx.tmp");
        files.create(&tmp, &self.encode())?;
        files
            .disk
            .rename(&tmp, &path)
            .map_err(failed("rename", &tmp))
    }

    /// The hint of a segment with this salt and base offset, if it is valid.
    pub(super) fn load(
        log: &Path,
        files: &Files,
        salt: u64,
        base_offset: u64,
    ) -> Result<Option<Self>, StorageError> {
        let content = files.load(&hint_path(log))?;
        Ok(content
            .and_then(|content| Self::decode(&content))
            .filter(|hint| hint.salt == salt && hint.base_offset == base_offset))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.index.len() * ENTRY_BYTES + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.resize(16, 0);
        for number in [
            self.salt,
            self.base_offset,
            self.end.position,
            self.end.next_offset,
            self.end.timestamp,
            self.index.len() as u64,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for entry in &self.index {
            out.extend_from_slice(&entry.timestamp.to_le_bytes());
            out.extend_from_slice(&entry.offset.to_le_bytes());
            out.extend_from_slice(&entry.position.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let (body, crc) = content.split_last_chunk::<4>()?;
        let head = body.get(..HEAD_BYTES)?;
        let version = u16::from_le_bytes([head[8], head[9]]);
        if &head[..8] != MAGIC
            || version != VERSION
            || crc32c::crc32c(body).to_le_bytes() != *crc
            || (body.len() - HEAD_BYTES) as u64 != u64_at(head, 56).checked_mul(16)?
        {
            return None;
        }
        let index: Vec<_> = body[HEAD_BYTES..]
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| IndexEntry {
                timestamp: u64_at(entry, 0),
                offset: u32_at(entry, 8),
                position: u32_at(entry, 12),
            })
            .collect();
        let hint = Self {
            salt: u64_at(head, 16),
            base_offset: u64_at(head, 24),
            end: End {
                position: u64_at(head, 32),
                next_offset: u64_at(head, 40),
                timestamp: u64_at(head, 48),
            },
            index,
        };
        let consistent = hint.end.next_offset >= hint.base_offset
            && hint.end.position >= FILE_HEADER_BYTES as u64;
        consistent.then_some(hint)
    }
}
