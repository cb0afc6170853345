//! What segments look like on disk.
//!
//! ```text
//! <base offset, 20 digits>.log: file header, then batches as they are served
//!
//! file header, 64 bytes:
//!   magic 8 | version u16 | 0 u16 | stream u32 | topic u32 | partition u32
//!   | generation u64 | base offset u64 | salt u64 | 0 .. | crc32c u32 @60
//! mark, in the last 32 bytes of each batch header, which the protocol keeps zero:
//!   synced offset u64 | boot u64 | 0 .. | crc32c u32 @252 of the header
//! ```
//! All numbers are little-endian. The mark is cleared before a batch is served.
//! Its checksum covers the header, the segment's random salt and the position in
//! the file, so no payload can pass for a batch.
//!
//! The mark distinguishes a torn tail from damage: when a batch was written,
//! everything below `synced offset` was on the disk, and everything before
//! it was in the page cache of the machine's run `boot`. Damage before a
//! valid batch is therefore corruption if it lies below that
//! batch's synced offset, or if the machine has not been restarted since.

use std::path::Path;

use iggy_binary_protocol::batch::{BATCH_RESERVED_OFFSET, BatchHeader};

use crate::batch::{BATCH_BYTES_MAX, HEADER_BYTES};
use crate::bytes_at::{u32_at, u64_at};
use crate::error::StorageError;
use crate::key::PartitionKey;

const MAGIC: &[u8; 8] = b"IGGYMSG\n";
const VERSION: u16 = 1;
pub(super) const FILE_HEADER_BYTES: usize = 64;
const FILE_CRC_AT: usize = FILE_HEADER_BYTES - 4;

const MARK_AT: usize = HEADER_BYTES - 32;
const MARK_CRC_AT: usize = HEADER_BYTES - 4;
const _: () = assert!(MARK_AT >= BATCH_RESERVED_OFFSET);

/// What a batch records about those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Messages below this offset were on the disk.
    pub(super) synced_offset: u64,
    /// Which run of the machine wrote it; zero when that is unknown.
    pub(super) boot: u64,
}

/// A segment's file header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) key: PartitionKey,
    pub(super) base_offset: u64,
    pub(super) salt: u64,
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut out = [0; FILE_HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.key.stream_id.to_le_bytes());
        out[16..20].copy_from_slice(&self.key.topic_id.to_le_bytes());
        out[20..24].copy_from_slice(&self.key.partition_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.key.generation.to_le_bytes());
        out[32..40].copy_from_slice(&self.base_offset.to_le_bytes());
        out[40..48].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c(&out[..FILE_CRC_AT]);
        out[FILE_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` when the bytes are not a whole header.
    pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Option<Self>, StorageError> {
        let Some(bytes) = bytes.get(..FILE_HEADER_BYTES) else {
            return Ok(None);
        };
        if &bytes[..8] != MAGIC {
            return Ok(None);
        }
        let found = u16::from_le_bytes([bytes[8], bytes[9]]);
        if found != VERSION {
            return Err(StorageError::Version {
                path: path.to_owned(),
                found,
                known: VERSION,
            });
        }
        let header = Self {
            key: PartitionKey {
                stream_id: u32_at(bytes, 12),
                topic_id: u32_at(bytes, 16),
                partition_id: u32_at(bytes, 20),
                generation: u64_at(bytes, 24),
            },
            base_offset: u64_at(bytes, 32),
            salt: u64_at(bytes, 40),
        };
        Ok((header.encode() == bytes).then_some(header))
    }
}

/// Puts the mark into a stamped batch header that will stand at `position`.
pub(super) fn mark(header: &mut [u8; HEADER_BYTES], mark: Mark, salt: u64, position: u64) {
    header[MARK_AT..MARK_AT + 8].copy_from_slice(&mark.synced_offset.to_le_bytes());
    header[MARK_AT + 8..MARK_AT + 16].copy_from_slice(&mark.boot.to_le_bytes());
    let crc = header_crc(header, salt, position);
    header[MARK_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

/// The stored batch header at the start of `bytes`, which stand at `position`;
/// `None` when there is no valid one.
pub(super) fn stored_header(bytes: &[u8], salt: u64, position: u64) -> Option<(BatchHeader, Mark)> {
    let bytes = bytes.get(..HEADER_BYTES)?;
    if u32_at(bytes, MARK_CRC_AT) != header_crc(bytes, salt, position) {
        return None;
    }
    let mark = Mark {
        synced_offset: u64_at(bytes, MARK_AT),
        boot: u64_at(bytes, MARK_AT + 8),
    };
    let mut unmarked = [0; HEADER_BYTES];
    unmarked[..MARK_AT].copy_from_slice(&bytes[..MARK_AT]);
    let header = BatchHeader::decode(&unmarked).ok()?;
    let plausible = header.message_count > 0
        && header.batch_length <= BATCH_BYTES_MAX as u64
        && header
            .base_offset
            .checked_add(u64::from(header.message_count))
            .is_some();
    plausible.then_some((header, mark))
}

/// Turns a stored batch into one that is served.
pub(super) fn clear_mark(batch: &mut [u8]) {
    batch[MARK_AT..HEADER_BYTES].fill(0);
}

/// Whether a stored batch header of this partition may start here; cheap enough to
/// try every byte of a file.
pub(super) fn may_be_header(bytes: &[u8], partition_id: u32) -> bool {
    bytes.len() >= HEADER_BYTES
        && u64_at(bytes, 0) == u64::from(partition_id)
        && bytes[BATCH_RESERVED_OFFSET..MARK_AT]
            .iter()
            .all(|&byte| byte == 0)
}

fn header_crc(header: &[u8], salt: u64, position: u64) -> u32 {
    let seed = crc32c::crc32c(&salt.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &position.to_le_bytes());
    crc32c::crc32c_append(seed, &header[..MARK_CRC_AT])
}
