//! The table of a partition's consumer offsets, and where its log starts: an append-only file
//! of small records, rewritten when most of it is outdated.
//!
//! ```text
//! offsets of version 1: magic 8 | version u16 | 0 u16 | crc32c u32
//!     | { kind u8 | id u32 | offset u64 | crc32c u32 } *
//! version 2: see `table_file`
//! ```
//! The offset `u64::MAX` means that the offset was deleted. The file is of version 1 until a
//! write of [`Operation::Table`](crate::Operation::Table): only that needs what version 2 has.
//!
//! Changes gather while others are written; in version 1, of several for one consumer only the
//! last is written. A damaged record of version 1 is left out: its consumer continues
//! from the offset that it had stored before. For the same
//! reason an offset beyond the end of the log, which a crash of the machine may
//! have cut, is set back to that end, also in the file and before anything is
//! appended: the offset would be within the log again after that, and its consumer
//! would miss what has been appended meanwhile.
//!
//! On a full disk, records of version 1 are overwritten in place: consumers that have one make
//! progress, and retention can remove what they have read.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::oneshot;
use tracing::warn;

use crate::error::{StorageError, failed, sync_failed};
use crate::files::{Files, ManagedFile, OnClose, lock};
use crate::offsets_v1::{self, NONE, RECORD_BYTES, encode, last_records};
use crate::operation::Completion;
use crate::queue::WorkQueue;
use crate::replication::{OffsetTable, TableChange, TableWrite, Trust};
use crate::table_file;
use crate::types::{ConsumerKey, Durability};

const MAGIC: &[u8; 8] = b"IGGYOFF\n";
const VERSION: u16 = 2;
const V1: u16 = 1;
pub(super) const HEADER_BYTES: usize = 16;
/// Below this many records a file is not worth rewriting.
const REWRITE_RECORDS_MIN: u64 = 4096;
/// A file is rewritten when it has this many records for each offset.
const REWRITE_FACTOR: u64 = 8;
/// Individual consumers with a stored offset in one partition, and as many groups, at
/// most. A further one gets [`TooManyConsumers`](StorageError::TooManyConsumers) until an
/// offset is deleted; those that have one may change it. Every client that may poll can make up
/// consumers: each of them keeps segments from being removed, and costs memory and
/// 17 bytes of the file. Groups are counted by themselves, because they cannot be made up.
pub const CONSUMERS_MAX: usize = 4096;
/// Changes that share one write at most.
pub(super) const CHANGES_PER_WRITE_MAX: usize = 1024;

/// The table of offsets of a partition.
pub(super) struct Offsets {
    path: PathBuf,
    files: Arc<Files>,
    stored: RwLock<OffsetTable>,
    /// What it lacks.
    trust: Mutex<Trust>,
    file: Mutex<OffsetsFile>,
    /// The file still has offsets that were set back.
    outdated: AtomicBool,
    pub(super) changes: WorkQueue<Change>,
    pub(super) tables: WorkQueue<TableWork>,
}

/// A write of the table that waits.
pub(super) struct TableWork {
    pub(super) write: TableWrite,
    pub(super) completion: Completion,
}

#[derive(Default)]
struct OffsetsFile {
    file: Option<Arc<ManagedFile>>,
    version: u16,
    /// Where the next record is written.
    end: u64,
    /// Everything before it is on the disk. Of version 2.
    durable: u64,
    /// Something follows the end. Of version 2.
    is_torn: bool,
}

impl OffsetsFile {
    fn records(&self) -> u64 {
        let bytes = match self.version {
            VERSION => table_file::RECORD_BYTES,
            _ => RECORD_BYTES,
        };
        self.end.saturating_sub(HEADER_BYTES as u64) / bytes as u64
    }

    /// Whether most of it is outdated, for so many entries.
    fn is_long(&self, entries: usize) -> bool {
        let records = self.records();
        records >= REWRITE_RECORDS_MIN && records > REWRITE_FACTOR * entries as u64
    }
}

/// The new value of a consumer's offset.
#[derive(Clone, Copy, Debug)]
pub(super) enum NewOffset {
    /// This one.
    Exactly(u64),
    /// This one, or the stored one if that is greater.
    AtLeast(u64),
    /// It is deleted.
    None,
}

