//! Why a snapshot cannot be stored or read.

use thiserror::Error;

use crate::disk::DiskError;

/// Why a snapshot cannot be stored or read.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Written by another version.
    #[error("{path} has format {found}, this program knows {known}; use the version that wrote it")]
    Version {
        /// The file.
        path: String,
        /// Its format.
        found: u16,
        /// The format of this version.
        known: u16,
    },
    /// The file differs from what was written.
    #[error("{path} is corrupt: {what}")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
}
