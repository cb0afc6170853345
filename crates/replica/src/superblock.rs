//! Who this disk belongs to, in two slots of one file.
//!
//! The slots are written in turn, so a write that a crash tears leaves the other.
//!
//! ```text
//! slot (4 KiB): magic 8 | version u16 | sequence u64 | group u128 | replica u64
//!               | incarnation u64 | cluster length u16 | cluster
//!               | backend length u16 | backend | crc32c
//! ```

use bytes::{Buf, BufMut};
use consensus::ReplicaId;
use crc32c::crc32c;
use thiserror::Error;

use crate::disk::{self, Disk, DiskError};

const PATH: &str = "meta/superblock";
const MAGIC: &[u8; 8] = b"IGGYSUP\n";
const VERSION: u16 = 1;
const SLOT_BYTES: usize = 4096;

/// The identity of a replica's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Distinguishes groups.
    pub group: u128,
    /// The cluster's name.
    pub cluster: String,
    /// The replica.
    pub replica: ReplicaId,
    /// How often it has been started; the present start included.
    pub incarnation: u64,
    /// The consensus backend whose log this is.
    pub backend: String,
}

/// Why a disk is not this replica's.
#[derive(Debug, Error)]
pub enum SuperblockError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Neither slot can be read.
    #[error(
        "both copies of {PATH} are damaged; restore the data directory, or replace the node under a new replica id"
    )]
    Corrupt,
    /// Written by another version.
    #[error(
        "{PATH} has format {found}, this program knows {VERSION}; use the version that wrote it"
    )]
    Version {
        /// Its format.
        found: u16,
    },
    /// Another replica's disk.
    #[error(
        "this data directory belongs to {what} {found}, the configuration says {configured}; point [storage] path to this node's own directory"
    )]
    Mismatch {
        /// What differs.
        what: &'static str,
        /// What the disk says.
        found: String,
        /// What the configuration says.
        configured: String,
    },
}

/// Opens the superblock of a disk, or makes it on an empty one, checks that it is
/// this replica's, and begins a new incarnation, durably.
///
/// # Errors
/// When the disk fails, or belongs to somebody else.
pub fn begin_incarnation(
    disk: &dyn Disk,
    identity: &Superblock,
) -> Result<Superblock, SuperblockError> {
    disk.create_dir("meta")?;
    let exists = disk.list("meta")?.iter().any(|name| name == "superblock");
    let (found, sequence) = match exists {
        true => read(disk)?,
        false => (None, 0),
    };
    let mut next = identity.clone();
    next.incarnation = 1;
    if let Some(found) = found {
        check(&found, identity)?;
        next.incarnation = found.incarnation + 1;
    }
    if !exists {
        disk.create("meta/superblock.tmp", 2 * SLOT_BYTES as u64)?
            .sync()?;
        disk.rename("meta/superblock.tmp", PATH)?;
        disk.sync_dir("meta")?;
    }
    let file = disk.open(PATH)?;
    let sequence = sequence + 1;
    let slot = (sequence % 2) * SLOT_BYTES as u64;
    file.write_at(slot, &encode(&next, sequence))?;
    file.sync()?;
    Ok(next)
}

fn check(found: &Superblock, identity: &Superblock) -> Result<(), SuperblockError> {
    let mismatch = |what, found: &dyn ToString, configured: &dyn ToString| {
        Err(SuperblockError::Mismatch {
            what,
            found: found.to_string(),
            configured: configured.to_string(),
        })
    };
    if found.cluster != identity.cluster {
        return mismatch("cluster", &found.cluster, &identity.cluster);
    }
    if found.group != identity.group {
        return mismatch("group", &found.group, &identity.group);
    }
    if found.replica != identity.replica {
        return mismatch("replica", &found.replica, &identity.replica);
    }
    if found.backend != identity.backend {
        return mismatch("consensus backend", &found.backend, &identity.backend);
    }
    Ok(())
}

