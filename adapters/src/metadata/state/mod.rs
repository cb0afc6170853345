//! The state: streams, topics, partitions, nodes, users, sessions.
//!
//! Streams and topics are shared copy-on-write, so that a frozen copy of the state
//! costs one pointer per stream. This module and its children own what is stored and
//! how it is read; `changes` changes it.

mod assignment;
mod memberships;
mod partitions;
mod stream;
mod topic;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::partitions::PartitionKey;
use consensus::ReplicaId;

use super::commands::{ClientOperation, LogState, NodeInfo};
use super::error::MetadataError;
use super::feature_level::FeatureLevel;
use super::groups::{Group, Member};
use super::replicas::NodeSet;
use super::sessions::Sessions;
use super::types::{GroupKey, Identifier, Name};
use super::users::{User, Users};

pub(super) use memberships::Memberships;
pub use partitions::{Leadership, Partition, Partitions};
pub(super) use partitions::{Restored, all_in_sync};
pub use stream::{STREAMS_MAX, Stream};
pub(super) use topic::Groups;
pub use topic::{PARTITIONS_MAX, TOPICS_MAX, Topic};

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it published about itself.
    pub info: NodeInfo,
    /// The number of its registration, above zero.
    pub registration: u64,
    /// Whether it may speak for clients and own new partitions.
    pub live: bool,
    /// Identifies its storage; zero when version 0.1 registered it.
    pub storage_id: u128,
    /// What its storage may have lost before its last start.
    pub log: LogState,
    /// How many partitions it has a copy of.
    pub partitions: u64,
    /// How many partitions it leads.
    pub leads: u64,
}

/// All metadata at one position of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataState {
    /// Index of the last entry applied.
    pub(super) applied: u64,
    /// Identifies the command that is being applied, and no other; zero between
    /// commands. Derived from its position in the log.
    pub(super) command_id: u64,
    /// The latest time that a command carried, in microseconds since the Unix epoch.
    pub(super) now: u64,
    pub(super) feature_level: FeatureLevel,
    pub(super) streams: BTreeMap<u32, Arc<Stream>>,
    pub(super) stream_names: BTreeMap<Name, u32>,
    pub(super) nodes: BTreeMap<ReplicaId, Node>,
    pub(super) users: Users,
    pub(super) sessions: Sessions,
    pub(super) memberships: Memberships,
    /// How many partitions there are.
    pub(super) partitions: u64,
    pub(super) free_stream_ids: BTreeSet<u32>,
}

/// Queries.
impl MetadataState {
    /// Index of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The latest time that a command carried, in microseconds since the Unix epoch;
    /// it never moves backwards.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The level of commands and rules in use. No node below it is registered.
    #[must_use]
    pub fn feature_level(&self) -> FeatureLevel {
        self.feature_level
    }

    /// The level to raise the cluster to, if every node that has ever registered knows a
    /// higher one than the one in use.
    #[must_use]
    pub fn next_feature_level(&self) -> Option<FeatureLevel> {
        let level = self.lowest_node_level()?.min(FeatureLevel::KNOWN);
        (level > self.feature_level).then_some(level)
    }

    /// Whether leaders change when nodes start and stop. Before that, a partition has one
    /// copy, and its node leads.
    #[must_use]
    pub fn leaders_change(&self) -> bool {
        self.feature_level >= FeatureLevel::V0_2
    }

    /// Whether a node with this version may register.
    #[must_use]
    pub fn admits_version(&self, version: &str) -> bool {
        FeatureLevel::of_version(version) >= self.feature_level
            || self.feature_level == FeatureLevel::V0_1
    }

    /// The lowest level of all nodes that have ever registered.
    pub(super) fn lowest_node_level(&self) -> Option<FeatureLevel> {
        let nodes = self.nodes.values();
        let levels = nodes.map(|node| FeatureLevel::of_version(&node.info.version));
        levels.min()
    }

    /// The stream with this id or name.
    #[must_use]
    pub fn stream(&self, stream: &Identifier) -> Option<&Arc<Stream>> {
        let id = match stream {
            Identifier::Id(id) => id,
            Identifier::Name(name) => self.stream_names.get(name)?,
        };
        self.streams.get(id)
    }

    /// All streams, by id.
    pub fn streams(&self) -> impl ExactSizeIterator<Item = &Arc<Stream>> {
        self.streams.values()
    }

    /// The topic with this id or name, and its stream.
    ///
    /// # Errors
    /// Which of the two does not exist.
    pub fn topic(
        &self,
        stream: &Identifier,
        topic: &Identifier,
    ) -> Result<(&Arc<Stream>, &Arc<Topic>), MetadataError> {
        let stream = self.stream(stream).ok_or(MetadataError::StreamNotFound)?;
        let topic = stream.topic(topic).ok_or(MetadataError::TopicNotFound)?;
        Ok((stream, topic))
    }

    /// A partition by its key, if it still has that generation.
    #[must_use]
    pub fn partition(&self, key: &PartitionKey) -> Option<Partition> {
        let stream = self.streams.get(&key.stream_id)?;
        let topic = stream.topic(&Identifier::Id(key.topic_id))?;
        let partition = topic.partitions.get(key.partition_id)?;
        (partition.generation == key.generation).then_some(partition)
    }

