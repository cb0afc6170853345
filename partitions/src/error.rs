//! Why the storage refuses or fails.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consensus::Index;
use thiserror::Error;

use crate::batch::BatchError;
use crate::record::RecordError;
use crate::replication::Position;

/// Why the storage refused or failed.
#[derive(Clone, Debug, Error)]
pub enum StorageError {
    /// The batch is not well-formed.
    #[error("invalid batch: {0}")]
    Batch(#[from] BatchError),
    /// A record to be written is not well-formed.
    #[error("invalid record: {0}")]
    Record(#[from] RecordError),
    /// The offset lies beyond the last message.
    #[error("offset {offset} lies beyond the last message at {current}")]
    InvalidOffset {
        /// The offset.
        offset: u64,
        /// The offset of the last message; 0 when there is none.
        current: u64,
    },
    /// The consumer has stored no offset.
    #[error("the consumer has stored no offset")]
    OffsetNotFound,
    /// As many consumers as may have stored an offset, and this one has not.
    #[error(
        "{max} consumers have stored an offset in this partition, and no more may; delete the \
         offsets of those that are gone"
    )]
    TooManyConsumers {
        /// The bound, [`CONSUMERS_MAX`](crate::CONSUMERS_MAX).
        max: usize,
    },
    /// Acknowledged data is damaged.
    #[error(
        "{path} is corrupt at byte {position}: {what}; restore the partition's directory as it \
         was when the node stopped, or purge or delete the topic",
        path = .path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The byte in it.
        position: u64,
        /// What is wrong.
        what: String,
    },
    /// The log ends before messages that were acknowledged and cannot have been lost with
    /// the machine.
    #[error(
        "{path} ends at offset {end}, though messages up to offset {last} were acknowledged: \
         {what}; restore the partition's directory as it was when the node stopped; or, to \
         accept the loss of these messages, delete the file {record}: new messages then get \
         their offsets",
        path = .path.display(),
        last = .acknowledged.saturating_sub(1),
        record = .path.join("acknowledged").display()
    )]
    Lost {
        /// The partition's directory.
        path: PathBuf,
        /// The offset after the last message that is left.
        end: u64,
        /// The offset after the last message that has to be there.
        acknowledged: u64,
        /// What is wrong.
        what: String,
    },
    /// Written by another version.
    #[error(
        "{path} has format {found}, this program knows {known}; use the version that wrote it",
        path = .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u16,
        /// The format of this version.
        known: u16,
    },
    /// The operating system refused.
    #[error("cannot {operation} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// The disk is full, or a quota is used up. The call had no effect; the next write tries
    /// again.
    #[error(
        "the disk is full: cannot {operation} {path}: {source}; nothing was stored. Make room, \
         or delete messages: writes are accepted again as soon as there is room",
        path = .path.display()
    )]
    Full {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// Records to be written do not follow the end of the log: an earlier write was refused,
    /// or the caller is mistaken. Nothing was stored.
    #[error(
        "records from {found} on do not follow the end of the log at {end}; nothing was stored"
    )]
    NotNext {
        /// The log's last record.
        end: Position,
        /// The first of the records.
        found: Position,
    },
    /// The log does not have these records one by one: they were removed, or written by a
    /// version that had none.
    #[error("records after {after} are not kept; the first one that is follows {base}")]
    NotKept {
        /// The records after this one.
        after: Index,
        /// Those after this one can be read, and cut off.
        base: Index,
    },
    /// An earlier write or sync failed, so what the disk contains after the last
    /// acknowledgement is unknown. Reads still work.
    #[error(
        "the partition accepts no writes, because an earlier one failed: {cause}; check the \
         disk, then restart the node"
    )]
    Failed {
        /// What failed.
        cause: Arc<StorageError>,
    },
    /// The partition was removed before the call took effect.
    #[error("the partition has been removed")]
    Removed,
    /// The storage has been shut down, or the partition is being closed.
    #[error("the storage is closed")]
    Closed,
}

impl StorageError {
    pub(super) fn corrupt(path: &Path, position: u64, what: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            position,
            what: what.into(),
        }
    }

    /// Whether files are damaged or lack something.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Lost { .. })
    }

    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// The error of every write after this one.
    pub(super) fn lasting(&self) -> Self {
        match self {
            Self::Failed { .. } => self.clone(),
            other => Self::Failed {
                cause: Arc::new(other.clone()),
            },
        }
    }
}

/// For `map_err`: what was tried on which file.
pub(super) fn failed<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StorageError + 'a {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full {
            operation,
            path: path.to_owned(),
            source: Arc::new(source),
        },
        _ => io_error(operation, path, source),
    }
}

/// The same for a sync: whatever the reason is, what the disk contains is then unknown.
pub(super) fn sync_failed<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StorageError + 'a {
    move |source| io_error(operation, path, source)
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> StorageError {
    StorageError::Io {
        operation,
        path: path.to_owned(),
        source: Arc::new(source),
    }
}
