//! One generation of a partition: its log, its consumers' offsets, and how it ends.
//!
//! After a failed write or sync it accepts no writes, because what the disk
//! contains is unknown until it is opened again; reads still work. After it is closed or
//! removed, callers that still use it receive an error, and its files' names are not
//! used again: they may then belong to another generation.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use crate::acknowledged::{Acknowledged, Promise};
use crate::append::Work;
use crate::error::{StorageError, failed};
use crate::files::{Files, create_dir, lock};
use crate::key::PartitionKey;
use crate::log::Log;
use crate::offsets::Offsets;
use crate::operation::Completion;
use crate::queue::WorkQueue;
use crate::recovery::recover;
use crate::replication::Trust;
use crate::types::{Durability, PartitionOptions, PolledBatches, ReadFrom};

/// Beside its batches, a write may need a segment, a directory and the record of what is
/// acknowledged: some blocks of the file system.
const ROOM_FOR_FILES: u64 = 64 << 10;

/// What all partitions of a storage share.
pub(super) struct Shared {
    /// Above it, no directory belongs to the storage.
    pub(super) root: PathBuf,
    pub(super) files: Arc<Files>,
    /// This run of the machine; zero when it is unknown.
    pub(super) boot: u64,
    /// Bytes of batches that may wait for one partition's writer.
    pub(super) queue_bytes_max: usize,
    /// Locked while directories are created or removed.
    pub(super) directories: Mutex<()>,
}

pub(super) struct Partition {
    pub(super) key: PartitionKey,
    pub(super) dir: PathBuf,
    pub(super) shared: Arc<Shared>,
    pub(super) log: Mutex<Log>,
    pub(super) works: WorkQueue<Work>,
    /// Sessions for the segment that the next write starts.
    pub(super) next_sessions: Mutex<Option<Bytes>>,
    /// The last record that is known to be committed.
    pub(super) committed: AtomicU64,
    /// Syncs that were submitted.
    pub(super) syncs: WorkQueue<Completion>,
    /// Where its tasks run.
    pub(super) runtime: Handle,
    pub(super) options: Mutex<PartitionOptions>,
    pub(super) room: Arc<Semaphore>,
    pub(super) offsets: Offsets,
    pub(super) acknowledged: Acknowledged,
    /// Locked during a sync, so that segments become durable in order.
    pub(super) syncing: Mutex<()>,
    pub(super) retired: AtomicBool,
    me: OnceLock<Weak<Self>>,
    /// What the files lack.
    lacking: Mutex<Lacking>,
    failed: OnceLock<StorageError>,
    full: Mutex<Option<Full>>,
}

/// What a log lacks of what it acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Lacking {
    pub(super) trust: Trust,
    /// It cannot be explained by a stop of the machine.
    pub(super) damage: Option<StorageError>,
}

/// The disk was full when the partition was written last.
struct Full {
    error: StorageError,
    /// The write needs so many bytes.
    bytes: u64,
}

/// Why a partition ends in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Close,
    Purge,
    Remove,
}

impl Partition {
    /// Opens the partition's files, if there are any.
    pub(super) fn open(
        dir: PathBuf,
        key: PartitionKey,
        options: PartitionOptions,
        shared: Arc<Shared>,
    ) -> Result<Self, StorageError> {
        let repairable = options.repairable;
        let mut recovered = recover(&dir, &shared.files, &key, shared.boot, repairable)?;
        let (found, damage) = (recovered.acknowledged, recovered.damage.take());
        let mut log = Log::new(recovered);
        if dir.exists() {
            // The process that made them may have ended before it synced their names.
            let dirs = dir
                .ancestors()
                .take_while(|dir| dir.starts_with(&shared.root));
            log.unsynced_dirs = dirs.map(Path::to_owned).collect();
            log.unsynced_dirs.reverse();
        }
        // Other copies decide which offsets exist.
        let offsets_end = if repairable {
            u64::MAX
        } else {
            log.next_offset()
        };
        let offsets = Offsets::open(&dir, &shared.files, offsets_end, repairable)?;
        let now = Promise {
            end: log.end().reach(),
            synced: log.synced,
            boot: shared.boot,
            commit: found.commit().min(log.end().position.index.0),
        };
        let lacks = damage.is_some() || found.end().index > now.end.index;
        let acknowledged =
            Acknowledged::open(&dir, &shared.files, &key, &found, now, damage.is_some())?;
        let partition = Self {
            key,
            dir,
            log: Mutex::new(log),
            works: WorkQueue::new(),
            next_sessions: Mutex::default(),
            committed: AtomicU64::new(now.commit),
            syncs: WorkQueue::new(),
            runtime: Handle::current(),
            options: Mutex::new(options),
            room: Arc::new(Semaphore::new(shared.queue_bytes_max)),
            offsets,
            acknowledged,
            syncing: Mutex::default(),
            retired: AtomicBool::new(false),
            me: OnceLock::new(),
            lacking: Mutex::new(Lacking {
                trust: match lacks {
                    true => Trust::TailLost,
                    false => Trust::Trusted,
                },
                damage,
            }),
            failed: OnceLock::new(),
            full: Mutex::default(),
            shared,
        };
        if !repairable {
            partition.settle()?;
        }
        if options.durability == Durability::Synced {
            // The process may have ended between a write and its sync. Readers must not
            // see what could still be lost.
            partition.sync()?;
        }
        Ok(partition)
    }

