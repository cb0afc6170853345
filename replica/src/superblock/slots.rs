//! The two slots as bytes.

use bytes::{Buf, BufMut};
use consensus::{Membership, ReplicaId};
use crc32c::crc32c;

use super::error::SuperblockError;
use crate::disk::{self, Disk};

/// The file.
pub(super) const PATH: &str = "meta/superblock";
/// The sequence number of the slot that formatting writes.
pub(super) const FIRST_SEQUENCE: u64 = 1;
const MAGIC: &[u8; 8] = b"IGGYSUP\n";
const VERSION: u16 = 2;
/// Without the identity of the disk.
const VERSION_0_1: u16 = 1;
pub(super) const SLOT_BYTES: usize = 4096;
pub(super) const CRC_AT: usize = SLOT_BYTES - 4;
/// Magic, version, sequence, group, replica, incarnation, storage id, and the lengths of two
/// names and two lists.
const FIXED_BYTES: usize = 8 + 2 + 8 + 16 + 8 + 8 + 16 + 4 * 2;
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
    /// Names the disk, for as long as it exists: random, above zero. Zero on one that version
    /// 0.1 wrote last.
    pub storage_id: u128,
    /// The consensus backend that wrote the log. At most 1,024 bytes.
    pub backend: String,
    /// The replicas of the group. `None` on a disk that version 0.1 wrote last, which did
    /// not record them.
    pub membership: Option<Membership>,
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
    out.put_u128_le(block.storage_id);
    for text in [&block.cluster, &block.backend] {
        out.put_u16_le(text.len() as u16);
        out.put_slice(text.as_bytes());
    }
    if let Some(membership) = &block.membership {
        for ids in [membership.voters(), membership.learners()] {
            out.put_u16_le(ids.len() as u16);
            for id in ids {
                out.put_u64_le(id.0);
            }
        }
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
        Ok(version @ (VERSION_0_1 | VERSION)) => Ok(decode_body(version, rest)),
        Ok(found) => Err(SuperblockError::Version {
            found,
            known: VERSION,
        }),
        Err(_) => Ok(None),
    }
}

fn decode_body(version: u16, mut rest: &[u8]) -> Option<(Superblock, u64)> {
    let sequence = rest.try_get_u64_le().ok()?;
    let group = rest.try_get_u128_le().ok()?;
    let replica = ReplicaId(rest.try_get_u64_le().ok()?);
    let incarnation = rest.try_get_u64_le().ok()?;
    let storage_id = match version {
        VERSION_0_1 => 0,
        _ => rest.try_get_u128_le().ok()?,
    };
    let mut text = || {
        let length = usize::from(rest.try_get_u16_le().ok()?);
        let (text, after) = rest.split_at_checked(length)?;
        rest = after;
        String::from_utf8(text.to_vec()).ok()
    };
    let (cluster, backend) = (text()?, text()?);
    let mut ids = || {
        let count = rest.try_get_u16_le().ok()?;
        (0..count)
            .map(|_| rest.try_get_u64_le().ok().map(ReplicaId))
            .collect::<Option<Vec<_>>>()
    };
    let (voters, learners) = (ids()?, ids()?);
    // Zeros where version 0.1 wrote nothing.
    let membership = match voters.is_empty() {
        true => None,
        false => Some(Membership::new(1, voters, learners).ok()?),
    };
    let block = Superblock {
        group,
        cluster,
        replica,
        incarnation,
        storage_id,
        backend,
        membership,
    };
    Some((block, sequence))
}

/// Bytes of a slot with these names and replicas before its checksum.
pub(super) fn bytes(block: &Superblock) -> usize {
    let ids = block
        .membership
        .as_ref()
        .map_or(0, |membership| membership.members().count());
    FIXED_BYTES + block.cluster.len() + block.backend.len() + ids * 8
}

/// The start of the slot that is written with this sequence number.
pub(super) fn slot_of(sequence: u64) -> u64 {
    (sequence % 2) * SLOT_BYTES as u64
}
