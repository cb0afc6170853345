//! A disk that fails on request, and records its operations.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, Weak};

use crate::files::{Disk, DiskFile, OsDisk, lock};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Write,
    Sync,
    Truncate,
    SyncDir,
    Rename,
    Remove,
}

#[derive(Default)]
pub(super) struct FaultyDisk {
    state: Arc<Shared>,
    /// How many files may be open; zero for any number.
    descriptors: usize,
    open: Mutex<Vec<Weak<FaultyFile>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    done: Vec<(Operation, String)>,
    read_bytes: u64,
    /// Which operation fails, on which kind of file, and how much of a write
    /// still gets through.
    failing: Option<(Operation, &'static str, usize)>,
    /// Everything that needs room fails, on these files; so much of a write still gets
    /// through.
    full: Option<(&'static str, usize)>,
    /// Syncs wait.
    syncs_blocked: bool,
    waiting: usize,
}

impl FaultyDisk {
    /// From now on.
    pub(super) fn fail(&self, operation: Operation, file: &'static str) {
        self.fail_after(operation, file, 0);
    }

    /// From now on, and so many bytes of a write are written nevertheless.
    pub(super) fn fail_after(&self, operation: Operation, file: &'static str, bytes: usize) {
        lock(&self.state.state).failing = Some((operation, file, bytes));
    }

    /// There is no more room, for these files. In place they can be overwritten.
    pub(super) fn fill(&self, file: &'static str, bytes: usize) {
        lock(&self.state.state).full = Some((file, bytes));
    }

    pub(super) fn heal(&self) {
        let mut state = lock(&self.state.state);
        state.failing = None;
        state.full = None;
    }

    pub(super) fn block_syncs(&self) {
        lock(&self.state.state).syncs_blocked = true;
    }

    pub(super) fn release_syncs(&self) {
        lock(&self.state.state).syncs_blocked = false;
        self.state.released.notify_all();
    }

    /// Blocks until a sync waits to be released.
    pub(super) fn wait_for_blocked_sync(&self) {
        let state = lock(&self.state.state);
        let waiting = self.state.released.wait_while(state, |s| s.waiting == 0);
        drop(waiting.unwrap());
    }

    pub(super) fn count(&self, operation: Operation, file: &str) -> usize {
        let state = lock(&self.state.state);
        let matches = |done: &&(Operation, String)| done.0 == operation && done.1.ends_with(file);
        state.done.iter().filter(matches).count()
    }

    /// All that was done, in order.
    pub(super) fn operations(&self) -> Vec<(Operation, String)> {
        lock(&self.state.state).done.clone()
    }

    pub(super) fn read_bytes(&self) -> u64 {
        lock(&self.state.state).read_bytes
    }
}

impl Shared {
    /// How much may be done, if not all.
    fn does(&self, operation: Operation, path: &Path) -> Option<usize> {
        let mut state = lock(&self.state);
        if operation == Operation::Sync {
            state.waiting += 1;
            self.released.notify_all();
            state = self
                .released
                .wait_while(state, |s| s.syncs_blocked)
                .unwrap();
            state.waiting -= 1;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let failing = state
            .failing
            .filter(|(failing, file, _)| *failing == operation && name.contains(file));
        state.done.push((operation, name));
        failing.map(|(_, _, bytes)| bytes)
    }

    fn check(&self, operation: Operation, path: &Path) -> io::Result<()> {
        match self.does(operation, path) {
            None => Ok(()),
            Some(_) => Err(io::Error::other("injected")),
        }
    }
}

/// As the operating system reports it.
fn full() -> io::Error {
    io::Error::from_raw_os_error(28)
}

impl Shared {
    /// How much of what needs room is possible, if not all.
    fn room(&self, path: &Path) -> Option<usize> {
        let name = path.file_name().unwrap().to_string_lossy();
        let full = lock(&self.state).full;
        full.filter(|(file, _)| name.contains(file))
            .map(|(_, bytes)| bytes)
    }

    fn check_room(&self, path: &Path) -> io::Result<()> {
        match self.room(path) {
            None => Ok(()),
            Some(_) => Err(full()),
        }
    }
}

struct FaultyFile {
    file: Arc<dyn DiskFile>,
    path: std::path::PathBuf,
    state: Arc<Shared>,
}

impl FaultyDisk {
    /// A disk for a process that may have so many of its files open.
    pub(super) fn with_descriptors(descriptors: usize) -> Self {
        Self {
            descriptors,
            ..Self::default()
        }
    }

    fn wrap(
        &self,
        path: &Path,
        file: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
    ) -> io::Result<Arc<dyn DiskFile>> {
        let mut open = lock(&self.open);
        open.retain(|file| file.strong_count() > 0);
        if self.descriptors > 0 && open.len() >= self.descriptors {
            return Err(rustix::io::Errno::MFILE.into());
        }
        let file = Arc::new(FaultyFile {
            file: file()?,
            path: path.to_owned(),
            state: Arc::clone(&self.state),
        });
        open.push(Arc::downgrade(&file));
        Ok(file)
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.wrap(path, || OsDisk.open(path))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.state.check(Operation::Create, path)?;
        self.state.check_room(path)?;
        self.wrap(path, || OsDisk.create(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.check(Operation::Rename, to)?;
        self.state.check_room(to)?;
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.state.check(Operation::Remove, path)?;
        OsDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.state.check(Operation::SyncDir, dir)?;
        OsDisk.sync_dir(dir)
    }

    fn room(&self, _dir: &Path) -> io::Result<u64> {
        let full = lock(&self.state.state).full.is_some();
        Ok(if full { 0 } else { u64::MAX })
    }
}

fn total(parts: &[IoSlice<'_>]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

impl FaultyFile {
    fn write_some(&self, position: u64, parts: &[IoSlice<'_>], bytes: usize) -> io::Result<()> {
        let all: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        let some = &all[..bytes.min(all.len())];
        self.file.write(position, &mut [IoSlice::new(some)])
    }
}

impl DiskFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, position: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let read = self.file.read(position, bytes)?;
        lock(&self.state.state).read_bytes += read.len() as u64;
        Ok(read)
    }

    fn write(&self, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        match self.state.does(Operation::Write, &self.path) {
            None => match self.state.room(&self.path) {
                Some(bytes) if position + total(parts) > self.file.len()? => {
                    self.write_some(position, parts, bytes)?;
                    Err(full())
                }
                _ => self.file.write(position, parts),
            },
            Some(bytes) => {
                self.write_some(position, parts, bytes)?;
                Err(io::Error::other("injected"))
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.state.check(Operation::Sync, &self.path)?;
        self.file.sync()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.state.check(Operation::Truncate, &self.path)?;
        self.file.truncate(bytes)
    }
}
