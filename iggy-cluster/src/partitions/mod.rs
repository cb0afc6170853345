//! Partitions on all nodes.
//!
//! A request names a stream, a topic and a partition. The metadata state has the owner of
//! the partition. This node serves the partitions that it owns, and forwards requests for
//! others to their owners. An owner that cannot be reached is a transient error, never an
//! empty reply.

mod affected;
mod attempts;
mod cleaner;
mod deliveries;
mod local;
mod log;
mod messages;
mod pending_commits;
mod place;
mod readers;
mod reading;
mod refusing;
mod revocations;
mod stats;
mod stored_offsets;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adapters::metadata::{Identifier, MetadataError, MetadataState, PartitionKey, code};
use adapters::wire::{GroupTarget, Partitioning};
use consensus::ReplicaId;

use crate::cluster::{Failure, Metadata};
use replicated_log::links::RequestLinks;

pub(crate) use affected::Affected;
pub(crate) use cleaner::run as clean_messages;
pub(crate) use deliveries::Delivery;
pub(crate) use local::{LocalPartitions, refusal};
pub(crate) use messages::{ChangeOffset, DataReply, DataRequest, Poll, REQUEST, Send};
pub(crate) use place::Place;
pub(crate) use readers::{Denied, Reader, Right, has_session};
pub(crate) use reading::{PollBytes, PollMemory, bytes_of};
pub(crate) use refusing::Refusing;
pub(crate) use revocations::run as complete_revocations;

/// An owner that does not reply within this time counts as lost.
const OWNER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a member that joins a group waits for the owners of its partitions.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);

/// Serves requests for any partition.
pub(crate) struct Partitions {
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) local: Arc<LocalPartitions>,
    links: RequestLinks,
    affected: Arc<Affected>,
    /// The number of balanced sends so far, for a round robin.
    balanced: AtomicUsize,
    stats: stats::Cache,
}

impl Partitions {
    pub(crate) fn new(
        metadata: Arc<Metadata>,
        local: Arc<LocalPartitions>,
        links: RequestLinks,
        affected: Arc<Affected>,
    ) -> Self {
        Self {
            metadata,
            local,
            links,
            affected,
            balanced: AtomicUsize::new(0),
            stats: stats::Cache::default(),
        }
    }

    /// The partition that a client names, by this state.
    pub(crate) fn look_up(
        &self,
        state: &MetadataState,
        stream: &Identifier,
        topic: &Identifier,
        partition: &Partitioning,
    ) -> Result<Place, Failure> {
        let (stream, topic) = state
            .topic(stream, topic)
            .map_err(|error: MetadataError| Failure::Refused(error.code()))?;
        let count = topic.partitions.len();
        let id = match partition {
            Partitioning::Partition(id) => *id,
            _ if count == 0 => return Err(Failure::Refused(code::INVALID_IDENTIFIER)),
            Partitioning::Balanced => {
                let first = self.balanced.fetch_add(1, Ordering::Relaxed) % count;
                let is_available = |id: &usize| {
                    let partition = topic.partitions.get(*id as u32);
                    let leader = partition.and_then(|partition| partition.leader());
                    leader.is_some_and(|leader| state.is_live(leader))
                };
                let mut in_turn = (first..count).chain(0..first);
                in_turn.find(is_available).unwrap_or(first) as u32
            }
            Partitioning::Key(key) => iggy_common::calculate_32(key) % count as u32,
        };
        let place = Place::in_topic(state, stream.id, topic, id);
        place.ok_or(Failure::Refused(code::PARTITION_NOT_FOUND))
    }

    /// The partition that a client names, and the id of a group of its topic, by this
    /// state; `None` when the partition or the group does not exist.
    pub(crate) fn look_up_group(
        state: &MetadataState,
        target: &GroupTarget,
        partition: u32,
    ) -> Option<(Place, u32)> {
        let (stream, topic) = state.topic(&target.stream, &target.topic).ok()?;
        let group = topic.group(&target.group)?;
        let place = Place::in_topic(state, stream.id, topic, partition)?;
        Some((place, group.id))
    }

    /// Waits until the owners of the partitions that a client's applied request changes serve
    /// them accordingly. `index` is the position of its command.
    ///
    /// # Errors
    /// When this node cannot catch up with the log: the outcome stays unknown.
    pub(crate) async fn in_effect(
        &self,
        client: u128,
        request: u64,
        index: u64,
    ) -> Result<(), Failure> {
        let of = (client, request);
        self.affected
            .wait(&self.metadata, &self.links, of, index)
            .await
    }

    /// The partitions of a group of which something served is not committed. Where an owner
    /// does not reply in time, its partitions are among them.
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
                if let (Some(key), Some(partition)) =
                    (topic.key(stream.id, id), topic.partitions.get(id))
                {
                    let owner = partition.owner();
                    by_owner.entry(owner).or_default().push(key);
                }
            }
            (group.id, by_owner)
        };
        let mut requests = tokio::task::JoinSet::new();
        let mut busy = BTreeSet::new();
        for (owner, keys) in by_owner {
            busy.extend(keys.iter().map(|key| key.partition_id));
            let request = DataRequest::Idle {
                group: group_id,
                keys,
            };
            if owner == self.metadata.me {
                let local = Arc::clone(&self.local);
                requests.spawn(async move { Some(local.serve(request).await) });
            } else {
                let links = self.links.clone();
                requests.spawn(async move {
                    let call = links.call(owner, REQUEST, request.encode(), BUSY_TIMEOUT);
                    call.await.ok().and_then(DataReply::decode)
                });
            }
        }
        while let Some(reply) = requests.join_next().await {
            if let Ok(Some(DataReply::Idle(idle))) = reply {
                busy.retain(|id| !idle.contains(id));
            }
        }
        busy
    }

    /// Sizes of partitions, from their owners. For an owner that does not reply, the last
    /// known sizes.
    pub(crate) async fn stats_of(
        &self,
        keys: Vec<PartitionKey>,
    ) -> HashMap<PartitionKey, ::partitions::PartitionStats> {
        let mut by_owner: BTreeMap<ReplicaId, Vec<PartitionKey>> = BTreeMap::new();
        {
            let state = self.metadata.reader.read();
            for key in keys {
                if let Some(partition) = state.partition(&key) {
                    by_owner.entry(partition.owner()).or_default().push(key);
                }
            }
        }
        let mut requests = tokio::task::JoinSet::new();
        for (owner, keys) in by_owner {
            let local = (owner == self.metadata.me).then(|| Arc::clone(&self.local));
            requests.spawn(stats::request(local, self.links.clone(), owner, keys));
        }
        let mut found = HashMap::new();
        while let Some(reply) = requests.join_next().await {
            if let Ok((keys, stats)) = reply {
                self.stats.merge(&mut found, keys, stats);
            }
        }
        found
    }
}

impl DataReply {
    fn or_failure(self) -> Result<Self, Failure> {
        match self {
            Self::Refused(code::TRANSIENT_NOT_ACCEPTED) => Err(Failure::NotAccepted),
            Self::Refused(code::TRANSIENT_NOT_COMMITTED) => Err(Failure::OutcomeUnknown),
            Self::Refused(code) => Err(Failure::Refused(code)),
            reply => Ok(reply),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
