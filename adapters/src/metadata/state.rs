//! The state: streams, topics, partitions, nodes, users, sessions.
//!
//! Streams and topics are shared copy-on-write, so that a frozen copy of the
//! state costs a pointer per stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use consensus::ReplicaId;

use super::commands::NodeInfo;
use super::error::MetadataError;
use super::memberships::{Groups, Memberships};
use super::options::Options;
use super::sessions::Sessions;
use partitions::PartitionKey;

use super::types::{Identifier, Name};
use super::users::{User, Users};

/// Streams that fit, as on Iggy's server.
pub const STREAMS_MAX: u32 = 1 << 20;
/// Topics of one stream that fit, as on Iggy's server.
pub const TOPICS_MAX: u32 = 4096;
/// Partitions of one topic that fit, as on Iggy's server.
pub const PARTITIONS_MAX: u32 = 1_000_000;

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: Name,
    /// When it was created, in microseconds since the Unix epoch.
    pub created_at: u64,
    /// Its options.
    pub options: Options,
    topics: BTreeMap<u32, Arc<Topic>>,
    topic_names: BTreeMap<Name, u32>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: Name,
    /// When it was created, in microseconds since the Unix epoch.
    pub created_at: u64,
    /// Its options.
    pub options: Options,
    /// Its partitions, by id, without gaps from zero.
    pub partitions: Vec<Partition>,
    pub(super) groups: Groups,
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Index of the log entry that created it, or purged it last, and, above its
    /// bits, the position of the command in that entry.
    pub created_index: u64,
    /// When it was created, in microseconds since the Unix epoch.
    pub created_at: u64,
    /// The node that holds it.
    pub owner: ReplicaId,
    /// Rises with every change of owner.
    pub epoch: u32,
}

/// A node, as it registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// How it presented itself.
    pub info: NodeInfo,
    /// The number of its registration.
    pub registration: u64,
    /// Whether it may speak for clients and take partitions.
    pub live: bool,
    /// Partitions that it owns.
    pub partitions: u64,
}

/// All metadata at one position of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataState {
    /// Index of the last entry applied.
    pub(super) applied: u64,
    /// Names what the command under way creates; derived from its position.
    pub(super) life: u64,
    /// The latest time that a command carried, in microseconds since the epoch.
    pub(super) now: u64,
    pub(super) streams: BTreeMap<u32, Arc<Stream>>,
    pub(super) stream_names: BTreeMap<Name, u32>,
    pub(super) nodes: BTreeMap<ReplicaId, Node>,
    pub(super) users: Users,
    pub(super) sessions: Sessions,
    pub(super) memberships: Memberships,
    partitions: u64,
    free_stream_ids: BTreeSet<u32>,
}

/// What a deletion took along.
pub(super) type Removed = Vec<PartitionKey>;

/// Queries.
impl MetadataState {
    /// Index of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The latest time that a command carried, in microseconds since the epoch; it
    /// never goes back.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The stream so named.
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

    /// The topic so named, and its stream.
    ///
    /// # Errors
    /// Which of the two is not there.
    pub fn topic(
        &self,
        stream: &Identifier,
        topic: &Identifier,
    ) -> Result<(&Arc<Stream>, &Arc<Topic>), MetadataError> {
        let stream = self.stream(stream).ok_or(MetadataError::StreamNotFound)?;
        let topic = stream.topic(topic).ok_or(MetadataError::TopicNotFound)?;
        Ok((stream, topic))
    }

    /// A partition by its key, when that life of it still goes on.
    #[must_use]
    pub fn partition(&self, key: &PartitionKey) -> Option<&Partition> {
        let topic = self
            .streams
            .get(&key.stream_id)?
            .topics
            .get(&key.topic_id)?;
        let partition = topic.partitions.get(key.partition_id as usize)?;
        (partition.created_index == key.generation).then_some(partition)
    }

    /// All nodes that ever registered, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: ReplicaId) -> Option<&Node> {
        self.nodes.get(&id)
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

    /// The users.
    #[must_use]
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// The sessions.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partitions_count(&self) -> u64 {
        self.partitions
    }
}

