//! What a node keeps for all of its partitions: which epochs it has adopted, and what it may
//! have lost when it starts.
//!
//! ```text
//! node, in the storage's directory, replaced as a whole:
//!   magic 8 | version u16 | 0 u16 | storage id u128 | incarnation u64 | boot u64
//!   | log u8: 0 intact, 1 tail lost, 2 lost | stopped u8 | 0 u16 | crc32c u32
//! ```
//! A start writes its incarnation before anything else, and a stop, when everything is
//! fsynced, that nothing is missing. What was lost is remembered until every copy has
//! recovered, so that a second stop makes nothing trusted.

mod journal;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tracing::warn;

use crate::bytes_at::{u32_at, u64_at};
use crate::error::{StorageError, failed, sync_failed};
use crate::files::{Disk, Files, OsDisk, create_dir, lock};
use crate::key::PartitionKey;
use crate::operation::Done;
use crate::replication::Epoch;
use journal::Journal;

const MAGIC: &[u8; 8] = b"IGGYNOD\n";
const VERSION: u16 = 1;
const BYTES: usize = 52;
const CRC_AT: usize = BYTES - 4;
const NAME: &str = "node";

/// What a node may have lost since it acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogState {
    /// Nothing.
    Intact,
    /// What was written last and not fsynced.
    TailLost,
    /// Everything: it is not on the storage that acknowledged.
    Lost,
}

/// The files that a node has for all of its partitions.
pub struct NodeStorage {
    files: Arc<Files>,
    root: PathBuf,
    state: Mutex<State>,
    journal: Arc<Journal>,
}

/// What the file contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// The disk of the node that has written it.
    storage_id: u128,
    incarnation: u64,
    /// The run of the machine; zero when it is unknown.
    boot: u64,
    log: LogState,
    /// It was stopped, and everything is on the disk.
    stopped: bool,
}

impl NodeStorage {
    /// Opens the files in a storage's directory, for the start of a node on the disk
    /// `storage_id` with this incarnation: higher than that of any start before it, and by one
    /// if the start before it has opened them. Files of another disk count as lost. To be
    /// called before the directory is used otherwise, in a tokio runtime; blocks the thread.
    ///
    /// # Errors
    /// When the disk fails, or a file is of an unknown version.
    pub fn open(
        root: impl Into<PathBuf>,
        storage_id: u128,
        incarnation: u64,
    ) -> Result<(Self, LogState), StorageError> {
        let boot = crate::embedded::this_boot();
        Self::on(
            Arc::new(OsDisk),
            root.into(),
            (storage_id, incarnation),
            boot,
        )
    }

    pub(super) fn on(
        disk: Arc<dyn Disk>,
        root: PathBuf,
        (storage_id, incarnation): (u128, u64),
        boot: u64,
    ) -> Result<(Self, LogState), StorageError> {
        create_dir(&root, true).map_err(failed("create directory", &root))?;
        let files = Files::new(disk, 1);
        let found = State::load(&root, &files)?;
        let (journal, is_whole) = Journal::open(&root, &files)?;
        let mut log = match found {
            Found::Nothing if has_entries(&root)? || incarnation <= 1 => LogState::Intact,
            Found::Nothing | Found::Damaged => LogState::Lost,
            Found::State(found) if found.storage_id != storage_id => LogState::Lost,
            // Another start has used another directory meanwhile.
            Found::State(found) if found.incarnation.saturating_add(1) < incarnation => {
                LogState::Lost
            }
            Found::State(found) => found.log.max(found.since_then(&root, boot)),
        };
        if !is_whole {
            warn!(
                path = %root.display(),
                "the journal of adopted epochs is damaged: this node's copies count for nothing \
                 until they have recovered"
            );
            log = LogState::Lost;
        }
        let opened = Self {
            files,
            root,
            state: Mutex::new(State {
                storage_id,
                incarnation,
                boot,
                log,
                stopped: false,
            }),
            journal: Arc::new(journal),
        };
        opened.change(|_| {})?;
        Ok((opened, log))
    }

