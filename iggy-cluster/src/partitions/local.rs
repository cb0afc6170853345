//! The partitions that this node owns.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ::partitions::{
    ConsumerKey, PartitionOptions, PartitionStorage, PolledBatches, ReadFrom, StorageError,
};
use adapters::metadata::{ErrorCode, MetadataError, PartitionKey, RemovedGroup, code};
use adapters::wire::PollStart;
use bytes::Bytes;
use consensus::ReplicaId;
use tokio::sync::Notify;
use tracing::{debug, error};

use super::messages::Poll;
use super::readers::{Denied, Reader, Right, Served, group_of};
use super::receipts::{Announced, Receipt};
use super::{DataReply, DataRequest, settings};
use crate::cluster::Metadata;

/// A poll returns at most so many bytes of batches.
const POLL_BYTES_MAX: usize = 32 << 20;

/// Serves requests for partitions of this node.
pub(crate) struct LocalPartitions {
    pub(super) metadata: Arc<Metadata>,
    pub(super) storage: Arc<dyn PartitionStorage>,
    served: Served,
    announced: Announced,
    /// Told when a hand-over in a group may have become possible.
    pub(crate) hand_overs: Notify,
}

impl LocalPartitions {
    pub(crate) fn new(metadata: Arc<Metadata>, storage: Arc<dyn PartitionStorage>) -> Self {
        Self {
            metadata,
            storage,
            served: Served::default(),
            announced: Announced::default(),
            hand_overs: Notify::new(),
        }
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
            DataRequest::Poll(poll) => self.poll_at_once(poll).await,
            DataRequest::Offset { key, consumer } => self.offset(key, consumer).await,
            DataRequest::StoreOffset {
                key,
                reader,
                offset,
            } => self.store_offset(key, reader, offset).await,
            DataRequest::DeleteOffset { key, reader } => self.delete_offset(key, reader).await,
            DataRequest::Idle { group, keys } => Ok(self.idle(group, keys).await),
            DataRequest::SealedEnd { key, count } => self.sealed_end(key, count).await,
            DataRequest::Trim { key, through } => self.trim_through(key, through).await,
            DataRequest::Stats(keys) => self.stats(keys).await,
        };
        served.unwrap_or_else(DataReply::Refused)
    }

    /// The options of a partition, if this node owns it. The asker may know more
    /// of the log than this node: then it catches up first.
    pub(super) async fn owned(&self, key: &PartitionKey) -> Result<PartitionOptions, ErrorCode> {
        let here = self.owner(key);
        if here != Some(self.metadata.me) {
            self.metadata
                .barrier()
                .await
                .map_err(|_| code::TRANSIENT_NOT_ACCEPTED)?;
            match self.owner(key) {
                Some(owner) if owner == self.metadata.me => {}
                Some(_) => return Err(code::TRANSIENT_NOT_ACCEPTED),
                None => return Err(code::PARTITION_NOT_FOUND),
            }
        }
        let settings = settings(&self.metadata, key).ok_or(MetadataError::TopicNotFound.code())?;
        Ok(settings.partitions)
    }

    fn owner(&self, key: &PartitionKey) -> Option<ReplicaId> {
        let state = self.metadata.reader.read();
        state.partition(key).map(|partition| partition.owner)
    }

    /// Whether a reader may. A refusal is final: this node's state is brought up to
    /// date before it.
    async fn admit(
        &self,
        key: &PartitionKey,
        reader: Reader,
        right: Right,
    ) -> Result<Result<(), Denied>, ErrorCode> {
        let here = self.check(key, reader, right);
        if here.is_ok() {
            return Ok(here);
        }
        self.metadata
            .barrier()
            .await
            .map_err(|_| code::TRANSIENT_NOT_ACCEPTED)?;
        Ok(self.check(key, reader, right))
    }

    fn check(&self, key: &PartitionKey, reader: Reader, right: Right) -> Result<(), Denied> {
        reader.check(&self.metadata.reader.read(), key, right)
    }

    /// What a member is served counts as served while it still holds the partition.
    /// Whoever sees the hand-over sees this too: both look under the state's lock.
    fn note_served(&self, key: PartitionKey, reader: Reader, last: u64) -> Result<(), Denied> {
        let state = self.metadata.reader.read();
        reader.check(&state, &key, Right::Read)?;
        self.served.note(key, reader, last);
        Ok(())
    }

    fn offset_changed(&self, reader: Reader) {
        if matches!(reader, Reader::Member { .. })
            && self.metadata.reader.read().revoking_groups().len() > 0
        {
            self.hand_overs.notify_one();
        }
    }

    /// Whether something that was served to this member is not committed.
    pub(super) async fn is_busy(&self, key: PartitionKey, group: u32, holder: u128) -> bool {
        let Some(served) = self.served.to(key, group, holder) else {
            return false;
        };
        let Some(settings) = settings(&self.metadata, &key) else {
            return false;
        };
        let consumer = ConsumerKey {
            group: true,
            id: group,
        };
        let stored = self
            .storage
            .offset(key, settings.partitions, consumer)
            .await;
        match stored {
            Ok(stored) => stored.is_none_or(|stored| stored < served),
            Err(_) => true,
        }
    }

    async fn idle(&self, group: u32, keys: Vec<PartitionKey>) -> DataReply {
        let mut idle = Vec::with_capacity(keys.len());
        for key in keys {
            let holder = {
                let state = self.metadata.reader.read();
                let found = state.group(&group_of(&key, group));
                found.and_then(|(_, group)| group.holder(key.partition_id))
            };
            let busy = match holder {
                Some(holder) => self.is_busy(key, group, holder).await,
                None => false,
            };
            if !busy {
                idle.push(key.partition_id);
            }
        }
        DataReply::Idle(idle)
    }

    /// Forgets what a group left behind.
    pub(crate) async fn remove_group(&self, removed: RemovedGroup) {
        let RemovedGroup {
            group_id,
            partitions,
        } = removed;
        self.forget_served();
        let consumer = ConsumerKey {
            group: true,
            id: group_id,
        };
        for key in partitions {
            if self.owner(&key) != Some(self.metadata.me) {
                continue;
            }
            let Some(settings) = settings(&self.metadata, &key) else {
                continue;
            };
            let deleted = self
                .storage
                .delete_offset(key, settings.partitions, consumer)
                .await;
            match deleted {
                Ok(()) | Err(StorageError::OffsetNotFound) => {}
                Err(error) => error!(?key, %error, "cannot remove a deleted group's offset"),
            }
        }
    }

    fn forget_served(&self) {
        let state = self.metadata.reader.read();
        self.served.retain(|key, group| {
            state.partition(key).is_some() && state.group(&group_of(key, group)).is_some()
        });
    }

    async fn append(&self, key: PartitionKey, batch: Bytes) -> Result<DataReply, ErrorCode> {
        let options = self.owned(&key).await?;
        let appended = self.storage.append(key, options, batch, now_micros()).await;
        appended
            .map(DataReply::Appended)
            .map_err(|error| refusal(&key, &error))
    }

    /// Polls for a client of another node: what it commits is committed at once.
    async fn poll_at_once(&self, poll: Poll) -> Result<DataReply, ErrorCode> {
        let (reply, receipt) = self.poll(poll).await?;
        if let Some(receipt) = receipt {
            self.commit(receipt).await?;
        }
        Ok(reply)
    }

    /// What a poll finds, and what is to be committed when it has arrived.
    pub(crate) async fn poll(&self, poll: Poll) -> Result<(DataReply, Option<Receipt>), ErrorCode> {
        let Poll {
            key,
            reader,
            start,
            count,
            auto_commit,
        } = poll;
        let options = self.owned(&key).await?;
        let consumer = reader.key();
        if let Err(denied) = self.admit(&key, reader, Right::Read).await? {
            return denial(denied);
        }
        let failed = |error: StorageError| refusal(&key, &error);
        let from = match start {
            PollStart::Offset(offset) => ReadFrom::Offset(offset),
            PollStart::Timestamp(timestamp) => ReadFrom::Timestamp(timestamp),
            PollStart::First => ReadFrom::First,
            PollStart::Last => ReadFrom::Last,
            PollStart::Next => {
                let stored = self.storage.offset(key, options, consumer).await;
                let stored = stored.map_err(failed)?;
                match self.announced.latest(key, consumer, stored) {
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
        let Some(last) = polled.last_offset else {
            return Ok((DataReply::Polled(polled), None));
        };
        if let Err(denied) = self.note_served(key, reader, last) {
            return denial(denied);
        }
        let receipt = auto_commit.then_some(Receipt {
            key,
            reader,
            offset: last,
        });
        if let Some(receipt) = &receipt {
            self.announced.announce(receipt);
        }
        Ok((DataReply::Polled(polled), receipt))
    }

    /// The messages have arrived.
    pub(crate) async fn confirm(&self, receipt: Receipt) {
        // Without the commit the messages come again.
        if let Err(code) = self.commit(receipt).await {
            debug!(key = ?receipt.key, %code, "a poll's commit failed");
        }
    }

    /// Nobody knows whether the messages have arrived.
    pub(crate) fn withdraw(&self, receipt: &Receipt) {
        self.announced.settle(receipt);
    }

    /// Stores what was announced, unless the consumer has said otherwise since.
    async fn commit(&self, receipt: Receipt) -> Result<(), ErrorCode> {
        let Receipt {
            key,
            reader,
            offset,
        } = receipt;
        let consumer = reader.key();
        let announced = self.announced.latest(key, consumer, None);
        let lives = reader.lives(&self.metadata.reader.read(), &key);
        if announced.is_none_or(|announced| announced < offset) || !lives {
            self.announced.settle(&receipt);
            return Ok(());
        }
        // Also of a member that is gone: who came after it went on behind this.
        let options = self.owned(&key).await?;
        let stored = self.storage.advance_offset(key, options, consumer, offset);
        let committed = stored.await.map_err(|error| refusal(&key, &error));
        self.announced.settle(&receipt);
        self.offset_changed(reader);
        committed
    }

    async fn offset(
        &self,
        key: PartitionKey,
        consumer: ConsumerKey,
    ) -> Result<DataReply, ErrorCode> {
        let options = self.owned(&key).await?;
        let failed = |error: StorageError| refusal(&key, &error);
        let stored = self.storage.offset(key, options, consumer).await;
        let stats = self.storage.stats(key, options).await;
        let stored = stored.map_err(failed)?;
        Ok(DataReply::Offset {
            stored: self.announced.latest(key, consumer, stored),
            current: stats.map_err(failed)?.current_offset(),
        })
    }

    async fn store_offset(
        &self,
        key: PartitionKey,
        reader: Reader,
        offset: u64,
    ) -> Result<DataReply, ErrorCode> {
        let options = self.owned(&key).await?;
        if let Err(denied) = self.admit(&key, reader, Right::Store).await? {
            return Err(denied.code());
        }
        let stored = self
            .storage
            .store_offset(key, options, reader.key(), offset)
            .await;
        self.announced.forget(key, reader.key());
        self.offset_changed(reader);
        stored
            .map(|()| DataReply::Done)
            .map_err(|error| refusal(&key, &error))
    }

    async fn delete_offset(
        &self,
        key: PartitionKey,
        reader: Reader,
    ) -> Result<DataReply, ErrorCode> {
        let options = self.owned(&key).await?;
        if let Err(denied) = self.admit(&key, reader, Right::Store).await? {
            return Err(denied.code());
        }
        let deleted = self.storage.delete_offset(key, options, reader.key()).await;
        let announced = self.announced.forget(key, reader.key());
        if announced && matches!(deleted, Err(StorageError::OffsetNotFound)) {
            return Ok(DataReply::Done);
        }
        deleted
            .map(|()| DataReply::Done)
            .map_err(|error| refusal(&key, &error))
    }

    async fn stats(&self, keys: Vec<PartitionKey>) -> Result<DataReply, ErrorCode> {
        let mut all = Vec::with_capacity(keys.len());
        for key in keys {
            let stats = match settings(&self.metadata, &key) {
                Some(settings) => self.storage.stats(key, settings.partitions).await,
                None => Ok(::partitions::PartitionStats::default()),
            };
            all.push(stats.map_err(|error| refusal(&key, &error))?);
        }
        Ok(DataReply::Stats(all))
    }

    /// Removes the files of partitions that are gone.
    pub(crate) async fn remove(&self, keys: Vec<PartitionKey>) {
        self.forget_served();
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

/// The answer to a poll that a member may not make.
fn denial(denied: Denied) -> Result<(DataReply, Option<Receipt>), ErrorCode> {
    match denied {
        Denied::Fenced => Ok((DataReply::Fenced, None)),
        Denied::Stale => Err(denied.code()),
    }
}

/// Iggy's code for what the storage says.
pub(super) fn refusal(key: &PartitionKey, error: &StorageError) -> ErrorCode {
    use ::partitions::BatchError;
    match error {
        StorageError::Batch(BatchError::Checksum) => code::INVALID_BATCH_CHECKSUM,
        StorageError::Batch(BatchError::EmptyPayload) => code::EMPTY_PAYLOAD,
        StorageError::Batch(_) => code::INVALID_BATCH,
        StorageError::InvalidOffset { .. } => code::INVALID_OFFSET,
        StorageError::OffsetNotFound => code::OFFSET_NOT_FOUND,
        StorageError::TooManyConsumers { .. } => code::TOO_MANY_CONSUMER_OFFSETS,
        StorageError::Removed => code::PARTITION_NOT_FOUND,
        StorageError::Closed => code::TRANSIENT_NOT_ACCEPTED,
        StorageError::Corrupt { .. }
        | StorageError::Version { .. }
        | StorageError::Io { .. }
        | StorageError::Failed { .. } => {
            error!(?key, %error, "the partition cannot be served");
            code::IO_ERROR
        }
    }
}

pub(super) fn now_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