/// A change that waits to be written.
pub(super) struct Change {
    pub(super) consumer: ConsumerKey,
    pub(super) to: NewOffset,
    pub(super) durability: Durability,
    pub(super) result: oneshot::Sender<Result<(), StorageError>>,
}

impl Offsets {
    /// Reads the offsets of a directory. What is damaged of version 2 is not left out, but
    /// missing, where other copies can complete it (`repairable`).
    pub(super) fn open(
        dir: &Path,
        files: &Arc<Files>,
        next_offset: u64,
        repairable: bool,
    ) -> Result<Self, StorageError> {
        let path = dir.join("offsets");
        let mut opened = Self {
            path: path.clone(),
            files: Arc::clone(files),
            stored: RwLock::default(),
            trust: Mutex::new(Trust::Trusted),
            file: Mutex::default(),
            outdated: AtomicBool::new(false),
            changes: WorkQueue::new(),
            tables: WorkQueue::new(),
        };
        if let Some(content) = files.load(&path)? {
            match check_header(&path, &content) {
                Ok(version) => opened.load(&content, version, repairable),
                Err(error) if error.is_damage() && repairable => {
                    warn!(%error, "the offsets have to be completed from another copy");
                    files.damaged_offsets.fetch_add(1, Ordering::Relaxed);
                    opened.trust = Mutex::new(Trust::Lost);
                }
                Err(error) => return Err(error),
            }
            let stored = opened.stored.get_mut();
            let stored = stored.unwrap_or_else(PoisonError::into_inner);
            let set_back = limit(&path, stored, next_offset);
            opened.outdated = AtomicBool::new(set_back);
        }
        opened.settle()?;
        Ok(opened)
    }

    fn load(&mut self, content: &[u8], version: u16, repairable: bool) {
        let records = &content[HEADER_BYTES..];
        let first = HEADER_BYTES as u64;
        let mut file = OffsetsFile {
            file: Some(ManagedFile::at(
                self.path.clone(),
                &self.files,
                OnClose::Sync,
            )),
            version,
            ..OffsetsFile::default()
        };
        let (table, damaged) = if version == V1 {
            let whole = records.len() / RECORD_BYTES * RECORD_BYTES;
            file.end = first + whole as u64;
            offsets_v1::load(&self.path, records)
        } else {
            let loaded = match repairable {
                true => table_file::load(&self.path, records, first),
                false => table_file::load_alone(&self.path, records, first),
            };
            file.end = loaded.end;
            file.is_torn = loaded.end < content.len() as u64;
            if loaded.damaged > 0 && repairable {
                // It is written anew, with what it lacks.
                file.file = None;
            }
            self.trust = Mutex::new(loaded.trust);
            (loaded.table, loaded.damaged)
        };
        self.files
            .damaged_offsets
            .fetch_add(damaged, Ordering::Relaxed);
        self.stored = RwLock::new(table);
        self.file = Mutex::new(file);
    }

    /// Writes the offsets that were set back when the file was opened, durably. The log
    /// must not grow before.
    pub(super) fn settle(&self) -> Result<(), StorageError> {
        if self.outdated.load(Ordering::SeqCst) {
            let mut file = lock(&self.file);
            match self.rewrite(file.version, &self.table()) {
                Err(error) if error.is_full() && file.version == V1 => {
                    self.set_back_in_place(&file)?;
                }
                rewritten => *file = rewritten?,
            }
        }
        Ok(())
    }

    /// Overwrites each consumer's record with the offset that is stored now, durably.
    fn set_back_in_place(&self, file: &OffsetsFile) -> Result<(), StorageError> {
        if let Some(target) = &file.file {
            for (consumer, at) in last_records(target, file.records())? {
                let offset = self.get(consumer).unwrap_or(NONE);
                target.write(at, &mut [IoSlice::new(&encode(consumer, offset))])?;
            }
            target.sync()?;
        }
        self.outdated.store(false, Ordering::SeqCst);
        Ok(())
    }

    pub(super) fn table(&self) -> OffsetTable {
        self.stored().clone()
    }

    fn stored(&self) -> RwLockReadGuard<'_, OffsetTable> {
        self.stored.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn trust(&self) -> Trust {
        *lock(&self.trust)
    }

    pub(super) fn has_file(&self) -> bool {
        lock(&self.file).file.is_some()
    }