impl Stream {
    /// The topic so named.
    #[must_use]
    pub fn topic(&self, topic: &Identifier) -> Option<&Arc<Topic>> {
        let id = match topic {
            Identifier::Id(id) => id,
            Identifier::Name(name) => self.topic_names.get(name)?,
        };
        self.topics.get(id)
    }

    /// All topics, by id.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    pub(super) fn restored(
        id: u32,
        name: Name,
        created_at: u64,
        options: Options,
        topics: Vec<Topic>,
    ) -> Option<Self> {
        let mut stream = Self {
            id,
            name,
            created_at,
            options,
            topics: BTreeMap::new(),
            topic_names: BTreeMap::new(),
        };
        for topic in topics {
            let named = stream.topic_names.insert(topic.name.clone(), topic.id);
            let held = stream.topics.insert(topic.id, Arc::new(topic));
            if named.is_some() || held.is_some() {
                return None;
            }
        }
        Some(stream)
    }

    fn keys(&self) -> Removed {
        let topics = self.topics.values();
        topics.flat_map(|topic| topic.keys(self.id)).collect()
    }
}

impl Topic {
    /// The key of a partition.
    #[must_use]
    pub fn key(&self, stream_id: u32, partition_id: u32) -> Option<PartitionKey> {
        let partition = self.partitions.get(partition_id as usize)?;
        Some(PartitionKey {
            stream_id,
            topic_id: self.id,
            partition_id,
            generation: partition.created_index,
        })
    }

    /// All partitions begin another life, in which they are empty: whatever is under
    /// way to the former one finds it gone. Returns that one's keys.
    fn purge(&mut self, stream_id: u32, life: u64) -> Removed {
        let former = self.keys(stream_id).collect();
        for partition in &mut self.partitions {
            partition.created_index = life;
        }
        former
    }

    /// The keys of all partitions.
    pub fn keys(&self, stream_id: u32) -> impl Iterator<Item = PartitionKey> + '_ {
        (0..self.partitions.len() as u32).filter_map(move |id| self.key(stream_id, id))
    }
}

/// The lowest number that is not a key.
fn lowest_free<T>(map: &BTreeMap<u32, T>) -> u32 {
    match map.last_key_value() {
        None => 0,
        Some((last, _)) if *last as usize + 1 == map.len() => last + 1,
        _ => (0..)
            .zip(map.keys())
            .find(|(n, key)| n != *key)
            .map_or(0, |(n, _)| n),
    }
}

/// Changes. Each checks everything before it changes anything.
impl MetadataState {
    pub(super) fn create_stream(
        &mut self,
        name: Name,
        options: Options,
    ) -> Result<Arc<Stream>, MetadataError> {
        if self.stream_names.contains_key(&name) {
            return Err(MetadataError::StreamNameAlreadyExists);
        }
        let id = self
            .free_stream_ids
            .first()
            .copied()
            .unwrap_or(self.streams.len() as u32);
        if id >= STREAMS_MAX {
            return Err(MetadataError::TooManyStreams);
        }
        self.free_stream_ids.remove(&id);
        self.stream_names.insert(name.clone(), id);
        let stream = Arc::new(Stream {
            id,
            name,
            created_at: self.now,
            options,
            topics: BTreeMap::new(),
            topic_names: BTreeMap::new(),
        });
        self.streams.insert(id, Arc::clone(&stream));
        Ok(stream)
    }

    pub(super) fn update_stream(
        &mut self,
        stream: &Identifier,
        name: Name,
        options: &Options,
    ) -> Result<(), MetadataError> {
        let id = self.stream_id(stream)?;
        if self
            .stream_names
            .get(&name)
            .is_some_and(|other| *other != id)
        {
            return Err(MetadataError::StreamNameAlreadyExists);
        }
        let stream = self.stream_mut(id)?;
        let old = std::mem::replace(&mut stream.name, name.clone());
        stream.options.patch(options);
        self.stream_names.remove(&old);
        self.stream_names.insert(name, id);
        Ok(())
    }

