//! The partitions that this node owns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ::partitions::replication::OffsetChange;
use ::partitions::{
    ByKey, ConsumerKey, PartitionOptions, PartitionStorage, ReadFrom, StorageError, Tag,
};
use adapters::metadata::{ErrorCode, MetadataState, PartitionKey, RemovedGroup, code};
use adapters::wire::PollStart;
use bytes::Bytes;
use consensus::ReplicaId;
use prometheus_client::metrics::counter::Counter;
use replicated_log::{MemoryAccount, MemoryBudget, Throttle};
use tokio::sync::Notify;
use tracing::{debug, error};

use super::messages::{ChangeOffset, DataReply, DataRequest, Poll};
use super::pending_commits::{PendingCommit, PendingCommits};
use super::place::Place;
use super::readers::{Denied, Reader, Right, Served, group_of};
use super::reading::{PollBytes, PollMemory};
use crate::cluster::Metadata;
use crate::copies::Copies;

/// Memory for messages that are read, if there is no budget.
const MEMORY_BYTES: usize = 64 << 20;

/// Serves requests for partitions of this node.
pub(crate) struct LocalPartitions {
    pub(super) metadata: Arc<Metadata>,
    pub(super) storage: Arc<dyn PartitionStorage>,
    /// None: the storage alone serves partitions.
    pub(super) copies: Option<Arc<Copies>>,
    /// For the messages that are read.
    pub(crate) memory: MemoryBudget,
    /// The parts of it for the polls of other nodes' clients.
    of_peers: Mutex<BTreeMap<ReplicaId, MemoryAccount>>,
    /// Polls that returned fewer messages because there was no memory for more.
    pub(crate) polls_shortened: Counter,
    /// Requests that were refused because there was none.
    pub(crate) without_memory: Counter,
    served: Served,
    pending: PendingCommits,
    /// Notified when the revocation of a partition may be complete.
    pub(crate) revocations: Notify,
    /// How often segments of a partition were kept for a consumer that has not read them,
    /// although its topic does not retain them or their removal was requested.
    pub(crate) retention_blocked: Counter,
    pub(super) blocked_logged: Mutex<Throttle>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// With Iggy's code.
    Code(ErrorCode),
    /// The reader may not do this.
    Denied(Denied),
}

impl Refusal {
    fn code(self) -> ErrorCode {
        match self {
            Self::Code(code) => code,
            Self::Denied(denied) => denied.code(),
        }
    }

    /// The reply to a poll.
    fn of_poll(self) -> Result<(DataReply, Option<PendingCommit>), ErrorCode> {
        match self {
            Self::Denied(Denied::Fenced) => Ok((DataReply::Fenced, None)),
            refusal => Err(refusal.code()),
        }
    }
}

impl LocalPartitions {
    pub(crate) fn new(metadata: Arc<Metadata>, storage: Arc<dyn PartitionStorage>) -> Self {
        Self {
            metadata,
            storage,
            copies: None,
            memory: MemoryBudget::new(MEMORY_BYTES),
            of_peers: Mutex::default(),
            polls_shortened: Counter::default(),
            without_memory: Counter::default(),
            served: Served::default(),
            pending: PendingCommits::default(),
            revocations: Notify::new(),
            retention_blocked: Counter::default(),
            blocked_logged: Mutex::default(),
        }
    }

    /// The memory for the messages that are read, shared with others.
    pub(crate) fn memory(mut self, budget: MemoryBudget) -> Self {
        self.memory = budget;
        self
    }

    /// The copies that serve partitions.
    pub(crate) fn copies(mut self, copies: Arc<Copies>) -> Self {
        self.copies = Some(copies);
        self
    }

    /// Serves a request of another node in the encoding of the links between nodes.
    pub(crate) async fn serve_bytes(&self, from: ReplicaId, payload: Bytes) -> Vec<Bytes> {
        let reply = match DataRequest::decode(payload) {
            Some(request) => self.serve_for(from, request).await,
            None => DataReply::Refused(code::INVALID_COMMAND),
        };
        reply.encode()
    }

    /// The reply to a request of another node for which there is no memory.
    pub(crate) fn refuse_bytes(&self) -> Vec<Bytes> {
        self.without_memory.inc();
        DataReply::Refused(code::TRANSIENT_NOT_ACCEPTED).encode()
    }

