//! A disk of a machine that stops at a given operation, and what is then left on it; or a disk
//! on which that operation fails, and nothing else.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::files::{Disk, DiskFile, OsDisk, lock};

/// What a stop leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Of the process: everything that was written.
    Kill,
    /// Of the machine: only what was fsynced.
    Power,
    /// The same, and the files with such names have what was written, too.
    PowerBut(&'static str),
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The machine stops: so does everything after it.
    Stop,
    /// It does nothing, or a part of it.
    Error,
    /// The same, for what needs room; everything else takes place.
    Full,
}

#[derive(Clone)]
pub(super) struct CrashDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Operations until the failure.
    left: usize,
    failure: Option<Failure>,
    /// It has failed, or would have.
    reached: bool,
    /// Of each file, by its number, what was fsynced.
    synced: HashMap<u64, Vec<u8>>,
    /// The names that were fsynced.
    names: HashMap<PathBuf, u64>,
}

impl CrashDisk {
    pub(super) fn new(operations: usize) -> Self {
        Self::failing(operations, Failure::Stop)
    }

    /// The operation with this number fails.
    pub(super) fn failing(operation: usize, failure: Failure) -> Self {
        let state = State {
            left: operation,
            failure: Some(failure),
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Whether it has stopped, or the operation has failed.
    pub(super) fn is_stopped(&self) -> bool {
        lock(&self.state).reached
    }

    /// Puts into `to` what the stop has left in `from`.
    pub(super) fn leave(&self, stop: Stop, from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        let state = lock(&self.state);
        let kept = match stop {
            Stop::Kill => None,
            Stop::Power => Some("none"),
            Stop::PowerBut(kept) => Some(kept),
        };
        if let Some(kept) = kept {
            for (path, number) in &state.names {
                let mut content = state.synced.get(number).cloned().unwrap_or_default();
                let name = path.file_name().unwrap();
                let is_there = |it: fs::Metadata| it.ino() == *number;
                if name.to_string_lossy().contains(kept) && fs::metadata(path).is_ok_and(is_there) {
                    content = fs::read(path).unwrap();
                }
                fs::write(to.join(name), content).unwrap();
            }
            return;
        }
        if let Ok(entries) = fs::read_dir(from) {
            for entry in entries {
                let path = entry.unwrap().path();
                fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
    }

    /// The error of the next operation; one that fails takes place in part.
    fn step(&self, needs_room: bool) -> io::Result<Option<io::Error>> {
        let mut state = lock(&self.state);
        if state.reached {
            return match state.failure {
                Some(Failure::Stop) => Err(io::Error::other("stopped")),
                _ => Ok(None),
            };
        }
        state.left -= 1;
        if state.left > 0 {
            return Ok(None);
        }
        state.reached = true;
        Ok(match state.failure {
            Some(Failure::Full) if needs_room => Some(io::Error::from_raw_os_error(28)),
            Some(Failure::Full) => None,
            _ => Some(io::Error::other("stopped")),
        })
    }

    fn whole_step(&self, needs_room: bool) -> io::Result<()> {
        self.step(needs_room)?.map_or(Ok(()), Err)
    }

    fn wrap(&self, file: Arc<dyn DiskFile>, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(CrashFile {
            file,
            number: fs::metadata(path)?.ino(),
            path: path.to_owned(),
            disk: self.clone(),
        }))
    }
}

impl Disk for CrashDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.wrap(OsDisk.open(path)?, path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.whole_step(true)?;
        let is_new = !path.exists();
        let file = OsDisk.create(path)?;
        if is_new {
            lock(&self.state).synced.remove(&fs::metadata(path)?.ino());
        }
        self.wrap(file, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.whole_step(true)?;
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if path.exists() {
            self.whole_step(false)?;
        }
        OsDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.whole_step(false)?;
        let mut state = lock(&self.state);
        state.names.retain(|path, _| path.parent() != Some(dir));
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.metadata()?.is_file() {
                state.names.insert(entry.path(), entry.metadata()?.ino());
            }
        }
        Ok(())
    }

    fn room(&self, _dir: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

struct CrashFile {
    file: Arc<dyn DiskFile>,
    number: u64,
    path: PathBuf,
    disk: CrashDisk,
}

impl DiskFile for CrashFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, position: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.file.read(position, bytes)
    }

    fn write(&self, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let needs_room = position + bytes as u64 > self.file.len()?;
        let Some(error) = self.disk.step(needs_room)? else {
            return self.file.write(position, parts);
        };
        let all: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        let part = &all[..all.len() * 2 / 3];
        self.file.write(position, &mut [IoSlice::new(part)])?;
        Err(error)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.whole_step(false)?;
        let length = usize::try_from(self.file.len()?).unwrap();
        let content = self.file.read(0, length)?;
        lock(&self.disk.state).synced.insert(self.number, content);
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.disk.whole_step(false)?;
        assert!(self.path.extension().is_none_or(|it| it != "idx"));
        self.file.truncate(bytes)
    }
}
