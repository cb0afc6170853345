//! The two slots as bytes.

use bytes::{Buf, BufMut};
use consensus::ReplicaId;
use crc32c::crc32c;

use super::error::SuperblockError;
use crate::disk::{self, Disk};

/// The file.
pub(super) const PATH: &str = "meta/superblock";
/// The sequence number of the slot that formatting writes.
pub(super) const FIRST_SEQUENCE: u64 = 1;
const MAGIC: &[u8; 8] = b"IGGYSUP\n";
const VERSION: u16 = 1;
pub(super) const SLOT_BYTES: usize = 4096;
pub(super) const CRC_AT: usize = SLOT_BYTES - 4;
/// The cluster's name and the backend's have at most so many bytes.
pub(super) const NAME_BYTES_MAX: usize = 1024;

/// The identity of a replica's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The group whose log the disk contains.
    pub group: u128,
    /// The cluster's name. At most 1,024 bytes.
    pub cluster: String,
    /// The replica.
    pub replica: ReplicaId,
    /// Starts of this replica so far, this one included.
    pub incarnation: u64,
    /// The consensus backend that wrote the log. At most 1,024 bytes.
    pub backend: String,
}

/// What the two slots contain.
#[derive(Default)]
pub(super) struct Slots {
    /// The newest whole one, and its sequence.
    pub(super) newest: Option<(Superblock, u64)>,
    /// A slot is damaged: a crash interrupted the start that wrote it, or it has been
    /// damaged since.
    pub(super) damaged: bool,
}

pub(super) fn read(disk: &dyn Disk) -> Result<Slots, SuperblockError> {
    let bytes = disk::read_all(disk.open(PATH)?.as_ref())?;
    let mut slots = Slots::default();
    let mut blank = false;
    for slot in bytes.chunks(SLOT_BYTES) {
        if slot.iter().all(|byte| *byte == 0) {
            blank = true;
            continue;
        }
        match decode(slot)? {
            Some(found) => {
                let older = slots.newest.take_if(|(_, sequence)| *sequence > found.1);
                slots.newest = older.or(Some(found));
            }
            None => slots.damaged = true,
        }
    }
    // Both are written from the first start on.
    let started = slots.newest.as_ref();
    slots.damaged |= blank && started.is_some_and(|(_, sequence)| *sequence > FIRST_SEQUENCE);
    Ok(slots)
}

pub(super) fn encode(block: &Superblock, sequence: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(SLOT_BYTES);
    out.put_slice(MAGIC);
    out.put_u16_le(VERSION);
    out.put_u64_le(sequence);
    out.put_u128_le(block.group);
    out.put_u64_le(block.replica.0);
    out.put_u64_le(block.incarnation);
    for text in [&block.cluster, &block.backend] {
        out.put_u16_le(text.len() as u16);
        out.put_slice(text.as_bytes());
    }
    out.resize(CRC_AT, 0);
    let crc = crc32c(&out);
    out.put_u32_le(crc);
    out
}

/// A whole slot; `None` when it is damaged.
fn decode(slot: &[u8]) -> Result<Option<(Superblock, u64)>, SuperblockError> {
    let Some((covered, mut crc)) = slot.split_at_checked(CRC_AT) else {
        return Ok(None);
    };
    if crc.try_get_u32_le() != Ok(crc32c(covered)) {
        return Ok(None);
    }
    let Some(mut rest) = covered.strip_prefix(MAGIC) else {
        return Ok(None);
    };
    match rest.try_get_u16_le() {
        Ok(VERSION) => Ok(decode_body(rest)),
        Ok(found) => Err(SuperblockError::Version {
            found,
            known: VERSION,
        }),
        Err(_) => Ok(None),
    }
}

fn decode_body(mut rest: &[u8]) -> Option<(Superblock, u64)> {
    let sequence = rest.try_get_u64_le().ok()?;
    let group = rest.try_get_u128_le().ok()?;
    let replica = ReplicaId(rest.try_get_u64_le().ok()?);
    let incarnation = rest.try_get_u64_le().ok()?;
    let mut text = || {
        let length = usize::from(rest.try_get_u16_le().ok()?);
        let (text, after) = rest.split_at_checked(length)?;
        rest = after;
        String::from_utf8(text.to_vec()).ok()
    };
    let block = Superblock {
        group,
        cluster: text()?,
        replica,
        incarnation,
        backend: text()?,
    };
    Some((block, sequence))
}

/// The start of the slot that is written with this sequence number.
pub(super) fn slot_of(sequence: u64) -> u64 {
    (sequence % 2) * SLOT_BYTES as u64
}
