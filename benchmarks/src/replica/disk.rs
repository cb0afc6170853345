//! A disk that counts its syncs, and can skip or delay them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use replica::disk::{Disk, DiskError, DiskFile};

/// Controls and counters of a [`MeasuredDisk`].
#[derive(Debug, Default)]
pub(crate) struct DiskControl {
    /// Syncs return immediately: writes are in the page cache only.
    pub(crate) skip_syncs: AtomicBool,
    /// Every sync takes this much longer.
    pub(crate) delay_micros: AtomicU64,
    /// Syncs that were not skipped.
    pub(crate) syncs: AtomicU64,
    /// Bytes written.
    pub(crate) written_bytes: AtomicU64,
}

impl DiskControl {
    fn delay(&self) {
        let micros = self.delay_micros.load(Ordering::Relaxed);
        if micros > 0 {
            std::thread::sleep(Duration::from_micros(micros));
        }
    }
}

/// A disk under measurement.
pub(crate) struct MeasuredDisk<D> {
    pub(crate) inner: D,
    pub(crate) control: Arc<DiskControl>,
}

impl<D: Disk> MeasuredDisk<D> {
    fn file(&self, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(MeasuredFile {
            inner,
            control: Arc::clone(&self.control),
        })
    }
}

impl<D: Disk> Disk for MeasuredDisk<D> {
    fn create(&self, path: &str, bytes: u64) -> Result<Box<dyn DiskFile>, DiskError> {
        Ok(self.file(self.inner.create(path, bytes)?))
    }

    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        Ok(self.file(self.inner.open(path)?))
    }

    fn create_dir(&self, path: &str) -> Result<(), DiskError> {
        self.inner.create_dir(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.inner.list(dir)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.inner.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        match self.control.skip_syncs.load(Ordering::Relaxed) {
            true => Ok(()),
            false => self.inner.sync_dir(dir),
        }
    }

    fn nonce(&self) -> u64 {
        self.inner.nonce()
    }
}

struct MeasuredFile {
    inner: Box<dyn DiskFile>,
    control: Arc<DiskControl>,
}

impl DiskFile for MeasuredFile {
    fn len(&self) -> Result<u64, DiskError> {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.control
            .written_bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.inner.write_at(offset, bytes)
    }

    fn truncate(&self, bytes: u64) -> Result<(), DiskError> {
        self.inner.truncate(bytes)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.control.delay();
        if self.control.skip_syncs.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.control.syncs.fetch_add(1, Ordering::Relaxed);
        self.inner.sync()
    }
}