    /// The table lacks nothing any more.
    pub(super) fn trusted(&self) -> Result<(), StorageError> {
        let mut file = lock(&self.file);
        let before = std::mem::replace(&mut *lock(&self.trust), Trust::Trusted);
        if before != Trust::Trusted {
            let rewritten = self.rewrite(VERSION, &self.table());
            *file = rewritten.inspect_err(|_| *lock(&self.trust) = before)?;
        }
        Ok(())
    }

    pub(super) fn get(&self, consumer: ConsumerKey) -> Option<u64> {
        self.stored().offset(consumer)
    }

    pub(super) fn all(&self) -> Vec<(ConsumerKey, u64)> {
        offsets_of(&self.stored()).collect()
    }

    /// How many individual consumers and how many groups have an offset.
    fn counts(&self) -> [usize; 2] {
        let stored = self.stored();
        let groups = offsets_of(&stored).filter(|(consumer, _)| consumer.group);
        let groups = groups.count();
        [stored.consumers() - groups, groups]
    }

    /// The lowest that is stored, and whose it is: no consumer needs what is before it.
    pub(super) fn lowest(&self) -> Option<(ConsumerKey, u64)> {
        offsets_of(&self.stored()).min_by_key(|(_, offset)| *offset)
    }

    pub(super) fn shut(&self, error: &StorageError) {
        let waiting: VecDeque<_> = self.changes.shut(error.clone());
        for change in waiting {
            let _ = change.result.send(Err(error.clone()));
        }
        for work in self.tables.shut(error.clone()) {
            work.completion.finish(Err(error.clone()));
        }
    }

    pub(super) async fn idle(&self) {
        self.changes.idle().await;
        self.tables.idle().await;
    }

    pub(super) fn sync(&self) -> Result<(), StorageError> {
        let (target, end) = {
            let file = lock(&self.file);
            let Some(target) = &file.file else {
                return Ok(());
            };
            (Arc::clone(target), file.end)
        };
        target.sync()?;
        let mut file = lock(&self.file);
        if file
            .file
            .as_ref()
            .is_some_and(|it| Arc::ptr_eq(it, &target))
        {
            file.durable = file.durable.max(end);
        }
        Ok(())
    }

    pub(super) fn release(&self) {
        if let Some(file) = &lock(&self.file).file {
            file.release();
        }
    }

    /// Writes a group of changes; returns the result of each.
    pub(super) fn write(
        &self,
        group: &[Change],
    ) -> Result<Vec<Result<(), StorageError>>, StorageError> {
        let durability = group.iter().map(|change| change.durability).max();
        let durability = durability.unwrap_or_default();
        let mut after: BTreeMap<ConsumerKey, Option<u64>> = BTreeMap::new();
        let mut results = Vec::with_capacity(group.len());
        let mut counts = self.counts();
        for change in group {
            let before = after.get(&change.consumer).copied();
            let before = before.unwrap_or_else(|| self.get(change.consumer));
            let to = match change.to {
                NewOffset::Exactly(offset) => Some(offset),
                NewOffset::AtLeast(offset) => Some(offset.max(before.unwrap_or(0))),
                NewOffset::None if before.is_none() => {
                    results.push(Err(StorageError::OffsetNotFound));
                    continue;
                }
                NewOffset::None => None,
            };
            let count = &mut counts[usize::from(change.consumer.group)];
            match (before, to) {
                (None, Some(_)) if *count >= CONSUMERS_MAX => {
                    let max = CONSUMERS_MAX;
                    results.push(Err(StorageError::TooManyConsumers { max }));
                    continue;
                }
                (None, Some(_)) => *count += 1,
                (Some(_), None) => *count -= 1,
                _ => {}
            }
            after.insert(change.consumer, to);
            results.push(Ok(()));
        }
        if !after.is_empty()
            && let Some(full) = self.write_or_overwrite(&mut after, durability)?
        {
            for (change, result) in group.iter().zip(&mut results) {
                if result.is_ok() && !after.contains_key(&change.consumer) {
                    *result = Err(full.clone());
                }
            }
        }
        Ok(results)
    }

