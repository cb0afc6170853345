//! The journal of adopted epochs: an append-only file of small records, rewritten when most
//! of it is outdated.
//!
//! ```text
//! adopted: magic 8 | version u16 | 0 u16 | crc32c u32
//!     | { stream u32 | topic u32 | partition u32 | generation u64 | epoch u64 | crc32c u32 } *
//! ```
//! One write and one sync cover all records that wait. What a crash has left of the last
//! ones was not reported as done.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;

use crate::bytes_at::{u32_at, u64_at};
use crate::error::{StorageError, failed, sync_failed};
use crate::files::{Files, ManagedFile, OnClose, lock};
use crate::key::PartitionKey;
use crate::operation::{Completion, Done};
use crate::queue::WorkQueue;
use crate::replication::Epoch;

const MAGIC: &[u8; 8] = b"IGGYADO\n";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 16;
const RECORD_BYTES: usize = 32;
const NAME: &str = "adopted";
/// Below this many records a file is not worth rewriting.
const REWRITE_RECORDS_MIN: usize = 4096;
/// A file is rewritten when it has this many records for each partition.
const REWRITE_FACTOR: usize = 4;

pub(super) struct Journal {
    path: PathBuf,
    files: Arc<Files>,
    runtime: Handle,
    adopted: Mutex<BTreeMap<PartitionKey, Epoch>>,
    file: Mutex<JournalFile>,
    waiting: WorkQueue<Adoption>,
}

#[derive(Default)]
struct JournalFile {
    file: Option<Arc<ManagedFile>>,
    records: usize,
}

struct Adoption {
    key: PartitionKey,
    epoch: Epoch,
    completion: Completion,
}

impl Journal {
    /// Reads the journal of a directory; whether all that was recorded is there.
    pub(super) fn open(root: &Path, files: &Arc<Files>) -> Result<(Self, bool), StorageError> {
        let path = root.join(NAME);
        let mut adopted = BTreeMap::new();
        let mut file = JournalFile::default();
        let mut is_whole = true;
        if let Some(content) = files.load(&path)? {
            check_version(&path, &content)?;
            is_whole = content.get(..HEADER_BYTES) == Some(&header()[..]);
            let records = content.get(HEADER_BYTES..).unwrap_or_default();
            let mut valid = 0;
            for (number, record) in records.chunks_exact(RECORD_BYTES).enumerate() {
                let Some((key, epoch)) = decode(record) else {
                    continue;
                };
                // Only the end may be torn.
                is_whole &= number == valid;
                valid = number + 1;
                let known = adopted.entry(key).or_default();
                *known = epoch.max(*known);
            }
            file.records = valid;
            // Written again before anything is appended.
            let clean = is_whole && records.len() == valid * RECORD_BYTES;
            file.file = clean.then(|| ManagedFile::at(path.clone(), files, OnClose::Sync));
        }
        let journal = Self {
            path,
            files: Arc::clone(files),
            runtime: Handle::current(),
            adopted: Mutex::new(adopted),
            file: Mutex::new(file),
            waiting: WorkQueue::new(),
        };
        Ok((journal, is_whole))
    }

    pub(super) fn adopted(&self, key: &PartitionKey) -> Epoch {
        lock(&self.adopted).get(key).copied().unwrap_or_default()
    }

    pub(super) fn retain(&self, exists: impl Fn(&PartitionKey) -> bool) {
        lock(&self.adopted).retain(|key, _| exists(key));
    }

    pub(super) fn adopt(self: &Arc<Self>, key: PartitionKey, epoch: Epoch, done: Done) {
        let adoption = Adoption {
            key,
            epoch,
            completion: Completion::new(done),
        };
        match self.waiting.add_or_return(adoption) {
            Ok(true) => {
                let journal = Arc::clone(self);
                self.runtime.spawn_blocking(move || journal.write_waiting());
            }
            Ok(false) => {}
            Err((adoption, error)) => {
                // The caller may have locked what the completion locks.
                let finish = move || adoption.completion.finish(Err(error));
                self.runtime.spawn_blocking(finish);
            }
        }
    }

