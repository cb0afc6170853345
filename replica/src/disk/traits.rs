//! The disk and its files, as users of them see them.

use std::io;

use thiserror::Error;

/// A crash leaves of an unsynced write whole pieces of this many bytes.
pub const SECTOR_BYTES: usize = 512;

/// A file operation that failed.
#[derive(Debug, Error)]
#[error("{operation} {path}: {source}")]
pub struct DiskError {
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// The file or directory.
    pub path: String,
    /// The error of the operating system.
    pub source: io::Error,
}

impl DiskError {
    /// Whether the disk is full, or a quota is used up.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    pub(super) fn new(operation: &'static str, path: &str, source: io::Error) -> Self {
        Self {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

/// A directory tree.
pub trait Disk: Send + Sync {
    /// Creates a file of `bytes` zeros; an existing one is replaced. Neither content nor
    /// name is durable on return.
    ///
    /// # Errors
    /// The error of the operating system, among them a full disk.
    fn create(&self, path: &str, bytes: u64) -> Result<Box<dyn DiskFile>, DiskError>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// The error of the operating system.
    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError>;

    /// Creates a directory and its parents, durably.
    ///
    /// # Errors
    /// The error of the operating system.
    fn create_dir(&self, path: &str) -> Result<(), DiskError>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// The error of the operating system.
    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError>;

    /// Renames a file, replacing the target. Durable after
    /// [`sync_dir`](Self::sync_dir).
    ///
    /// # Errors
    /// The error of the operating system.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file; a missing file is not an error.
    ///
    /// # Errors
    /// The error of the operating system.
    fn remove(&self, path: &str) -> Result<(), DiskError>;

    /// Makes creations, renames and removals in a directory durable.
    ///
    /// # Errors
    /// The error of the operating system.
    fn sync_dir(&self, dir: &str) -> Result<(), DiskError>;

    /// A number that cannot be predicted from outside the machine.
    fn nonce(&self) -> u64;
}

/// An open file.
pub trait DiskFile: Send {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The error of the operating system.
    fn len(&self) -> Result<u64, DiskError>;

    /// Whether it is empty.
    ///
    /// # Errors
    /// The error of the operating system.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// The error of the operating system.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError>;

    /// Writes all bytes; durable after [`sync`](Self::sync).
    ///
    /// # Errors
    /// The error of the operating system, among them a full disk.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Shortens the file to this many bytes, which makes room. A crash may undo it.
    ///
    /// # Errors
    /// The error of the operating system.
    fn truncate(&self, bytes: u64) -> Result<(), DiskError>;

    /// Makes all writes durable. After an error their state is unknown.
    ///
    /// # Errors
    /// The error of the operating system.
    fn sync(&self) -> Result<(), DiskError>;
}

/// Reads a whole file.
///
/// # Errors
/// The error of the operating system.
pub fn read_all(file: &dyn DiskFile) -> Result<Vec<u8>, DiskError> {
    let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}