    /// Memory for a poll of a node's client.
    fn memory_of(&self, peer: ReplicaId) -> PollMemory {
        let accounts = self.of_peers.lock();
        let mut accounts = accounts.unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry(peer);
        let account = account.or_insert_with(|| self.memory.account());
        PollMemory::new(account.share(), PollBytes::default())
    }

    /// Serves a request of this node, which is judged here.
    pub(crate) async fn serve(&self, request: DataRequest) -> DataReply {
        self.serve_for(self.metadata.me, request).await
    }

    async fn serve_for(&self, from: ReplicaId, request: DataRequest) -> DataReply {
        let served = match request {
            DataRequest::Idle { group, keys } => Ok(self.idle(group, keys).await),
            DataRequest::Stats(keys) => self.stats(keys).await,
            DataRequest::Trim { key, through } => self.trim_through(key, through).await,
            DataRequest::Poll(poll) => self.poll_of(poll, self.memory_of(from)).await,
            DataRequest::PollWithin { poll, bytes_max } => {
                let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
                self.poll_of(poll, self.memory_of(from).exactly(bytes_max))
                    .await
            }
            request => match self.open(&request).await {
                Ok(options) => self.execute(request, options).await,
                Err(refusal) => Err(refusal.code()),
            },
        };
        served.unwrap_or_else(DataReply::Refused)
    }

    /// Serves a request of a client of this node, which was judged by the state that has
    /// these options for the partition.
    pub(super) async fn serve_judged(
        &self,
        request: DataRequest,
        options: PartitionOptions,
    ) -> DataReply {
        match request {
            DataRequest::Idle { .. } | DataRequest::Stats(_) | DataRequest::Trim { .. } => {
                self.serve(request).await
            }
            request => {
                let served = self.execute(request, options).await;
                served.unwrap_or_else(DataReply::Refused)
            }
        }
    }

    async fn execute(
        &self,
        request: DataRequest,
        options: PartitionOptions,
    ) -> Result<DataReply, ErrorCode> {
        match request {
            DataRequest::Append { key, batch } => self.append(key, options, batch).await,
            DataRequest::Send(send) => self.send(send).await.map(DataReply::Appended),
            DataRequest::Offset { key, consumer } => self.offset(key, options, consumer).await,
            DataRequest::StoreOffset {
                key,
                reader,
                offset,
            } => {
                let store = OffsetChange::Store(offset);
                self.change_offset(key, options, reader, store, None).await
            }
            DataRequest::DeleteOffset { key, reader } => {
                let delete = OffsetChange::Delete;
                self.change_offset(key, options, reader, delete, None).await
            }
            DataRequest::ChangeOffset(ChangeOffset {
                key,
                reader,
                change,
                tag,
            }) => self.change_offset(key, options, reader, change, tag).await,
            DataRequest::SealedEnd { key, count } => self.sealed_end(key, options, count).await,
            DataRequest::Poll(_)
            | DataRequest::PollWithin { .. }
            | DataRequest::Idle { .. }
            | DataRequest::Stats(_)
            | DataRequest::Trim { .. } => Err(code::INVALID_COMMAND),
        }
    }

    /// The options of the partition of a request, if this node owns it and the reader may
    /// do this. A refusal is final: this node catches up with the log before it, and so it
    /// does when its lease has ended.
    async fn open(&self, request: &DataRequest) -> Result<PartitionOptions, Refusal> {
        let (key, reader) = match request {
            DataRequest::Poll(poll) | DataRequest::PollWithin { poll, .. } => {
                (poll.key, Some((poll.reader, Right::Read)))
            }
            DataRequest::StoreOffset { key, reader, .. }
            | DataRequest::DeleteOffset { key, reader } => (*key, Some((*reader, Right::Store))),
            DataRequest::ChangeOffset(change) => (change.key, Some((change.reader, Right::Store))),
            DataRequest::Send(send) => (send.key, None),
            DataRequest::Append { key, .. }
            | DataRequest::Offset { key, .. }
            | DataRequest::SealedEnd { key, .. }
            | DataRequest::Trim { key, .. } => (*key, None),
            DataRequest::Idle { .. } | DataRequest::Stats(_) => {
                return Err(Refusal::Code(code::INVALID_COMMAND));
            }
        };
        self.open_for(key, reader).await
    }

