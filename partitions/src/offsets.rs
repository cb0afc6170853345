//! Consumer offsets of one partition: an append-only file of small records,
//! rewritten when most of it is outdated.
//!
//! ```text
//! offsets: magic 8 | version u16 | 0 u16 | crc32c u32
//!     | { kind u8 | id u32 | offset u64 | crc32c u32 } *
//! ```
//! The offset `u64::MAX` means that the offset was deleted.
//!
//! Changes gather while others are written; of several for one consumer only the
//! last is written. A damaged record is left out: its consumer continues
//! from the offset that it had stored before. For the same
//! reason an offset beyond the end of the log, which a crash of the machine may
//! have cut, is set back to that end, also in the file and before anything is
//! appended: the offset would be within the log again after that, and its consumer
//! would miss what has been appended meanwhile.
//!
//! On a full disk, records are overwritten in place: consumers that have one make progress,
//! and retention can remove what they have read.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::oneshot;
use tracing::warn;

use crate::bytes_at::{u32_at, u64_at};
use crate::error::{StorageError, failed, sync_failed};
use crate::files::{Files, ManagedFile, OnClose, lock};
use crate::queue::WorkQueue;
use crate::types::{ConsumerKey, Durability};

const MAGIC: &[u8; 8] = b"IGGYOFF\n";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 16;
const RECORD_BYTES: usize = 1 + 4 + 8 + 4;
const NONE: u64 = u64::MAX;
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

/// The consumer offsets of a partition.
pub(super) struct Offsets {
    path: PathBuf,
    files: Arc<Files>,
    stored: RwLock<BTreeMap<ConsumerKey, u64>>,
    file: Mutex<OffsetsFile>,
    /// The file still has offsets that were set back.
    outdated: AtomicBool,
    pub(super) changes: WorkQueue<Change>,
}

#[derive(Default)]
struct OffsetsFile {
    file: Option<Arc<ManagedFile>>,
    records: u64,
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
    /// Reads the offsets of a directory.
    pub(super) fn open(
        dir: &Path,
        files: &Arc<Files>,
        next_offset: u64,
    ) -> Result<Self, StorageError> {
        let path = dir.join("offsets");
        let mut stored = BTreeMap::new();
        let mut file = OffsetsFile::default();
        let mut set_back = false;
        if let Some(content) = files.load(&path)? {
            check_header(&path, &content)?;
            let records = &content[HEADER_BYTES..];
            file.records = (records.len() / RECORD_BYTES) as u64;
            file.file = Some(ManagedFile::at(path.clone(), files, OnClose::Sync));
            let damaged;
            (stored, damaged) = load(&path, records);
            files.damaged_offsets.fetch_add(damaged, Ordering::Relaxed);
            set_back = limit(&path, &mut stored, next_offset);
        }
        let offsets = Self {
            path,
            files: Arc::clone(files),
            stored: RwLock::new(stored),
            file: Mutex::new(file),
            outdated: AtomicBool::new(set_back),
            changes: WorkQueue::new(),
        };
        offsets.settle()?;
        Ok(offsets)
    }

    /// Writes the offsets that were set back when the file was opened, durably. The log
    /// must not grow before.
    pub(super) fn settle(&self) -> Result<(), StorageError> {
        if self.outdated.load(Ordering::SeqCst) {
            let mut file = lock(&self.file);
            match self.rewrite() {
                Err(error) if error.is_full() => self.set_back_in_place(&file)?,
                rewritten => *file = rewritten?,
            }
        }
        Ok(())
    }

    /// Overwrites each consumer's record with the offset that is stored now, durably.
    fn set_back_in_place(&self, file: &OffsetsFile) -> Result<(), StorageError> {
        if let Some(target) = &file.file {
            for (consumer, at) in last_records(target, file.records)? {
                let offset = self.get(consumer).unwrap_or(NONE);
                target.write(at, &mut [IoSlice::new(&encode(consumer, offset))])?;
            }
            target.sync()?;
        }
        self.outdated.store(false, Ordering::SeqCst);
        Ok(())
    }

    pub(super) fn get(&self, consumer: ConsumerKey) -> Option<u64> {
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
        stored.get(&consumer).copied()
    }

    pub(super) fn all(&self) -> Vec<(ConsumerKey, u64)> {
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
        let stored = stored.iter();
        stored
            .map(|(consumer, offset)| (*consumer, *offset))
            .collect()
    }

    /// How many individual consumers and how many groups have an offset.
    fn counts(&self) -> [usize; 2] {
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
        // Groups come after individual consumers.
        let first_group = ConsumerKey { group: true, id: 0 };
        let groups = stored.range(first_group..).count();
        [stored.len() - groups, groups]
    }

    /// The lowest that is stored, and whose it is: no consumer needs what is before it.
    pub(super) fn lowest(&self) -> Option<(ConsumerKey, u64)> {
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
        let lowest = stored.iter().min_by_key(|(_, offset)| **offset);
        lowest.map(|(consumer, offset)| (*consumer, *offset))
    }

    pub(super) fn shut(&self, error: &StorageError) {
        let waiting: VecDeque<_> = self.changes.shut(error.clone());
        for change in waiting {
            let _ = change.result.send(Err(error.clone()));
        }
    }

    pub(super) async fn idle(&self) {
        self.changes.idle().await;
    }