    /// Writes changes. On a full disk, those without a record that can be overwritten are
    /// removed from `changes`, and the error is returned.
    fn write_or_overwrite(
        &self,
        changes: &mut BTreeMap<ConsumerKey, Option<u64>>,
        durability: Durability,
    ) -> Result<Option<StorageError>, StorageError> {
        let mut file = lock(&self.file);
        let is_v1 = file.version != VERSION && self.trust() == Trust::Trusted;
        let mut at = self.stored().at;
        let writes = changes.iter().map(|(consumer, offset)| {
            at.version += u64::from(!is_v1);
            let change = TableChange::Consumer {
                consumer: *consumer,
                offset: *offset,
                tag: None,
            };
            TableWrite::Change { at, change }
        });
        let writes: Vec<_> = writes.collect();
        if !is_v1 {
            return match self.write_locked(&mut file, &writes, durability) {
                Err(error) if error.is_full() => {
                    changes.clear();
                    Ok(Some(error))
                }
                written => written.map(|()| None),
            };
        }
        let full = match self.write_records(&mut file, changes, durability) {
            Err(error) if error.is_full() => {
                self.overwrite(&file, changes, durability)?;
                Some(error)
            }
            written => written.map(|()| None)?,
        };
        let is_written = |write: &&TableWrite| match write {
            TableWrite::Change {
                change: TableChange::Consumer { consumer, .. },
                ..
            } => changes.contains_key(consumer),
            _ => true,
        };
        self.apply(writes.iter().filter(is_written));
        Ok(full)
    }

    /// Overwrites the last records of those consumers that have one; the others are removed
    /// from `changes`.
    fn overwrite(
        &self,
        file: &OffsetsFile,
        changes: &mut BTreeMap<ConsumerKey, Option<u64>>,
        durability: Durability,
    ) -> Result<(), StorageError> {
        let Some(target) = &file.file else {
            changes.clear();
            return Ok(());
        };
        let records = last_records(target, file.records())?;
        changes.retain(|consumer, _| records.contains_key(consumer));
        for (consumer, offset) in &*changes {
            let record = encode(*consumer, offset.unwrap_or(NONE));
            target.write(records[consumer], &mut [IoSlice::new(&record)])?;
        }
        match durability {
            Durability::Written => Ok(()),
            Durability::Synced => target.sync(),
        }
    }

    /// Writes records of version 1.
    fn write_records(
        &self,
        file: &mut OffsetsFile,
        changes: &BTreeMap<ConsumerKey, Option<u64>>,
        durability: Durability,
    ) -> Result<(), StorageError> {
        let entries = self.stored().entries.len();
        if file.is_long(entries) || file.file.is_none() {
            match self.rewrite(V1, &self.table()) {
                // A long file serves as well.
                Err(error) if error.is_full() && file.file.is_some() => {}
                rewritten => *file = rewritten?,
            }
        }
        let Some(target) = &file.file else {
            return Ok(());
        };
        let mut records = Vec::with_capacity(changes.len() * RECORD_BYTES);
        for (consumer, offset) in changes {
            records.extend_from_slice(&encode(*consumer, offset.unwrap_or(NONE)));
        }
        let at = file.end;
        if let Err(error) = target.write(at, &mut [IoSlice::new(&records)]) {
            // Nothing of it may be found by the next start.
            return match error.is_full() && target.truncate(at).is_err() {
                true => Err(error.lasting()),
                false => Err(error),
            };
        }
        if durability == Durability::Synced {
            target.sync()?;
        }
        file.end += records.len() as u64;
        Ok(())
    }

    /// Writes the table, or changes of it, one after the other: all or none.
    pub(super) fn write_table(
        &self,
        writes: &[TableWrite],
        durability: Durability,
    ) -> Result<(), StorageError> {
        self.write_locked(&mut lock(&self.file), writes, durability)
    }

    fn write_locked(
        &self,
        file: &mut OffsetsFile,
        writes: &[TableWrite],
        durability: Durability,
    ) -> Result<(), StorageError> {
        let is_none = file.file.is_none() || file.version == V1;
        let entries = self.stored().entries.len();
        if is_none || file.is_long(entries) {
            let mut table = self.table();
            for write in writes {
                write.apply_to(&mut table);
            }
            match self.rewrite(VERSION, &table) {
                // A long file serves as well.
                Err(error) if error.is_full() && !is_none => {}
                rewritten => {
                    *file = rewritten?;
                    *self.stored.write().unwrap_or_else(PoisonError::into_inner) = table;
                    return Ok(());
                }
            }
        }
        self.append(file, writes, durability)?;
        self.apply(writes);
        Ok(())
    }

