//! A disk of a machine that stops at a given operation, and what is then left on it.

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
}

#[derive(Clone)]
pub(super) struct CrashDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Operations until the stop.
    left: usize,
    /// Of each file, by its number, what was fsynced.
    synced: HashMap<u64, Vec<u8>>,
    /// The names that were fsynced.
    names: HashMap<PathBuf, u64>,
}

impl CrashDisk {
    pub(super) fn new(operations: usize) -> Self {
        let state = State {
            left: operations,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Whether it has stopped.
    pub(super) fn is_stopped(&self) -> bool {
        lock(&self.state).left == 0
    }

    /// Puts into `to` what the stop has left in `from`.
    pub(super) fn leave(&self, stop: Stop, from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        let state = lock(&self.state);
        if stop == Stop::Power {
            for (path, number) in &state.names {
                let content = state.synced.get(number).cloned().unwrap_or_default();
                fs::write(to.join(path.file_name().unwrap()), content).unwrap();
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

    /// Whether the next operation takes place: the last one only in part.
    fn step(&self) -> io::Result<bool> {
        let mut state = lock(&self.state);
        match state.left {
            0 => Err(io::Error::other("stopped")),
            left => {
                state.left -= 1;
                Ok(left > 1)
            }
        }
    }

    fn whole_step(&self) -> io::Result<()> {
        match self.step()? {
            true => Ok(()),
            false => Err(io::Error::other("stopped")),
        }
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
        self.whole_step()?;
        let is_new = !path.exists();
        let file = OsDisk.create(path)?;
        if is_new {
            lock(&self.state).synced.remove(&fs::metadata(path)?.ino());
        }
        self.wrap(file, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.whole_step()?;
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if path.exists() {
            self.whole_step()?;
        }
        OsDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.whole_step()?;
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
        if self.disk.step()? {
            return self.file.write(position, parts);
        }
        let all: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        let part = &all[..all.len() * 2 / 3];
        self.file.write(position, &mut [IoSlice::new(part)])?;
        Err(io::Error::other("stopped"))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.whole_step()?;
        let length = usize::try_from(self.file.len()?).unwrap();
        let content = self.file.read(0, length)?;
        lock(&self.disk.state).synced.insert(self.number, content);
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.disk.whole_step()?;
        assert!(self.path.extension().is_none_or(|it| it != "idx"));
        self.file.truncate(bytes)
    }
}
