//! A disk in memory that forgets what was not synced, as it is told.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskError, DiskFile};

/// Unsynced writes survive or are lost in pieces of this size.
const SECTOR_BYTES: usize = 512;

/// Decides what of the unsynced writes a crash leaves.
pub trait Survival {
    /// Whether this sector of an unsynced write reached the medium.
    fn sector(&mut self) -> bool;
    /// How many of `pending` directory changes, in order, reached it.
    fn directory_changes(&mut self, pending: usize) -> usize;
}

/// Survival by numbers drawn from a function.
impl<F: FnMut() -> u64> Survival for F {
    fn sector(&mut self) -> bool {
        self() & 1 == 1
    }

    fn directory_changes(&mut self, pending: usize) -> usize {
        (self() % (pending as u64 + 1)) as usize
    }
}

#[derive(Clone, Default)]
struct Content {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum Change {
    Add(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Default)]
struct State {
    files: Vec<Content>,
    durable: BTreeMap<String, usize>,
    current: BTreeMap<String, usize>,
    pending: Vec<(String, Change)>,
    operations: u64,
    fail_at: Option<u64>,
    syncs: u64,
    writes: u64,
}

impl State {
    fn count(&mut self, operation: &'static str, path: &str) -> Result<(), DiskError> {
        self.operations += 1;
        if self.fail_at.is_some_and(|at| self.operations >= at) {
            let source = io::Error::other("injected");
            return Err(DiskError::new(operation, path, source));
        }
        Ok(())
    }

    fn change(names: &mut BTreeMap<String, usize>, change: &Change) {
        match change {
            Change::Add(path, file) => {
                names.insert(path.clone(), *file);
            }
            Change::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Change::Remove(path) => {
                names.remove(path);
            }
        }
    }

    fn record(&mut self, path: &str, change: Change) {
        Self::change(&mut self.current, &change);
        self.pending.push((parent(path).to_owned(), change));
    }
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine loses power. Open files must not be used any more.
    pub fn crash(&self, survival: &mut impl Survival) {
        let mut state = self.lock();
        for file in &mut state.files {
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                for (n, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    if survival.sector() {
                        let at = offset as usize + n * SECTOR_BYTES;
                        put(&mut file.durable, at, sector);
                    }
                }
            }
            file.current = file.durable.clone();
        }
        let pending = std::mem::take(&mut state.pending);
        let survivors = survival.directory_changes(pending.len());
        let mut names = std::mem::take(&mut state.durable);
        for (_, change) in &pending[..survivors] {
            State::change(&mut names, change);
        }
        state.current = names.clone();
        state.durable = names;
        state.fail_at = None;
    }

    /// From now on the `n`th operation that changes the disk, and all behind it,
    /// fail; `None` ends that.
    pub fn fail_after(&self, n: Option<u64>) {
        let mut state = self.lock();
        state.fail_at = n.map(|n| state.operations + n);
    }

    /// Operations so far that changed the disk, failed ones among them.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Writes and syncs so far.
    #[must_use]
    pub fn writes_and_syncs(&self) -> (u64, u64) {
        let state = self.lock();
        (state.writes, state.syncs)
    }

    /// Changes one byte on the medium.
    ///
    /// # Panics
    /// When there is no such file or byte.
    pub fn flip(&self, path: &str, offset: usize, mask: u8) {
        let mut state = self.lock();
        let file = state.current[path];
        state.files[file].durable[offset] ^= mask;
        state.files[file].current[offset] ^= mask;
    }

    /// A copy of everything, as a disk of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.lock();
        Self {
            state: Arc::new(Mutex::new(State {
                files: state.files.clone(),
                durable: state.durable.clone(),
                current: state.current.clone(),
                pending: state.pending.clone(),
                ..State::default()
            })),
        }
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &str, bytes: u64) -> Result<Box<dyn DiskFile>, DiskError> {
        let mut state = self.lock();
        state.count("create", path)?;
        let file = state.files.len();
        let zeros = vec![0; bytes as usize];
        state.files.push(Content {
            durable: zeros.clone(),
            current: zeros,
            unsynced: Vec::new(),
        });
        state.record(path, Change::Add(path.to_owned(), file));
        Ok(self.handle(file, path))
    }

    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        let state = self.lock();
        let file = state.current.get(path).copied().ok_or_else(|| {
            DiskError::new("open", path, io::Error::from(io::ErrorKind::NotFound))
        })?;
        drop(state);
        Ok(self.handle(file, path))
    }

    fn create_dir(&self, _path: &str) -> Result<(), DiskError> {
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        let state = self.lock();
        let names = state.current.keys().filter(|path| parent(path) == dir);
        Ok(names
            .map(|path| path.rsplit('/').next().unwrap_or(path).to_owned())
            .collect())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.count("rename", from)?;
        state.record(from, Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.count("remove", path)?;
        state.record(path, Change::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.count("sync directory", dir)?;
        // The journal of a file system is one: earlier changes elsewhere go with it.
        let Some(last) = state.pending.iter().rposition(|(of, _)| of == dir) else {
            return Ok(());
        };
        let done: Vec<_> = state.pending.drain(..=last).collect();
        for (_, change) in &done {
            State::change(&mut state.durable, change);
        }
        Ok(())
    }
}

impl MemoryDisk {
    fn handle(&self, file: usize, path: &str) -> Box<dyn DiskFile> {
        Box::new(MemoryFile {
            disk: self.clone(),
            file,
            path: path.to_owned(),
        })
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    file: usize,
    path: String,
}

impl DiskFile for MemoryFile {
    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.disk.lock().files[self.file].current.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let state = self.disk.lock();
        let content = &state.files[self.file].current;
        let from = (offset as usize).min(content.len());
        let read = buffer.len().min(content.len() - from);
        buffer[..read].copy_from_slice(&content[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.disk.lock();
        state.writes += 1;
        let counted = state.count("write", &self.path);
        let file = &mut state.files[self.file];
        // A failed write may have reached the medium in part.
        file.unsynced.push((offset, bytes.to_vec()));
        counted?;
        put(&mut file.current, offset as usize, bytes);
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut state = self.disk.lock();
        state.syncs += 1;
        state.count("sync", &self.path)?;
        let file = &mut state.files[self.file];
        file.unsynced.clear();
        file.durable = file.current.clone();
        Ok(())
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
