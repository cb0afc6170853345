//! How far the log of a partition was acknowledged, so that a log that is shorter when it
//! is opened counts as damaged instead of torn.
//!
//! ```text
//! acknowledged: two slots, the first at 0, the second at 512; zeros between them
//! slot: magic 8 | version u16 | 0 u16 | stream u32 | topic u32 | partition u32
//!     | generation u64 | next offset u64 | synced offset u64 | boot u64 | crc32c u32
//! ```
//! Before the batches of one write are acknowledged, one slot is overwritten, the two in
//! turn: messages below `next offset` are acknowledged, or will be; those below `synced
//! offset` were on the disk. The write is not fsynced. It survives the process, and in the
//! same run of the machine (`boot`) the log has to reach `next offset`. After the machine
//! was stopped, the log has to reach `synced offset`: what is above it could be lost with
//! the machine. The file itself may then be some writes old, as old as the last
//! sync of the log at most, and proves less; it never proves too much.
//!
//! A partition without the file, from a version before it, is opened without this check.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tracing::warn;

use crate::bytes_at::{u32_at, u64_at};
use crate::error::{StorageError, failed};
use crate::files::{Files, ManagedFile, OnClose, lock};
use crate::key::PartitionKey;

const MAGIC: &[u8; 8] = b"IGGYACK\n";
const VERSION: u16 = 1;
const SLOT_BYTES: usize = 60;
const CRC_AT: usize = SLOT_BYTES - 4;
/// Slots are in different sectors: a crash during the write of one leaves the other.
const SLOT_EVERY_BYTES: usize = 512;
const FILE_BYTES: usize = 2 * SLOT_EVERY_BYTES;
const NAME: &str = "acknowledged";

/// What a slot records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) next_offset: u64,
    pub(super) synced_offset: u64,
    /// Which run of the machine wrote it; zero when that is unknown.
    pub(super) boot: u64,
}

impl Record {
    /// The log has to reach this offset, in this run of the machine.
    fn promised(&self, boot: u64) -> u64 {
        let same_run = self.boot == boot && boot != 0;
        match same_run {
            true => self.next_offset.max(self.synced_offset),
            false => self.synced_offset,
        }
    }
}

/// What the file of a directory records.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    slots: [Option<Record>; 2],
    exists: bool,
}

impl Found {
    /// Reads the file of a directory.
    pub(super) fn load(
        dir: &Path,
        files: &Files,
        key: &PartitionKey,
    ) -> Result<Self, StorageError> {
        let path = dir.join(NAME);
        let Some(content) = files.load(&path)? else {
            return Ok(Self::default());
        };
        let mut slots = [None; 2];
        for (slot, at) in slots.iter_mut().zip([0, SLOT_EVERY_BYTES]) {
            let bytes = content.get(at..at + SLOT_BYTES);
            *slot = match bytes {
                Some(bytes) => decode(&path, bytes, key)?,
                None => None,
            };
            if slot.is_none() {
                warn!(
                    path = %path.display(),
                    position = at,
                    "what was acknowledged is damaged here, so part of a loss may go unnoticed; \
                     check the disk"
                );
            }
        }
        Ok(Self {
            slots,
            exists: true,
        })
    }

    /// The log has to reach this offset, in this run of the machine.
    pub(super) fn promised(&self, boot: u64) -> u64 {
        let promised = self.slots.iter().flatten();
        promised
            .map(|record| record.promised(boot))
            .max()
            .unwrap_or(0)
    }

    /// Messages below this offset were acknowledged.
    pub(super) fn next_offset(&self) -> u64 {
        let next = self.slots.iter().flatten();
        next.map(|record| record.next_offset).max().unwrap_or(0)
    }

    /// The slot to be overwritten next: the older one.
    fn older(&self) -> usize {
        match self.slots {
            [Some(first), Some(second)] => usize::from(first.next_offset > second.next_offset),
            [first, _] => usize::from(first.is_some()),
        }
    }
}

/// The file of an open partition. Only its writer, one task at a time, changes it.
pub(super) struct Acknowledged {
    path: PathBuf,
    files: Arc<Files>,
    key: PartitionKey,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<Arc<ManagedFile>>,
    slot: usize,
}