    fn write_waiting(&self) {
        loop {
            let group = self.waiting.take(|_| true);
            if group.is_empty() {
                return;
            }
            let result = self.write(&group);
            if let Err(error) = &result {
                // What the file has after it is unknown until the next start.
                for adoption in self.waiting.shut(error.lasting()) {
                    adoption.completion.finish(Err(error.lasting()));
                }
            }
            for adoption in group {
                let result = result.clone().map_err(|error| error.lasting());
                adoption.completion.finish(result);
            }
        }
    }

    fn write(&self, group: &[Adoption]) -> Result<(), StorageError> {
        let mut file = lock(&self.file);
        let live = {
            let mut adopted = lock(&self.adopted);
            for adoption in group {
                let known = adopted.entry(adoption.key).or_default();
                *known = adoption.epoch.max(*known);
            }
            adopted.len()
        };
        let long = file.records >= REWRITE_RECORDS_MIN && file.records > REWRITE_FACTOR * live;
        let target = match &file.file {
            Some(target) if !long => Arc::clone(target),
            _ => {
                *file = self.rewrite()?;
                return Ok(());
            }
        };
        let records = group.iter().map(|it| encode(&it.key, it.epoch));
        let bytes: Vec<u8> = records.flatten().collect();
        let at = HEADER_BYTES + file.records * RECORD_BYTES;
        target.write(at as u64, &mut [IoSlice::new(&bytes)])?;
        target.sync()?;
        file.records += group.len();
        Ok(())
    }

    /// Creates a new file with what is adopted now; durable on return.
    fn rewrite(&self) -> Result<JournalFile, StorageError> {
        let mut content = header().to_vec();
        let records = {
            let adopted = lock(&self.adopted);
            for (key, epoch) in adopted.iter() {
                content.extend_from_slice(&encode(key, *epoch));
            }
            adopted.len()
        };
        let tmp = self.path.with_extension("tmp");
        let handle = self.files.create(&tmp, &content)?;
        handle.sync().map_err(sync_failed("sync", &tmp))?;
        let renamed = self.files.disk.rename(&tmp, &self.path);
        renamed.map_err(failed("rename", &tmp))?;
        if let Some(dir) = self.path.parent() {
            self.files.sync_dir(dir)?;
        }
        let file = ManagedFile::created(self.path.clone(), &self.files, handle, OnClose::Sync);
        Ok(JournalFile {
            file: Some(file),
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

fn check_version(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let is_journal = content.len() >= 10 && &content[..8] == MAGIC;
    if is_journal && content[8..10] != VERSION.to_le_bytes() {
        return Err(StorageError::Version {
            path: path.to_owned(),
            found: u16::from_le_bytes([content[8], content[9]]),
            known: VERSION,
        });
    }
    Ok(())
}

fn encode(key: &PartitionKey, epoch: Epoch) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    out[..4].copy_from_slice(&key.stream_id.to_le_bytes());
    out[4..8].copy_from_slice(&key.topic_id.to_le_bytes());
    out[8..12].copy_from_slice(&key.partition_id.to_le_bytes());
    out[12..20].copy_from_slice(&key.generation.to_le_bytes());
    out[20..28].copy_from_slice(&epoch.0.to_le_bytes());
    let crc = crc32c::crc32c(&out[..28]);
    out[28..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(record: &[u8]) -> Option<(PartitionKey, Epoch)> {
    let is_valid = crc32c::crc32c(&record[..28]) == u32_at(record, 28);
    is_valid.then(|| {
        let key = PartitionKey {
            stream_id: u32_at(record, 0),
            topic_id: u32_at(record, 4),
            partition_id: u32_at(record, 8),
            generation: u64_at(record, 12),
        };
        (key, Epoch(u64_at(record, 20)))
    })
}