    async fn open_for(
        &self,
        key: PartitionKey,
        reader: Option<(Reader, Right)>,
    ) -> Result<PartitionOptions, Refusal> {
        if self.metadata.is_current()
            && let Ok(options) = self.judge(&self.metadata.reader.read(), &key, reader)
        {
            return Ok(options);
        }
        let current = self.metadata.barrier().await;
        current.map_err(|_| Refusal::Code(code::TRANSIENT_NOT_ACCEPTED))?;
        self.judge(&self.metadata.reader.read(), &key, reader)
    }

    /// The same for any request for the partition.
    pub(super) async fn owned(&self, key: PartitionKey) -> Result<PartitionOptions, ErrorCode> {
        self.open_for(key, None).await.map_err(Refusal::code)
    }

    /// The same by the local state as it is.
    pub(super) fn owned_now(&self, key: PartitionKey) -> Result<PartitionOptions, ErrorCode> {
        let judged = self.judge(&self.metadata.reader.read(), &key, None);
        judged.map_err(Refusal::code)
    }

    fn judge(
        &self,
        state: &MetadataState,
        key: &PartitionKey,
        reader: Option<(Reader, Right)>,
    ) -> Result<PartitionOptions, Refusal> {
        let place = Place::of(state, key).ok_or(Refusal::Code(code::PARTITION_NOT_FOUND))?;
        // A fenced node serves no partitions: changes are acknowledged without it.
        if place.owner != self.metadata.me || !place.live {
            return Err(Refusal::Code(code::TRANSIENT_NOT_ACCEPTED));
        }
        if let Some((reader, right)) = reader {
            reader.check(state, key, right).map_err(Refusal::Denied)?;
        }
        Ok(place.options)
    }

    /// A message counts as served to a member that still has the partition when the message
    /// is about to be sent. This is checked again here, by the state after the messages were
    /// read. A revocation that is in that state waits for what is noted here, because both
    /// are done under the lock of the state.
    fn note_served(&self, key: PartitionKey, reader: Reader, last: u64) -> Result<(), Denied> {
        let state = self.metadata.reader.read();
        reader.check(&state, &key, Right::Read)?;
        self.served.note(key, reader, last);
        Ok(())
    }

    fn offset_changed(&self, reader: Reader) {
        if reader.key().group && self.metadata.reader.read().revoking_groups().len() > 0 {
            self.revocations.notify_one();
        }
    }

    /// Whether something that was served to this member is not committed.
    pub(super) async fn is_busy(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        group: u32,
        holder: u128,
    ) -> bool {
        let Some(served) = self.served.to(key, group, holder) else {
            return false;
        };
        let consumer = ConsumerKey {
            group: true,
            id: group,
        };
        let stored = async { self.log(key, options).await?.offset(consumer).await };
        match stored.await {
            Ok(stored) => stored.is_none_or(|stored| stored < served),
            Err(_) => true,
        }
    }

    async fn idle(&self, group: u32, keys: Vec<PartitionKey>) -> DataReply {
        let holders: Vec<_> = {
            let state = self.metadata.reader.read();
            let holder = |key: PartitionKey| {
                let (_, found) = state.group(&group_of(&key, group))?;
                let holder = found.holder(key.partition_id)?;
                Some((Place::of(&state, &key)?.options, holder))
            };
            keys.into_iter().map(|key| (key, holder(key))).collect()
        };
        let mut idle = Vec::with_capacity(holders.len());
        for (key, holder) in holders {
            let busy = match holder {
                Some((options, holder)) => self.is_busy(key, options, group, holder).await,
                None => false,
            };
            if !busy {
                idle.push(key.partition_id);
            }
        }
        DataReply::Idle(idle)
    }

