//! Records: what the log of a partition consists of, and the bytes of which every copy
//! stores and sends the same.
//!
//! ```text
//! header of a stored batch, 256 bytes, little-endian:
//!   0..52 fields of Iggy's batch header | 52..56 zero
//!   | 56 epoch u64 | 64 index u64 | 72 client u128 | 88 session u64 | 96 request u64
//!   | 104 flags u32 | 108 crc32c u32 of 0..108 | 112..224 zero
//!   | 224..256 the mark of one copy: neither sent nor part of the record
//! ```
//! Everything after the first 52 bytes is zeroed before a batch is served. The leader
//! stamps a record once; no other copy changes a byte of it.

use std::fmt;
use std::ops::{BitOr, Range};

use bytes::Bytes;
use consensus::Index;
use iggy_binary_protocol::batch::{
    BATCH_RESERVED_OFFSET, BatchHeader, BatchRef, calculate_batch_checksum,
    verify_and_recompute_batch_checksum,
};
use thiserror::Error;

use crate::batch::{self, BATCH_BYTES_MAX, BatchError, HEADER_BYTES};
use crate::bytes_at::{u32_at, u64_at};
use crate::replication::{Epoch, Position};

/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = HEADER_BYTES;

const EPOCH_AT: usize = 56;
const INDEX_AT: usize = 64;
const CLIENT_AT: usize = 72;
const SESSION_AT: usize = 88;
const REQUEST_AT: usize = 96;
const FLAGS_AT: usize = 104;
const CRC_AT: usize = 108;
/// Where a header has what Iggy's has not.
pub(crate) const OWN_BYTES: Range<usize> = BATCH_RESERVED_OFFSET..CRC_AT + 4;
const _: () = assert!(EPOCH_AT >= BATCH_RESERVED_OFFSET);

/// A client's batch whose bytes have been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientBatch {
    /// Its header, as the client encoded it.
    pub header: BatchHeader,
    /// Its messages: the bytes after the header.
    pub body: Bytes,
}

impl ClientBatch {
    /// Checks a batch of at most [`BATCH_BYTES_MAX`](crate::BATCH_BYTES_MAX) bytes, every
    /// checksum included. This is the one pass over the bytes of the messages.
    ///
    /// # Errors
    /// When it is not well-formed.
    pub fn check(batch: &Bytes) -> Result<Self, BatchError> {
        let header = batch::check(batch)?;
        let body = batch.slice(HEADER_BYTES..);
        Ok(Self { header, body })
    }

    /// How many messages it has.
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.header.message_count
    }

    /// Its size in bytes, with its header.
    #[must_use]
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

/// Which request of which client a batch is from: how a repetition is recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The client; zero is none.
    pub client: u128,
    /// Its session.
    pub session: u64,
    /// The request within the session.
    pub request: u64,
}

/// Properties of a record.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RecordFlags(u32);

impl RecordFlags {
    /// None.
    pub const NONE: Self = Self(0);
    /// The record is the first of a new segment, on every copy.
    pub const STARTS_SEGMENT: Self = Self(1);
    const KNOWN: u32 = 1;

    /// Whether all of `flags` are set.
    #[must_use]
    pub fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl BitOr for RecordFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for RecordFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.contains(Self::STARTS_SEGMENT) {
            true => f.write_str("STARTS_SEGMENT"),
            false => f.write_str("NONE"),
        }
    }
}

/// A record of a partition's log: a batch of messages, or the first record of an epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Which record it is.
    pub position: Position,
    /// Offset of its first message; that of the next batch when it has none.
    pub first_offset: u64,
    /// How many messages it has: zero for the first record of an epoch.
    pub messages: u32,
    /// When it arrived, in microseconds since the Unix epoch. It never goes back within a
    /// log.
    pub timestamp: u64,
    /// Its properties.
    pub flags: RecordFlags,
    /// Which request it is from, if that is known.
    pub tag: Option<Tag>,
    /// [`RECORD_HEADER_BYTES`] as every copy stores them.
    pub header: Bytes,
    /// The messages; empty for the first record of an epoch.
    pub body: Bytes,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Its header does not have [`RECORD_HEADER_BYTES`].
    #[error("the header of a record is not whole")]
    Short,
    /// The checksum of its header is wrong.
    #[error("the checksum of a record's header is wrong")]
    HeaderChecksum,
    /// Its header has bytes that no record of this version has.
    #[error("the header of a record has unknown bytes")]
    Unknown,
    /// Its lengths or counts do not add up, or are out of range.
    #[error("the lengths of a record do not add up")]
    Lengths,
    /// A checksum of its messages is wrong.
    #[error("a checksum of a record's messages is wrong")]
    Checksum,
}

