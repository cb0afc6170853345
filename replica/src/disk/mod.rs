//! The few file operations that durable state needs.
//!
//! Paths are relative to the disk's root, with `/` between the parts.
//!
//! # What users of a disk rely on
//! - A sector of [`SECTOR_BYTES`] that is being written when power fails holds
//!   its old bytes or its new ones. Of the sectors of an unsynced write any may
//!   be on the medium.
//! - Directory changes reach the medium in the order in which they were made
//!   (every journaling file system does that); how many of the unsynced ones is
//!   open.
//! - After a failed sync nothing is known of what was written before it, and a
//!   later sync that succeeds says nothing about it.

mod memory;
mod real;

use std::io;

use thiserror::Error;

pub use memory::{MemoryDisk, Survival};
pub use real::RealDisk;

/// What a crash leaves of an unsynced write, it leaves in whole pieces of this
/// size.
pub const SECTOR_BYTES: usize = 512;

/// A file operation that failed.
#[derive(Debug, Error)]
#[error("{operation} {path}: {source}")]
pub struct DiskError {
    /// What was tried.
    pub operation: &'static str,
    /// On which file.
    pub path: String,
    /// What the operating system said.
    pub source: io::Error,
}

impl DiskError {
    pub(crate) fn new(operation: &'static str, path: &str, source: io::Error) -> Self {
        Self {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

/// A directory tree.
pub trait Disk: Send + Sync {
    /// Creates a file of `bytes` zeros, or empties an existing one and makes it
    /// so. Neither content nor name is durable yet.
    ///
    /// # Errors
    /// What the operating system says, a full disk among it.
    fn create(&self, path: &str, bytes: u64) -> Result<Box<dyn DiskFile>, DiskError>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// What the operating system says.
    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError>;

    /// Creates a directory and its parents, durably.
    ///
    /// # Errors
    /// What the operating system says.
    fn create_dir(&self, path: &str) -> Result<(), DiskError>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError>;

    /// Renames a file, replacing the target. Durable after
    /// [`sync_dir`](Self::sync_dir).
    ///
    /// # Errors
    /// What the operating system says.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file; one that is not there is no error.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, path: &str) -> Result<(), DiskError>;

    /// Makes creations, renames and removals in a directory durable.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync_dir(&self, dir: &str) -> Result<(), DiskError>;

    /// A number that nobody outside the machine can foresee.
    fn nonce(&self) -> u64;
}

/// An open file.
pub trait DiskFile: Send {
    /// Its length in bytes.
    ///
    /// # Errors
    /// What the operating system says.
    fn len(&self) -> Result<u64, DiskError>;

    /// Whether it is empty.
    ///
    /// # Errors
    /// What the operating system says.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the operating system says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError>;

    /// Writes all bytes; durable after [`sync`](Self::sync).
    ///
    /// # Errors
    /// What the operating system says, a full disk among it.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes all writes durable. After an error nothing is known of them.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync(&self) -> Result<(), DiskError>;
}

/// Reads a whole file.
///
/// # Errors
/// What the operating system says.
pub fn read_all(file: &dyn DiskFile) -> Result<Vec<u8>, DiskError> {
    let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}
