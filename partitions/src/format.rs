//! What segments look like on disk.
//!
//! ```text
//! <base index, 20 digits>.log: file header, then records
//!
//! file header of version 2, 128 bytes:
//!   magic 8 | version u16 | flags u16 | stream u32 | topic u32 | partition u32
//!   | generation u64 | base offset u64 | salt u64 | base index u64 | base epoch u64
//!   | base timestamp u64 | bytes of the sessions u32 | crc32c of the sessions u32 | 0 ..
//!   | crc32c u32 @124
//! then the sessions as of the base, if there are any (`replication::Sessions`), then records
//! file header of version 1, 64 bytes: ends after the salt | 0 .. | crc32c u32 @60
//! mark, in the last 32 bytes of each record's header:
//!   synced offset u64 | boot u64 | synced index u64 (0 in version 1) | 0 ..
//!   | crc32c u32 @252 of the header
//! ```
//! All numbers are little-endian. The base is the record before the segment's first one. A
//! record is a batch with the header of [`record`](crate::record). The mark's checksum
//! covers the header, the segment's random salt and the position in the file, so no payload
//! can pass for a record. A segment with the flag 1 is the log's first: a crash may have
//! left segments before it, which no longer belong to the log.
//!
//! The mark distinguishes a torn tail from damage: when a record was written,
//! everything through `synced index` was on the disk, and everything before
//! it was in the page cache of the machine's run `boot`. Damage before a
//! valid record is therefore corruption if it is not after that
//! record's synced index, or if the machine has not been restarted since.
//!
//! Version 1 has no indices and epochs. Its batches count as epoch 0, and each message as
//! an index: the record of a message is one above its offset.

use std::path::Path;

use consensus::Index;
use iggy_binary_protocol::batch::{BATCH_RESERVED_OFFSET, BatchHeader};

use crate::batch::{BATCH_BYTES_MAX, HEADER_BYTES};
use crate::bytes_at::{u32_at, u64_at};
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::record::{OWN_BYTES, RecordFlags, RecordHeader};
use crate::replication::{Epoch, Position};

const MAGIC: &[u8; 8] = b"IGGYMSG\n";
const VERSION: u16 = 2;
const STARTS_LOG: u16 = 1;
const MARK_AT: usize = HEADER_BYTES - 32;
const MARK_CRC_AT: usize = HEADER_BYTES - 4;
const _: () = assert!(MARK_AT >= OWN_BYTES.end);
/// Of a file header, in any version.
pub(super) const FILE_HEADER_BYTES_MAX: usize = 128;

/// The version of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Batches without positions.
    V1,
    /// Records.
    V2,
}

impl Format {
    /// Bytes of a segment's file header.
    pub(super) fn header_bytes(self) -> u64 {
        match self {
            Self::V1 => 64,
            Self::V2 => FILE_HEADER_BYTES_MAX as u64,
        }
    }
}

/// A place between two records of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// The record before it.
    pub(super) index: u64,
    /// Offset of the message after it.
    pub(super) offset: u64,
}

impl Reach {
    pub(super) fn max(self, other: Self) -> Self {
        if other.index > self.index {
            other
        } else {
            self
        }
    }

    pub(super) fn min(self, other: Self) -> Self {
        if other.index < self.index {
            other
        } else {
            self
        }
    }
}

/// What a record's mark states about those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The records before this place were on the disk.
    pub(super) synced: Reach,
    /// Which run of the machine wrote it; zero when that is unknown.
    pub(super) boot: u64,
}

/// Where a segment starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Base {
    /// The record before its first one.
    pub(super) position: Position,
    /// Offset of its first message.
    pub(super) offset: u64,
    /// Of the record before its first one.
    pub(super) timestamp: u64,
}

impl Base {
    pub(super) fn reach(&self) -> Reach {
        Reach {
            index: self.position.index.0,
            offset: self.offset,
        }
    }
}