    /// Removes the offsets of a deleted group.
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
        let owned: Vec<_> = {
            let state = self.metadata.reader.read();
            let places = partitions.iter().filter_map(|key| Place::of(&state, key));
            places
                .filter(|place| place.owner == self.metadata.me)
                .collect()
        };
        for Place { key, options, .. } in owned {
            let removed = async {
                let log = self.log(key, options).await?;
                log.change_offset(consumer, OffsetChange::Delete, None)
                    .await
            };
            match removed.await {
                Ok(()) | Err(code::OFFSET_NOT_FOUND) => {}
                // Before old messages are removed, the offsets of deleted groups are.
                Err(code::TRANSIENT_NOT_ACCEPTED | code::PARTITION_NOT_FOUND) => {}
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

    async fn append(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        batch: Bytes,
    ) -> Result<DataReply, ErrorCode> {
        let log = self.log(key, options).await?;
        log.append(batch).await.map(DataReply::Appended)
    }

    /// Polls for a client of another node. What a node of version 0.1 commits with it is
    /// committed immediately. Later versions commit with a request of its own.
    async fn poll_of(&self, poll: Poll, memory: PollMemory) -> Result<DataReply, ErrorCode> {
        let options = match self.open(&DataRequest::Poll(poll)).await {
            Ok(options) => options,
            Err(refusal) => return refusal.of_poll().map(|(reply, _)| reply),
        };
        let (reply, commit) = self.poll_judged(poll, options, &memory).await?;
        if let Some(commit) = commit {
            self.commit(commit).await?;
        }
        Ok(reply)
    }

    #[cfg(test)]
    pub(crate) async fn poll(
        &self,
        poll: Poll,
    ) -> Result<(DataReply, Option<PendingCommit>), ErrorCode> {
        let memory = self.memory_of(self.metadata.me);
        self.poll_within(poll, &memory).await
    }

    /// A poll that was not judged yet.
    pub(super) async fn poll_within(
        &self,
        poll: Poll,
        memory: &PollMemory,
    ) -> Result<(DataReply, Option<PendingCommit>), ErrorCode> {
        match self.open(&DataRequest::Poll(poll)).await {
            Ok(options) => self.poll_judged(poll, options, memory).await,
            Err(refusal) => refusal.of_poll(),
        }
    }

    /// The messages of a poll, and what to commit when they are delivered.
    pub(crate) async fn poll_judged(
        &self,
        poll: Poll,
        options: PartitionOptions,
        memory: &PollMemory,
    ) -> Result<(DataReply, Option<PendingCommit>), ErrorCode> {
        let Poll {
            key,
            reader,
            start,
            count,
            auto_commit,
        } = poll;
        let consumer = reader.key();
        let log = self.log(key, options).await?;
        let from = match start {
            PollStart::Offset(offset) => ReadFrom::Offset(offset),
            PollStart::Timestamp(timestamp) => ReadFrom::Timestamp(timestamp),
            PollStart::First => ReadFrom::First,
            PollStart::Last => ReadFrom::Last,
            PollStart::Next => {
                let stored = log.offset(consumer).await?;
                match self.pending.latest(key, consumer, reader.client(), stored) {
                    Some(offset) => ReadFrom::Offset(offset + 1),
                    None => ReadFrom::First,
                }
            }
        };
        let polled = self.read(&log, from, count, memory).await?;
        let Some(last) = polled.last_offset else {
            return Ok((DataReply::Polled(polled), None));
        };
        if let Err(denied) = self.note_served(key, reader, last) {
            return Refusal::Denied(denied).of_poll();
        }
        let commit = auto_commit.then_some(PendingCommit {
            key,
            reader,
            offset: last,
        });
        if let Some(commit) = &commit {
            self.pending.add(commit);
        }
        Ok((DataReply::Polled(polled), commit))
    }

    /// Stores the offset of a poll whose messages are delivered.
    pub(crate) async fn delivered(&self, commit: PendingCommit) {
        // Without the commit, the messages are served again.
        if let Err(code) = self.commit(commit).await {
            debug!(key = ?commit.key, %code, "the commit of a poll failed");
        }
    }

    /// Drops the commit of a poll whose messages may not have been delivered.
    pub(crate) fn drop_commit(&self, commit: &PendingCommit) {
        self.pending.remove(commit);
    }

    /// Stores a pending offset, unless the consumer has set another one since.
    async fn commit(&self, commit: PendingCommit) -> Result<(), ErrorCode> {
        let PendingCommit {
            key,
            reader,
            offset,
        } = commit;
        let consumer = reader.key();
        let pending = self.pending.latest(key, consumer, reader.client(), None);
        let judged = {
            let state = self.metadata.reader.read();
            let exists = reader.exists(&state, &key);
            exists.then(|| self.judge(&state, &key, None))
        };
        let Some(judged) = judged.filter(|_| pending.is_some_and(|pending| pending >= offset))
        else {
            self.pending.remove(&commit);
            return Ok(());
        };
        // Also for a member that has lost the partition: the messages have arrived. The next
        // one may have been served them again.
        let options = match judged {
            Ok(options) => options,
            Err(_) => self.owned(key).await?,
        };
        let committed = async {
            let log = self.log(key, options).await?;
            log.change_offset(consumer, OffsetChange::Advance(offset), None)
                .await
        };
        let committed = committed.await;
        self.pending.remove(&commit);
        self.offset_changed(reader);
        committed
    }

    /// The client whose pending commits count: that of the member that holds the partition.
    fn holder(&self, key: PartitionKey, consumer: ConsumerKey) -> u128 {
        let state = self.metadata.reader.read();
        let group = consumer.group.then(|| group_of(&key, consumer.id));
        let found = group.and_then(|group| state.group(&group));
        let holder = found.and_then(|(_, group)| group.holder(key.partition_id));
        holder.unwrap_or(0)
    }

    async fn offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
    ) -> Result<DataReply, ErrorCode> {
        let log = self.log(key, options).await?;
        let stored = log.offset(consumer).await?;
        let current = log.current_offset().await?;
        let client = self.holder(key, consumer);
        Ok(DataReply::Offset {
            stored: self.pending.latest(key, consumer, client, stored),
            current,
        })
    }

    async fn change_offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        reader: Reader,
        change: OffsetChange,
        tag: Option<Tag>,
    ) -> Result<DataReply, ErrorCode> {
        let consumer = reader.key();
        let log = self.log(key, options).await?;
        let changed = log.change_offset(consumer, change, tag).await;
        match change {
            // That of a poll, whose pending offset is at another node.
            OffsetChange::Advance(_) => self.offset_changed(reader),
            OffsetChange::Store(_) => {
                self.pending.cancel(key, consumer);
                self.offset_changed(reader);
            }
            OffsetChange::Delete => {
                let was_pending = self.pending.cancel(key, consumer);
                if was_pending && changed == Err(code::OFFSET_NOT_FOUND) {
                    return Ok(DataReply::Done);
                }
            }
        }
        changed.map(|()| DataReply::Done)
    }

