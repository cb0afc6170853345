//! The partitions that this node owns.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use adapters::metadata::{MetadataError, PartitionKey, code};
use adapters::storage::{
    ConsumerKey, PartitionOptions, PartitionStorage, PolledBatches, ReadFrom, StorageError,
};
use adapters::wire::PollStart;
use bytes::Bytes;
use consensus::ReplicaId;
use tracing::error;

use super::{DataReply, DataRequest, PARTITION_NOT_FOUND, settings};
use crate::cluster::Metadata;

/// A poll returns at most so many bytes of batches.
const POLL_BYTES_MAX: usize = 32 << 20;
const INVALID_OFFSET: u32 = 4100;
const OFFSET_NOT_FOUND: u32 = 3021;
const INVALID_BATCH_CHECKSUM: u32 = 4039;
const INVALID_BATCH: u32 = 4036;
const EMPTY_PAYLOAD: u32 = 4024;
const IO_ERROR: u32 = 13_000;

/// Serves requests for partitions of this node.
pub(crate) struct LocalPartitions {
    metadata: Arc<Metadata>,
    storage: Arc<dyn PartitionStorage>,
}

impl LocalPartitions {
    pub(crate) fn new(metadata: Arc<Metadata>, storage: Arc<dyn PartitionStorage>) -> Self {
        Self { metadata, storage }
    }

    /// Serves a peer's request.
    pub(crate) async fn serve_bytes(&self, payload: Bytes) -> Vec<Bytes> {
        let reply = match DataRequest::decode(payload) {
            Some(request) => self.serve(request).await,
            None => DataReply::Refused(code::INVALID_COMMAND),
        };
        reply.encode()
    }

    pub(crate) async fn serve(&self, request: DataRequest) -> DataReply {
        let served = match request {
            DataRequest::Append { key, batch } => self.append(key, batch).await,
            DataRequest::Poll {
                key,
                consumer,
                start,
                count,
                auto_commit,
            } => self.poll(key, consumer, start, count, auto_commit).await,
            DataRequest::Offset { key, consumer } => self.offset(key, consumer).await,
            DataRequest::StoreOffset {
                key,
                consumer,
                offset,
            } => self.store_offset(key, consumer, offset).await,
            DataRequest::DeleteOffset { key, consumer } => self.delete_offset(key, consumer).await,
            DataRequest::Stats(keys) => self.stats(keys).await,
        };
        served.unwrap_or_else(DataReply::Refused)
    }

    /// The options of a partition, if this node owns it. The asker may know more
    /// of the log than this node: then it catches up first.
    async fn owned(&self, key: &PartitionKey) -> Result<PartitionOptions, u32> {
        let here = self.owner(key);
        if here != Some(self.metadata.me) {
            self.metadata
                .barrier()
                .await
                .map_err(|_| code::TRANSIENT_NOT_ACCEPTED)?;
            match self.owner(key) {
                Some(owner) if owner == self.metadata.me => {}
                Some(_) => return Err(code::TRANSIENT_NOT_ACCEPTED),
                None => return Err(PARTITION_NOT_FOUND),
            }
        }
        let settings = settings(&self.metadata, key).ok_or(MetadataError::TopicNotFound.code())?;
        Ok(settings.partitions)
    }

    fn owner(&self, key: &PartitionKey) -> Option<ReplicaId> {
        let state = self.metadata.reader.read();
        state.partition(key).map(|partition| partition.owner)
    }

    async fn append(&self, key: PartitionKey, batch: Bytes) -> Result<DataReply, u32> {
        let options = self.owned(&key).await?;
        let appended = self.storage.append(key, options, batch, now_micros()).await;
        appended
            .map(DataReply::Appended)
            .map_err(|error| refusal(&key, &error))
    }

