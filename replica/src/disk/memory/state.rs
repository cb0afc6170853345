//! What the disk contains: for programs, and on the medium.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::disk::traits::{DiskError, SECTOR_BYTES};

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

pub(super) type FileId = u64;

#[derive(Clone, Default)]
pub(super) struct Content {
    /// What the medium holds.
    pub(super) durable: Vec<u8>,
    /// What programs read.
    pub(super) current: Vec<u8>,
    /// Writes that the next sync puts on the medium.
    pub(super) unsynced: Vec<(u64, Vec<u8>)>,
    /// Sectors of writes that failed, or whose sync failed: whether they are on the medium
    /// is unknown until something else is written there.
    pub(super) adrift: Vec<(u64, Vec<u8>)>,
    pub(super) handles: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Add(String, FileId),
    Rename(String, String),
    Remove(String),
}

#[derive(Default)]
pub(super) struct State {
    pub(super) files: BTreeMap<FileId, Content>,
    pub(super) next_file: FileId,
    pub(super) durable: BTreeMap<String, FileId>,
    pub(super) current: BTreeMap<String, FileId>,
    pub(super) pending: Vec<(String, Change)>,
    pub(super) operations: u64,
    pub(super) fail_at: Option<u64>,
    /// Operations that were made to fail.
    pub(super) failed: u64,
    /// No file may grow.
    pub(super) full: bool,
    /// All files together may have so many bytes.
    pub(super) limit: Option<u64>,
    pub(super) syncs: u64,
    pub(super) writes: u64,
    pub(super) bytes_written: u64,
    pub(super) nonces: u64,
    /// Power failures so far; files that were open before one stay closed.
    pub(super) crashes: u64,
}

impl State {
    pub(super) fn count(&mut self, operation: &'static str, path: &str) -> Result<(), DiskError> {
        self.operations += 1;
        if self.fail_at.is_some_and(|at| self.operations >= at) {
            self.failed += 1;
            let source = io::Error::other("injected");
            return Err(DiskError::new(operation, path, source));
        }
        Ok(())
    }

    /// A file is about to grow by so many bytes.
    pub(super) fn grow(
        &mut self,
        operation: &'static str,
        path: &str,
        by: u64,
    ) -> Result<(), DiskError> {
        let used = || self.files.values().map(|file| file.current.len() as u64);
        if self.full
            || self
                .limit
                .is_some_and(|limit| used().sum::<u64>() + by > limit)
        {
            self.failed += 1;
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(DiskError::new(operation, path, source));
        }
        Ok(())
    }

    pub(super) fn change(names: &mut BTreeMap<String, FileId>, change: &Change) {
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

    pub(super) fn record(&mut self, path: &str, change: Change) {
        Self::change(&mut self.current, &change);
        self.pending.push((parent(path).to_owned(), change));
    }

    /// Forgets files that have no name, will have none and are not open.
    pub(super) fn forget_unnamed(&mut self) {
        let mut named: BTreeSet<FileId> = self.durable.values().copied().collect();
        named.extend(self.current.values());
        named.extend(self.pending.iter().filter_map(|(_, change)| match change {
            Change::Add(_, file) => Some(*file),
            Change::Rename(..) | Change::Remove(_) => None,
        }));
        self.files
            .retain(|id, content| content.handles > 0 || named.contains(id));
    }

    pub(super) fn file(
        &mut self,
        file: FileId,
        opened_in: u64,
        path: &str,
    ) -> Result<&mut Content, DiskError> {
        let stale = opened_in != self.crashes;
        match self.files.get_mut(&file) {
            Some(content) if !stale => Ok(content),
            _ => {
                let source = io::Error::other("the file was open when the machine lost power");
                Err(DiskError::new("use", path, source))
            }
        }
    }
}

impl Content {
    /// Immediately on the medium: what is cut off has no meaning to its users.
    pub(super) fn truncate(&mut self, bytes: usize) {
        self.durable.truncate(bytes);
        self.current.truncate(bytes);
        for writes in [&mut self.unsynced, &mut self.adrift] {
            for (offset, written) in writes.iter_mut() {
                written.truncate(bytes.saturating_sub(*offset as usize));
            }
            writes.retain(|(_, written)| !written.is_empty());
        }
    }

    pub(super) fn crash(&mut self, survival: &mut impl Survival) {
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

    pub(super) fn sync(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.unsynced) {
            put(&mut self.durable, offset as usize, &bytes);
            let end = offset + bytes.len() as u64;
            self.adrift
                .retain(|(at, sector)| at + sector.len() as u64 <= offset || end <= *at);
        }
    }

    pub(super) fn set_adrift(&mut self, offset: u64, bytes: &[u8]) {
        self.adrift
            .extend(sectors(offset, bytes).map(|(at, sector)| (at, sector.to_vec())));
    }
}

fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    (offset..)
        .step_by(SECTOR_BYTES)
        .zip(bytes.chunks(SECTOR_BYTES))
}

pub(super) fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