/// Where a record belongs, and when and by which request it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The id of its partition.
    pub partition_id: u32,
    /// Which record it is.
    pub position: Position,
    /// Offset of its first message; that of the next batch when it has none.
    pub first_offset: u64,
    /// When it arrived, in microseconds since the Unix epoch.
    pub timestamp: u64,
    /// Its properties.
    pub flags: RecordFlags,
    /// Which request it is from; a tag without a client is none.
    pub tag: Option<Tag>,
}

impl Record {
    /// The record of a client's batch. Of its messages, only the checksums are read.
    #[must_use]
    pub fn stamp(batch: ClientBatch, stamp: Stamp) -> Self {
        let ClientBatch { mut header, body } = batch;
        header.partition_id = u64::from(stamp.partition_id);
        header.base_offset = stamp.first_offset;
        header.base_timestamp = stamp.timestamp;
        header.batch_checksum = calculate_batch_checksum(&header, &body);
        Self::of(&header, body, stamp)
    }

    /// The first record of an epoch. It has no messages.
    #[must_use]
    pub fn epoch_start(stamp: Stamp) -> Self {
        let header = BatchHeader::new(0, 0, HEADER_BYTES as u64, 0);
        let body = Bytes::new();
        Self::stamp(ClientBatch { header, body }, stamp)
    }

    fn of(batch: &BatchHeader, body: Bytes, stamp: Stamp) -> Self {
        let tag = stamp.tag.filter(|tag| tag.client != 0);
        Self {
            position: stamp.position,
            first_offset: stamp.first_offset,
            messages: batch.message_count,
            timestamp: stamp.timestamp,
            flags: stamp.flags,
            tag,
            header: Bytes::copy_from_slice(&encode(batch, &Stamp { tag, ..stamp })),
            body,
        }
    }

    /// A record from its bytes, which are checked, every checksum included. The mark of a
    /// copy has to be zero.
    ///
    /// # Errors
    /// When the bytes are not those of a record.
    pub fn parse(header: Bytes, body: Bytes) -> Result<Self, RecordError> {
        let head = RecordHeader::decode(&header)?;
        if head.body_bytes() != body.len() {
            return Err(RecordError::Lengths);
        }
        head.check_body(&body)?;
        Ok(head.into_record(header, body))
    }

    /// Bytes of the body that belongs to this header.
    ///
    /// # Errors
    /// When the bytes are not those of a record's header.
    pub fn body_bytes(header: &[u8]) -> Result<usize, RecordError> {
        RecordHeader::decode(header).map(|head| head.body_bytes())
    }

    /// Its size in bytes, with its header.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.header.len() + self.body.len()
    }

    /// Offset of the message after it.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.first_offset + u64::from(self.messages)
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("position", &self.position)
            .field("first_offset", &self.first_offset)
            .field("messages", &self.messages)
            .field("timestamp", &self.timestamp)
            .field("flags", &self.flags)
            .field("tag", &self.tag)
            .field("bytes", &self.bytes())
            .finish()
    }
}

/// A record's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) batch: BatchHeader,
    pub(crate) position: Position,
    pub(crate) flags: RecordFlags,
    pub(crate) tag: Option<Tag>,
}

