//! Changes of topics and their partitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use partitions::PartitionKey;

use crate::metadata::error::MetadataError;
use crate::metadata::options::Options;
use crate::metadata::replicas::Replicas;
use crate::metadata::state::{Groups, MetadataState, PARTITIONS_MAX, Partition, TOPICS_MAX, Topic};
use crate::metadata::types::{Identifier, Name};

impl MetadataState {
    pub(in crate::metadata) fn create_topic(
        &mut self,
        stream: &Identifier,
        name: Name,
        options: Options,
        placement: &[Replicas],
    ) -> Result<Arc<Topic>, MetadataError> {
        let stream_id = self.stream_id(stream)?;
        let partitions = self.new_partitions(placement)?;
        let created_at = self.now;
        let stream = self.stream_mut(stream_id)?;
        if stream.topic_id(&name).is_some() {
            return Err(MetadataError::TopicNameAlreadyExists);
        }
        if stream.topics().len() as u32 >= TOPICS_MAX {
            return Err(MetadataError::TooManyTopics);
        }
        if placement.len() as u32 > PARTITIONS_MAX {
            return Err(MetadataError::PartitionIdSpaceExhausted);
        }
        let topic = Arc::new(Topic {
            id: stream.free_topic_id(),
            name,
            created_at,
            options,
            partitions: partitions.into_iter().collect(),
            recoveries: BTreeMap::new(),
            groups: Groups::default(),
        });
        stream.add_topic(Arc::clone(&topic));
        self.count_added(topic.partitions.iter());
        Ok(topic)
    }

    pub(in crate::metadata) fn update_topic(
        &mut self,
        stream: &Identifier,
        topic: &Identifier,
        name: Name,
        options: &Options,
    ) -> Result<(), MetadataError> {
        let (stream_id, topic_id) = self.topic_ids(stream, topic)?;
        let stream = self.stream_mut(stream_id)?;
        if stream
            .topic_id(&name)
            .is_some_and(|other| other != topic_id)
        {
            return Err(MetadataError::TopicNameAlreadyExists);
        }
        let topic = stream
            .rename_topic(topic_id, name)
            .ok_or(MetadataError::TopicNotFound)?;
        topic.options.patch(options);
        Ok(())
    }

    /// Returns the partitions that are gone.
    pub(in crate::metadata) fn delete_topic(
        &mut self,
        stream: &Identifier,
        topic: &Identifier,
    ) -> Result<Vec<PartitionKey>, MetadataError> {
        let (stream_id, topic_id) = self.topic_ids(stream, topic)?;
        let topic = self
            .stream_mut(stream_id)?
            .remove_topic(topic_id)
            .ok_or(MetadataError::TopicNotFound)?;
        self.count_removed(topic.partitions.iter());
        self.forget_groups(stream_id, std::iter::once(&topic));
        self.users.forget_topic(stream_id, topic_id);
        Ok(topic.keys(stream_id).collect())
    }

    /// Returns the generations of partitions that are gone.
    pub(in crate::metadata) fn purge_topic(
        &mut self,
        stream: &Identifier,
        topic: &Identifier,
    ) -> Result<Vec<PartitionKey>, MetadataError> {
        let (stream_id, topic_id) = self.topic_ids(stream, topic)?;
        let generation = self.command_id;
        let topic = self.topic_mut(stream_id, topic_id)?;
        Ok(topic.purge(stream_id, generation))
    }

    pub(in crate::metadata) fn create_partitions(
        &mut self,
        stream: &Identifier,
        topic: &Identifier,
        placement: &[Replicas],
    ) -> Result<(), MetadataError> {
        let (stream_id, topic_id) = self.topic_ids(stream, topic)?;
        let added = self.new_partitions(placement)?;
        let topic = self.topic_mut(stream_id, topic_id)?;
        if topic.partitions.len() + added.len() > PARTITIONS_MAX as usize {
            return Err(MetadataError::PartitionIdSpaceExhausted);
        }
        for partition in &added {
            topic.partitions.push(*partition);
        }
        self.count_added(added.into_iter());
        self.resize_groups(stream_id, topic_id);
        Ok(())
    }

    /// Returns the partitions that are gone.
    pub(in crate::metadata) fn delete_partitions(
        &mut self,
        stream: &Identifier,
        topic: &Identifier,
        count: u32,
    ) -> Result<Vec<PartitionKey>, MetadataError> {
        let (stream_id, topic_id) = self.topic_ids(stream, topic)?;
        let topic = self.topic_mut(stream_id, topic_id)?;
        let keep = topic
            .partitions
            .len()
            .checked_sub(count as usize)
            .ok_or(MetadataError::InvalidPartitionsCount)?;
        let keys = topic.keys(stream_id).skip(keep).collect();
        let removed: Vec<Partition> = topic.partitions.iter().skip(keep).collect();
        topic.partitions.truncate(keep);
        topic.recoveries.split_off(&(keep as u32));
        self.count_removed(removed.into_iter());
        self.resize_groups(stream_id, topic_id);
        Ok(keys)
    }

    fn new_partitions(&self, placement: &[Replicas]) -> Result<Vec<Partition>, MetadataError> {
        if !self.leaders_change() && placement.iter().any(|replicas| replicas.len() > 1) {
            return Err(MetadataError::InvalidCommand);
        }
        let candidates = self.candidates();
        let new = |replicas: &Replicas| {
            let known = replicas.iter().all(|node| self.nodes.contains_key(&node));
            let leader = Some(replicas.preferred());
            let mut partition = Partition::new(*replicas, leader, self.command_id, self.now);
            if self.leaders_change() {
                let leader = candidates.leader(&partition, None);
                partition = Partition::new(*replicas, leader, self.command_id, self.now);
            }
            known.then_some(partition)
        };
        let partitions = placement.iter().map(new).collect::<Option<_>>();
        partitions.ok_or(MetadataError::InvalidCommand)
    }
}