    /// For tasks that outlast a call.
    pub(super) fn shared(self) -> Arc<Self> {
        let shared = Arc::new(self);
        let _ = shared.me.set(Arc::downgrade(&shared));
        shared
    }

    /// The partition itself; `None` in its last moments.
    pub(super) fn me(&self) -> Option<Arc<Self>> {
        self.me.get().and_then(Weak::upgrade)
    }

    pub(super) fn options(&self) -> PartitionOptions {
        *lock(&self.options)
    }

    pub(super) fn lacking(&self) -> Lacking {
        lock(&self.lacking).clone()
    }

    /// The log lacks nothing any more.
    pub(super) fn trusted(&self) {
        *lock(&self.lacking) = Lacking {
            trust: Trust::Trusted,
            damage: None,
        };
    }

    /// Reads the batches of a poll.
    pub(super) async fn read_below(
        &self,
        from: ReadFrom,
        messages_max: u32,
        bytes_max: usize,
        end: u64,
    ) -> Result<PolledBatches, StorageError> {
        loop {
            let (plan, removals) = {
                let log = lock(&self.log);
                match log.plan(from, messages_max, bytes_max, end) {
                    Some(plan) => (plan, log.removals),
                    None => {
                        return Ok(PolledBatches {
                            current_offset: log.next_offset().min(end).saturating_sub(1),
                            ..PolledBatches::default()
                        });
                    }
                }
            };
            let read = blocking(move || plan.run()).await;
            // What was to be read may have been removed meanwhile.
            if read.is_ok() || lock(&self.log).removals == removals {
                return read;
            }
        }
    }

    /// Makes the partition's directory, for a new name in it.
    pub(super) fn make_dir(&self) -> Result<(), StorageError> {
        let _no_removal_runs = lock(&self.shared.directories);
        let mut missing: Vec<&Path> = Vec::new();
        for dir in self.dir.ancestors() {
            if dir.exists() {
                break;
            }
            missing.push(dir);
        }
        for dir in missing.into_iter().rev() {
            create_dir(dir, false).map_err(failed("create directory", dir))?;
            // Also when a later one fails.
            let above = dir.parent().map(Path::to_owned);
            lock(&self.log).unsynced_dirs.extend(above);
        }
        // Even if it is in the list: a sync that has just passed it does not count.
        lock(&self.log).unsynced_dirs.push(self.dir.clone());
        Ok(())
    }

    /// Refuses all further writes.
    pub(super) fn fail(&self, error: &StorageError) {
        let lasting = error.lasting();
        if self.failed.set(lasting.clone()).is_ok() {
            error!(
                partition = ?self.key,
                %error,
                "the partition accepts no writes until it is opened again"
            );
            self.refuse(&lasting);
        }
    }

    /// A write of so many bytes met a full disk, and had no effect.
    pub(super) fn fills(&self, error: &StorageError, bytes: u64) {
        let full = Full {
            error: error.clone(),
            bytes,
        };
        if lock(&self.full).replace(full).is_none() {
            error!(partition = ?self.key, %error, "the partition refuses writes until there is room");
        }
    }

    /// A write succeeded.
    pub(super) fn has_room(&self) {
        if lock(&self.full).take().is_some() {
            info!(partition = ?self.key, "there is room again: the partition accepts writes");
        }
    }

