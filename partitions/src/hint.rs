//! What is known of a segment up to a position that is on the disk, so that
//! opening it need not read all of it.
//!
//! ```text
//! <base index, 20 digits>.idx, version 2:
//!   magic 8 | version u16 | 0 .. 16 | salt u64 | base index u64 | position u64
//!   | last epoch u64 | last index u64 | next offset u64 | timestamp u64 | messages u64
//!   | entries u64 | epochs u64
//!   | { timestamp u64 | offset u64 | index above the base u32 | position u32 } *
//!   | { epoch u64 | index of its first record u64 } * | crc32c u32
//! version 1, of segments of version 1:
//!   magic 8 | version u16 | 0 .. 16 | salt u64 | base offset u64 | position u64
//!   | next offset u64 | timestamp u64 | entries u64
//!   | { timestamp u64 | offset above the base u32 | position u32 } * | crc32c u32
//! ```
//! Without a valid hint the segment is read instead.
//! A valid one proves that the segment was on the disk up to its position, and
//! all segments before it entirely: it is written after their sync.

use std::path::{Path, PathBuf};

use consensus::Index;

use crate::bytes_at::{u32_at, u64_at};
use crate::error::{StorageError, failed};
use crate::files::Files;
use crate::replication::{Epoch, Position};
use crate::segment::{End, IndexEntry};

const MAGIC: &[u8; 8] = b"IGGYIDX\n";
const VERSION: u16 = 2;
const HEAD_BYTES: usize = 96;
const ENTRY_BYTES: usize = 24;
const EPOCH_BYTES: usize = 16;
const V1_HEAD_BYTES: usize = 64;
const V1_ENTRY_BYTES: usize = 16;

/// A segment as it was at its last sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) salt: u64,
    pub(super) base_index: u64,
    pub(super) end: End,
    pub(super) index: Vec<IndexEntry>,
    pub(super) epochs: Vec<Position>,
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

    /// The hint of a segment with this salt and base, if it is valid.
    pub(super) fn load(
        log: &Path,
        files: &Files,
        salt: u64,
        base_index: u64,
    ) -> Result<Option<Self>, StorageError> {
        let content = files.load(&hint_path(log))?;
        Ok(content
            .and_then(|content| Self::decode(&content))
            .filter(|hint| hint.salt == salt && hint.base_index == base_index))
    }

    fn encode(&self) -> Vec<u8> {
        let entries = self.index.len() * ENTRY_BYTES + self.epochs.len() * EPOCH_BYTES;
        let mut out = Vec::with_capacity(HEAD_BYTES + entries + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.resize(16, 0);
        for number in [
            self.salt,
            self.base_index,
            self.end.position,
            self.end.last.epoch.0,
            self.end.last.index.0,
            self.end.next_offset,
            self.end.timestamp,
            self.end.messages,
            self.index.len() as u64,
            self.epochs.len() as u64,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for entry in &self.index {
            out.extend_from_slice(&entry.timestamp.to_le_bytes());
            out.extend_from_slice(&entry.offset.to_le_bytes());
            out.extend_from_slice(&entry.index.to_le_bytes());
            out.extend_from_slice(&entry.position.to_le_bytes());
        }
        for first in &self.epochs {
            out.extend_from_slice(&first.epoch.0.to_le_bytes());
            out.extend_from_slice(&first.index.0.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let (body, crc) = content.split_last_chunk::<4>()?;
        if body.len() < V1_HEAD_BYTES
            || &body[..8] != MAGIC
            || crc32c::crc32c(body).to_le_bytes() != *crc
        {
            return None;
        }
        let hint = match u16::from_le_bytes([body[8], body[9]]) {
            1 => Self::decode_v1(body)?,
            VERSION => Self::decode_v2(body)?,
            _ => return None,
        };
        let consistent = hint.end.last.index.0 >= hint.base_index;
        consistent.then_some(hint)
    }

    fn decode_v2(body: &[u8]) -> Option<Self> {
        let head = body.get(..HEAD_BYTES)?;
        let count = |at| usize::try_from(u64_at(head, at)).ok();
        let entries = count(80)?.checked_mul(ENTRY_BYTES)?;
        let epochs = count(88)?.checked_mul(EPOCH_BYTES)?;
        let (index, epochs) = match body[HEAD_BYTES..].split_at_checked(entries)? {
            (index, rest) if rest.len() == epochs => (index, rest),
            _ => return None,
        };
        Some(Self {
            salt: u64_at(head, 16),
            base_index: u64_at(head, 24),
            end: End {
                position: u64_at(head, 32),
                last: position(head, 40),
                next_offset: u64_at(head, 56),
                timestamp: u64_at(head, 64),
                messages: u64_at(head, 72),
            },
            index: index
                .chunks_exact(ENTRY_BYTES)
                .map(|entry| IndexEntry {
                    timestamp: u64_at(entry, 0),
                    offset: u64_at(entry, 8),
                    index: u32_at(entry, 16),
                    position: u32_at(entry, 20),
                })
                .collect(),
            epochs: epochs
                .chunks_exact(EPOCH_BYTES)
                .map(|first| position(first, 0))
                .collect(),
        })
    }

    fn decode_v1(body: &[u8]) -> Option<Self> {
        let entries = usize::try_from(u64_at(body, 56)).ok()?;
        let index = body.get(V1_HEAD_BYTES..)?;
        if index.len() != entries.checked_mul(V1_ENTRY_BYTES)? {
            return None;
        }
        let base = u64_at(body, 24);
        let next = u64_at(body, 40);
        Some(Self {
            salt: u64_at(body, 16),
            base_index: base,
            end: End {
                position: u64_at(body, 32),
                last: Position {
                    epoch: Epoch(0),
                    index: Index(next),
                },
                next_offset: next,
                timestamp: u64_at(body, 48),
                messages: next.checked_sub(base)?,
            },
            index: index
                .chunks_exact(V1_ENTRY_BYTES)
                .map(|entry| IndexEntry {
                    timestamp: u64_at(entry, 0),
                    offset: base.saturating_add(u64::from(u32_at(entry, 8))),
                    index: u32_at(entry, 8),
                    position: u32_at(entry, 12),
                })
                .collect(),
            epochs: Vec::new(),
        })
    }
}

/// An epoch and an index.
fn position(bytes: &[u8], at: usize) -> Position {
    Position {
        epoch: Epoch(u64_at(bytes, at)),
        index: Index(u64_at(bytes, at + 8)),
    }
}
