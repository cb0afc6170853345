//! The operations of the disk.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::state::{Change, Content, FileId, Sparse, State, Survival, Unsynced, parent};
use crate::disk::traits::{Disk, DiskError, DiskFile};

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

    /// The machine loses power. Files that were open return errors from then on.
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

    /// From now on the `n`th operation that changes the disk, and all after it,
    /// fail; `None` ends that.
    pub fn fail_after(&self, n: Option<u64>) {
        let mut state = self.lock();
        state.fail_at = n.map(|n| state.operations + n);
    }

    /// While `full`, no file can grow.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// From now on, all files together may have so many bytes more than now.
    pub fn set_room(&self, bytes: u64) {
        let mut state = self.lock();
        let used: u64 = state.files.values().map(|it| it.current.len() as u64).sum();
        state.limit = Some(used + bytes);
    }

    /// Operations so far that were made to fail.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.lock().failed
    }

    /// Operations so far that change the disk, including failed ones.
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

    /// The files that have a name, and how many bytes of each the medium holds.
    #[must_use]
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.lock();
        let durable_bytes = |file| {
            state
                .files
                .get(file)
                .map_or(0, |it| it.durable.len() as u64)
        };
        let named = state.current.iter();
        named
            .map(|(path, file)| (path.clone(), durable_bytes(file)))
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
        file.durable.flip(offset, mask);
        file.current.flip(offset, mask);
    }

    /// Whether a file stays as it is read now, whatever a crash leaves of the unsynced
    /// writes.
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

    /// A copy of everything, as another disk. Its counts start at zero.
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
            state.grow("create", path, bytes)?;
        }
        let file = state.next_file;
        state.next_file += 1;
        let zeros = Sparse::zeros(bytes as usize);
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
        // Predictable here, so that runs repeat byte for byte.
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

impl MemoryFile {
    fn content<'a>(&self, state: &'a mut State) -> Result<&'a mut Content, DiskError> {
        state.file(self.file, self.opened_in, &self.path)
    }
}

impl DiskFile for MemoryFile {
    fn len(&self) -> Result<u64, DiskError> {
        let mut state = self.disk.lock();
        Ok(self.content(&mut state)?.current.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let mut state = self.disk.lock();
        let content = &self.content(&mut state)?.current;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(content.read(from, buffer))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.disk.lock();
        state.writes += 1;
        state.bytes_written += bytes.len() as u64;
        let counted = state.count("write", &self.path);
        let file = self.content(&mut state)?;
        if let Err(error) = counted {
            file.set_adrift(offset, bytes);
            return Err(error);
        }
        let more = (offset + bytes.len() as u64).saturating_sub(file.current.len() as u64);
        if more > 0 {
            state.grow("write", &self.path, more)?;
        }
        let file = self.content(&mut state)?;
        file.unsynced.push(Unsynced::new(offset, bytes));
        file.current.put(offset as usize, bytes, bytes.len());
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> Result<(), DiskError> {
        let mut state = self.disk.lock();
        state.count("truncate", &self.path)?;
        let file = self.content(&mut state)?;
        file.truncate(bytes as usize);
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut state = self.disk.lock();
        state.syncs += 1;
        let counted = state.count("sync", &self.path);
        let file = self.content(&mut state)?;
        if let Err(error) = counted {
            for write in std::mem::take(&mut file.unsynced) {
                file.set_adrift(write.offset(), &write.whole());
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
        if let Ok(content) = self.content(&mut state) {
            content.handles -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
