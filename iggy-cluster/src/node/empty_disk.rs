//! A data directory with messages and without a replica's superblock.

use std::path::Path;

use replica::disk::{DiskError, RealDisk};
use replica::superblock::SuperblockError;
use replicated_log::LogError;

use super::open_error;

/// Refuses a directory that has messages and no superblock: it is damaged rather than
/// empty.
pub(super) fn refuse_messages_alone(data: &Path) -> Result<(), LogError> {
    match is_messages_alone(data) {
        Ok(false) => Ok(()),
        Ok(true) => Err(open_error(data, SuperblockError::Corrupt)),
        Err(error) => Err(open_error(data, error)),
    }
}

fn is_messages_alone(data: &Path) -> Result<bool, SuperblockError> {
    Ok(replicated_log::is_empty(&RealDisk::new(data)?)? && contains_messages(data)?)
}

fn contains_messages(data: &Path) -> Result<bool, SuperblockError> {
    let path = data.join("partitions");
    let unreadable = |source| {
        SuperblockError::Disk(DiskError {
            operation: "list",
            path: path.display().to_string(),
            source,
        })
    };
    let entries = match std::fs::read_dir(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(unreadable)?,
    };
    for entry in entries {
        // The storage creates hidden files before there is any partition.
        let name = entry.map_err(unreadable)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            return Ok(true);
        }
    }
    Ok(false)
}
