//! A stream and its topics.

use std::collections::BTreeMap;
use std::sync::Arc;

use partitions::PartitionKey;

use super::topic::Topic;
use crate::metadata::options::Options;
use crate::metadata::types::{Identifier, Name};

/// The most streams, as on Iggy's server.
pub const STREAMS_MAX: u32 = 1 << 20;

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its id, the lowest that was free.
    pub id: u32,
    /// Its name, unique in the cluster.
    pub name: Name,
    /// When it was created, in microseconds since the Unix epoch.
    pub created_at: u64,
    /// Its options.
    pub options: Options,
    topics: BTreeMap<u32, Arc<Topic>>,
    topic_names: BTreeMap<Name, u32>,
}

impl Stream {
    /// A stream without topics.
    pub(in crate::metadata) fn new(id: u32, name: Name, created_at: u64, options: Options) -> Self {
        Self {
            id,
            name,
            created_at,
            options,
            topics: BTreeMap::new(),
            topic_names: BTreeMap::new(),
        }
    }

    /// The topic with this id or name.
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

    /// The keys of all partitions.
    pub(in crate::metadata) fn keys(&self) -> Vec<PartitionKey> {
        let topics = self.topics.values();
        topics.flat_map(|topic| topic.keys(self.id)).collect()
    }

    pub(in crate::metadata) fn topic_mut(&mut self, id: u32) -> Option<&mut Topic> {
        self.topics.get_mut(&id).map(Arc::make_mut)
    }

    pub(in crate::metadata) fn topics_mut(&mut self) -> impl Iterator<Item = &mut Topic> {
        self.topics.values_mut().map(Arc::make_mut)
    }

    /// All topics, each shared until it is changed.
    pub(in crate::metadata) fn shared_topics_mut(
        &mut self,
    ) -> impl Iterator<Item = &mut Arc<Topic>> {
        self.topics.values_mut()
    }

    /// The id of the topic with this name.
    pub(in crate::metadata) fn topic_id(&self, name: &Name) -> Option<u32> {
        self.topic_names.get(name).copied()
    }

    /// The lowest id that no topic has.
    pub(in crate::metadata) fn free_topic_id(&self) -> u32 {
        match self.topics.last_key_value() {
            None => 0,
            Some((last, _)) if *last as usize + 1 == self.topics.len() => last + 1,
            _ => (0..)
                .zip(self.topics.keys())
                .find(|(free, used)| free != *used)
                .map_or(0, |(free, _)| free),
        }
    }

    /// Adds a topic; `false` when its id or its name is in use.
    pub(in crate::metadata) fn add_topic(&mut self, topic: Arc<Topic>) -> bool {
        let by_name = self.topic_names.insert(topic.name.clone(), topic.id);
        let by_id = self.topics.insert(topic.id, topic);
        by_name.is_none() && by_id.is_none()
    }

    pub(in crate::metadata) fn remove_topic(&mut self, id: u32) -> Option<Arc<Topic>> {
        let topic = self.topics.remove(&id)?;
        self.topic_names.remove(&topic.name);
        Some(topic)
    }

    /// Renames a topic that exists.
    pub(in crate::metadata) fn rename_topic(&mut self, id: u32, name: Name) -> Option<&mut Topic> {
        let topic = self.topics.get_mut(&id).map(Arc::make_mut)?;
        let former = std::mem::replace(&mut topic.name, name.clone());
        self.topic_names.remove(&former);
        self.topic_names.insert(name, id);
        Some(topic)
    }
}