impl Acknowledged {
    /// The file as it was found. `now` is what the opened log contains: if more was
    /// recorded, which a stop of the machine explains, that is corrected, so that it is
    /// reported once and does not count for messages that get these offsets next.
    pub(super) fn open(
        dir: &Path,
        files: &Arc<Files>,
        key: &PartitionKey,
        found: &Found,
        now: Record,
    ) -> Result<Self, StorageError> {
        let path = dir.join(NAME);
        let file = found
            .exists
            .then(|| ManagedFile::at(path.clone(), files, OnClose::Nothing));
        let opened = Self {
            path,
            files: Arc::clone(files),
            key: *key,
            state: Mutex::new(State {
                file,
                slot: found.older(),
            }),
        };
        let lost = found.next_offset();
        if lost > now.next_offset {
            warn!(
                path = %opened.path.display(),
                from = now.next_offset,
                to = lost - 1,
                "messages with these offsets are lost: they were acknowledged before they were \
                 on the disk, and the machine stopped; new messages get these offsets"
            );
            opened.write(now)?;
            opened.write(now)?;
            opened.sync()?;
        }
        Ok(opened)
    }

    /// Creates the file, if there is none, for a log that ends here. Its name is durable
    /// with the directory.
    pub(super) fn ensure(&self, now: Record) -> Result<(), StorageError> {
        let mut state = lock(&self.state);
        if state.file.is_some() {
            return Ok(());
        }
        let mut content = [0; FILE_BYTES];
        for at in [0, SLOT_EVERY_BYTES] {
            content[at..at + SLOT_BYTES].copy_from_slice(&encode(&now, &self.key));
        }
        let tmp = self.path.with_extension("tmp");
        let handle = self.files.create(&tmp, &content)?;
        self.files
            .disk
            .rename(&tmp, &self.path)
            .map_err(failed("rename", &tmp))?;
        state.file = Some(ManagedFile::created(
            self.path.clone(),
            &self.files,
            handle,
            OnClose::Nothing,
        ));
        Ok(())
    }

    /// Records what is about to be acknowledged.
    pub(super) fn write(&self, now: Record) -> Result<(), StorageError> {
        let mut state = lock(&self.state);
        let Some(file) = &state.file else {
            return Ok(());
        };
        let at = (state.slot * SLOT_EVERY_BYTES) as u64;
        file.write(at, &mut [IoSlice::new(&encode(&now, &self.key))])?;
        state.slot = 1 - state.slot;
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), StorageError> {
        let file = lock(&self.state).file.clone();
        file.map_or(Ok(()), |file| file.sync())
    }

    pub(super) fn release(&self) {
        if let Some(file) = &lock(&self.state).file {
            file.release();
        }
    }
}

fn encode(record: &Record, key: &PartitionKey) -> [u8; SLOT_BYTES] {
    let mut out = [0; SLOT_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&key.stream_id.to_le_bytes());
    out[16..20].copy_from_slice(&key.topic_id.to_le_bytes());
    out[20..24].copy_from_slice(&key.partition_id.to_le_bytes());
    out[24..32].copy_from_slice(&key.generation.to_le_bytes());
    out[32..40].copy_from_slice(&record.next_offset.to_le_bytes());
    out[40..48].copy_from_slice(&record.synced_offset.to_le_bytes());
    out[48..56].copy_from_slice(&record.boot.to_le_bytes());
    let crc = crc32c::crc32c(&out[..CRC_AT]);
    out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// `None` when the slot is damaged.
fn decode(path: &Path, bytes: &[u8], key: &PartitionKey) -> Result<Option<Record>, StorageError> {
    if &bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..CRC_AT]) != u32_at(bytes, CRC_AT) {
        return Ok(None);
    }
    let found = u16::from_le_bytes([bytes[8], bytes[9]]);
    if found != VERSION {
        return Err(StorageError::Version {
            path: path.to_owned(),
            found,
            known: VERSION,
        });
    }
    let record = Record {
        next_offset: u64_at(bytes, 32),
        synced_offset: u64_at(bytes, 40),
        boot: u64_at(bytes, 48),
    };
    if encode(&record, key) != bytes {
        return Err(StorageError::corrupt(
            path,
            0,
            "it belongs to another partition",
        ));
    }
    Ok(Some(record))
}
