//! Formatting a disk, and starting a replica on it.

use std::io;

use consensus::{Membership, rule};

use super::error::SuperblockError;
use super::slots::{
    CRC_AT, FIRST_SEQUENCE, NAME_BYTES_MAX, PATH, SLOT_BYTES, Superblock, bytes, encode, read,
    slot_of,
};
use crate::disk::{Disk, DiskError};

const TMP_PATH: &str = "meta/superblock.tmp";
const SKIP_PEER_CHECK_PATH: &str = "meta/skip-peer-check";
/// A log here shows that the replica has been started before.
const LOG_DIR: &str = "wal";
const SNAPSHOT_DIR: &str = "snapshots";

/// Formats the disk of a replica that has never run.
///
/// Nothing else writes a first superblock: a replica whose disk was lost would otherwise
/// come back empty, under the id with which it has acknowledged what is lost.
///
/// # Errors
/// When the disk fails or already belongs to a replica, a name of the identity has more than
/// 1,024 bytes, or it has no storage id.
pub fn format(disk: &dyn Disk, identity: &Superblock) -> Result<(), SuperblockError> {
    check_names(identity)?;
    disk.create_dir("meta")?;
    if exists(disk)? {
        return Err(SuperblockError::Formatted);
    }
    if has_data(disk)? {
        return Err(SuperblockError::Corrupt);
    }
    if identity.storage_id == 0 {
        return Err(SuperblockError::NoStorageId);
    }
    let mut block = identity.clone();
    block.incarnation = 0;
    let file = disk.create(TMP_PATH, 2 * SLOT_BYTES as u64)?;
    file.write_at(slot_of(FIRST_SEQUENCE), &encode(&block, FIRST_SEQUENCE))?;
    file.sync()?;
    // The file gets its name only when it is whole.
    disk.rename(TMP_PATH, PATH)?;
    disk.sync_dir("meta")?;
    Ok(())
}

/// Notes on a formatted disk that its replica may start without asking the others whether
/// it has run.
///
/// # Errors
/// When the disk fails.
pub fn skip_peer_check(disk: &dyn Disk) -> Result<(), DiskError> {
    disk.create(SKIP_PEER_CHECK_PATH, 0)?.sync()?;
    disk.sync_dir("meta")
}

/// Whether the replica has never been started on its formatted disk, and is to ask the
/// others whether it has run on another one.
///
/// # Errors
/// When the disk fails, or cannot be read.
pub fn is_unchecked(disk: &dyn Disk) -> Result<bool, SuperblockError> {
    let names = names(disk, "meta")?;
    let contains = |path: &str| names.iter().any(|name| path.ends_with(&format!("/{name}")));
    if !contains(PATH) || contains(SKIP_PEER_CHECK_PATH) {
        return Ok(false);
    }
    let slots = read(disk)?;
    let newest = slots.newest.map(|(block, _)| block.incarnation);
    Ok(newest == Some(0) && !slots.damaged)
}

/// Whether the disk belongs to a replica.
///
/// # Errors
/// When the disk fails.
pub fn exists(disk: &dyn Disk) -> Result<bool, DiskError> {
    names(disk, "meta").map(|names| names.iter().any(|name| name == "superblock"))
}

/// Checks that a disk is this replica's and contains what it must contain, and changes
/// nothing. The log has to be there from the first start on, so a start creates it
/// before [`start_incarnation`]. Returns what the superblock records.
///
/// # Errors
/// When the disk fails, is empty, has lost its log, or belongs to another replica.
pub fn check(disk: &dyn Disk, identity: &Superblock) -> Result<Superblock, SuperblockError> {
    let (found, _, slots_damaged) = inspect(disk, identity)?;
    let started = found.incarnation > 0 || slots_damaged;
    if started && !has_log(disk)? && rule!(MissingLogRefused) {
        return Err(SuperblockError::LogLost);
    }
    Ok(found)
}

/// Checks the replicas that a disk records, in its superblock or in a snapshot, against
/// those of the configuration.
///
/// # Errors
/// When they differ.
pub fn check_members(
    found: Option<&Membership>,
    identity: &Superblock,
) -> Result<(), SuperblockError> {
    match (found, &identity.membership) {
        (Some(found), Some(configured))
            if !found.has_replicas_of(configured) && rule!(MembersCompared) =>
        {
            Err(SuperblockError::Members {
                found: found.clone(),
                configured: configured.clone(),
            })
        }
        _ => Ok(()),
    }
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

/// Checks that a disk is this replica's, and starts its next incarnation, durably. The
/// storage id of `identity` is for a disk that has none.
///
/// # Errors
/// When the disk fails, is empty, or belongs to another replica.
pub fn start_incarnation(
    disk: &dyn Disk,
    identity: &Superblock,
) -> Result<Superblock, SuperblockError> {
    let (found, newest, damaged) = inspect(disk, identity)?;
    let damaged = damaged && rule!(DamagedSlotSkipped);
    let mut next = identity.clone();
    next.membership = next.membership.or_else(|| found.membership.clone());
    next.incarnation = found.incarnation + 1 + u64::from(damaged);
    let named = found.storage_id == 0;
    if !named {
        next.storage_id = found.storage_id;
    }
    if next.storage_id == 0 {
        return Err(SuperblockError::NoStorageId);
    }
    let sequence = newest + 1;
    let file = disk.open(PATH)?;
    // It may have been read from the page cache of a start whose sync failed; it
    // has to be on the disk before the other slot is overwritten.
    if rule!(NewestSlotRewritten) {
        file.write_at(slot_of(newest), &encode(&found, newest))?;
        file.sync()?;
    }
    file.write_at(slot_of(sequence), &encode(&next, sequence))?;
    if rule!(IncarnationSynced) {
        file.sync()?;
    }
    if named || damaged && rule!(BothSlotsAfterDamage) {
        // The incarnation of the damaged slot was skipped. Were the new slot damaged later,
        // the one that is left would skip to the same incarnation again, or have no
        // storage id.
        file.write_at(slot_of(sequence + 1), &encode(&next, sequence + 1))?;
        file.sync()?;
    }
    // A crash may have interrupted the formatting before this.
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
            let max = NAME_BYTES_MAX;
            return Err(SuperblockError::TooLong { what, bytes, max });
        }
    }
    let bytes = bytes(identity);
    if bytes > CRC_AT {
        let what = "cluster's name and list of replicas";
        let max = CRC_AT;
        return Err(SuperblockError::TooLong { what, bytes, max });
    }
    Ok(())
}

/// Whether the disk contains a log.
fn has_log(disk: &dyn Disk) -> Result<bool, DiskError> {
    names(disk, LOG_DIR).map(|names| names.iter().any(|name| name.ends_with(".wal")))
}

/// Whether the disk contains a log or a snapshot.
///
/// # Errors
/// When the disk fails.
pub fn has_data(disk: &dyn Disk) -> Result<bool, DiskError> {
    let snapshots = names(disk, SNAPSHOT_DIR)?;
    Ok(has_log(disk)? || snapshots.iter().any(|name| name.ends_with(".snap")))
}

/// The names in a directory; none when it is missing.
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
    check_members(found.membership.as_ref(), identity)
}

#[cfg(test)]
mod tests;