    pub(super) fn delete_stream(&mut self, stream: &Identifier) -> Result<Removed, MetadataError> {
        let id = self.stream_id(stream)?;
        let stream = self
            .streams
            .remove(&id)
            .ok_or(MetadataError::StreamNotFound)?;
        self.stream_names.remove(&stream.name);
        self.free_stream_ids.insert(id);
        // Those behind the highest in use are free anyway, and a restored state does
        // not know of them.
        self.free_stream_ids.split_off(&self.stream_ids_end());
        for topic in stream.topics() {
            self.disown(&topic.partitions);
        }
        self.forget_groups(id, stream.topics());
        self.users.forget_stream(id);
        Ok(stream.keys())
    }

    pub(super) fn purge_stream(&mut self, stream: &Identifier) -> Result<Removed, MetadataError> {
        let id = self.stream_id(stream)?;
        let life = self.life;
        let stream = self.stream_mut(id)?;
        let topics = stream.topics.values_mut();
        Ok(topics
            .flat_map(|topic| Arc::make_mut(topic).purge(id, life))
            .collect())
    }

    pub(super) fn purge_topic(
        &mut self,
        stream: &Identifier,
        topic: &Identifier,
    ) -> Result<Removed, MetadataError> {
        let (stream_id, topic_id) = self.topic_ids(stream, topic)?;
        let life = self.life;
        Ok(self.topic_mut(stream_id, topic_id)?.purge(stream_id, life))
    }

    pub(super) fn create_topic(
        &mut self,
        stream: &Identifier,
        name: Name,
        options: Options,
        owners: &[ReplicaId],
    ) -> Result<(u32, Arc<Topic>), MetadataError> {
        let stream_id = self.stream_id(stream)?;
        let (now, life) = (self.now, self.life);
        self.check_owners(owners)?;
        let stream = self.stream_mut(stream_id)?;
        if stream.topic_names.contains_key(&name) {
            return Err(MetadataError::TopicNameAlreadyExists);
        }
        if stream.topics.len() as u32 >= TOPICS_MAX {
            return Err(MetadataError::TooManyTopics);
        }
        if owners.len() as u32 > PARTITIONS_MAX {
            return Err(MetadataError::PartitionIdSpaceExhausted);
        }
        let id = lowest_free(&stream.topics);
        let topic = Arc::new(Topic {
            id,
            name: name.clone(),
            created_at: now,
            options,
            partitions: owners
                .iter()
                .map(|owner| new_partition(*owner, life, now))
                .collect(),
            groups: Groups::default(),
        });
        stream.topic_names.insert(name, id);
        stream.topics.insert(id, Arc::clone(&topic));
        self.own(&topic.partitions);
        Ok((stream_id, topic))
    }

    pub(super) fn update_topic(
        &mut self,
        stream: &Identifier,
        topic: &Identifier,
        name: Name,
        options: &Options,
    ) -> Result<(), MetadataError> {
        let (stream_id, topic_id) = self.topic_ids(stream, topic)?;
        let stream = self.stream_mut(stream_id)?;
        if stream
            .topic_names
            .get(&name)
            .is_some_and(|other| *other != topic_id)
        {
            return Err(MetadataError::TopicNameAlreadyExists);
        }
        let topic = stream
            .topics
            .get_mut(&topic_id)
            .ok_or(MetadataError::TopicNotFound)?;
        let topic = Arc::make_mut(topic);
        let old = std::mem::replace(&mut topic.name, name.clone());
        topic.options.patch(options);
        stream.topic_names.remove(&old);
        stream.topic_names.insert(name, topic_id);
        Ok(())
    }

    pub(super) fn delete_topic(
        &mut self,
        stream: &Identifier,
        topic: &Identifier,
    ) -> Result<Removed, MetadataError> {
        let (stream_id, topic_id) = self.topic_ids(stream, topic)?;
        let stream = self.stream_mut(stream_id)?;
        let topic = stream
            .topics
            .remove(&topic_id)
            .ok_or(MetadataError::TopicNotFound)?;
        stream.topic_names.remove(&topic.name);
        self.disown(&topic.partitions);
        self.forget_groups(stream_id, std::iter::once(&topic));
        self.users.forget_topic(stream_id, topic_id);
        Ok(topic.keys(stream_id).collect())
    }

