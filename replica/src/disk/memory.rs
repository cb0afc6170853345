//! A disk in memory that forgets what was not synced, as it is told.
//!
//! It keeps what programs see and what the medium holds apart. A crash leaves of
//! every unsynced write the sectors that the caller's [`Survival`] picks, and of
//! the unsynced directory changes a prefix. A failed sync behaves like Linux: the
//! data goes on being readable, counts as clean, and no later sync writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskError, DiskFile, SECTOR_BYTES};

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

type FileId = u64;

#[derive(Clone, Default)]
struct Content {
    /// What the medium holds.
    durable: Vec<u8>,
    /// What programs read.
    current: Vec<u8>,
    /// Writes that the next sync takes to the medium.
    unsynced: Vec<(u64, Vec<u8>)>,
    /// Sectors of writes that failed, or whose sync failed: on the medium or not,
    /// nobody knows, until something else is written there.
    adrift: Vec<(u64, Vec<u8>)>,
    handles: usize,
}

#[derive(Clone, Debug)]
enum Change {
    Add(String, FileId),
    Rename(String, String),
    Remove(String),
}

#[derive(Default)]
struct State {
    files: BTreeMap<FileId, Content>,
    next_file: FileId,
    durable: BTreeMap<String, FileId>,
    current: BTreeMap<String, FileId>,
    pending: Vec<(String, Change)>,
    operations: u64,
    fail_at: Option<u64>,
    /// Operations that failed because they were told to.
    failed: u64,
    /// Nothing grows any more.
    full: bool,
    syncs: u64,
    writes: u64,
    bytes_written: u64,
    nonces: u64,
    /// How often power has failed; files that were open before stay closed.
    crashes: u64,
}

impl State {
    fn count(&mut self, operation: &'static str, path: &str) -> Result<(), DiskError> {
        self.operations += 1;
        if self.fail_at.is_some_and(|at| self.operations >= at) {
            self.failed += 1;
            let source = io::Error::other("injected");
            return Err(DiskError::new(operation, path, source));
        }
        Ok(())
    }

    fn grow(&mut self, operation: &'static str, path: &str) -> Result<(), DiskError> {
        if self.full {
            self.failed += 1;
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(DiskError::new(operation, path, source));
        }
        Ok(())
    }

    fn change(names: &mut BTreeMap<String, FileId>, change: &Change) {
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

    /// Forgets files that have no name, will have none and are not open.
    fn forget_unnamed(&mut self) {
        let mut named: BTreeSet<FileId> = self.durable.values().copied().collect();
        named.extend(self.current.values());
        named.extend(self.pending.iter().filter_map(|(_, change)| match change {
            Change::Add(_, file) => Some(*file),
            Change::Rename(..) | Change::Remove(_) => None,
        }));
        self.files
            .retain(|id, content| content.handles > 0 || named.contains(id));
    }

    fn file(&mut self, handle: &MemoryFile) -> Result<&mut Content, DiskError> {
        let stale = handle.opened_in != self.crashes;
        match self.files.get_mut(&handle.file) {
            Some(content) if !stale => Ok(content),
            _ => {
                let source = io::Error::other("the file was open when the machine lost power");
                Err(DiskError::new("use", &handle.path, source))
            }
        }
    }
}

impl Content {
    fn crash(&mut self, survival: &mut impl Survival) {
        let adrift = std::mem::take(&mut self.adrift);
        let unsynced = std::mem::take(&mut self.unsynced);
        for (offset, bytes) in adrift.iter().chain(&unsynced) {
            for (at, sector) in sectors(*offset, bytes) {
                if survival.sector() {
                    put(&mut self.durable, at as usize, sector);
                }
            }
        }
        self.current.clone_from(&self.durable);
        self.handles = 0;
    }

    fn sync(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.unsynced) {
            put(&mut self.durable, offset as usize, &bytes);
            let end = offset + bytes.len() as u64;
            self.adrift
                .retain(|(at, sector)| at + sector.len() as u64 <= offset || end <= *at);
        }
    }

    fn set_adrift(&mut self, offset: u64, bytes: &[u8]) {
        self.adrift
            .extend(sectors(offset, bytes).map(|(at, sector)| (at, sector.to_vec())));
    }
}

fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    (offset..)
        .step_by(SECTOR_BYTES)
        .zip(bytes.chunks(SECTOR_BYTES))
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

    /// The machine loses power. Files that were open give errors from then on.
    pub fn crash(&self, survival: &mut impl Survival) {
        let mut state = self.lock();
        for file in state.files.values_mut() {
            file.crash(survival);
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
        state.crashes += 1;
        state.forget_unnamed();
    }

    /// From now on the `n`th operation that changes the disk, and all behind it,
    /// fail; `None` ends that.
    pub fn fail_after(&self, n: Option<u64>) {
        let mut state = self.lock();
        state.fail_at = n.map(|n| state.operations + n);
    }

    /// From now on there is room for what is there, and for nothing else; `false`
    /// ends that.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Operations so far that failed as they were told to.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.lock().failed
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

    /// Bytes written so far.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.lock().bytes_written
    }

    /// The files that have a name, and how many bytes each holds.
    #[must_use]
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.lock();
        let held = |file| {
            state
                .files
                .get(file)
                .map_or(0, |it| it.durable.len() as u64)
        };
        let named = state.current.iter();
        named
            .map(|(path, file)| (path.clone(), held(file)))
            .collect()
    }

    /// Changes one byte on the medium.
    ///
    /// # Panics
    /// When there is no such file or byte.
    pub fn flip(&self, path: &str, offset: usize, mask: u8) {
        let mut state = self.lock();
        let id = state.current[path];
        let file = state.files.get_mut(&id).expect("named files exist");
        file.durable[offset] ^= mask;
        file.current[offset] ^= mask;
    }

    /// Whether a file stays as it is read now, whatever a crash leaves of what was
    /// not synced.
    #[must_use]
    pub fn is_durable(&self, path: &str) -> bool {
        let state = self.lock();
        let Some(file) = state.durable.get(path) else {
            return false;
        };
        state.current.get(path) == Some(file)
            && state
                .files
                .get(file)
                .is_some_and(|content| content.durable == content.current)
    }

    /// A copy of everything, as a disk of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.lock();
        let mut files = state.files.clone();
        for file in files.values_mut() {
            file.handles = 0;
        }
        Self {
            state: Arc::new(Mutex::new(State {
                files,
                next_file: state.next_file,
                durable: state.durable.clone(),
                current: state.current.clone(),
                pending: state.pending.clone(),
                nonces: state.nonces,
                ..State::default()
            })),
        }
    }

    fn handle(&self, state: &mut State, file: FileId, path: &str) -> Box<dyn DiskFile> {
        if let Some(content) = state.files.get_mut(&file) {
            content.handles += 1;
        }
        Box::new(MemoryFile {
            disk: self.clone(),
            file,
            opened_in: state.crashes,
            path: path.to_owned(),
        })
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &str, bytes: u64) -> Result<Box<dyn DiskFile>, DiskError> {
        let mut state = self.lock();
        state.count("create", path)?;
        if bytes > 0 {
            state.grow("create", path)?;
        }
        let file = state.next_file;
        state.next_file += 1;
        let zeros = vec![0; bytes as usize];
        let content = Content {
            durable: zeros.clone(),
            current: zeros,
            ..Content::default()
        };
        state.files.insert(file, content);
        state.record(path, Change::Add(path.to_owned(), file));
        Ok(self.handle(&mut state, file, path))
    }

    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        let mut state = self.lock();
        let file = state.current.get(path).copied().ok_or_else(|| {
            DiskError::new("open", path, io::Error::from(io::ErrorKind::NotFound))
        })?;
        Ok(self.handle(&mut state, file, path))
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
        if !state.current.contains_key(from) {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(DiskError::new("rename", from, source));
        }
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
        state.forget_unnamed();
        Ok(())
    }

    fn nonce(&self) -> u64 {
        // Foreseeable here, so that runs repeat byte for byte.
        let mut state = self.lock();
        state.nonces += 1;
        state.nonces.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    file: FileId,
    opened_in: u64,
    path: String,
}