impl RecordHeader {
    /// Decodes a header whose mark is zero.
    pub(crate) fn decode(header: &[u8]) -> Result<Self, RecordError> {
        if header.len() != HEADER_BYTES {
            return Err(RecordError::Short);
        }
        if u32_at(header, CRC_AT) != crc32c::crc32c(&header[..CRC_AT]) {
            return Err(RecordError::HeaderChecksum);
        }
        let mut bare = [0; HEADER_BYTES];
        bare[..BATCH_RESERVED_OFFSET].copy_from_slice(&header[..BATCH_RESERVED_OFFSET]);
        let batch = BatchHeader::decode(&bare).map_err(|_| RecordError::Lengths)?;
        let plausible = batch.batch_length <= BATCH_BYTES_MAX as u64
            && (batch.message_count > 0 || batch.batch_length == HEADER_BYTES as u64)
            && batch
                .base_offset
                .checked_add(u64::from(batch.message_count))
                .is_some();
        if !plausible {
            return Err(RecordError::Lengths);
        }
        let mut client = [0; 16];
        client.copy_from_slice(&header[CLIENT_AT..SESSION_AT]);
        let tag = Tag {
            client: u128::from_le_bytes(client),
            session: u64_at(header, SESSION_AT),
            request: u64_at(header, REQUEST_AT),
        };
        let decoded = Self {
            batch,
            position: Position {
                epoch: Epoch(u64_at(header, EPOCH_AT)),
                index: Index(u64_at(header, INDEX_AT)),
            },
            flags: RecordFlags(u32_at(header, FLAGS_AT)),
            tag: (tag.client != 0).then_some(tag),
        };
        let known = decoded.flags.0 & !RecordFlags::KNOWN == 0;
        match known && encode(&batch, &decoded.stamp()) == *header {
            true => Ok(decoded),
            false => Err(RecordError::Unknown),
        }
    }

    pub(crate) fn body_bytes(&self) -> usize {
        self.batch.total_size() - HEADER_BYTES
    }

    /// Checks the messages: every byte of them is read.
    pub(crate) fn check_body(&self, body: &[u8]) -> Result<(), RecordError> {
        let computed = verify_and_recompute_batch_checksum(&BatchRef::new(self.batch, body));
        match computed {
            Ok(checksum) if checksum == self.batch.batch_checksum => Ok(()),
            _ => Err(RecordError::Checksum),
        }
    }

    pub(crate) fn into_record(self, header: Bytes, body: Bytes) -> Record {
        Record {
            position: self.position,
            first_offset: self.batch.base_offset,
            messages: self.batch.message_count,
            timestamp: self.batch.base_timestamp,
            flags: self.flags,
            tag: self.tag,
            header,
            body,
        }
    }

    /// What a segment has to know of a record.
    pub(crate) fn of(record: &Record) -> Self {
        let mut batch = BatchHeader::new(0, 0, record.bytes() as u64, record.messages);
        batch.base_offset = record.first_offset;
        batch.base_timestamp = record.timestamp;
        Self {
            batch,
            position: record.position,
            flags: record.flags,
            tag: record.tag,
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            partition_id: u32::try_from(self.batch.partition_id).unwrap_or(u32::MAX),
            position: self.position,
            first_offset: self.batch.base_offset,
            timestamp: self.batch.base_timestamp,
            flags: self.flags,
            tag: self.tag,
        }
    }
}

fn encode(batch: &BatchHeader, stamp: &Stamp) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    batch.encode_into(&mut out);
    let position = stamp.position;
    out[EPOCH_AT..INDEX_AT].copy_from_slice(&position.epoch.0.to_le_bytes());
    out[INDEX_AT..CLIENT_AT].copy_from_slice(&position.index.0.to_le_bytes());
    if let Some(tag) = stamp.tag {
        out[CLIENT_AT..SESSION_AT].copy_from_slice(&tag.client.to_le_bytes());
        out[SESSION_AT..REQUEST_AT].copy_from_slice(&tag.session.to_le_bytes());
        out[REQUEST_AT..FLAGS_AT].copy_from_slice(&tag.request.to_le_bytes());
    }
    out[FLAGS_AT..CRC_AT].copy_from_slice(&stamp.flags.0.to_le_bytes());
    let crc = crc32c::crc32c(&out[..CRC_AT]);
    out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    out
}
