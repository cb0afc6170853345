//! Segments and frames as bytes.

use consensus::Index;
use consensus::rule;
use crc32c::{crc32c, crc32c_append};

use super::error::WalError;
use super::record::Record;

pub(super) const BLOCK_BYTES: usize = 4096;
pub(super) const VERSION: u16 = 1;
const SEGMENT_MAGIC: &[u8; 8] = b"IGGYWAL\n";
const HEADER_BYTES: usize = 8 + 2 + 1 + 16 + 8 + 8 + 8 + 4;
const HEADER_CRC_AT: usize = HEADER_BYTES - 4;
const FIRST_OF_START: u8 = 1;

const FRAME_MAGIC: u32 = 0x4652_4d31;
const FRAME_HEADER_BYTES: usize = 4 + 8 + 8 + 8 + 4 + 4;
const FRAME_CRC_AT: usize = FRAME_HEADER_BYTES - 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u64,
    /// The sequence number of its first frame: everything before is durable in
    /// earlier segments.
    pub(super) first_sequence: u64,
    /// The checksum of every frame starts with it. The author of a payload does not
    /// know it, so no payload looks like a frame.
    pub(super) nonce: u64,
    /// The program started with this segment: a batch that is not whole before
    /// it never will be.
    pub(super) first_of_start: bool,
}

impl SegmentHeader {
    pub(super) fn encode(&self, group: u128) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK_BYTES);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.push(if self.first_of_start {
            FIRST_OF_START
        } else {
            0
        });
        out.extend_from_slice(&group.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        out.extend_from_slice(&self.nonce.to_le_bytes());
        let crc = crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(BLOCK_BYTES, 0);
        out
    }

    pub(super) fn decode(path: &str, block: &[u8], group: u128) -> Result<Self, WalError> {
        let corrupt = |what: &str| WalError::Corrupt {
            path: path.to_owned(),
            offset: 0,
            what: what.to_owned(),
        };
        let header = block
            .get(..HEADER_BYTES)
            .ok_or_else(|| corrupt("no header"))?;
        if &header[..8] != SEGMENT_MAGIC {
            return Err(corrupt("not a segment of the log"));
        }
        let found = u16::from_le_bytes([header[8], header[9]]);
        if found != VERSION {
            return Err(WalError::Version {
                path: path.to_owned(),
                found,
                known: VERSION,
            });
        }
        if crc32c(&header[..HEADER_CRC_AT]) != u32_at(header, HEADER_CRC_AT) {
            return Err(corrupt("the header's checksum is wrong"));
        }
        let mut of = [0; 16];
        of.copy_from_slice(&header[11..27]);
        if u128::from_le_bytes(of) != group {
            return Err(WalError::WrongGroup {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            number: u64_at(header, 27),
            first_sequence: u64_at(header, 35),
            nonce: u64_at(header, 43),
            first_of_start: header[10] == FIRST_OF_START,
        })
    }
}

pub(super) fn path(dir: &str, number: u64) -> String {
    format!("{dir}/{number:016}.wal")
}

pub(super) fn spare_path(dir: &str, number: u64) -> String {
    format!("{dir}/spare-{number:016}")
}

/// The number in a segment's name.
pub(super) fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".wal")?.parse().ok()
}

/// The number in a spare's name.
pub(super) fn spare_number_of(name: &str) -> Option<u64> {
    name.strip_prefix("spare-")?.parse().ok()
}

/// A segment that is no longer written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub(super) number: u64,
    /// Nothing in it is needed once the log up to here is not.
    pub(super) needed_for: Index,
    /// Where its frames end, and how large the file is.
    pub(super) end: u64,
    pub(super) bytes: u64,
}

/// The sequence numbers in the header of a frame.
pub(super) struct FrameHeader {
    pub(super) sequence: u64,
    /// The last frame that was durable when this one was written.
    pub(super) synced: u64,
}

/// How many of the records fit into one frame of at most `frame_bytes`, in so much room.
pub(super) fn fitting(records: &[Record<'_>], room: u64, frame_bytes: usize) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut bytes = FRAME_HEADER_BYTES;
    let mut count = 0;
    for record in records {
        bytes += record.bytes();
        if bytes.next_multiple_of(BLOCK_BYTES) > room || (count > 0 && bytes > frame_bytes) {
            break;
        }
        count += 1;
    }
    count
}

/// A frame of a segment, padded to whole blocks.
pub(super) fn encode_frame(
    out: &mut Vec<u8>,
    segment: &SegmentHeader,
    frame: &FrameHeader,
    records: &[Record<'_>],
) {
    out.clear();
    out.extend_from_slice(&FRAME_MAGIC.to_le_bytes());
    out.extend_from_slice(&segment.number.to_le_bytes());
    out.extend_from_slice(&frame.sequence.to_le_bytes());
    out.extend_from_slice(&frame.synced.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    for record in records {
        record.encode(out);
    }
    let length = (out.len() - FRAME_HEADER_BYTES) as u32;
    out[FRAME_CRC_AT - 4..FRAME_CRC_AT].copy_from_slice(&length.to_le_bytes());
    let crc = frame_crc(segment, out);
    out[FRAME_CRC_AT..FRAME_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
}

fn frame_crc(segment: &SegmentHeader, frame: &[u8]) -> u32 {
    let crc = crc32c(&segment.nonce.to_le_bytes());
    let crc = crc32c_append(crc, &frame[..FRAME_CRC_AT]);
    crc32c_append(crc, &frame[FRAME_HEADER_BYTES..])
}

/// A whole frame of a segment.
pub(super) struct Frame {
    pub(super) header: FrameHeader,
    /// The start of its records, and their length.
    pub(super) records_at: usize,
    pub(super) records_bytes: usize,
}

impl Frame {
    /// The start of the next frame.
    pub(super) fn end(&self) -> usize {
        (self.records_at + self.records_bytes).next_multiple_of(BLOCK_BYTES)
    }
}

/// The frame at `at` of a segment's bytes, when there is a whole one.
pub(super) fn frame_at(bytes: &[u8], at: usize, segment: &SegmentHeader) -> Option<Frame> {
    if !frame_starts_at(bytes, at, segment) {
        return None;
    }
    let header = bytes.get(at..at + FRAME_HEADER_BYTES)?;
    let records_bytes = u32_at(header, 28) as usize;
    let end = (at + FRAME_HEADER_BYTES).checked_add(records_bytes)?;
    let frame = bytes.get(at..end)?;
    let damaged = frame_crc(segment, frame) != u32_at(header, FRAME_CRC_AT);
    if damaged && rule!(FrameChecksumVerified) {
        return None;
    }
    Some(Frame {
        header: FrameHeader {
            sequence: u64_at(header, 12),
            synced: u64_at(header, 20),
        },
        records_at: at + FRAME_HEADER_BYTES,
        records_bytes,
    })
}

/// Whether a frame of the segment starts at `at`, whole or not.
pub(super) fn frame_starts_at(bytes: &[u8], at: usize, segment: &SegmentHeader) -> bool {
    bytes
        .get(at..at + FRAME_HEADER_BYTES)
        .is_some_and(|header| {
            u32_at(header, 0) == FRAME_MAGIC && u64_at(header, 4) == segment.number
        })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}