/// The newest whole slot and its sequence. A file of zeros was made and never
/// written.
fn read(disk: &dyn Disk) -> Result<(Option<Superblock>, u64), SuperblockError> {
    let bytes = disk::read_all(disk.open(PATH)?.as_ref())?;
    let mut newest = None;
    let mut versions = None;
    for slot in bytes.chunks(SLOT_BYTES) {
        match decode(slot) {
            Ok(Some(found)) => {
                if newest
                    .as_ref()
                    .is_none_or(|(_, sequence)| found.1 > *sequence)
                {
                    newest = Some(found);
                }
            }
            Ok(None) => {}
            Err(version) => versions = Some(version),
        }
    }
    match (newest, versions) {
        (Some((block, sequence)), _) => Ok((Some(block), sequence)),
        (None, Some(found)) => Err(SuperblockError::Version { found }),
        (None, None) if bytes.iter().all(|byte| *byte == 0) => Ok((None, 0)),
        (None, None) => {
            // The very first write may be torn: then the other slot is empty.
            let empty = bytes.chunks(SLOT_BYTES).any(|s| s.iter().all(|b| *b == 0));
            if empty {
                Ok((None, 0))
            } else {
                Err(SuperblockError::Corrupt)
            }
        }
    }
}

fn encode(block: &Superblock, sequence: u64) -> Vec<u8> {
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
    let crc = crc32c(&out);
    out.put_u32_le(crc);
    out.resize(SLOT_BYTES, 0);
    out
}

/// A whole slot; `None` when it is not, an error when it is of another version.
fn decode(slot: &[u8]) -> Result<Option<(Superblock, u64)>, u16> {
    let Some(mut rest) = slot.strip_prefix(MAGIC) else {
        return Ok(None);
    };
    match rest.try_get_u16_le() {
        Ok(VERSION) => {}
        // A torn write leaves zeros.
        Ok(0) | Err(_) => return Ok(None),
        Ok(other) => return Err(other),
    }
    Ok(decode_body(slot, rest))
}

fn decode_body(slot: &[u8], mut rest: &[u8]) -> Option<(Superblock, u64)> {
    let sequence = rest.try_get_u64_le().ok()?;
    let group = rest.try_get_u128_le().ok()?;
    let replica = ReplicaId(rest.try_get_u64_le().ok()?);
    let incarnation = rest.try_get_u64_le().ok()?;
    let mut text = || {
        let length = usize::from(rest.try_get_u16_le().ok()?);
        let (text, behind) = rest.split_at_checked(length)?;
        rest = behind;
        String::from_utf8(text.to_vec()).ok()
    };
    let cluster = text()?;
    let backend = text()?;
    let covered = slot.len() - rest.len();
    let crc = rest.try_get_u32_le().ok()?;
    if crc32c(&slot[..covered]) != crc {
        return None;
    }
    let block = Superblock {
        group,
        cluster,
        replica,
        incarnation,
        backend,
    };
    Some((block, sequence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn identity() -> Superblock {
        Superblock {
            group: 7,
            cluster: "c".into(),
            replica: ReplicaId(1),
            incarnation: 0,
            backend: "raft".into(),
        }
    }

    #[test]
    fn every_start_is_a_new_incarnation() {
        let disk = MemoryDisk::new();
        for start in 1..=5 {
            let block = begin_incarnation(&disk, &identity()).unwrap();
            assert_eq!(block.incarnation, start);
            disk.crash(&mut || 0_u64);
        }
    }

    #[test]
    fn a_start_torn_at_any_byte_leaves_the_one_before() {
        for starts in 0..4 {
            let disk = MemoryDisk::new();
            for _ in 0..starts {
                begin_incarnation(&disk, &identity()).unwrap();
            }
            let whole = disk.copy();
            begin_incarnation(&whole, &identity()).unwrap();
            let after = disk::read_all(whole.open(PATH).unwrap().as_ref()).unwrap();
            for byte in 0..200 {
                let torn = whole.copy();
                let file = torn.open(PATH).unwrap();
                let slot = ((starts + 1) % 2) as usize * SLOT_BYTES;
                let mut content = after[slot..slot + SLOT_BYTES].to_vec();
                content[byte..].fill(0);
                file.write_at(slot as u64, &content).unwrap();
                file.sync().unwrap();
                let block = begin_incarnation(&torn, &identity()).unwrap();
                assert!(block.incarnation >= (starts + 1) as u64, "{starts} {byte}");
            }
        }
    }

    #[test]
    fn somebody_elses_disk_is_refused_and_says_whose() {
        let disk = MemoryDisk::new();
        begin_incarnation(&disk, &identity()).unwrap();
        let others = [
            Superblock {
                cluster: "d".into(),
                ..identity()
            },
            Superblock {
                replica: ReplicaId(2),
                ..identity()
            },
            Superblock {
                backend: "vr".into(),
                ..identity()
            },
        ];
        for (other, what) in others
            .iter()
            .zip(["cluster c", "replica 1", "backend raft"])
        {
            let error = begin_incarnation(&disk, other).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
