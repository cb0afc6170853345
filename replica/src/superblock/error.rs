//! Why a disk is not this replica's.

use consensus::Membership;
use thiserror::Error;

use crate::disk::DiskError;

/// Why a disk is not this replica's.
#[derive(Debug, Error)]
pub enum SuperblockError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The disk has not been formatted, or is empty again.
    #[error(
        "the data directory is empty: format it if this replica has never run; if it has, its disk is lost, and with it what it has acknowledged: restore the disk as it was, but not from an older backup; the other nodes stay available without this one"
    )]
    Blank,
    /// A replica's disk, which formatting would erase.
    #[error("the data directory already belongs to a replica: `iggy-cluster serve` starts it")]
    Formatted,
    /// No slot can be read, but the replica has been started before.
    #[error(
        "meta/superblock is missing or damaged, and the directory contains data: which replica it belongs to is unknown; restore the directory as it was when the node stopped, but not from an older backup; the other nodes stay available without this one"
    )]
    Corrupt,
    /// The replica has been started before, and its log is gone.
    #[error(
        "wal contains no log, but this replica has been started before: what it has acknowledged is lost; restore the directory as it was when the node stopped, but not from an older backup; the other nodes stay available without this one"
    )]
    LogLost,
    /// There is no random number to name the disk.
    #[error(
        "the operating system has no randomness to name the data directory: start again when it has"
    )]
    NoStorageId,
    /// A name that does not fit.
    #[error("the {what} has {bytes} bytes, at most {max} are possible; shorten it")]
    TooLong {
        /// Which name.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Written by another version.
    #[error(
        "meta/superblock has format {found}, this program knows {known}; use the version that wrote it"
    )]
    Version {
        /// Its format.
        found: u16,
        /// The format of this version.
        known: u16,
    },
    /// The replicas of the group on the disk and in the configuration differ.
    #[error(
        "this data directory belongs to a cluster of the replicas {found}, but the configuration lists {configured}; the list cannot change once the cluster has run: with another one, two majorities need not overlap, and acknowledged changes may be lost; give this node the list of the others (addresses may differ), or point [storage] path to its own directory"
    )]
    Members {
        /// The replicas of the disk.
        found: Membership,
        /// The replicas of the configuration.
        configured: Membership,
    },
    /// Another replica's disk.
    #[error(
        "this data directory belongs to {what} {found}, but the configuration has {configured}; point [storage] path to this node's own directory"
    )]
    Mismatch {
        /// What differs.
        what: &'static str,
        /// The value on the disk.
        found: String,
        /// The value of the configuration.
        configured: String,
    },
}
