//! How far the log of a partition was acknowledged, so that a log that is shorter when it
//! is opened counts as damaged instead of torn.
//!
//! ```text
//! acknowledged: two slots, the first at 0, the second at 512; zeros between them
//! slot of version 3: magic 8 | version u16 | 0 u16 | stream u32 | topic u32 | partition u32
//!     | generation u64 | next offset u64 | synced offset u64 | boot u64 | last index u64
//!     | synced index u64 | committed index u64 | crc32c u32
//! slot of version 2: has no committed index
//! slot of version 1: ends after boot and its crc32c; an index is then an offset
//! ```
//! Before the records of one write are acknowledged, one slot is overwritten, the two in
//! turn: records through `last index` are acknowledged, or will be; those through `synced
//! index` were on the disk. The write is not fsynced. It survives the process, and in the
//! same run of the machine (`boot`) the log has to reach `last index`. After the machine
//! was stopped, the log has to reach `synced index`: what is above it could be lost with
//! the machine. The file itself may then be some writes old, as old as the last
//! sync of the log at most, and proves less; it never proves too much: before records are
//! cut off, both slots are lowered, durably.
//!
//! Records through `committed index`, which were on the disk when it was written, are
//! committed on all copies. It is lowered with the rest when records are cut off, so it never
//! counts for others that take their places.
//!
//! A copy that lacks what it has promised may be completed from another copy. Until it is,
//! what it writes does not lower the promise.
//!
//! A partition without the file, from a version before it, is opened without this check.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::bytes_at::{u32_at, u64_at};
use crate::error::{StorageError, failed};
use crate::files::{Files, ManagedFile, OnClose, lock};
use crate::format::Reach;
use crate::key::PartitionKey;

const MAGIC: &[u8; 8] = b"IGGYACK\n";
const VERSION: u16 = 3;
const SLOT_BYTES: usize = 84;
const V2_SLOT_BYTES: usize = 76;
const V1_SLOT_BYTES: usize = 60;
/// Slots are in different sectors: a crash during the write of one leaves the other.
const SLOT_EVERY_BYTES: usize = 512;
const FILE_BYTES: usize = 2 * SLOT_EVERY_BYTES;
const NAME: &str = "acknowledged";

/// What a slot records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) end: Reach,
    pub(super) synced: Reach,
    /// Which run of the machine wrote it; zero when that is unknown.
    pub(super) boot: u64,
    /// The last record that is known to be committed, and is on the disk.
    pub(super) commit: u64,
}

impl Promise {
    /// The log has to reach this place, in this run of the machine.
    fn of(&self, boot: u64) -> Reach {
        let same_run = self.boot == boot && boot != 0;
        match same_run {
            true => self.end.max(self.synced),
            false => self.synced,
        }
    }
}

