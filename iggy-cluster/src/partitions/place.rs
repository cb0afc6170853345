//! Where a partition is, by one state of the metadata.

use ::partitions::PartitionOptions;
use ::partitions::replication::Epoch;
use adapters::metadata::{Identifier, MetadataState, PartitionKey, Topic};
use adapters::wire::TopicSettings;
use consensus::ReplicaId;

/// A partition, its owner and its options, all of one state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) key: PartitionKey,
    /// The node that leads it, or else the one that should.
    pub(crate) owner: ReplicaId,
    /// Whether it has a leader that is registered and not fenced.
    pub(crate) live: bool,
    /// How many nodes have a copy.
    pub(crate) copies: usize,
    /// The epoch of its leader, once partitions are served by copies.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) options: PartitionOptions,
}

impl Place {
    /// The partition with this key; `None` when the state does not contain it.
    pub(crate) fn of(state: &MetadataState, key: &PartitionKey) -> Option<Self> {
        state.partition(key)?;
        let stream = state.stream(&Identifier::Id(key.stream_id))?;
        let topic = stream.topic(&Identifier::Id(key.topic_id))?;
        Self::in_topic(state, stream.id, topic, key.partition_id)
    }

    /// The partition of a topic of this state.
    pub(super) fn in_topic(
        state: &MetadataState,
        stream_id: u32,
        topic: &Topic,
        partition: u32,
    ) -> Option<Self> {
        let found = topic.partitions.get(partition)?;
        Some(Self {
            key: topic.key(stream_id, partition)?,
            owner: found.owner(),
            copies: found.replicas.len(),
            epoch: state
                .leaders_change()
                .then(|| Epoch(u64::from(found.leadership.epoch))),
            live: found.leader().is_some_and(|leader| state.is_live(leader)),
            options: PartitionOptions {
                repairable: found.replicas.len() > 1,
                ..TopicSettings::of(&topic.options).partition_options(topic.partitions.len())
            },
        })
    }
}
