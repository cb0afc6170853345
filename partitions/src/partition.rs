//! One partition: its log, its consumers' offsets, its life.
//!
//! After a failed write or sync it takes nothing more, because what the disk
//! holds is unknown until it is opened again; reads go on. When it is closed or
//! removed, whoever still holds it gets an error, and its files' names are not
//! used any more: they may be another's by then.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::Semaphore;
use tracing::error;

use super::error::failed;
use super::files::{Files, lock};
use super::lane::Lane;
use super::log::Log;
use super::offsets::{NewOffset, Offsets};
use super::recovery::recover;
use super::writer::Append;
use super::{
    ConsumerKey, Durability, PartitionKey, PartitionOptions, PartitionStats, PolledBatches,
    ReadFrom, StorageError,
};

/// What all partitions of a storage share.
pub(super) struct Shared {
    pub(super) files: Arc<Files>,
    /// This run of the machine; zero when it is unknown.
    pub(super) boot: u64,
    /// Bytes of batches that may wait for one partition's writer.
    pub(super) queue_bytes_max: usize,
    /// Held while directories are made or removed.
    pub(super) directories: Mutex<()>,
}

pub(super) struct Partition {
    pub(super) key: PartitionKey,
    pub(super) dir: PathBuf,
    pub(super) shared: Arc<Shared>,
    pub(super) log: Mutex<Log>,
    pub(super) appends: Lane<Append>,
    pub(super) room: Arc<Semaphore>,
    pub(super) offsets: Offsets,
    /// Held while syncing, so that segments are synced in order.
    pub(super) syncing: Mutex<()>,
    pub(super) retired: AtomicBool,
    failed: OnceLock<StorageError>,
}

/// Why a partition's life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
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
        let recovered = recover(&dir, &shared.files, &key, shared.boot)?;
        let log = Log::new(recovered);
        let offsets = Offsets::open(&dir, &shared.files, log.next_offset())?;
        let partition = Self {
            key,
            dir,
            log: Mutex::new(log),
            appends: Lane::new(),
            room: Arc::new(Semaphore::new(shared.queue_bytes_max)),
            offsets,
            syncing: Mutex::default(),
            retired: AtomicBool::new(false),
            failed: OnceLock::new(),
            shared,
        };
        if options.durability == Durability::Synced {
            // The process may have ended between a write and its sync. Nobody may
            // see what could still be lost.
            partition.sync()?;
        }
        Ok(partition)
    }

    /// What has to be read, or the answer when that is nothing.
    pub(super) async fn read(
        &self,
        from: ReadFrom,
        messages_max: u32,
        bytes_max: usize,
    ) -> Result<PolledBatches, StorageError> {
        loop {
            let (plan, first) = {
                let log = lock(&self.log);
                match log.plan(from, messages_max, bytes_max) {
                    Some(plan) => (plan, log.first_offset()),
                    None => {
                        return Ok(PolledBatches {
                            current_offset: log.stats().current_offset(),
                            ..PolledBatches::default()
                        });
                    }
                }
            };
            let read = blocking(move || plan.run()).await;
            // What was to be read may have been removed meanwhile.
            if read.is_ok() || lock(&self.log).first_offset() == first {
                return read;
            }
        }
    }

    pub(super) fn stats(&self) -> PartitionStats {
        lock(&self.log).stats()
    }

    pub(super) async fn store_offset(
        self: &Arc<Self>,
        options: PartitionOptions,
        consumer: ConsumerKey,
        offset: u64,
        to: impl Fn(u64) -> NewOffset,
    ) -> Result<(), StorageError> {
        let next = lock(&self.log).next_offset();
        if offset >= next {
            return Err(StorageError::InvalidOffset {
                offset,
                current: next.saturating_sub(1),
            });
        }
        self.change_offset(options, consumer, to(offset)).await
    }

    /// Makes the partition's directory. Returns the directories that have new
    /// names in them.
    pub(super) fn make_dir(&self) -> Result<Vec<PathBuf>, StorageError> {
        let _nobody_removes = lock(&self.shared.directories);
        let mut missing: Vec<&Path> = Vec::new();
        for dir in self.dir.ancestors() {
            if dir.exists() {
                break;
            }
            missing.push(dir);
        }
        let mut changed = Vec::new();
        for dir in missing.into_iter().rev() {
            fs::create_dir(dir).map_err(failed("create directory", dir))?;
            changed.extend(dir.parent().map(Path::to_owned));
        }
        changed.push(self.dir.clone());
        Ok(changed)
    }

    /// Takes nothing more.
    pub(super) fn fail(&self, error: &StorageError) {
        let lasting = error.lasting();
        if self.failed.set(lasting.clone()).is_ok() {
            error!(
                partition = ?self.key,
                %error,
                "the partition takes nothing more until it is opened again"
            );
            self.refuse(&lasting);
        }
    }

    pub(super) fn failure(&self) -> Option<&StorageError> {
        self.failed.get()
    }

    fn refuse(&self, error: &StorageError) {
        for append in self.appends.shut(error.clone()) {
            append.answer(Err(error.clone()));
        }
        self.offsets.shut(error);
    }

    /// Ends the partition's life: afterwards nothing of it touches its files.
    pub(super) async fn retire(self: Arc<Self>, end: End) -> Result<(), StorageError> {
        self.refuse(match end {
            End::Close | End::Purge => &StorageError::Closed,
            End::Remove => &StorageError::Removed,
        });
        self.appends.idle().await;
        self.offsets.idle().await;
        blocking(move || {
            let synced = match end {
                // A sync that failed must not be tried again: it would succeed.
                End::Close if self.failure().is_none() => self.sync(),
                _ => Ok(()),
            };
            self.retired.store(true, Ordering::SeqCst);
            let _nobody_syncs = lock(&self.syncing);
            for segment in &lock(&self.log).segments {
                segment.file.let_go();
            }
            self.offsets.let_go();
            synced
        })
        .await
    }
}

/// Sees to it that nobody waits in a lane for a writer that panicked.
pub(super) struct Working<'a, T> {
    pub(super) partition: &'a Partition,
    pub(super) lane: &'a Lane<T>,
    pub(super) done: bool,
}

impl<T> Drop for Working<'_, T> {
    fn drop(&mut self) {
        if !self.done {
            self.partition.fail(&StorageError::Closed);
            self.lane.abandon();
        }
    }
}

/// Runs file work where it may block: on the threads that tokio keeps for it. A
/// hand-over costs some 10 us, a write into the page cache may stall a hundred
/// times longer once the kernel throttles writers.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    // Only a panic, or a runtime that is shutting down, leaves it without result.
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(StorageError::Closed))
}