/// What the file of a directory records.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    slots: [Option<Promise>; 2],
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
            *slot = match content.get(at..) {
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

    /// The log has to reach this place, in this run of the machine.
    pub(super) fn promised(&self, boot: u64) -> Reach {
        let slots = self.slots.iter().flatten();
        slots.fold(Reach::default(), |most, slot| most.max(slot.of(boot)))
    }

    /// The log was on the disk up to this place.
    pub(super) fn synced(&self) -> Reach {
        let slots = self.slots.iter().flatten();
        slots.fold(Reach::default(), |most, slot| most.max(slot.synced))
    }

    /// Everything before this place was acknowledged.
    pub(super) fn end(&self) -> Reach {
        let slots = self.slots.iter().flatten();
        slots.fold(Reach::default(), |most, slot| most.max(slot.end))
    }

    /// The last record that was known to be committed.
    pub(super) fn commit(&self) -> u64 {
        let slots = self.slots.iter().flatten();
        slots.map(|slot| slot.commit).max().unwrap_or(0)
    }

    /// The slot to be overwritten next: the older one.
    fn older(&self) -> usize {
        match self.slots {
            [Some(first), Some(second)] => usize::from(first.end.index > second.end.index),
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
    /// What is recorded, and since when.
    last: Promise,
    since: Option<Instant>,
    /// What the log lacks of its promise.
    missing: Option<Promise>,
}

impl State {
    /// What is recorded when the log has this.
    fn promise(&self, mut now: Promise) -> Promise {
        if let Some(missing) = &self.missing {
            now.end = now.end.max(missing.end);
            now.synced = now.synced.max(missing.synced);
        }
        now
    }
}

impl Acknowledged {
    /// The file as it was found. `now` is what the opened log contains: if more was
    /// recorded, which a stop of the machine explains, that is corrected, so that it is
    /// reported once and does not count for messages that get these offsets next. Where
    /// nothing explains it, the log is `damaged`, and the promise stays.
    pub(super) fn open(
        dir: &Path,
        files: &Arc<Files>,
        key: &PartitionKey,
        found: &Found,
        now: Promise,
        damaged: bool,
    ) -> Result<Self, StorageError> {
        let path = dir.join(NAME);
        let file = found
            .exists
            .then(|| ManagedFile::at(path.clone(), files, OnClose::Nothing));
        let missing = Promise {
            end: found.promised(now.boot),
            synced: found.synced(),
            boot: now.boot,
            commit: now.commit,
        };
        let opened = Self {
            path,
            files: Arc::clone(files),
            key: *key,
            state: Mutex::new(State {
                file,
                slot: found.older(),
                last: now,
                since: None,
                missing: damaged.then_some(missing),
            }),
        };
        let lost = found.end();
        if lost.index > now.end.index && !damaged {
            warn!(
                path = %opened.path.display(),
                from = now.end.offset,
                to = lost.offset.saturating_sub(1),
                "messages with these offsets are lost: they were acknowledged before they were \
                 on the disk, and the machine stopped; new messages get these offsets"
            );
            opened.lower(now)?;
        } else if found.commit() > now.commit {
            opened.lower(now)?;
        }
        Ok(opened)
    }

    /// Records that the log has no more than this, durably: records will be cut off.
    pub(super) fn lower(&self, now: Promise) -> Result<(), StorageError> {
        self.write(now)?;
        self.write(now)?;
        self.sync()
    }

    /// What the log lacks is not expected any more.
    pub(super) fn forget(&self) {
        lock(&self.state).missing = None;
    }

    /// Records that the log lacks nothing any more.
    pub(super) fn complete(&self, now: Promise) -> Result<(), StorageError> {
        let was = lock(&self.state).missing.take();
        match was {
            Some(_) => self.lower(now),
            None => Ok(()),
        }
    }

    /// Creates the file, if there is none, for a log that ends here. Its name is durable
    /// with the directory.
    pub(super) fn ensure(&self, now: Promise) -> Result<(), StorageError> {
        let mut state = lock(&self.state);
        if state.file.is_some() {
            return Ok(());
        }
        state.last = now;
        let now = state.promise(now);
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
    pub(super) fn write(&self, now: Promise) -> Result<(), StorageError> {
        self.write_locked(&mut lock(&self.state), now)
    }

    /// Records what is committed, and what is on the disk, unless something was recorded within
    /// this time. What is about to be acknowledged is as before.
    pub(super) fn mark(&self, now: Promise, every: Duration) -> Result<(), StorageError> {
        let mut state = lock(&self.state);
        let recently = state.since.is_some_and(|since| since.elapsed() < every);
        let last = state.last;
        let is_known = now.commit <= last.commit && now.synced.index <= last.synced.index;
        if is_known || recently {
            return Ok(());
        }
        let now = Promise {
            end: last.end,
            ..now
        };
        self.write_locked(&mut state, now)
    }

    fn write_locked(&self, state: &mut State, mut now: Promise) -> Result<(), StorageError> {
        // What was recorded once was on the disk, even if that is not known any more.
        now.commit = now.commit.max(state.last.commit.min(now.end.index));
        let Some(file) = &state.file else {
            return Ok(());
        };
        let at = (state.slot * SLOT_EVERY_BYTES) as u64;
        let slot = encode(&state.promise(now), &self.key);
        file.write(at, &mut [IoSlice::new(&slot)])?;
        state.slot = 1 - state.slot;
        state.last = now;
        state.since = Some(Instant::now());
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

fn encode(promise: &Promise, key: &PartitionKey) -> [u8; SLOT_BYTES] {
    let mut out = [0; SLOT_BYTES];
    encode_common(promise, key, VERSION, &mut out);
    out[56..64].copy_from_slice(&promise.end.index.to_le_bytes());
    out[64..72].copy_from_slice(&promise.synced.index.to_le_bytes());
    out[72..80].copy_from_slice(&promise.commit.to_le_bytes());
    seal(&mut out);
    out
}

/// What both versions have.
fn encode_common(promise: &Promise, key: &PartitionKey, version: u16, out: &mut [u8]) {
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&version.to_le_bytes());
    out[12..16].copy_from_slice(&key.stream_id.to_le_bytes());
    out[16..20].copy_from_slice(&key.topic_id.to_le_bytes());
    out[20..24].copy_from_slice(&key.partition_id.to_le_bytes());
    out[24..32].copy_from_slice(&key.generation.to_le_bytes());
    out[32..40].copy_from_slice(&promise.end.offset.to_le_bytes());
    out[40..48].copy_from_slice(&promise.synced.offset.to_le_bytes());
    out[48..56].copy_from_slice(&promise.boot.to_le_bytes());
}

/// Puts the checksum at the end.
fn seal(slot: &mut [u8]) {
    let at = slot.len() - 4;
    let crc = crc32c::crc32c(&slot[..at]);
    slot[at..].copy_from_slice(&crc.to_le_bytes());
}

/// The slot at the start of `bytes`; `None` when it is damaged.
fn decode(path: &Path, bytes: &[u8], key: &PartitionKey) -> Result<Option<Promise>, StorageError> {
    if bytes.len() < V1_SLOT_BYTES || &bytes[..8] != MAGIC {
        return Ok(None);
    }
    let found = u16::from_le_bytes([bytes[8], bytes[9]]);
    let slot_bytes = match found {
        1 => V1_SLOT_BYTES,
        2 => V2_SLOT_BYTES,
        _ => SLOT_BYTES,
    };
    let Some(bytes) = bytes.get(..slot_bytes) else {
        return Ok(None);
    };
    let crc_at = slot_bytes - 4;
    if crc32c::crc32c(&bytes[..crc_at]) != u32_at(bytes, crc_at) {
        return Ok(None);
    }
    if found == 0 || found > VERSION {
        return Err(StorageError::Version {
            path: path.to_owned(),
            found,
            known: VERSION,
        });
    }
    let reach = |offset_at, index_at| {
        let offset = u64_at(bytes, offset_at);
        let index = match found {
            1 => offset,
            _ => u64_at(bytes, index_at),
        };
        Reach { index, offset }
    };
    let promise = Promise {
        end: reach(32, 56),
        synced: reach(40, 64),
        boot: u64_at(bytes, 48),
        commit: match found {
            1 | 2 => 0,
            _ => u64_at(bytes, 72),
        },
    };
    let mut again = [0; SLOT_BYTES];
    encode_common(&promise, key, found, &mut again);
    match again[..V1_SLOT_BYTES - 4] == bytes[..V1_SLOT_BYTES - 4] {
        true => Ok(Some(promise)),
        false => Err(StorageError::corrupt(
            path,
            0,
            "it belongs to another partition",
        )),
    }
}