    async fn stats(&self, keys: Vec<PartitionKey>) -> Result<DataReply, ErrorCode> {
        let places: Vec<_> = {
            let state = self.metadata.reader.read();
            let places = keys.iter().map(|key| Place::of(&state, key));
            places.collect()
        };
        let mut all = Vec::with_capacity(places.len());
        for place in places {
            all.push(match place {
                Some(Place { key, options, .. }) => {
                    let stats = self.storage.stats(key, options).await;
                    stats.map_err(|error| refusal(&key, &error))?
                }
                None => ::partitions::PartitionStats::default(),
            });
        }
        Ok(DataReply::Stats(all))
    }

    /// Removes the files of deleted partitions.
    pub(crate) async fn remove(&self, keys: Vec<PartitionKey>) {
        self.forget_served();
        if let Some(copies) = &self.copies {
            copies.forget(&keys);
        }
        for key in keys {
            if let Err(error) = self.storage.remove(key).await {
                error!(?key, %error, "cannot remove a deleted partition's files");
            }
        }
    }

    /// Removes the files of partitions that the metadata does not contain: they were
    /// deleted while this node was down. The local state must be up to date.
    pub(crate) async fn remove_deleted(&self) {
        let Ok(mut stored) = self.storage.list().await else {
            return;
        };
        {
            let state = self.metadata.reader.read();
            stored.retain(|key| state.partition(key).is_none());
        }
        self.remove(stored).await;
    }
}

/// Iggy's code for an error of the storage.
pub(crate) fn refusal(key: &PartitionKey, error: &StorageError) -> ErrorCode {
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
        // The storage logs that once.
        StorageError::Full { .. } => code::IO_ERROR,
        StorageError::Corrupt { .. }
        | StorageError::Lost { .. }
        | StorageError::Version { .. }
        | StorageError::Io { .. }
        | StorageError::Record(_)
        | StorageError::NotNext { .. }
        | StorageError::NotKept { .. }
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
