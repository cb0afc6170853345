//! Partitions, wherever they are.
//!
//! A request names a stream, a topic and a partition. The local state says who
//! owns it; where the state knows no such partition, it is brought up to date
//! before the client hears so. This node serves what it owns and asks the owner
//! for the rest. An owner that cannot be reached is a transient error, never an
//! empty answer.

mod cleaner;
mod hand_over;
mod local;
mod messages;
mod readers;
mod receipts;
mod stats;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adapters::metadata::{ErrorCode, Identifier, MetadataError, PartitionKey, code};
use adapters::wire::TopicSettings;
use adapters::wire::{GroupTarget, Partitioning};
use consensus::ReplicaId;

use crate::cluster::{Failure, Metadata};
use replicated_log::links::{RequestLinks, RpcError};

pub(crate) use cleaner::run as clean_messages;
pub(crate) use hand_over::run as end_hand_overs;
pub(crate) use local::LocalPartitions;
pub(crate) use messages::{DataReply, DataRequest, Poll, REQUEST};
pub(crate) use readers::{Reader, Right, has_session};
pub(crate) use receipts::Receipt;

/// An owner answers within this time, or is lost.
const OWNER_TIMEOUT: Duration = Duration::from_secs(20);

/// A member that joins a group waits for owners this long.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);

/// Where a partition is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) key: PartitionKey,
    pub(crate) owner: ReplicaId,
}

/// Serves requests for any partition.
pub(crate) struct Partitions {
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) local: Arc<LocalPartitions>,
    links: RequestLinks,
    /// Turns of balanced sends.
    turns: AtomicUsize,
    stats: stats::Cache,
}

impl Partitions {
    pub(crate) fn new(
        metadata: Arc<Metadata>,
        local: Arc<LocalPartitions>,
        links: RequestLinks,
    ) -> Self {
        Self {
            metadata,
            local,
            links,
            turns: AtomicUsize::new(0),
            stats: stats::Cache::default(),
        }
    }

    /// Where a partition is, as of now, or at least as of the position `seen`.
    pub(crate) async fn find(
        &self,
        stream: &Identifier,
        topic: &Identifier,
        partition: &Partitioning,
        seen: u64,
    ) -> Result<Place, Failure> {
        if self.metadata.applied() >= seen
            && let Ok(place) = self.look_up(stream, topic, partition)
        {
            return Ok(place);
        }
        self.metadata.barrier().await?;
        self.look_up(stream, topic, partition)
            .map_err(Failure::Refused)
    }

    fn look_up(
        &self,
        stream: &Identifier,
        topic: &Identifier,
        partition: &Partitioning,
    ) -> Result<Place, ErrorCode> {
        let state = self.metadata.reader.read();
        let (stream, topic) = state.topic(stream, topic).map_err(MetadataError::code)?;
        let count = topic.partitions.len();
        let id = match partition {
            Partitioning::Partition(id) => *id,
            _ if count == 0 => return Err(code::INVALID_IDENTIFIER),
            Partitioning::Balanced => (self.turns.fetch_add(1, Ordering::Relaxed) % count) as u32,
            Partitioning::Key(key) => iggy_common::calculate_32(key) % count as u32,
        };
        let key = topic.key(stream.id, id).ok_or(code::PARTITION_NOT_FOUND)?;
        let owner = topic.partitions[id as usize].owner;
        Ok(Place { key, owner })
    }

    /// Polls a partition of this node. The receipt says what to commit once the
    /// messages have arrived.
    pub(crate) async fn poll_here(
        &self,
        poll: Poll,
    ) -> Result<(DataReply, Option<Receipt>), Failure> {
        let polled = self.local.poll(poll).await;
        let (reply, receipt) = polled.unwrap_or_else(|code| (DataReply::Refused(code), None));
        Ok((reply.or_failure()?, receipt))
    }

    /// Has the owner serve a request.
    pub(crate) async fn call(
        &self,
        place: Place,
        request: DataRequest,
    ) -> Result<DataReply, Failure> {
        if place.owner == self.metadata.me {
            return self.local.serve(request).await.or_failure();
        }
        let read_only = request.is_read_only();
        let parts = request.encode();
        let call = self.links.call(place.owner, REQUEST, parts, OWNER_TIMEOUT);
        match call.await {
            Ok(answer) => DataReply::decode(answer)
                .ok_or(Failure::OutcomeUnknown)?
                .or_failure(),
            Err(RpcError::NotSent) => Err(Failure::NotAccepted),
            Err(RpcError::Unknown) if read_only => Err(Failure::NotAccepted),
            Err(RpcError::Unknown) => Err(Failure::OutcomeUnknown),
        }
    }

