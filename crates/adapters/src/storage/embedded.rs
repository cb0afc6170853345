//! Partitions in files below one directory:
//! `<stream>/<topic>/<partition>-<created_at>/`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OnceCell;

use super::partition::Partition;
use super::segment::{failed, sync_dir};
use super::{
    Appended, ConsumerKey, PartitionKey, PartitionOptions, PartitionStats, PartitionStorage,
    PolledBatches, ReadFrom, StorageError,
};

type Slot = Arc<OnceCell<Arc<Partition>>>;

/// The storage that comes along.
pub struct EmbeddedStorage {
    root: PathBuf,
    partitions: Mutex<HashMap<PartitionKey, Slot>>,
}

impl EmbeddedStorage {
    /// The partitions below `root`, which is created when it is not there. They
    /// are opened when they are first used.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(failed("create directory", &root))?;
        Ok(Self {
            root,
            partitions: Mutex::default(),
        })
    }

    fn dir(&self, key: &PartitionKey) -> PathBuf {
        self.root
            .join(key.stream_id.to_string())
            .join(key.topic_id.to_string())
            .join(format!("{}-{}", key.partition_id, key.created_at))
    }

    /// The partition, opened by whoever comes first while the others wait. One
    /// that failed to open is tried again by the next.
    async fn partition(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<Arc<Partition>, StorageError> {
        let slot = {
            let mut partitions = self
                .partitions
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::clone(partitions.entry(key).or_default())
        };
        let dir = self.dir(&key);
        let open = || async move {
            blocking(move || Partition::open(dir, key, options).map(Arc::new)).await
        };
        slot.get_or_try_init(open).await.cloned()
    }
}

#[async_trait]
impl PartitionStorage for EmbeddedStorage {
    async fn append(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        batch: Bytes,
        now_micros: u64,
    ) -> Result<Appended, StorageError> {
        let partition = self.partition(key, options).await?;
        partition.append(batch, now_micros).await
    }

    async fn read(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        from: ReadFrom,
        messages_max: u32,
        bytes_max: usize,
    ) -> Result<PolledBatches, StorageError> {
        let partition = self.partition(key, options).await?;
        blocking(move || partition.read(from, messages_max, bytes_max)).await
    }

    async fn store_offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
        offset: u64,
    ) -> Result<(), StorageError> {
        let partition = self.partition(key, options).await?;
        blocking(move || partition.store_offset(consumer, offset)).await
    }

    async fn offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
    ) -> Result<Option<u64>, StorageError> {
        Ok(self.partition(key, options).await?.offset(consumer))
    }

    async fn delete_offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
    ) -> Result<(), StorageError> {
        let partition = self.partition(key, options).await?;
        blocking(move || partition.delete_offset(consumer)).await
    }

    async fn stats(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<PartitionStats, StorageError> {
        // What was never used has no files, and asking must not make them.
        let known = self
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&key);
        if !known && !self.dir(&key).exists() {
            return Ok(PartitionStats::default());
        }
        Ok(self.partition(key, options).await?.stats())
    }

    async fn sync(&self, key: PartitionKey, options: PartitionOptions) -> Result<(), StorageError> {
        let partition = self.partition(key, options).await?;
        blocking(move || partition.sync()).await
    }

    async fn remove(&self, key: PartitionKey) -> Result<(), StorageError> {
        let dir = self.dir(&key);
        self.partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        blocking(move || {
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("remove", &dir)(error));
                }
                _ => {}
            }
            match dir.parent() {
                Some(parent) if parent.exists() => sync_dir(parent),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn list(&self) -> Result<Vec<PartitionKey>, StorageError> {
        let root = self.root.clone();
        blocking(move || {
            let mut keys = Vec::new();
            for stream in numbered(&root)? {
                for topic in numbered(&root.join(stream.to_string()))? {
                    let dir = root.join(stream.to_string()).join(topic.to_string());
                    for name in names(&dir)? {
                        let key = name.split_once('-').and_then(|(partition, created_at)| {
                            Some(PartitionKey {
                                stream_id: stream,
                                topic_id: topic,
                                partition_id: partition.parse().ok()?,
                                created_at: created_at.parse().ok()?,
                            })
                        });
                        keys.extend(key);
                    }
                }
            }
            Ok(keys)
        })
        .await
    }
}

fn names(dir: &Path) -> Result<Vec<String>, StorageError> {
    let entries = fs::read_dir(dir).map_err(failed("list", dir))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", dir))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn numbered(dir: &Path) -> Result<Vec<u32>, StorageError> {
    let names = names(dir)?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(StorageError::Io {
                operation: "run",
                path: String::new(),
                error: error.to_string(),
            })
        })
}

#[cfg(test)]
mod tests;
