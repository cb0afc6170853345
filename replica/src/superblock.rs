//! Who this disk belongs to, in two slots of one file.
//!
//! The slots are written in turn, so a write that a crash tears leaves the other.
//! The checksum is the last thing in a slot in every version, so that another
//! version is told from damage.
//!
//! ```text
//! slot (4 KiB): magic 8 | version u16 | sequence u64 | group u128 | replica u64
//!               | incarnation u64 | cluster length u16 | cluster
//!               | backend length u16 | backend | zeros | crc32c of all before
//! ```
//!
//! An incarnation is never used twice, not even when a slot is damaged: the one
//! that may have been in it is skipped.

use std::io;

use bytes::{Buf, BufMut};
use consensus::ReplicaId;
use consensus::rule;
use crc32c::crc32c;
use thiserror::Error;

use crate::disk::{self, Disk, DiskError};

const PATH: &str = "meta/superblock";
const TMP_PATH: &str = "meta/superblock.tmp";
const FIRST_SEQUENCE: u64 = 1;
const MAGIC: &[u8; 8] = b"IGGYSUP\n";
const VERSION: u16 = 1;
const SLOT_BYTES: usize = 4096;
const CRC_AT: usize = SLOT_BYTES - 4;
/// Where a log shows that the replica has been started before.
const LOG_DIR: &str = "wal";
const SNAPSHOT_DIR: &str = "snapshots";
/// The cluster's name and the backend's have at most so many bytes.
const NAME_BYTES_MAX: usize = 1024;

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
    /// Nobody's disk yet, or nobody's any more.
    #[error(
        "the data directory is empty: format it if this replica has never run; if it has, its disk is lost, and with it what it has acknowledged: bring the disk back, but no older backup; the others go on without it"
    )]
    Blank,
    /// A replica's disk, which formatting would erase.
    #[error("the data directory holds a replica already: `iggy-cluster serve` starts it")]
    Formatted,
    /// No slot can be read, but the replica has been started before.
    #[error(
        "{PATH} is missing or damaged, and the directory holds data: whose it is cannot be told; bring the directory back as it was when the node stopped, but no older backup; the other nodes go on without this one"
    )]
    Corrupt,
    /// The replica has been started before, and its log is gone.
    #[error(
        "{LOG_DIR} holds no log, but this replica has been started before: what it has acknowledged is lost; bring the directory back as it was when the node stopped, but no older backup; the other nodes go on without this one"
    )]
    LogLost,
    /// A name that does not fit.
    #[error("the {what} has {bytes} bytes, at most {NAME_BYTES_MAX} are possible; shorten it")]
    TooLong {
        /// Which name.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
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

/// Begins the disk of a replica that has never run.
///
/// Nothing else makes a superblock: a replica whose disk was lost would otherwise
/// come back empty, under the name with which it has acknowledged what is gone.
///
/// # Errors
/// When the disk fails, or holds a replica already.
pub fn format(disk: &dyn Disk, identity: &Superblock) -> Result<(), SuperblockError> {
    check_names(identity)?;
    disk.create_dir("meta")?;
    if exists(disk)? {
        return Err(SuperblockError::Formatted);
    }
    if has_data(disk)? {
        return Err(SuperblockError::Corrupt);
    }
    let mut block = identity.clone();
    block.incarnation = 0;
    let file = disk.create(TMP_PATH, 2 * SLOT_BYTES as u64)?;
    file.write_at(slot_of(FIRST_SEQUENCE), &encode(&block, FIRST_SEQUENCE))?;
    file.sync()?;
    // It has its name only when it is whole.
    disk.rename(TMP_PATH, PATH)?;
    disk.sync_dir("meta")?;
    Ok(())
}

/// Whether the disk holds a replica.
///
/// # Errors
/// When the disk fails.
pub fn exists(disk: &dyn Disk) -> Result<bool, DiskError> {
    names(disk, "meta").map(|names| names.iter().any(|name| name == "superblock"))
}

/// Checks that a disk is this replica's and has what it must have, and changes
/// nothing. The log has to be there from the first start on, so a start makes it
/// before it begins its incarnation.
///
/// # Errors
/// When the disk fails, is empty, has lost its log, or belongs to somebody else.
pub fn check(disk: &dyn Disk, identity: &Superblock) -> Result<(), SuperblockError> {
    let (found, _, slots_damaged) = inspect(disk, identity)?;
    let started = found.incarnation > 0 || slots_damaged;
    if started && !has_log(disk)? {
        return Err(SuperblockError::LogLost);
    }
    Ok(())
}

/// The newest slot with its sequence, and whether another is damaged.
fn inspect(
    disk: &dyn Disk,
    identity: &Superblock,
) -> Result<(Superblock, u64, bool), SuperblockError> {
    check_names(identity)?;
    if !exists(disk)? && !rule!(EmptyDiskRefused) {
        format(disk, identity)?;
    }
    if !exists(disk)? {
        return Err(match has_data(disk)? {
            true => SuperblockError::Corrupt,
            false => SuperblockError::Blank,
        });
    }
    let slots = read(disk)?;
    let Some((found, newest)) = slots.newest else {
        return Err(SuperblockError::Corrupt);
    };
    check_identity(&found, identity)?;
    Ok((found, newest, slots.damaged))
}

/// Opens the superblock of a disk, checks that it is this replica's, and begins a
/// new incarnation, durably.
///
/// # Errors
/// When the disk fails, is empty, or belongs to somebody else.
pub fn begin_incarnation(
    disk: &dyn Disk,
    identity: &Superblock,
) -> Result<Superblock, SuperblockError> {
    let (found, newest, damaged) = inspect(disk, identity)?;
    let mut next = identity.clone();
    next.incarnation = found.incarnation + 1 + u64::from(damaged);
    let sequence = newest + 1;
    let file = disk.open(PATH)?;
    // It may have been read from the page cache of a start whose sync failed; it
    // has to be on the disk before the other slot is given up.
    file.write_at(slot_of(newest), &encode(&found, newest))?;
    file.sync()?;
    file.write_at(slot_of(sequence), &encode(&next, sequence))?;
    if rule!(IncarnationSynced) {
        file.sync()?;
    }
    if damaged {
        // The damaged slot was skipped by the one that is left. Were this one lost
        // to damage later, that one would skip to the same again.
        file.write_at(slot_of(sequence + 1), &encode(&next, sequence + 1))?;
        file.sync()?;
    }
    // A crash may have come between the formatting and this.
    disk.sync_dir("meta")?;
    Ok(next)
}

fn check_names(identity: &Superblock) -> Result<(), SuperblockError> {
    for (what, name) in [
        ("cluster's name", &identity.cluster),
        ("backend's name", &identity.backend),
    ] {
        if name.len() > NAME_BYTES_MAX {
            let bytes = name.len();
            return Err(SuperblockError::TooLong { what, bytes });
        }
    }
    Ok(())
}

fn slot_of(sequence: u64) -> u64 {
    (sequence % 2) * SLOT_BYTES as u64
}

/// Whether a replica has got as far as having a log here.
fn has_log(disk: &dyn Disk) -> Result<bool, DiskError> {
    names(disk, LOG_DIR).map(|names| names.iter().any(|name| name.ends_with(".wal")))
}

/// Whether a replica has left anything here.
///
/// # Errors
/// When the disk fails.
pub fn has_data(disk: &dyn Disk) -> Result<bool, DiskError> {
    let snapshots = names(disk, SNAPSHOT_DIR)?;
    Ok(has_log(disk)? || snapshots.iter().any(|name| name.ends_with(".snap")))
}

/// The names in a directory; none when it is not there.
fn names(disk: &dyn Disk, dir: &str) -> Result<Vec<String>, DiskError> {
    match disk.list(dir) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

fn check_identity(found: &Superblock, identity: &Superblock) -> Result<(), SuperblockError> {
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

/// What the two slots hold.
#[derive(Default)]
struct Slots {
    /// The newest whole one, and its sequence.
    newest: Option<(Superblock, u64)>,
    /// One was written, by a start that a crash cut off or by one that completed
    /// and whose slot has gone bad since.
    damaged: bool,
}

fn read(disk: &dyn Disk) -> Result<Slots, SuperblockError> {
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
        Ok(found) => Err(SuperblockError::Version { found }),
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
        let (text, behind) = rest.split_at_checked(length)?;
        rest = behind;
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

    fn formatted() -> MemoryDisk {
        let disk = MemoryDisk::new();
        format(&disk, &identity()).unwrap();
        disk
    }

    fn content(disk: &MemoryDisk) -> Vec<u8> {
        disk::read_all(disk.open(PATH).unwrap().as_ref()).unwrap()
    }

    #[test]
    fn every_start_is_a_new_incarnation() {
        let disk = formatted();
        for start in 1..=5 {
            let block = begin_incarnation(&disk, &identity()).unwrap();
            assert_eq!(block.incarnation, start);
            disk.crash(&mut || 0_u64);
        }
    }

    #[test]
    fn only_formatting_begins_a_disk_and_only_once() {
        let disk = MemoryDisk::new();
        let refused = begin_incarnation(&disk, &identity());
        assert!(matches!(refused, Err(SuperblockError::Blank)));
        assert!(!exists(&disk).unwrap());
        format(&disk, &identity()).unwrap();
        begin_incarnation(&disk, &identity()).unwrap();
        let refused = format(&disk, &identity());
        assert!(matches!(refused, Err(SuperblockError::Formatted)));
        assert_eq!(
            begin_incarnation(&disk, &identity()).unwrap().incarnation,
            2
        );
    }

    #[test]
    fn formatting_that_is_cut_off_anywhere_can_be_done_again() {
        for fail_at in 1..=5 {
            for survivor in 0..4_u64 {
                let disk = MemoryDisk::new();
                disk.fail_after(Some(fail_at));
                format(&disk, &identity()).unwrap_err();
                disk.crash(&mut || survivor);
                match format(&disk, &identity()) {
                    Ok(()) | Err(SuperblockError::Formatted) => {}
                    Err(error) => panic!("{fail_at} {survivor}: {error}"),
                }
                assert_eq!(
                    begin_incarnation(&disk, &identity()).unwrap().incarnation,
                    1
                );
            }
        }
    }

    #[test]
    fn a_start_torn_at_any_byte_leaves_the_one_before() {
        for starts in 0..4_u64 {
            let disk = formatted();
            for _ in 0..starts {
                begin_incarnation(&disk, &identity()).unwrap();
            }
            let whole = disk.copy();
            begin_incarnation(&whole, &identity()).unwrap();
            let after = content(&whole);
            let slot = slot_of(FIRST_SEQUENCE + starts + 1) as usize;
            for byte in (0..200).chain(CRC_AT - 10..SLOT_BYTES) {
                let torn = whole.copy();
                let file = torn.open(PATH).unwrap();
                let mut torn_slot = after[slot..slot + SLOT_BYTES].to_vec();
                torn_slot[byte..].fill(0);
                file.write_at(slot as u64, &torn_slot).unwrap();
                file.sync().unwrap();
                let block = begin_incarnation(&torn, &identity()).unwrap();
                assert!(block.incarnation > starts, "{starts} {byte}");
                assert!(block.incarnation <= starts + 2, "{starts} {byte}");
            }
        }
    }

    /// Whichever operation of a start fails, and whatever a crash leaves of it,
    /// every incarnation that was handed out is behind all before it.
    #[test]
    fn starts_that_fail_anywhere_never_hand_out_an_incarnation_twice() {
        for fail_at in 1..=9 {
            for seed in 0..40_u64 {
                let disk = formatted();
                let mut newest = 0;
                let mut draws = seed * 100 + fail_at;
                let mut draw = move || {
                    draws = draws
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    draws >> 33
                };
                for start in 0..12 {
                    if start % 2 == 1 {
                        disk.fail_after(Some(fail_at));
                    }
                    if let Ok(block) = begin_incarnation(&disk, &identity()) {
                        assert!(block.incarnation > newest);
                        newest = block.incarnation;
                    }
                    // A crash, or a process that ends.
                    if draw() % 3 == 0 {
                        disk.crash(&mut draw);
                    }
                    disk.fail_after(None);
                }
                assert!(newest >= 6);
            }
        }
    }

    #[test]
    fn a_slot_that_went_bad_does_not_bring_an_incarnation_back() {
        for starts in 2..5_u64 {
            let disk = formatted();
            for _ in 0..starts {
                begin_incarnation(&disk, &identity()).unwrap();
            }
            for at in (0..SLOT_BYTES).step_by(7) {
                let damaged = disk.copy();
                damaged.flip(PATH, slot_of(FIRST_SEQUENCE + starts) as usize + at, 1);
                let block = begin_incarnation(&damaged, &identity()).unwrap();
                assert_eq!(block.incarnation, starts + 1);
                let block = begin_incarnation(&damaged, &identity()).unwrap();
                assert_eq!(block.incarnation, starts + 2);
            }
        }
    }

    /// A start is torn, the next one skips its number, and later the slot of that
    /// one goes bad.
    #[test]
    fn damage_after_a_torn_start_does_not_bring_an_incarnation_back() {
        for starts in 1..5_u64 {
            for torn_to in [0, 1, 20, 100] {
                let disk = formatted();
                for _ in 0..starts {
                    begin_incarnation(&disk, &identity()).unwrap();
                }
                let slot = slot_of(FIRST_SEQUENCE + starts + 1);
                let file = disk.open(PATH).unwrap();
                let mut torn = encode(&identity(), FIRST_SEQUENCE + starts + 1);
                torn[torn_to..].fill(0);
                file.write_at(slot, &torn).unwrap();
                file.sync().unwrap();
                let after = begin_incarnation(&disk, &identity()).unwrap();
                for slot in [0, SLOT_BYTES] {
                    let rotten = disk.copy();
                    rotten.flip(PATH, slot + 20, 1);
                    let next = begin_incarnation(&rotten, &identity()).unwrap();
                    assert!(next.incarnation > after.incarnation);
                }
            }
        }
    }

    #[test]
    fn a_log_that_is_gone_is_missed_from_the_first_start_on() {
        let disk = formatted();
        check(&disk, &identity()).unwrap();
        begin_incarnation(&disk, &identity()).unwrap();
        let refused = check(&disk, &identity());
        assert!(matches!(refused, Err(SuperblockError::LogLost)));
        disk.create_dir("wal").unwrap();
        disk.create("wal/0000000000000001.wal", 0).unwrap();
        check(&disk, &identity()).unwrap();
    }

    #[test]
    fn two_bad_slots_or_a_log_without_a_superblock_are_refused() {
        let disk = formatted();
        for _ in 0..2 {
            begin_incarnation(&disk, &identity()).unwrap();
        }
        disk.flip(PATH, 20, 1);
        disk.flip(PATH, SLOT_BYTES + 20, 1);
        let refused = begin_incarnation(&disk, &identity());
        assert!(matches!(refused, Err(SuperblockError::Corrupt)));

        let disk = MemoryDisk::new();
        disk.create("wal/0000000000000001.wal", 0).unwrap();
        let refused = begin_incarnation(&disk, &identity());
        assert!(matches!(refused, Err(SuperblockError::Corrupt)));
        let refused = format(&disk, &identity());
        assert!(matches!(refused, Err(SuperblockError::Corrupt)));
    }

    #[test]
    fn a_newer_version_in_either_slot_is_refused_by_number() {
        let disk = formatted();
        for _ in 0..2 {
            begin_incarnation(&disk, &identity()).unwrap();
        }
        let mut newer = content(&disk)[..SLOT_BYTES].to_vec();
        newer[8] = 9;
        let crc = crc32c(&newer[..CRC_AT]);
        newer[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        let file = disk.open(PATH).unwrap();
        file.write_at(0, &newer).unwrap();
        let refused = begin_incarnation(&disk, &identity());
        assert!(matches!(
            refused,
            Err(SuperblockError::Version { found: 9 })
        ));
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused_before_anything_is_written() {
        let disk = MemoryDisk::new();
        let long = Superblock {
            cluster: "c".repeat(NAME_BYTES_MAX + 1),
            ..identity()
        };
        for refused in [
            format(&disk, &long),
            begin_incarnation(&disk, &long).map(drop),
        ] {
            assert!(matches!(refused, Err(SuperblockError::TooLong { .. })));
        }
        assert_eq!(disk.operations(), 0);
    }

    #[test]
    fn somebody_elses_disk_is_refused_and_says_whose() {
        let disk = formatted();
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