    /// Where a partition is, and which group of its topic is meant; `None` when
    /// there is no such partition or group.
    pub(crate) async fn find_of_group(
        &self,
        target: &GroupTarget,
        partition: u32,
        seen: u64,
    ) -> Result<Option<(Place, u32)>, Failure> {
        if self.metadata.applied() >= seen
            && let Some(found) = self.look_up_of_group(target, partition)
        {
            return Ok(Some(found));
        }
        self.metadata.barrier().await?;
        Ok(self.look_up_of_group(target, partition))
    }

    fn look_up_of_group(&self, target: &GroupTarget, partition: u32) -> Option<(Place, u32)> {
        let state = self.metadata.reader.read();
        let (stream, topic) = state.topic(&target.stream, &target.topic).ok()?;
        let key = topic.key(stream.id, partition)?;
        let owner = topic.partitions[partition as usize].owner;
        let group = topic.group(&target.group)?;
        Some((Place { key, owner }, group.id))
    }

    /// The partitions of a group of which something served is not committed. Where
    /// an owner does not answer in time, its partitions are among them.
    pub(crate) async fn busy(&self, target: &GroupTarget) -> BTreeSet<u32> {
        let (group_id, by_owner) = {
            let state = self.metadata.reader.read();
            let Ok((stream, topic)) = state.topic(&target.stream, &target.topic) else {
                return BTreeSet::new();
            };
            let Some(group) = topic.group(&target.group) else {
                return BTreeSet::new();
            };
            let mut by_owner: BTreeMap<ReplicaId, Vec<PartitionKey>> = BTreeMap::new();
            for (id, _) in group.assignments() {
                if let Some(key) = topic.key(stream.id, id) {
                    let owner = topic.partitions[id as usize].owner;
                    by_owner.entry(owner).or_default().push(key);
                }
            }
            (group.id, by_owner)
        };
        let mut asked = tokio::task::JoinSet::new();
        let mut busy = BTreeSet::new();
        for (owner, keys) in by_owner {
            busy.extend(keys.iter().map(|key| key.partition_id));
            let request = DataRequest::Idle {
                group: group_id,
                keys,
            };
            if owner == self.metadata.me {
                let local = Arc::clone(&self.local);
                asked.spawn(async move { Some(local.serve(request).await) });
            } else {
                let links = self.links.clone();
                asked.spawn(async move {
                    let call = links.call(owner, REQUEST, request.encode(), BUSY_TIMEOUT);
                    call.await.ok().and_then(DataReply::decode)
                });
            }
        }
        while let Some(answered) = asked.join_next().await {
            if let Ok(Some(DataReply::Idle(idle))) = answered {
                busy.retain(|id| !idle.contains(id));
            }
        }
        busy
    }

    /// Sizes of partitions, from their owners; of an owner that does not answer,
    /// what was last known.
    pub(crate) async fn stats_of(
        &self,
        keys: Vec<PartitionKey>,
    ) -> HashMap<PartitionKey, ::partitions::PartitionStats> {
        let mut by_owner: BTreeMap<ReplicaId, Vec<PartitionKey>> = BTreeMap::new();
        {
            let state = self.metadata.reader.read();
            for key in keys {
                if let Some(partition) = state.partition(&key) {
                    by_owner.entry(partition.owner).or_default().push(key);
                }
            }
        }
        let mut asked = tokio::task::JoinSet::new();
        for (owner, keys) in by_owner {
            let local = (owner == self.metadata.me).then(|| Arc::clone(&self.local));
            asked.spawn(stats::ask(local, self.links.clone(), owner, keys));
        }
        let mut found = HashMap::new();
        while let Some(answered) = asked.join_next().await {
            if let Ok((keys, answer)) = answered {
                self.stats.merge(&mut found, keys, answer);
            }
        }
        found
    }
}

fn settings(metadata: &Metadata, key: &PartitionKey) -> Option<TopicSettings> {
    let state = metadata.reader.read();
    let stream = state.stream(&Identifier::Id(key.stream_id))?;
    let topic = stream.topic(&Identifier::Id(key.topic_id))?;
    Some(TopicSettings::of(&topic.options))
}

impl DataReply {
    fn or_failure(self) -> Result<Self, Failure> {
        match self {
            Self::Refused(code::TRANSIENT_NOT_ACCEPTED) => Err(Failure::NotAccepted),
            Self::Refused(code) => Err(Failure::Refused(code)),
            reply => Ok(reply),
        }
    }
}

#[cfg(test)]
mod tests;
