//! Files as the storage uses them: behind a small trait, so that tests can make
//! them fail, and with a bound on how many are open.
//!
//! A file is opened when it is needed and stays open until too many are. One
//! with unsynced writes has a sync before it is closed: the kernel reports a
//! failed write-back only to those file descriptors that were open.
//!
//! A process that has as many files and connections open as it may cannot open another.
//! That passes, so it is no failure of a partition: an idle file is closed, and what needs
//! the descriptor is repeated.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::Duration;

use rustix::io::Errno;
use tracing::debug;

use crate::error::{StorageError, failed, sync_failed};

/// Between two attempts to open a file when the process may have no more open, and none of
/// these is idle.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);

/// A lock whose holder panicked still guards plain values.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Messages are for those who may read them from the node: other users of the machine have
/// no access to what is created here.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// Creates a directory, and with `parents` those above it that are missing.
pub(super) fn create_dir(dir: &Path, parents: bool) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(parents).mode(DIR_MODE).create(dir)
}

/// An open file.
pub(super) trait DiskFile: Send + Sync {
    fn len(&self) -> io::Result<u64>;
    /// Up to `bytes` from `position` on; fewer only at the end of the file.
    fn read(&self, position: u64, bytes: usize) -> io::Result<Vec<u8>>;
    /// Writes all parts, one after the other.
    fn write(&self, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
    fn truncate(&self, bytes: u64) -> io::Result<()>;
}

/// The operations on names that must not get lost, and the way to files.
pub(super) trait Disk: Send + Sync {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An empty file, whatever was there.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that may still be written.
    fn room(&self, dir: &Path) -> io::Result<u64>;
}

/// The operating system's.
pub(super) struct OsDisk;

struct OsFile(File);

impl Disk for OsDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn room(&self, dir: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(dir)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, position: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut buffer: Vec<u8> = Vec::with_capacity(bytes);
        while buffer.len() < bytes {
            let at = position + buffer.len() as u64;
            // Into memory that is not zeroed first.
            let spare = rustix::buffer::spare_capacity(&mut buffer);
            match rustix::io::pread(&self.0, spare, at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The capacity may be larger than requested.
        buffer.truncate(bytes);
        Ok(buffer)
    }

    fn write(&self, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        /// Parts of one call to the kernel, at most.
        const PARTS_MAX: usize = 1024;
        let mut rest = parts;
        let mut at = position;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let now = rest.len().min(PARTS_MAX);
            match rustix::io::pwritev(&self.0, &rest[..now], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}

/// All files of a storage.
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    open_max: usize,
    /// Those that were opened, the longest ago first; some have been closed.
    opened: Mutex<VecDeque<Weak<ManagedFile>>>,
    /// Damaged records of consumer offsets that were found since the start.
    pub(super) damaged_offsets: AtomicU64,
}

impl Files {
    pub(super) fn new(disk: Arc<dyn Disk>, open_max: usize) -> Arc<Self> {
        Arc::new(Self {
            disk,
            open_max: open_max.max(1),
            opened: Mutex::default(),
            damaged_offsets: AtomicU64::new(0),
        })
    }

    pub(super) fn sync_dir(&self, dir: &Path) -> Result<(), StorageError> {
        self.patiently(|| self.disk.sync_dir(dir))
            .map_err(sync_failed("sync directory", dir))
    }

    /// Repeats what fails because the process or the machine has as many files open as it
    /// may. Blocks the thread meanwhile.
    pub(super) fn patiently<T>(&self, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match work() {
                Err(error) if lacks_descriptor(&error) => {
                    debug!(%error, "waiting for a file descriptor");
                    if !self.close_idle() {
                        std::thread::sleep(DESCRIPTOR_PAUSE);
                    }
                }
                result => return result,
            }
        }
    }

    /// Closes one file that is not in use, if there is one.
    fn close_idle(&self) -> bool {
        let opened: Vec<_> = lock(&self.opened).iter().cloned().collect();
        let mut opened = opened.iter().filter_map(Weak::upgrade);
        opened.any(|file| file.try_state().is_some_and(|state| file.close(state)))
    }

    /// A missing file is not an error.
    pub(super) fn remove(&self, path: &Path) -> Result<(), StorageError> {
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Creates a file with this content, and opens it. Neither is durable. A full disk must
    /// not stay full because of a file that is not whole: it is removed.
    pub(super) fn create(
        &self,
        path: &Path,
        content: &[u8],
    ) -> Result<Arc<dyn DiskFile>, StorageError> {
        let created = self.patiently(|| self.disk.create(path));
        let handle = created.map_err(failed("create", path))?;
        match handle.write(0, &mut [IoSlice::new(content)]) {
            Ok(()) => Ok(handle),
            Err(error) => {
                // Where that fails, the next attempt or the next start replaces it.
                let _ = self.disk.remove(path);
                Err(failed("write", path)(error))
            }
        }
    }

    /// A small file as a whole; `None` when there is none.
    pub(super) fn load(&self, path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
        match self.patiently(|| std::fs::read(path)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", path)(error)),
        }
    }

    /// Counts a file that was just opened, and closes others beyond the bound.
    /// Those that were used since they reached the front stay for another round.
    fn count(&self, file: &Arc<ManagedFile>) {
        let mut opened = lock(&self.opened);
        opened.push_back(Arc::downgrade(file));
        let mut rounds = 2 * opened.len();
        while opened.len() > self.open_max && rounds > 0 {
            rounds -= 1;
            let Some(oldest) = opened.pop_front() else {
                break;
            };
            let Some(candidate) = oldest.upgrade() else {
                continue;
            };
            // Closing may sync; other threads do not wait for that.
            drop(opened);
            let closed = candidate.close_if_idle();
            opened = lock(&self.opened);
            if !closed {
                opened.push_back(oldest);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn open_count(&self) -> usize {
        let opened = lock(&self.opened);
        opened
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|file| lock(&file.state).handle.is_some())
            .count()
    }
}

/// What closing a file does first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnClose {
    /// Makes its writes durable, so that an error shows.
    Sync,
    /// Nothing: it is worth something without that too.
    Nothing,
}

/// A file that is open while it is in use, and as long as not too many are.
pub(super) struct ManagedFile {
    pub(super) path: PathBuf,
    files: Arc<Files>,
    on_close: OnClose,
    used: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    handle: Option<Arc<dyn DiskFile>>,
    /// Counts writes; `synced` is its value at the last sync, or `None` before the first
    /// one: then a process before may have left unsynced writes.
    writes: u64,
    synced: Option<u64>,
    failed: Option<StorageError>,
    released: bool,
}

impl ManagedFile {
    /// A file that exists.
    pub(super) fn at(path: PathBuf, files: &Arc<Files>, on_close: OnClose) -> Arc<Self> {
        Arc::new(Self {
            path,
            files: Arc::clone(files),
            on_close,
            used: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// A file that was just created, with unsynced content.
    pub(super) fn created(
        path: PathBuf,
        files: &Arc<Files>,
        handle: Arc<dyn DiskFile>,
        on_close: OnClose,
    ) -> Arc<Self> {
        let file = Self::at(path, files, on_close);
        {
            let mut state = lock(&file.state);
            state.handle = Some(handle);
            state.writes = 1;
        }
        files.count(&file);
        file
    }

    fn handle(self: &Arc<Self>) -> Result<Arc<dyn DiskFile>, StorageError> {
        self.used.store(true, Ordering::Relaxed);
        let handle = {
            let mut state = lock(&self.state);
            if state.released {
                return Err(StorageError::Closed);
            }
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if let Some(handle) = &state.handle {
                return Ok(Arc::clone(handle));
            }
            let opened = self.files.patiently(|| self.files.disk.open(&self.path));
            let handle = opened.map_err(failed("open", &self.path))?;
            state.handle = Some(Arc::clone(&handle));
            handle
        };
        self.files.count(self);
        Ok(handle)
    }

    pub(super) fn len(self: &Arc<Self>) -> Result<u64, StorageError> {
        self.handle()?.len().map_err(failed("inspect", &self.path))
    }

    pub(super) fn read(
        self: &Arc<Self>,
        position: u64,
        bytes: usize,
    ) -> Result<Vec<u8>, StorageError> {
        let read = self.handle()?.read(position, bytes);
        read.map_err(failed("read", &self.path))
    }

    pub(super) fn write(
        self: &Arc<Self>,
        position: u64,
        parts: &mut [IoSlice<'_>],
    ) -> Result<(), StorageError> {
        // Holding the handle keeps it open until the write is counted.
        let handle = self.handle()?;
        let written = handle.write(position, parts);
        lock(&self.state).writes += 1;
        written.map_err(failed("write", &self.path))
    }

    /// Makes all earlier writes durable.
    pub(super) fn sync(self: &Arc<Self>) -> Result<(), StorageError> {
        let writes = {
            let state = lock(&self.state);
            if state.failed.is_none() && state.synced == Some(state.writes) {
                return Ok(());
            }
            state.writes
        };
        let handle = self.handle()?;
        handle.sync().map_err(sync_failed("sync", &self.path))?;
        lock(&self.state).synced = Some(writes);
        Ok(())
    }

    pub(super) fn truncate(self: &Arc<Self>, bytes: u64) -> Result<(), StorageError> {
        let handle = self.handle()?;
        let cut = handle.truncate(bytes);
        lock(&self.state).writes += 1;
        cut.map_err(failed("truncate", &self.path))
    }

    /// Closes the file for good: its name may soon be that of another file.
    pub(super) fn release(&self) {
        let mut state = lock(&self.state);
        state.released = true;
        state.handle = None;
    }

    fn close_if_idle(&self) -> bool {
        if self.used.swap(false, Ordering::Relaxed) {
            return false;
        }
        // Another thread that opens it may wait for a descriptor.
        let Some(state) = self.try_state() else {
            return false;
        };
        state.handle.is_none() || self.close(state)
    }

    fn try_state(&self) -> Option<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Closes the file if it is open and no thread uses it; returns whether it was.
    fn close(&self, mut state: MutexGuard<'_, State>) -> bool {
        let Some(handle) = &state.handle else {
            return false;
        };
        if Arc::strong_count(handle) > 1 {
            return false;
        }
        let syncs = self.on_close == OnClose::Sync;
        if syncs && state.writes > 0 && state.synced != Some(state.writes) {
            match handle.sync() {
                Ok(()) => state.synced = Some(state.writes),
                Err(error) => state.failed = Some(sync_failed("sync", &self.path)(error)),
            }
        }
        state.handle = None;
        true
    }
}

/// Whether the process or the machine has as many files open as it may.
fn lacks_descriptor(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&code)
}