impl DiskFile for MemoryFile {
    fn len(&self) -> Result<u64, DiskError> {
        let mut state = self.disk.lock();
        Ok(state.file(self)?.current.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let mut state = self.disk.lock();
        let content = &state.file(self)?.current;
        let from = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(content.len());
        let read = buffer.len().min(content.len() - from);
        buffer[..read].copy_from_slice(&content[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.disk.lock();
        state.writes += 1;
        state.bytes_written += bytes.len() as u64;
        let counted = state.count("write", &self.path);
        let file = state.file(self)?;
        if let Err(error) = counted {
            file.set_adrift(offset, bytes);
            return Err(error);
        }
        if offset + bytes.len() as u64 > file.current.len() as u64 {
            state.grow("write", &self.path)?;
        }
        let file = state.file(self)?;
        file.unsynced.push((offset, bytes.to_vec()));
        put(&mut file.current, offset as usize, bytes);
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut state = self.disk.lock();
        state.syncs += 1;
        let counted = state.count("sync", &self.path);
        let file = state.file(self)?;
        if let Err(error) = counted {
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                file.set_adrift(offset, &bytes);
            }
            return Err(error);
        }
        file.sync();
        Ok(())
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if let Ok(content) = state.file(self) {
            content.handles -= 1;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::read_all;

    fn nothing() -> u64 {
        0
    }

    fn content(disk: &MemoryDisk, path: &str) -> Vec<u8> {
        read_all(disk.open(path).unwrap().as_ref()).unwrap()
    }

    fn named(disk: &MemoryDisk, path: &str, bytes: u64) -> Box<dyn DiskFile> {
        let file = disk.create(path, bytes).unwrap();
        disk.sync_dir("d").unwrap();
        file
    }

    #[test]
    fn a_crash_loses_what_was_not_synced() {
        let disk = MemoryDisk::new();
        let file = named(&disk, "d/a", 4);
        file.write_at(0, b"old").unwrap();
        file.sync().unwrap();
        file.write_at(0, b"new").unwrap();
        disk.create("d/b", 0).unwrap();
        assert_eq!(content(&disk, "d/a"), b"new\0");
        disk.crash(&mut nothing);
        assert_eq!(content(&disk, "d/a"), b"old\0");
        assert!(disk.open("d/b").is_err());
    }

    #[test]
    fn a_later_sync_does_not_bring_back_what_a_failed_one_lost() {
        let disk = MemoryDisk::new();
        let file = named(&disk, "d/a", 4);
        file.write_at(0, b"lost").unwrap();
        disk.fail_after(Some(1));
        file.sync().unwrap_err();
        disk.fail_after(None);
        file.sync().unwrap();
        assert_eq!(content(&disk, "d/a"), b"lost");
        assert!(!disk.is_durable("d/a"));
        disk.crash(&mut nothing);
        assert_eq!(content(&disk, "d/a"), [0; 4]);
        assert!(disk.is_durable("d/a"));
    }

    #[test]
    fn a_full_disk_has_room_for_what_is_there() {
        let disk = MemoryDisk::new();
        let file = named(&disk, "d/a", 4);
        disk.set_full(true);
        file.write_at(0, b"over").unwrap();
        let refused = file.write_at(4, b"more").unwrap_err();
        assert_eq!(refused.source.kind(), io::ErrorKind::StorageFull);
        assert!(disk.create("d/b", 1).is_err());
        assert_eq!(disk.failed(), 2);
        disk.set_full(false);
        file.write_at(4, b"more").unwrap();
        assert_eq!(content(&disk, "d/a"), b"overmore");
    }

    #[test]
    fn of_a_torn_write_any_sectors_survive() {
        let disk = MemoryDisk::new();
        let file = named(&disk, "d/a", 3 * SECTOR_BYTES as u64);
        file.write_at(0, &[7; 3 * SECTOR_BYTES]).unwrap();
        let mut sector = 0;
        disk.crash(&mut || {
            sector += 1;
            u64::from(sector == 2)
        });
        let found = content(&disk, "d/a");
        assert_eq!(found[..SECTOR_BYTES], [0; SECTOR_BYTES]);
        assert_eq!(found[SECTOR_BYTES..2 * SECTOR_BYTES], [7; SECTOR_BYTES]);
        assert_eq!(found[2 * SECTOR_BYTES..], [0; SECTOR_BYTES]);
    }

    #[test]
    fn a_rename_is_all_or_nothing() {
        for survivors in 0..=1 {
            let disk = MemoryDisk::new();
            let old = named(&disk, "d/a", 0);
            old.write_at(0, b"old").unwrap();
            old.sync().unwrap();
            let new = named(&disk, "d/b", 0);
            new.write_at(0, b"new").unwrap();
            new.sync().unwrap();
            disk.rename("d/b", "d/a").unwrap();
            disk.crash(&mut || survivors);
            let expected: &[u8] = if survivors == 0 { b"old" } else { b"new" };
            assert_eq!(content(&disk, "d/a"), expected);
        }
    }

    #[test]
    fn removed_files_take_no_memory() {
        let disk = MemoryDisk::new();
        for _ in 0..10 {
            drop(named(&disk, "d/a", 100));
            disk.remove("d/a").unwrap();
            disk.sync_dir("d").unwrap();
        }
        assert!(disk.lock().files.is_empty());
    }
}