    pub(super) fn sync(&self) -> Result<(), StorageError> {
        let file = lock(&self.file).file.clone();
        file.map_or(Ok(()), |file| file.sync())
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
        if !after.is_empty() {
            if let Some(full) = self.write_or_overwrite(&mut after, durability)? {
                for (change, result) in group.iter().zip(&mut results) {
                    if result.is_ok() && !after.contains_key(&change.consumer) {
                        *result = Err(full.clone());
                    }
                }
            }
            let mut stored = self.stored.write().unwrap_or_else(PoisonError::into_inner);
            for (consumer, offset) in after {
                match offset {
                    Some(offset) => stored.insert(consumer, offset),
                    None => stored.remove(&consumer),
                };
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
        let full = match self.write_records(changes, durability) {
            Err(error) if error.is_full() => error,
            written => return written.map(|()| None),
        };
        let file = lock(&self.file);
        let records = match &file.file {
            Some(target) => last_records(target, file.records)?,
            None => BTreeMap::new(),
        };
        changes.retain(|consumer, _| records.contains_key(consumer));
        let Some(target) = &file.file else {
            return Ok(Some(full));
        };
        for (consumer, offset) in &*changes {
            let record = encode(*consumer, offset.unwrap_or(NONE));
            target.write(records[consumer], &mut [IoSlice::new(&record)])?;
        }
        if durability == Durability::Synced {
            target.sync()?;
        }
        Ok(Some(full))
    }

    fn write_records(
        &self,
        changes: &BTreeMap<ConsumerKey, Option<u64>>,
        durability: Durability,
    ) -> Result<(), StorageError> {
        let mut file = lock(&self.file);
        let live = {
            let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
            stored.len() as u64
        };
        let long = file.records >= REWRITE_RECORDS_MIN && file.records > REWRITE_FACTOR * live;
        if long || file.file.is_none() {
            match self.rewrite() {
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
        let at = HEADER_BYTES as u64 + file.records * RECORD_BYTES as u64;
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
        file.records += changes.len() as u64;
        Ok(())
    }

    /// Creates a new file with only what is stored now; durable on return.
    fn rewrite(&self) -> Result<OffsetsFile, StorageError> {
        let mut content = header().to_vec();
        let records = {
            let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
            for (consumer, offset) in stored.iter() {
                content.extend_from_slice(&encode(*consumer, *offset));
            }
            stored.len() as u64
        };
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
        Ok(OffsetsFile {
            file: Some(ManagedFile::created(
                self.path.clone(),
                &self.files,
                handle,
                OnClose::Sync,
            )),
            records,
        })
    }
}

fn header() -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&out[..12]);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The file gets its name only when it is whole, so an invalid header is damage.
fn check_header(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let damaged = |what| Err(StorageError::corrupt(path, 0, what));
    let Some(found) = content.get(..HEADER_BYTES) else {
        return damaged("the file ends in its header");
    };
    if &found[..8] != MAGIC {
        return damaged("it is not a file of consumer offsets");
    }
    let version = u16::from_le_bytes([found[8], found[9]]);
    if version != VERSION {
        return Err(StorageError::Version {
            path: path.to_owned(),
            found: version,
            known: VERSION,
        });
    }
    if found != header() {
        return damaged("its header is damaged");
    }
    Ok(())
}

/// Where each consumer's last record is. It may be overwritten: should the machine stop
/// meanwhile and damage it, the consumer continues from the record before it.
fn last_records(
    file: &Arc<ManagedFile>,
    records: u64,
) -> Result<BTreeMap<ConsumerKey, u64>, StorageError> {
    let bytes = usize::try_from(records).unwrap_or(usize::MAX);
    let content = file.read(HEADER_BYTES as u64, bytes.saturating_mul(RECORD_BYTES))?;
    let records = content.chunks_exact(RECORD_BYTES).enumerate();
    let found = records.filter_map(|(number, record)| {
        let (consumer, _) = decode(record)?;
        Some((consumer, (HEADER_BYTES + number * RECORD_BYTES) as u64))
    });
    Ok(found.collect())
}

/// The offsets, and how many records are damaged.
fn load(path: &Path, records: &[u8]) -> (BTreeMap<ConsumerKey, u64>, u64) {
    let mut stored = BTreeMap::new();
    let mut damaged = 0;
    for (number, record) in records.chunks_exact(RECORD_BYTES).enumerate() {
        match decode(record) {
            Some((consumer, NONE)) => {
                stored.remove(&consumer);
            }
            Some((consumer, offset)) => {
                stored.insert(consumer, offset);
            }
            None => {
                damaged += 1;
                warn!(
                    path = %path.display(),
                    position = HEADER_BYTES + number * RECORD_BYTES,
                    "a consumer offset is damaged; the consumer continues from the one it had \
                     stored before"
                );
            }
        }
    }
    (stored, damaged)
}

/// Sets offsets beyond the end of the log back to it; whether there were any.
fn limit(path: &Path, stored: &mut BTreeMap<ConsumerKey, u64>, next_offset: u64) -> bool {
    let beyond = stored.values().filter(|offset| **offset >= next_offset);
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
    match next_offset.checked_sub(1) {
        Some(last) => stored
            .values_mut()
            .for_each(|offset| *offset = last.min(*offset)),
        None => stored.clear(),
    }
    true
}

fn encode(consumer: ConsumerKey, offset: u64) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    out[0] = u8::from(consumer.group);
    out[1..5].copy_from_slice(&consumer.id.to_le_bytes());
    out[5..13].copy_from_slice(&offset.to_le_bytes());
    let crc = crc32c::crc32c(&out[..13]);
    out[13..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(record: &[u8]) -> Option<(ConsumerKey, u64)> {
    let is_valid = crc32c::crc32c(&record[..13]) == u32_at(record, 13);
    is_valid.then(|| {
        let consumer = ConsumerKey {
            group: record[0] != 0,
            id: u32_at(record, 1),
        };
        (consumer, u64_at(record, 5))
    })
}