    /// Every copy has recovered: what was lost is forgotten. Blocks the thread.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn recovered(&self) -> Result<(), StorageError> {
        self.change(|state| state.log = LogState::Intact)
    }

    /// The node stops, and everything was fsynced: the last thing that it does with its
    /// storage. Blocks the thread.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn stopped(&self) -> Result<(), StorageError> {
        self.change(|state| state.stopped = true)
    }

    /// The latest epoch in which the copy of a partition has acknowledged anything.
    #[must_use]
    pub fn adopted(&self, key: &PartitionKey) -> Epoch {
        self.journal.adopted(key)
    }

    /// Records durably that a copy acknowledges in this epoch. Epochs that are recorded
    /// concurrently share a sync. `done` is called once, from a thread of the storage, not
    /// from this call. After an error, none is recorded until the next start.
    pub fn adopt(&self, key: PartitionKey, epoch: Epoch, done: Done) {
        self.journal.adopt(key, epoch, done);
    }

    /// Forgets the epochs of other partitions than these.
    pub fn retain(&self, exists: impl Fn(&PartitionKey) -> bool) {
        self.journal.retain(exists);
    }

    /// Replaces the file, durably.
    fn change(&self, change: impl FnOnce(&mut State)) -> Result<(), StorageError> {
        let mut state = lock(&self.state);
        let mut next = *state;
        change(&mut next);
        let path = self.root.join(NAME);
        let tmp = path.with_extension("tmp");
        let handle = self.files.create(&tmp, &next.encode())?;
        handle.sync().map_err(sync_failed("sync", &tmp))?;
        let renamed = self.files.disk.rename(&tmp, &path);
        renamed.map_err(failed("rename", &tmp))?;
        self.files.sync_dir(&self.root)?;
        *state = next;
        Ok(())
    }
}

/// The file of an earlier start.
#[derive(Clone, Copy, Debug)]
enum Found {
    Nothing,
    Damaged,
    State(State),
}

impl State {
    fn load(root: &Path, files: &Files) -> Result<Found, StorageError> {
        let path = root.join(NAME);
        let Some(content) = files.load(&path)? else {
            return Ok(Found::Nothing);
        };
        if content.len() < 10 || &content[..8] != MAGIC {
            return Ok(Found::Damaged);
        }
        let found = u16::from_le_bytes([content[8], content[9]]);
        if found != VERSION {
            return Err(StorageError::Version {
                path,
                found,
                known: VERSION,
            });
        }
        Ok(Self::decode(&content).map_or(Found::Damaged, Found::State))
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let whole =
            content.len() == BYTES && u32_at(content, CRC_AT) == crc32c::crc32c(&content[..CRC_AT]);
        if !whole {
            return None;
        }
        let mut storage_id = [0; 16];
        storage_id.copy_from_slice(&content[12..28]);
        Some(Self {
            storage_id: u128::from_le_bytes(storage_id),
            incarnation: u64_at(content, 28),
            boot: u64_at(content, 36),
            log: match content[44] {
                0 => LogState::Intact,
                1 => LogState::TailLost,
                _ => LogState::Lost,
            },
            stopped: content[45] != 0,
        })
    }

    fn encode(&self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[12..28].copy_from_slice(&self.storage_id.to_le_bytes());
        out[28..36].copy_from_slice(&self.incarnation.to_le_bytes());
        out[36..44].copy_from_slice(&self.boot.to_le_bytes());
        out[44] = match self.log {
            LogState::Intact => 0,
            LogState::TailLost => 1,
            LogState::Lost => 2,
        };
        out[45] = u8::from(self.stopped);
        let crc = crc32c::crc32c(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// What may have been lost since this was written.
    fn since_then(&self, root: &Path, boot: u64) -> LogState {
        if self.stopped {
            return LogState::Intact;
        }
        let same_run = self.boot == boot && boot != 0;
        // What the process has written is in the memory of the machine, unless it could not
        // be written to the disk since.
        match same_run && sync_all(root) {
            true => LogState::Intact,
            false => LogState::TailLost,
        }
    }
}

/// Writes everything in the file system to the disk; whether that succeeded.
fn sync_all(root: &Path) -> bool {
    let synced = fs::File::open(root).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
    if let Err(error) = &synced {
        warn!(path = %root.display(), %error, "what an earlier start has written may be lost");
    }
    synced.is_ok()
}

/// Whether there are partitions, of a version without the file.
fn has_entries(root: &Path) -> Result<bool, StorageError> {
    let mut entries = fs::read_dir(root).map_err(failed("list", root))?;
    let has_partitions = entries.any(|entry| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
    });
    Ok(has_partitions)
}