/// The state of sessions that is kept with a segment: after its file header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Zero for none.
    bytes: u32,
    crc: u32,
}

impl Kept {
    /// These bytes; at most 4 GiB.
    pub(super) fn of(sessions: &[u8]) -> Self {
        Self {
            bytes: u32::try_from(sessions.len()).unwrap_or(u32::MAX),
            crc: match sessions.is_empty() {
                true => 0,
                false => crc32c::crc32c(sessions),
            },
        }
    }

    pub(super) fn exists(self) -> bool {
        self.bytes > 0
    }

    pub(super) fn len(self) -> usize {
        self.bytes as usize
    }

    /// Whether these are the bytes.
    pub(super) fn is(self, sessions: &[u8]) -> bool {
        self == Self::of(sessions)
    }
}

/// A segment's file header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) format: Format,
    pub(super) key: PartitionKey,
    pub(super) base: Base,
    pub(super) salt: u64,
    /// What is before it no longer belongs to the log.
    pub(super) starts_log: bool,
    /// The sessions before its first record.
    pub(super) kept: Kept,
}

impl FileHeader {
    /// Where the first record stands.
    pub(super) fn records_at(&self) -> u64 {
        self.format.header_bytes() + u64::from(self.kept.bytes)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let bytes = usize::try_from(self.format.header_bytes()).unwrap_or(FILE_HEADER_BYTES_MAX);
        let mut out = vec![0; bytes];
        let (version, flags) = match self.format {
            Format::V1 => (1, 0),
            Format::V2 => (VERSION, u16::from(self.starts_log) * STARTS_LOG),
        };
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&version.to_le_bytes());
        out[10..12].copy_from_slice(&flags.to_le_bytes());
        out[12..16].copy_from_slice(&self.key.stream_id.to_le_bytes());
        out[16..20].copy_from_slice(&self.key.topic_id.to_le_bytes());
        out[20..24].copy_from_slice(&self.key.partition_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.key.generation.to_le_bytes());
        out[32..40].copy_from_slice(&self.base.offset.to_le_bytes());
        out[40..48].copy_from_slice(&self.salt.to_le_bytes());
        if self.format == Format::V2 {
            out[48..56].copy_from_slice(&self.base.position.index.0.to_le_bytes());
            out[56..64].copy_from_slice(&self.base.position.epoch.0.to_le_bytes());
            out[64..72].copy_from_slice(&self.base.timestamp.to_le_bytes());
            out[72..76].copy_from_slice(&self.kept.bytes.to_le_bytes());
            out[76..80].copy_from_slice(&self.kept.crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..bytes - 4]);
        out[bytes - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` when the bytes, the first ones of a file, are not a whole header.
    pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Option<Self>, StorageError> {
        if bytes.len() < 10 || &bytes[..8] != MAGIC {
            return Ok(None);
        }
        let format = match u16::from_le_bytes([bytes[8], bytes[9]]) {
            1 => Format::V1,
            VERSION => Format::V2,
            found => {
                return Err(StorageError::Version {
                    path: path.to_owned(),
                    found,
                    known: VERSION,
                });
            }
        };
        let whole = usize::try_from(format.header_bytes()).unwrap_or(usize::MAX);
        let Some(bytes) = bytes.get(..whole) else {
            return Ok(None);
        };
        let offset = u64_at(bytes, 32);
        let (position, timestamp, kept) = match format {
            Format::V1 => (
                Position {
                    epoch: Epoch(0),
                    index: Index(offset),
                },
                0,
                Kept::default(),
            ),
            Format::V2 => (
                Position {
                    epoch: Epoch(u64_at(bytes, 56)),
                    index: Index(u64_at(bytes, 48)),
                },
                u64_at(bytes, 64),
                Kept {
                    bytes: u32_at(bytes, 72),
                    crc: u32_at(bytes, 76),
                },
            ),
        };
        let header = Self {
            format,
            key: PartitionKey {
                stream_id: u32_at(bytes, 12),
                topic_id: u32_at(bytes, 16),
                partition_id: u32_at(bytes, 20),
                generation: u64_at(bytes, 24),
            },
            base: Base {
                position,
                offset,
                timestamp,
            },
            salt: u64_at(bytes, 40),
            starts_log: bytes[10] != 0,
            kept,
        };
        Ok((header.encode() == bytes).then_some(header))
    }
}

/// Puts the mark into a record's header that will stand at `position`.
pub(super) fn mark(header: &mut [u8; HEADER_BYTES], mark: Mark, salt: u64, position: u64) {
    header[MARK_AT..MARK_AT + 8].copy_from_slice(&mark.synced.offset.to_le_bytes());
    header[MARK_AT + 8..MARK_AT + 16].copy_from_slice(&mark.boot.to_le_bytes());
    header[MARK_AT + 16..MARK_AT + 24].copy_from_slice(&mark.synced.index.to_le_bytes());
    let crc = header_crc(header, salt, position);
    header[MARK_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

/// A record's header as it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredHeader {
    pub(super) record: RecordHeader,
    pub(super) mark: Mark,
}

impl StoredHeader {
    /// The stored header at the start of `bytes`, which stand at `position`;
    /// `None` when there is no valid one.
    pub(super) fn decode(format: Format, bytes: &[u8], salt: u64, position: u64) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        if u32_at(bytes, MARK_CRC_AT) != header_crc(bytes, salt, position) {
            return None;
        }
        let mut unmarked = [0; HEADER_BYTES];
        unmarked[..MARK_AT].copy_from_slice(&bytes[..MARK_AT]);
        let mut synced = Reach {
            index: u64_at(bytes, MARK_AT + 16),
            offset: u64_at(bytes, MARK_AT),
        };
        let record = match format {
            Format::V2 => RecordHeader::decode(&unmarked).ok()?,
            Format::V1 => {
                synced.index = synced.offset;
                v1_record(BatchHeader::decode(&unmarked).ok()?)?
            }
        };
        let mark = Mark {
            synced,
            boot: u64_at(bytes, MARK_AT + 8),
        };
        Some(Self { record, mark })
    }

    /// Bytes of the record.
    pub(super) fn bytes(&self) -> u64 {
        self.record.batch.batch_length
    }
}

/// A batch of version 1: every message counts as an index.
fn v1_record(batch: BatchHeader) -> Option<RecordHeader> {
    let next = batch
        .base_offset
        .checked_add(u64::from(batch.message_count))?;
    let plausible = batch.message_count > 0 && batch.batch_length <= BATCH_BYTES_MAX as u64;
    plausible.then_some(RecordHeader {
        batch,
        position: Position {
            epoch: Epoch(0),
            index: Index(next),
        },
        flags: RecordFlags::NONE,
        tag: None,
    })
}

/// Turns a stored record into a batch that is served.
pub(super) fn clear_own(batch: &mut [u8]) {
    batch[BATCH_RESERVED_OFFSET..HEADER_BYTES].fill(0);
}

/// Turns a stored record into one that is sent to other copies.
pub(super) fn clear_mark(record: &mut [u8]) {
    record[MARK_AT..HEADER_BYTES].fill(0);
}

/// Whether a stored header of this partition may start here; cheap enough to
/// try every byte of a file.
pub(super) fn may_be_header(bytes: &[u8], partition_id: u32) -> bool {
    bytes.len() >= HEADER_BYTES
        && u64_at(bytes, 0) == u64::from(partition_id)
        && bytes[OWN_BYTES.end..MARK_AT].iter().all(|&byte| byte == 0)
}

fn header_crc(header: &[u8], salt: u64, position: u64) -> u32 {
    let seed = crc32c::crc32c(&salt.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &position.to_le_bytes());
    crc32c::crc32c_append(seed, &header[..MARK_CRC_AT])
}
