//! Why the log cannot be read or written.

use thiserror::Error;

use crate::disk::DiskError;

/// Why the log cannot be read or written.
#[derive(Debug, Error)]
pub enum WalError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An earlier write or sync failed; what reached the disk is unknown.
    #[error("an earlier write to the log failed; restart the node to recover from what is on disk")]
    Poisoned,
    /// Acknowledged data is damaged.
    #[error(
        "{path} is corrupt at byte {offset}: {what}. Acknowledged data is damaged, so this replica must not run: restore its directory as it was when the node stopped, but not from an older backup; the other nodes stay available without this one"
    )]
    Corrupt {
        /// The segment.
        path: String,
        /// The byte in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Written by another version of this program.
    #[error("{path} has format {found}, this program knows {known}; use the version that wrote it")]
    Version {
        /// The segment.
        path: String,
        /// Its format.
        found: u16,
        /// The format of this version.
        known: u16,
    },
    /// The log of another group.
    #[error("{path} belongs to another cluster; check the data directory")]
    WrongGroup {
        /// The segment.
        path: String,
    },
    /// A record larger than a segment.
    #[error(
        "a record of {bytes} bytes does not fit into a segment of {segment_bytes}; raise wal_segment_size"
    )]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The size of a segment in bytes.
        segment_bytes: u64,
    },
    /// Segments of a size that cannot be used.
    #[error(
        "a segment of {segment_bytes} bytes is not a multiple of 4 KiB between 16 KiB and 1 GiB; change wal_segment_size"
    )]
    SegmentSize {
        /// The configured size in bytes.
        segment_bytes: u64,
    },
}
