//! Segments and frames as bytes.

use crc32c::{crc32c, crc32c_append};

use super::record::Record;
use super::{Active, WalConfig, WalError};
use crate::disk::Disk;
use consensus::Index;

pub(super) const BLOCK_BYTES: usize = 4096;
pub(super) const VERSION: u16 = 1;
const SEGMENT_MAGIC: &[u8; 8] = b"IGGYWAL\n";
const FRAME_MAGIC: u32 = 0x4652_4d31;
const FRAME_HEADER_BYTES: usize = 4 + 8 + 8 + 8 + 4 + 4;
const FRAME_CRC_AT: usize = FRAME_HEADER_BYTES - 4;
/// Records are gathered into frames of about this size; a larger record has a
/// frame of its own.
const FRAME_BYTES_TARGET: usize = 4 << 20;

#[derive(Clone, Copy)]
pub(super) struct SegmentHeader {
    pub(super) number: u64,
    /// The sequence number of its first frame: everything before is durable in
    /// earlier segments.
    pub(super) first_sequence: u64,
}

pub(super) struct FrameHeader {
    pub(super) segment: u64,
    pub(super) sequence: u64,
    pub(super) synced: u64,
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

/// Makes a segment out of a spare or a new file. Its header is durable before
/// its name is, so a segment that is found has one.
pub(super) fn begin(
    disk: &dyn Disk,
    dir: &str,
    config: &WalConfig,
    spares: &mut Vec<u64>,
    header: SegmentHeader,
) -> Result<Active, WalError> {
    let spare = match spares.last() {
        Some(number) => spare_path(dir, *number),
        None => {
            let path = spare_path(dir, header.number);
            disk.create(&path, config.segment_bytes)?;
            path
        }
    };
    let file = disk.open(&spare)?;
    file.write_at(0, &encode_header(config.group, &header))?;
    file.sync()?;
    disk.rename(&spare, &path(dir, header.number))?;
    disk.sync_dir(dir)?;
    spares.pop();
    Ok(Active {
        number: header.number,
        file,
        at: BLOCK_BYTES as u64,
        entries_through: Index::ZERO,
    })
}

fn encode_header(group: u128, header: &SegmentHeader) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK_BYTES);
    out.extend_from_slice(SEGMENT_MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(&header.number.to_le_bytes());
    out.extend_from_slice(&header.first_sequence.to_le_bytes());
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.resize(BLOCK_BYTES, 0);
    out
}

/// Reads a segment's header.
pub(super) fn read_header(
    path: &str,
    bytes: &[u8],
    group: u128,
) -> Result<SegmentHeader, WalError> {
    let corrupt = |what: &str| WalError::Corrupt {
        path: path.to_owned(),
        offset: 0,
        what: what.to_owned(),
    };
    let header = bytes.get(..46).ok_or_else(|| corrupt("no header"))?;
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
    if crc32c(&header[..42]) != u32_at(header, 42) {
        return Err(corrupt("the header's checksum is wrong"));
    }
    let mut of = [0; 16];
    of.copy_from_slice(&header[10..26]);
    if u128::from_le_bytes(of) != group {
        return Err(WalError::WrongGroup {
            path: path.to_owned(),
        });
    }
    Ok(SegmentHeader {
        number: u64_at(header, 26),
        first_sequence: u64_at(header, 34),
    })
}

/// How many of the records fit into one frame in so much room.
pub(super) fn fitting(records: &[Record<'_>], room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut bytes = FRAME_HEADER_BYTES;
    let mut count = 0;
    for record in records {
        bytes += record.bytes();
        if bytes.next_multiple_of(BLOCK_BYTES) > room || (count > 0 && bytes > FRAME_BYTES_TARGET) {
            break;
        }
        count += 1;
    }
    count
}

/// A frame, padded to whole blocks.
pub(super) fn encode_frame(out: &mut Vec<u8>, header: &FrameHeader, records: &[Record<'_>]) {
    out.clear();
    out.extend_from_slice(&FRAME_MAGIC.to_le_bytes());
    out.extend_from_slice(&header.segment.to_le_bytes());
    out.extend_from_slice(&header.sequence.to_le_bytes());
    out.extend_from_slice(&header.synced.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    for record in records {
        record.encode(out);
    }
    let length = (out.len() - FRAME_HEADER_BYTES) as u32;
    out[FRAME_CRC_AT - 4..FRAME_CRC_AT].copy_from_slice(&length.to_le_bytes());
    let crc = frame_crc(out);
    out[FRAME_CRC_AT..FRAME_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
}

fn frame_crc(frame: &[u8]) -> u32 {
    crc32c_append(crc32c(&frame[..FRAME_CRC_AT]), &frame[FRAME_HEADER_BYTES..])
}

/// A whole frame of this segment.
pub(super) struct Frame {
    pub(super) header: FrameHeader,
    /// Where its records begin, and how long they are.
    pub(super) records_at: usize,
    pub(super) records_bytes: usize,
}

impl Frame {
    /// Where the next frame begins.
    pub(super) fn end(&self) -> usize {
        (self.records_at + self.records_bytes).next_multiple_of(BLOCK_BYTES)
    }
}

/// The frame at `at`, when there is a whole one of segment `segment`.
pub(super) fn frame_at(bytes: &[u8], at: usize, segment: u64) -> Option<Frame> {
    let header = bytes.get(at..at + FRAME_HEADER_BYTES)?;
    if u32_at(header, 0) != FRAME_MAGIC || u64_at(header, 4) != segment {
        return None;
    }
    let records_bytes = u32_at(header, 28) as usize;
    let end = (at + FRAME_HEADER_BYTES).checked_add(records_bytes)?;
    let frame = bytes.get(at..end)?;
    if frame_crc(frame) != u32_at(header, FRAME_CRC_AT) {
        return None;
    }
    Some(Frame {
        header: FrameHeader {
            segment,
            sequence: u64_at(header, 12),
            synced: u64_at(header, 20),
        },
        records_at: at + FRAME_HEADER_BYTES,
        records_bytes,
    })
}

/// Whether a frame of segment `segment` was begun at `at`, whole or not.
pub(super) fn frame_began_at(bytes: &[u8], at: usize, segment: u64) -> bool {
    bytes
        .get(at..at + FRAME_HEADER_BYTES)
        .is_some_and(|header| u32_at(header, 0) == FRAME_MAGIC && u64_at(header, 4) == segment)
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
