//! Partitions in files below one directory:
//! `<stream>/<topic>/<partition>-<generation>/`.
//!
//! Partitions are opened when they are first used. A partition that is purged or removed is
//! first moved into `.removed`, which is atomic, and then deleted; what a crash
//! left there is deleted at the next start.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinSet;
use tracing::warn;
use twox_hash::XxHash3_64;

use crate::batch::BATCH_BYTES_MAX;
use crate::error::{StorageError, failed};
use crate::files::{Disk, Files, OsDisk, create_dir, lock};
use crate::key::PartitionKey;
use crate::partition::{Ending, Partition, Shared, blocking};
use crate::storage::{PartitionStorage, StoredPartition};
use crate::types::PartitionOptions;

const REMOVED: &str = ".removed";

/// Bounds of the embedded storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddedStorageConfig {
    /// Files that stay open; further ones are open only while they are in use. Default
    /// 512, at least 1.
    pub open_files_max: usize,
    /// Bytes of batches that wait for one partition's writer, but always one batch;
    /// further appends wait before they are queued. Default 64 MiB.
    pub queue_bytes_max: usize,
}

impl Default for EmbeddedStorageConfig {
    fn default() -> Self {
        Self {
            open_files_max: 512,
            queue_bytes_max: BATCH_BYTES_MAX,
        }
    }
}

/// Partitions in files below one directory.
pub struct EmbeddedStorage {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    shared: Arc<Shared>,
    slots: Mutex<HashMap<PartitionKey, Arc<RwLock<Slot>>>>,
    shut: AtomicBool,
    removals: AtomicU64,
    /// The age of the latest generation that was removed since the start, for each stream,
    /// topic and partition id that had one: as many as ids were ever in use together.
    removed: Mutex<HashMap<[u32; 3], u64>>,
    /// Why partitions could not be opened when they were last used.
    unopened: Mutex<BTreeMap<PartitionKey, StorageError>>,
}

/// The slot stays locked while a partition is opened or ended, to the end, even when the
/// caller drops its future.
enum Slot {
    NotOpen,
    Open(Arc<Partition>),
    /// No longer in the map, which has to be searched again.
    Stale,
}

impl EmbeddedStorage {
    /// The partitions below `root`, which is created if it is missing.
    ///
    /// # Errors
    /// When the directory cannot be created, or leftovers of removals not be deleted.
    pub fn new(
        root: impl Into<PathBuf>,
        config: EmbeddedStorageConfig,
    ) -> Result<Self, StorageError> {
        Self::on(Arc::new(OsDisk), root.into(), config, this_boot())
    }

    pub(super) fn on(
        disk: Arc<dyn Disk>,
        root: PathBuf,
        config: EmbeddedStorageConfig,
        boot: u64,
    ) -> Result<Self, StorageError> {
        let removed = root.join(REMOVED);
        // On a full disk there may be no room to create it again.
        for leftover in names(&removed)? {
            remove_all(&removed.join(leftover))?;
        }
        make_dirs(&*disk, &removed)?;
        let shared = Shared {
            root: root.clone(),
            files: Files::new(disk, config.open_files_max),
            boot,
            queue_bytes_max: config.queue_bytes_max.max(1),
            directories: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                root,
                shared: Arc::new(shared),
                slots: Mutex::default(),
                shut: AtomicBool::new(false),
                removals: AtomicU64::new(0),
                removed: Mutex::default(),
                unopened: Mutex::default(),
            }),
        })
    }

    #[cfg(test)]
    pub(super) fn dir(&self, key: &PartitionKey) -> PathBuf {
        self.inner.dir(key)
    }

    /// Batches that wait for the partition's writer.
    #[cfg(test)]
    pub(super) async fn waiting(&self, key: PartitionKey) -> usize {
        match &*self.inner.slot(key).read().await {
            Slot::Open(partition) => partition.works.waiting(),
            Slot::NotOpen | Slot::Stale => 0,
        }
    }

    #[cfg(test)]
    pub(super) fn files(&self) -> &Files {
        &self.inner.shared.files
    }
}

impl Inner {
    fn dir(&self, key: &PartitionKey) -> PathBuf {
        self.root
            .join(key.stream_id.to_string())
            .join(key.topic_id.to_string())
            .join(format!("{}-{}", key.partition_id, key.generation))
    }

    fn slot(&self, key: PartitionKey) -> Arc<RwLock<Slot>> {
        let mut slots = lock(&self.slots);
        let slot = slots
            .entry(key)
            .or_insert_with(|| Arc::new(RwLock::new(Slot::NotOpen)));
        Arc::clone(slot)
    }

