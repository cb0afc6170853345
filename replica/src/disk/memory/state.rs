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

/// The bytes of a file, in blocks. Zeros at the end of a block take no memory: a segment of a
/// log is reserved long before it is full, and a frame mostly fills a small part of a block.
#[derive(Clone, Default)]
pub(super) struct Sparse {
    blocks: Vec<Vec<u8>>,
    length: usize,
}

const BLOCK_BYTES: usize = 4096;

impl Sparse {
    pub(super) fn zeros(length: usize) -> Self {
        Self {
            blocks: Vec::new(),
            length,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Reads from there on, as much as there is.
    pub(super) fn read(&self, from: usize, buffer: &mut [u8]) -> usize {
        let read = buffer.len().min(self.length.saturating_sub(from));
        let (mut at, mut rest) = (from, &mut buffer[..read]);
        while !rest.is_empty() {
            let within = at % BLOCK_BYTES;
            let (now, later) = rest.split_at_mut(rest.len().min(BLOCK_BYTES - within));
            let block = self.blocks.get(at / BLOCK_BYTES);
            let written = block.and_then(|block| block.get(within..));
            let written = written.unwrap_or_default();
            let (of_written, zeros) = now.split_at_mut(now.len().min(written.len()));
            of_written.copy_from_slice(&written[..of_written.len()]);
            zeros.fill(0);
            at += of_written.len() + zeros.len();
            rest = later;
        }
        read
    }

    /// Writes `bytes`, and zeros after them up to `length`.
    pub(super) fn put(&mut self, at: usize, bytes: &[u8], length: usize) {
        self.length = self.length.max(at + length);
        let mut done = 0;
        while done < length {
            let within = (at + done) % BLOCK_BYTES;
            let now = (length - done).min(BLOCK_BYTES - within);
            let rest = bytes.get(done..).unwrap_or_default();
            let rest = &rest[..rest.len().min(now)];
            self.put_in_block((at + done) / BLOCK_BYTES, within, rest, now);
            done += now;
        }
    }

    fn put_in_block(&mut self, number: usize, within: usize, bytes: &[u8], length: usize) {
        let bytes = &bytes[..used(bytes)];
        if self.blocks.len() <= number {
            if bytes.is_empty() {
                return;
            }
            self.blocks.resize_with(number + 1, Vec::new);
        }
        let block = &mut self.blocks[number];
        if within + length < block.len() {
            block[within..within + length].fill(0);
            block[within..within + bytes.len()].copy_from_slice(bytes);
            return;
        }
        block.truncate(within);
        if !bytes.is_empty() {
            block.resize(within, 0);
            block.extend_from_slice(bytes);
        }
    }

    pub(super) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        self.blocks.truncate(length.div_ceil(BLOCK_BYTES));
        if let Some(last) = self.blocks.get_mut(length / BLOCK_BYTES) {
            last.truncate(length % BLOCK_BYTES);
        }
    }

    /// Changes one byte.
    ///
    /// # Panics
    /// When there is no such byte.
    pub(super) fn flip(&mut self, at: usize, mask: u8) {
        let mut byte = [0];
        assert!(
            self.read(at, &mut byte) == 1,
            "a file of {} bytes",
            self.length
        );
        self.put(at, &[byte[0] ^ mask], 1);
    }
}

impl PartialEq for Sparse {
    fn eq(&self, other: &Self) -> bool {
        let block =
            |of: &Self, number: usize| -> usize { of.blocks.get(number).map_or(0, |it| used(it)) };
        let count = self.blocks.len().max(other.blocks.len());
        self.length == other.length
            && (0..count).all(|number| {
                let (own, others) = (block(self, number), block(other, number));
                own == others
                    && (own == 0 || self.blocks[number][..own] == other.blocks[number][..own])
            })
    }
}

/// How many bytes there are before the zeros at the end.
fn used(bytes: &[u8]) -> usize {
    const AT_A_TIME: usize = 64;
    let mut end = bytes.len();
    while end > 0 {
        let start = end.saturating_sub(AT_A_TIME);
        if bytes[start..end].iter().fold(0, |any, byte| any | byte) != 0 {
            break;
        }
        end = start;
    }
    let last = bytes[..end].iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}

/// A write that is not on the medium yet: these bytes, and zeros after them.
#[derive(Clone)]
pub(super) struct Unsynced {
    offset: u64,
    bytes: Vec<u8>,
    length: usize,
}

impl Unsynced {
    pub(super) fn new(offset: u64, bytes: &[u8]) -> Self {
        Self {
            offset,
            bytes: bytes[..used(bytes)].to_vec(),
            length: bytes.len(),
        }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// All that was written.
    pub(super) fn whole(&self) -> Vec<u8> {
        let mut whole = self.bytes.clone();
        whole.resize(self.length, 0);
        whole
    }

    fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        self.bytes.truncate(length);
    }
}

#[derive(Clone, Default)]
pub(super) struct Content {
    /// What the medium holds.
    pub(super) durable: Sparse,
    /// What programs read.
    pub(super) current: Sparse,
    /// Writes that the next sync puts on the medium.
    pub(super) unsynced: Vec<Unsynced>,
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
        if self.pending.is_empty() && self.files.len() == self.durable.len() {
            return;
        }
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
        // The length is on the medium as well, also where a write that is not made it.
        self.durable.length = self.current.length;
        for write in &mut self.unsynced {
            write.truncate(bytes.saturating_sub(write.offset as usize));
        }
        self.unsynced.retain(|write| write.length > 0);
        for (offset, written) in &mut self.adrift {
            written.truncate(bytes.saturating_sub(*offset as usize));
        }
        self.adrift.retain(|(_, written)| !written.is_empty());
    }

    pub(super) fn crash(&mut self, survival: &mut impl Survival) {
        let adrift = std::mem::take(&mut self.adrift);
        let unsynced = std::mem::take(&mut self.unsynced).into_iter();
        let unsynced = unsynced.map(|write| (write.offset, write.whole()));
        for (offset, bytes) in adrift.into_iter().chain(unsynced) {
            for (at, sector) in sectors(offset, &bytes) {
                if survival.sector() {
                    self.durable.put(at as usize, sector, sector.len());
                }
            }
        }
        self.current.clone_from(&self.durable);
        self.handles = 0;
    }

    pub(super) fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            let offset = write.offset;
            self.durable
                .put(offset as usize, &write.bytes, write.length);
            let end = offset + write.length as u64;
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

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