    /// All nodes that ever registered, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }

    /// A node by its id.
    #[must_use]
    pub fn node(&self, id: ReplicaId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// Whether a node may speak for clients and serve its partitions.
    #[must_use]
    pub fn is_live(&self, id: ReplicaId) -> bool {
        self.node(id).is_some_and(|node| node.live)
    }

    /// The nodes that serve the partitions that a change
    /// [affects](ClientOperation::affects_owners), or whose copies are in sync.
    pub(super) fn owners_affected<P>(&self, change: &ClientOperation<P>) -> BTreeSet<ReplicaId> {
        let mut nodes = NodeSet::default();
        let mut add = |topic: &Topic| {
            for partition in &topic.partitions {
                nodes.insert(partition.owner());
                partition.in_sync().for_each(|node| nodes.insert(node));
            }
        };
        match change {
            ClientOperation::DeleteStream { stream } | ClientOperation::PurgeStream { stream } => {
                let topics = self.stream(stream).into_iter().flat_map(|it| it.topics());
                topics.for_each(|topic| add(topic));
            }
            ClientOperation::UpdateTopic { stream, topic, .. }
            | ClientOperation::DeleteTopic { stream, topic }
            | ClientOperation::PurgeTopic { stream, topic }
            | ClientOperation::DeletePartitions { stream, topic, .. } => {
                if let Ok((_, topic)) = self.topic(stream, topic) {
                    add(topic);
                }
            }
            _ => {}
        }
        nodes.iter().collect()
    }

    /// A user by name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.by_name(name)
    }

    /// A user by id.
    #[must_use]
    pub fn user_by_id(&self, id: u32) -> Option<&User> {
        self.users.get(id)
    }

    /// All users.
    #[must_use]
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// All sessions.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partitions_count(&self) -> u64 {
        self.partitions
    }

    /// A group by its key, with its topic.
    #[must_use]
    pub fn group(&self, key: &GroupKey) -> Option<(&Arc<Topic>, &Arc<Group>)> {
        let stream = self.streams.get(&key.stream_id)?;
        let topic = stream.topic(&Identifier::Id(key.topic_id))?;
        Some((topic, topic.group(&Identifier::Id(key.group_id))?))
    }

    /// A client's membership in a group.
    #[must_use]
    pub fn member(&self, key: &GroupKey, client: u128) -> Option<&Member> {
        self.group(key)?.1.member(client)
    }

    /// The groups that a client is a member of.
    pub fn memberships(&self, client: u128) -> impl Iterator<Item = &GroupKey> {
        self.memberships.of_client(client)
    }

    /// The groups with pending revocations.
    pub fn revoking_groups(&self) -> impl ExactSizeIterator<Item = &GroupKey> {
        self.memberships.revoking()
    }

    pub(super) fn stream_id(&self, stream: &Identifier) -> Result<u32, MetadataError> {
        let stream = self.stream(stream).ok_or(MetadataError::StreamNotFound)?;
        Ok(stream.id)
    }

    pub(super) fn topic_ids(
        &self,
        stream: &Identifier,
        topic: &Identifier,
    ) -> Result<(u32, u32), MetadataError> {
        let (stream, topic) = self.topic(stream, topic)?;
        Ok((stream.id, topic.id))
    }

    /// One more than the highest id in use: ids in use and free ids together are all
    /// below it.
    pub(super) fn stream_ids_end(&self) -> u32 {
        self.streams.last_key_value().map_or(0, |(id, _)| id + 1)
    }
}

/// What every change needs.
impl MetadataState {
    pub(super) fn stream_mut(&mut self, id: u32) -> Result<&mut Stream, MetadataError> {
        let stream = self
            .streams
            .get_mut(&id)
            .ok_or(MetadataError::StreamNotFound)?;
        Ok(Arc::make_mut(stream))
    }

    pub(super) fn topic_mut(
        &mut self,
        stream: u32,
        topic: u32,
    ) -> Result<&mut Topic, MetadataError> {
        self.stream_mut(stream)?
            .topic_mut(topic)
            .ok_or(MetadataError::TopicNotFound)
    }

    /// Counts new partitions, also for their nodes.
    pub(super) fn count_added(&mut self, partitions: impl Iterator<Item = Partition>) {
        for partition in partitions {
            self.partitions += 1;
            for node in partition.replicas.iter() {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.partitions += 1;
                }
            }
            self.count_leader(partition.leader());
        }
    }

    /// Counts partitions that are gone, also for their nodes.
    pub(super) fn count_removed(&mut self, partitions: impl Iterator<Item = Partition>) {
        for partition in partitions {
            self.partitions -= 1;
            for node in partition.replicas.iter() {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.partitions -= 1;
                }
            }
            let leader = partition.leader();
            if let Some(node) = leader.and_then(|leader| self.nodes.get_mut(&leader)) {
                node.leads -= 1;
            }
        }
    }

    fn count_leader(&mut self, leader: Option<ReplicaId>) {
        if let Some(node) = leader.and_then(|leader| self.nodes.get_mut(&leader)) {
            node.leads += 1;
        }
    }
}