    /// The partition, opened by the first caller while others wait. If that fails, the
    /// next caller tries again.
    async fn partition(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<Arc<Partition>, StorageError> {
        loop {
            if self.shut.load(Ordering::SeqCst) {
                return Err(StorageError::Closed);
            }
            let slot = self.slot(key);
            if let Slot::Open(partition) = &*slot.read().await {
                return Ok(Arc::clone(partition));
            }
            let slot = slot.write_owned().await;
            if self.is_removed(&key) {
                return Err(StorageError::Removed);
            }
            let (dir, shared) = (self.dir(&key), Arc::clone(&self.shared));
            let opened = blocking(move || open(slot, dir, key, options, shared)).await;
            match &opened {
                Ok(_) => lock(&self.unopened).remove(&key),
                Err(error) => lock(&self.unopened).insert(key, error.clone()),
            };
            if let Some(partition) = opened? {
                return Ok(partition);
            }
        }
    }

    /// Whether this generation was removed. Whether a caller may use the partition was
    /// checked before the call: it may use one that has been removed since, and must
    /// not create its directory again. To be called while its slot is locked.
    fn is_removed(&self, key: &PartitionKey) -> bool {
        let removed = lock(&self.removed);
        removed.get(&ids(key)).is_some_and(|age| key.age() <= *age)
    }

    /// Ends a partition, completely even when the caller drops its future.
    async fn end(self: &Arc<Self>, key: PartitionKey, end: Ending) -> Result<(), StorageError> {
        if end == Ending::Remove {
            let mut removed = lock(&self.removed);
            let age = removed.entry(ids(&key)).or_default();
            *age = key.age().max(*age);
        }
        let inner = Arc::clone(self);
        let task = tokio::spawn(async move {
            loop {
                let mut slot = inner.slot(key).write_owned().await;
                let retired = match std::mem::replace(&mut *slot, Slot::Stale) {
                    Slot::Stale => continue,
                    Slot::NotOpen => Ok(()),
                    Slot::Open(partition) => partition.retire(end).await,
                };
                let moved = match end {
                    Ending::Close => Ok(()),
                    Ending::Purge | Ending::Remove => {
                        let inner = Arc::clone(&inner);
                        blocking(move || inner.move_away(&key, end)).await
                    }
                };
                lock(&inner.slots).remove(&key);
                lock(&inner.unopened).remove(&key);
                return retired.and(moved);
            }
        });
        task.await.unwrap_or(Err(StorageError::Closed))
    }

    /// Moves a partition's directory away, and removes those above it that are then
    /// empty.
    fn move_away(&self, key: &PartitionKey, end: Ending) -> Result<(), StorageError> {
        let dir = self.dir(key);
        let number = self.removals.fetch_add(1, Ordering::Relaxed);
        let away = self.root.join(REMOVED).join(number.to_string());
        {
            let _none_is_created = lock(&self.shared.directories);
            if !dir.exists() {
                return Ok(());
            }
            match self.shared.files.disk.rename(&dir, &away) {
                // A new name needs room. What is left after a crash is removed by the next
                // start, because the partition is deleted.
                Err(error) if end == Ending::Remove => {
                    warn!(%error, "cannot move a removed partition away; deleting it in place");
                    remove_all(&dir)?;
                }
                moved => moved.map_err(failed("move away", &dir))?,
            }
            for above in dir.ancestors().skip(1) {
                let emptied = above != self.root && fs::remove_dir(above).is_ok();
                if !emptied {
                    self.shared.files.sync_dir(above)?;
                    break;
                }
            }
        }
        if let Err(error) = remove_all(&away) {
            warn!(%error, "cannot delete all files of a removed partition; the next start deletes the rest");
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<PartitionKey>, StorageError> {
        let mut keys = Vec::new();
        for stream in names(&self.root)? {
            let Ok(stream_id) = stream.parse() else {
                continue;
            };
            let dir = self.root.join(stream);
            for topic in names(&dir)? {
                let Ok(topic_id) = topic.parse() else {
                    continue;
                };
                for name in names(&dir.join(topic))? {
                    let key = name.split_once('-').and_then(|(partition, generation)| {
                        Some(PartitionKey {
                            stream_id,
                            topic_id,
                            partition_id: partition.parse().ok()?,
                            generation: generation.parse().ok()?,
                        })
                    });
                    keys.extend(key);
                }
            }
        }
        Ok(keys)
    }
}

fn ids(key: &PartitionKey) -> [u32; 3] {
    [key.stream_id, key.topic_id, key.partition_id]
}

/// Opens the partition of a slot, unless it is open already. `None` when the slot
/// is stale.
fn open(
    mut slot: OwnedRwLockWriteGuard<Slot>,
    dir: PathBuf,
    key: PartitionKey,
    options: PartitionOptions,
    shared: Arc<Shared>,
) -> Result<Option<Arc<Partition>>, StorageError> {
    match &*slot {
        Slot::Open(partition) => Ok(Some(Arc::clone(partition))),
        Slot::Stale => Ok(None),
        Slot::NotOpen => {
            let partition = Partition::open(dir, key, options, shared)?.shared();
            *slot = Slot::Open(Arc::clone(&partition));
            Ok(Some(partition))
        }
    }
}

#[async_trait]
impl PartitionStorage for EmbeddedStorage {
    fn can_truncate(&self) -> bool {
        true
    }

    async fn open(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<Arc<dyn StoredPartition>, StorageError> {
        let partition = self.inner.partition(key, options).await?;
        partition.set_options(options);
        Ok(partition)
    }

    async fn purge(&self, key: PartitionKey) -> Result<(), StorageError> {
        self.inner.end(key, Ending::Purge).await
    }

    async fn remove(&self, key: PartitionKey) -> Result<(), StorageError> {
        self.inner.end(key, Ending::Remove).await
    }

    async fn close(&self, key: PartitionKey) -> Result<(), StorageError> {
        self.inner.end(key, Ending::Close).await
    }

    async fn shutdown(&self) -> Result<(), StorageError> {
        /// Partitions that are closed concurrently.
        const CONCURRENCY: usize = 16;
        self.inner.shut.store(true, Ordering::SeqCst);
        let keys: Vec<_> = lock(&self.inner.slots).keys().copied().collect();
        let mut result = Ok(());
        let mut closing = JoinSet::new();
        for key in keys {
            if closing.len() >= CONCURRENCY
                && let Some(closed) = closing.join_next().await
            {
                result = result.and(closed.unwrap_or(Err(StorageError::Closed)));
            }
            let inner = Arc::clone(&self.inner);
            closing.spawn(async move { inner.end(key, Ending::Close).await });
        }
        while let Some(closed) = closing.join_next().await {
            result = result.and(closed.unwrap_or(Err(StorageError::Closed)));
        }
        result
    }

    fn refusing(&self) -> Vec<(PartitionKey, StorageError)> {
        let mut refusing = lock(&self.inner.unopened).clone();
        let slots: Vec<_> = {
            let slots = lock(&self.inner.slots);
            let slots = slots.iter();
            slots.map(|(key, slot)| (*key, Arc::clone(slot))).collect()
        };
        for (key, slot) in slots {
            // A slot that is locked is being opened or ended.
            if let Ok(slot) = slot.try_read()
                && let Slot::Open(partition) = &*slot
                && let Some(error) = partition.refusal()
            {
                refusing.insert(key, error);
            }
        }
        refusing.into_iter().collect()
    }

    fn damaged_offsets(&self) -> u64 {
        self.inner
            .shared
            .files
            .damaged_offsets
            .load(Ordering::Relaxed)
    }

    async fn list(&self) -> Result<Vec<PartitionKey>, StorageError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.list()).await
    }
}

/// The names in a directory; none when it is missing.
fn names(dir: &Path) -> Result<Vec<String>, StorageError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", dir))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Makes a directory and those above it that are missing, durably.
fn make_dirs(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    let missing = dir.ancestors().take_while(|dir| !dir.exists()).count();
    create_dir(dir, true).map_err(failed("create directory", dir))?;
    for above in dir.ancestors().skip(1).take(missing) {
        // The parent of a relative path's first part has an empty name.
        let above = match above.as_os_str().is_empty() {
            true => Path::new("."),
            false => above,
        };
        disk.sync_dir(above)
            .map_err(failed("sync directory", above))?;
    }
    Ok(())
}

/// Removes a directory with what it contains, or a file.
fn remove_all(path: &Path) -> Result<(), StorageError> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Identifies this run of the machine; zero where the system does not report it.
pub(super) fn this_boot() -> u64 {
    let id = fs::read("/proc/sys/kernel/random/boot_id");
    id.map_or(0, |id| XxHash3_64::oneshot(&id).max(1))
}