    /// Why the partition accepts no writes. If it met a full disk, the room is checked
    /// again.
    pub(super) fn refusal(&self) -> Option<StorageError> {
        if let Some(failure) = self.failure() {
            return Some(failure.clone());
        }
        if let Some(damage) = self.lacking().damage {
            return Some(damage);
        }
        let (error, bytes) = {
            let full = lock(&self.full);
            let full = full.as_ref()?;
            (full.error.clone(), full.bytes)
        };
        let room = self.shared.files.disk.room(&self.shared.root);
        if room.is_ok_and(|room| room >= bytes.saturating_add(ROOM_FOR_FILES)) {
            self.has_room();
            return None;
        }
        Some(error)
    }

    pub(super) fn failure(&self) -> Option<&StorageError> {
        self.failed.get()
    }

    fn refuse(&self, error: &StorageError) {
        for work in self.works.shut(error.clone()) {
            work.refuse(error.clone());
        }
        for completion in self.syncs.shut(error.clone()) {
            completion.finish(Err(error.clone()));
        }
        self.offsets.shut(error);
    }

    /// Makes everything that is acknowledged durable, in order. The partition
    /// has failed when this fails.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        let _one_at_a_time = lock(&self.syncing);
        if self.retired.load(Ordering::SeqCst) {
            return Ok(());
        }
        if let Some(error) = self.failure() {
            return Err(error.clone());
        }
        self.sync_in_order().inspect_err(|error| self.fail(error))
    }

    /// Makes the names of the partition's directories durable.
    pub(super) fn sync_dirs(&self) -> Result<(), StorageError> {
        if lock(&self.log).unsynced_dirs.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = lock(&self.syncing);
        let dirs = lock(&self.log).unsynced_dirs.clone();
        for dir in &dirs {
            self.shared.files.sync_dir(dir)?;
        }
        lock(&self.log).synced_dirs(dirs.len());
        Ok(())
    }

    fn sync_in_order(&self) -> Result<(), StorageError> {
        let (dirs, segments) = lock(&self.log).unsynced();
        for dir in &dirs {
            self.shared.files.sync_dir(dir)?;
        }
        lock(&self.log).synced_dirs(dirs.len());
        for mut segment in segments {
            segment.file.sync()?;
            if let Some(hint) = &segment.hint
                && let Err(error) = hint.store(&segment.file.path, &self.shared.files)
            {
                warn!(%error, "opening the segment again will take longer");
                segment.hint = None;
            }
            lock(&self.log).synced(&segment);
        }
        self.offsets.sync()?;
        let synced = lock(&self.log).synced;
        self.acknowledged
            .mark(self.promise(synced, synced), Duration::ZERO)?;
        self.acknowledged.sync()
    }

    /// Ends the use of the partition's files: afterwards nothing touches them.
    pub(super) async fn retire(self: Arc<Self>, end: Ending) -> Result<(), StorageError> {
        self.refuse(match end {
            Ending::Close | Ending::Purge => &StorageError::Closed,
            Ending::Remove => &StorageError::Removed,
        });
        self.works.idle().await;
        self.syncs.idle().await;
        self.offsets.idle().await;
        blocking(move || {
            let synced = match end {
                // A sync that failed must not be tried again: it would succeed.
                Ending::Close if self.failure().is_none() => self.sync(),
                _ => Ok(()),
            };
            self.retired.store(true, Ordering::SeqCst);
            let _no_sync_runs = lock(&self.syncing);
            for segment in &lock(&self.log).segments {
                segment.file.release();
            }
            self.offsets.release();
            self.acknowledged.release();
            synced
        })
        .await
    }
}

/// The guard of a task of a queue: when the task panics, the partition fails, so that no
/// caller waits for it.
pub(super) struct Working<'a, T> {
    pub(super) partition: &'a Partition,
    pub(super) queue: &'a WorkQueue<T>,
    pub(super) done: bool,
}

impl<T> Drop for Working<'_, T> {
    fn drop(&mut self) {
        if !self.done {
            self.partition.fail(&StorageError::Closed);
            self.queue.abandon();
        }
    }
}

/// Runs file work where it may block: on the threads that tokio keeps for it. Passing work
/// to another thread costs some 10 us; a write into the page cache may stall a hundred
/// times longer when the kernel throttles writers.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    // There is no result only after a panic, or when the runtime shuts down.
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(StorageError::Closed))
}