    pub(super) fn create_partitions(
        &mut self,
        stream: &Identifier,
        topic: &Identifier,
        owners: &[ReplicaId],
    ) -> Result<Vec<PartitionKey>, MetadataError> {
        let (stream_id, topic_id) = self.topic_ids(stream, topic)?;
        let (now, life) = (self.now, self.life);
        self.check_owners(owners)?;
        let topic = self.topic_mut(stream_id, topic_id)?;
        let first = topic.partitions.len();
        if first + owners.len() > PARTITIONS_MAX as usize {
            return Err(MetadataError::PartitionIdSpaceExhausted);
        }
        let added: Vec<_> = owners
            .iter()
            .map(|owner| new_partition(*owner, life, now))
            .collect();
        topic.partitions.extend_from_slice(&added);
        let keys = topic.keys(stream_id).skip(first).collect();
        self.own(&added);
        self.resize_groups(stream_id, topic_id);
        Ok(keys)
    }

    pub(super) fn delete_partitions(
        &mut self,
        stream: &Identifier,
        topic: &Identifier,
        count: u32,
    ) -> Result<Removed, MetadataError> {
        let (stream_id, topic_id) = self.topic_ids(stream, topic)?;
        let topic = self.topic_mut(stream_id, topic_id)?;
        let keep = topic
            .partitions
            .len()
            .checked_sub(count as usize)
            .ok_or(MetadataError::InvalidPartitionsCount)?;
        let keys = topic.keys(stream_id).skip(keep).collect();
        let removed = topic.partitions.split_off(keep);
        self.disown(&removed);
        self.resize_groups(stream_id, topic_id);
        Ok(keys)
    }

    /// Puts restored streams in place and derives what is not stored.
    pub(super) fn adopt(&mut self, streams: Vec<Stream>) -> Option<()> {
        for stream in streams {
            if stream.id >= STREAMS_MAX {
                return None;
            }
            for topic in stream.topics() {
                self.check_owners_known(&topic.partitions)?;
                self.own(&topic.partitions);
            }
            let named = self.stream_names.insert(stream.name.clone(), stream.id);
            let held = self.streams.insert(stream.id, Arc::new(stream));
            if named.is_some() || held.is_some() {
                return None;
            }
        }
        self.free_stream_ids = (0..self.stream_ids_end())
            .filter(|id| !self.streams.contains_key(id))
            .collect();
        Some(())
    }

    /// Behind the highest id in use: ids in use and free ids together are all
    /// below it.
    fn stream_ids_end(&self) -> u32 {
        self.streams.last_key_value().map_or(0, |(id, _)| id + 1)
    }

    fn check_owners_known(&self, partitions: &[Partition]) -> Option<()> {
        partitions
            .iter()
            .all(|partition| self.nodes.contains_key(&partition.owner))
            .then_some(())
    }

    fn check_owners(&self, owners: &[ReplicaId]) -> Result<(), MetadataError> {
        match owners.iter().all(|owner| self.nodes.contains_key(owner)) {
            true => Ok(()),
            false => Err(MetadataError::InvalidCommand),
        }
    }

    fn own(&mut self, partitions: &[Partition]) {
        self.partitions += partitions.len() as u64;
        for partition in partitions {
            if let Some(node) = self.nodes.get_mut(&partition.owner) {
                node.partitions += 1;
            }
        }
    }

    fn disown(&mut self, partitions: &[Partition]) {
        self.partitions -= partitions.len() as u64;
        for partition in partitions {
            if let Some(node) = self.nodes.get_mut(&partition.owner) {
                node.partitions -= 1;
            }
        }
    }

    fn stream_id(&self, stream: &Identifier) -> Result<u32, MetadataError> {
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

    fn stream_mut(&mut self, id: u32) -> Result<&mut Stream, MetadataError> {
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
        let stream = self.stream_mut(stream)?;
        let topic = stream
            .topics
            .get_mut(&topic)
            .ok_or(MetadataError::TopicNotFound)?;
        Ok(Arc::make_mut(topic))
    }
}

fn new_partition(owner: ReplicaId, life: u64, now: u64) -> Partition {
    Partition {
        created_index: life,
        created_at: now,
        owner,
        epoch: 1,
    }
}