    async fn poll(
        &self,
        key: PartitionKey,
        consumer: ConsumerKey,
        start: PollStart,
        count: u32,
        auto_commit: bool,
    ) -> Result<DataReply, u32> {
        let options = self.owned(&key).await?;
        let failed = |error: StorageError| refusal(&key, &error);
        let from = match start {
            PollStart::Offset(offset) => ReadFrom::Offset(offset),
            PollStart::Timestamp(timestamp) => ReadFrom::Timestamp(timestamp),
            PollStart::First => ReadFrom::First,
            PollStart::Last => ReadFrom::Last,
            PollStart::Next => {
                let stored = self.storage.offset(key, options, consumer).await;
                match stored.map_err(failed)? {
                    Some(offset) => ReadFrom::Offset(offset + 1),
                    None => ReadFrom::First,
                }
            }
        };
        let read = self
            .storage
            .read(key, options, from, count, POLL_BYTES_MAX)
            .await;
        let polled: PolledBatches = read.map_err(failed)?;
        if auto_commit && let Some(last) = polled.last_offset {
            let stored = self
                .storage
                .store_offset(key, options, consumer, last)
                .await;
            stored.map_err(failed)?;
        }
        Ok(DataReply::Polled(polled))
    }

    async fn offset(&self, key: PartitionKey, consumer: ConsumerKey) -> Result<DataReply, u32> {
        let options = self.owned(&key).await?;
        let failed = |error: StorageError| refusal(&key, &error);
        let stored = self.storage.offset(key, options, consumer).await;
        let stats = self.storage.stats(key, options).await;
        Ok(DataReply::Offset {
            stored: stored.map_err(failed)?,
            current: stats.map_err(failed)?.current_offset(),
        })
    }

    async fn store_offset(
        &self,
        key: PartitionKey,
        consumer: ConsumerKey,
        offset: u64,
    ) -> Result<DataReply, u32> {
        let options = self.owned(&key).await?;
        let stored = self
            .storage
            .store_offset(key, options, consumer, offset)
            .await;
        stored
            .map(|()| DataReply::Done)
            .map_err(|error| refusal(&key, &error))
    }

    async fn delete_offset(
        &self,
        key: PartitionKey,
        consumer: ConsumerKey,
    ) -> Result<DataReply, u32> {
        let options = self.owned(&key).await?;
        let deleted = self.storage.delete_offset(key, options, consumer).await;
        deleted
            .map(|()| DataReply::Done)
            .map_err(|error| refusal(&key, &error))
    }

    async fn stats(&self, keys: Vec<PartitionKey>) -> Result<DataReply, u32> {
        let mut all = Vec::with_capacity(keys.len());
        for key in keys {
            let stats = match settings(&self.metadata, &key) {
                Some(settings) => self.storage.stats(key, settings.partitions).await,
                None => Ok(adapters::storage::PartitionStats::default()),
            };
            all.push(stats.map_err(|error| refusal(&key, &error))?);
        }
        Ok(DataReply::Stats(all))
    }

    /// Removes the files of partitions that are gone.
    pub(crate) async fn remove(&self, keys: Vec<PartitionKey>) {
        for key in keys {
            if let Err(error) = self.storage.remove(key).await {
                error!(?key, %error, "cannot remove a deleted partition's files");
            }
        }
    }

    /// Removes files of partitions that the metadata does not know: they were
    /// deleted while this node was away. The local state must be up to date.
    pub(crate) async fn remove_strangers(&self) {
        let Ok(found) = self.storage.list().await else {
            return;
        };
        let strangers = found
            .into_iter()
            .filter(|key| self.owner(key).is_none())
            .collect();
        self.remove(strangers).await;
    }
}

/// Iggy's code for what the storage says.
fn refusal(key: &PartitionKey, error: &StorageError) -> u32 {
    use adapters::storage::BatchError;
    match error {
        StorageError::Batch(BatchError::Checksum) => INVALID_BATCH_CHECKSUM,
        StorageError::Batch(BatchError::EmptyPayload) => EMPTY_PAYLOAD,
        StorageError::Batch(_) => INVALID_BATCH,
        StorageError::InvalidOffset { .. } => INVALID_OFFSET,
        StorageError::OffsetNotFound => OFFSET_NOT_FOUND,
        StorageError::Removed => PARTITION_NOT_FOUND,
        StorageError::Closed => code::TRANSIENT_NOT_ACCEPTED,
        StorageError::Corrupt { .. }
        | StorageError::Version { .. }
        | StorageError::Io { .. }
        | StorageError::Failed { .. } => {
            error!(?key, %error, "the partition cannot be served");
            IO_ERROR
        }
    }
}

fn now_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