    /// Appends records of version 2.
    fn append(
        &self,
        file: &mut OffsetsFile,
        writes: &[TableWrite],
        durability: Durability,
    ) -> Result<(), StorageError> {
        let Some(target) = &file.file else {
            return Ok(());
        };
        let cut = || target.truncate(file.end).and_then(|()| target.sync());
        if file.is_torn {
            // What follows the end must not come back after what is written there.
            cut()?;
            file.is_torn = false;
        }
        let (trust, end) = (self.trust(), file.end);
        let mut records = Vec::new();
        for write in writes {
            let at = end + records.len() as u64;
            table_file::put(write, trust, at, file.durable, &mut records);
        }
        if let Err(error) = target.write(end, &mut [IoSlice::new(&records)]) {
            return match error.is_full() && cut().is_err() {
                true => Err(error.lasting()),
                false => Err(error),
            };
        }
        file.end += records.len() as u64;
        if durability == Durability::Synced {
            target.sync()?;
            file.durable = file.end;
        }
        Ok(())
    }

    fn apply<'a>(&self, writes: impl IntoIterator<Item = &'a TableWrite>) {
        let mut stored = self.stored.write().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            write.apply_to(&mut stored);
        }
    }

    /// Creates a new file with only this table; durable on return.
    fn rewrite(&self, version: u16, table: &OffsetTable) -> Result<OffsetsFile, StorageError> {
        let mut content = header(version).to_vec();
        if version == V1 {
            for (consumer, offset) in offsets_of(table) {
                content.extend_from_slice(&encode(consumer, offset));
            }
        } else {
            let mut records = Vec::new();
            table_file::put_whole(table, self.trust(), HEADER_BYTES as u64, 0, &mut records);
            content.extend(records);
        }
        let tmp = self.path.with_extension("tmp");
        let handle = self.files.create(&tmp, &content)?;
        handle.sync().map_err(sync_failed("sync", &tmp))?;
        let disk = &self.files.disk;
        disk.rename(&tmp, &self.path)
            .map_err(failed("rename", &tmp))?;
        if let Some(dir) = self.path.parent() {
            self.files.sync_dir(dir)?;
        }
        self.outdated.store(false, Ordering::SeqCst);
        let (path, files) = (self.path.clone(), &self.files);
        let end = content.len() as u64;
        Ok(OffsetsFile {
            file: Some(ManagedFile::created(path, files, handle, OnClose::Sync)),
            version,
            end,
            durable: end,
            is_torn: false,
        })
    }
}

fn offsets_of(table: &OffsetTable) -> impl Iterator<Item = (ConsumerKey, u64)> {
    let entries = table.entries.iter();
    entries.filter_map(|(consumer, entry)| Some((*consumer, entry.offset?)))
}

fn header(version: u16) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c::crc32c(&out[..12]);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The version. The file gets its name only when it is whole, so an invalid header is damage.
fn check_header(path: &Path, content: &[u8]) -> Result<u16, StorageError> {
    let damaged = |what| Err(StorageError::corrupt(path, 0, what));
    let Some(found) = content.get(..HEADER_BYTES) else {
        return damaged("the file ends in its header");
    };
    if &found[..8] != MAGIC {
        return damaged("it is not a file of consumer offsets");
    }
    let version = u16::from_le_bytes([found[8], found[9]]);
    if version != V1 && version != VERSION {
        return Err(StorageError::Version {
            path: path.to_owned(),
            found: version,
            known: VERSION,
        });
    }
    if found != header(version) {
        return damaged("its header is damaged");
    }
    Ok(version)
}

/// Sets offsets beyond the end of the log back to it; whether there were any.
fn limit(path: &Path, table: &mut OffsetTable, next_offset: u64) -> bool {
    let beyond = offsets_of(table).filter(|(_, offset)| *offset >= next_offset);
    let beyond = beyond.count();
    if beyond == 0 {
        return false;
    }
    warn!(
        path = %path.display(),
        next_offset,
        consumers = beyond,
        "consumer offsets lie beyond the end of the log, which lost its tail; they are set \
         back to the end"
    );
    let last = next_offset.checked_sub(1);
    for entry in table.entries.values_mut() {
        entry.offset = entry.offset.and_then(|offset| Some(offset.min(last?)));
    }
    table
        .entries
        .retain(|_, it| it.offset.is_some() || it.tag.is_some());
    true
}
