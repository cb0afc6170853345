//! A disk on which a read fails, or the superblock cannot be made durable.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use replica::disk::{Disk, DiskError, DiskFile, MemoryDisk};

/// Which read fails, and how many have failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadErrors(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Reads until the one that fails; 0 when none does.
    until: AtomicU64,
    failed: AtomicU64,
    /// Syncs of the superblock until the one that fails; 0 when none does.
    superblock_syncs: AtomicU64,
}

const SUPERBLOCK: &str = "meta/superblock";

impl ReadErrors {
    /// From now on the `n`th read fails, once; with 0 none does.
    pub(crate) fn fail_at(&self, n: u64) {
        self.0.until.store(n, Ordering::Relaxed);
    }

    /// From now on the `n`th sync of the superblock fails, and everything after it; with 0
    /// none does.
    pub(crate) fn fail_at_superblock_sync(&self, n: u64) {
        self.0.superblock_syncs.store(n, Ordering::Relaxed);
    }

    fn superblock_sync_fails(&self) -> bool {
        let until = self.0.superblock_syncs.load(Ordering::Relaxed);
        let rest = until.saturating_sub(1);
        self.0.superblock_syncs.store(rest, Ordering::Relaxed);
        until == 1
    }

    /// Reads that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    fn read(&self, operation: &'static str, path: &str) -> Result<(), DiskError> {
        let until = self.0.until.load(Ordering::Relaxed);
        if until == 0 {
            return Ok(());
        }
        self.0.until.store(until - 1, Ordering::Relaxed);
        if until > 1 {
            return Ok(());
        }
        self.0.failed.fetch_add(1, Ordering::Relaxed);
        Err(DiskError {
            operation,
            path: path.to_owned(),
            source: io::Error::other("injected"),
        })
    }
}

/// A disk whose reads may fail.
pub(crate) struct UnreadableDisk {
    pub(crate) disk: MemoryDisk,
    pub(crate) errors: ReadErrors,
}

struct UnreadableFile {
    disk: MemoryDisk,
    file: Box<dyn DiskFile>,
    path: String,
    errors: ReadErrors,
}

impl UnreadableDisk {
    fn file(&self, file: Box<dyn DiskFile>, path: &str) -> Box<dyn DiskFile> {
        Box::new(UnreadableFile {
            disk: self.disk.clone(),
            file,
            path: path.to_owned(),
            errors: self.errors.clone(),
        })
    }
}

impl Disk for UnreadableDisk {
    fn create(&self, path: &str, bytes: u64) -> Result<Box<dyn DiskFile>, DiskError> {
        Ok(self.file(self.disk.create(path, bytes)?, path))
    }

    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        let file = self.disk.open(path)?;
        self.errors.read("open", path)?;
        Ok(self.file(file, path))
    }

    fn create_dir(&self, path: &str) -> Result<(), DiskError> {
        self.disk.create_dir(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.errors.read("list", dir)?;
        self.disk.list(dir)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.disk.sync_dir(dir)
    }

    fn nonce(&self) -> u64 {
        self.disk.nonce()
    }
}

impl DiskFile for UnreadableFile {
    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.errors.read("read", &self.path)?;
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_at(offset, bytes)
    }

    fn truncate(&self, bytes: u64) -> Result<(), DiskError> {
        self.file.truncate(bytes)
    }

    fn sync(&self) -> Result<(), DiskError> {
        if self.path == SUPERBLOCK && self.errors.superblock_sync_fails() {
            self.disk.fail_after(Some(1));
        }
        self.file.sync()
    }
}
