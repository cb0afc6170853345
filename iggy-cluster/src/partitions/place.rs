//! Where a partition is, by one state of the metadata.

use ::partitions::PartitionOptions;
use adapters::metadata::{Identifier, MetadataState, PartitionKey};
use adapters::wire::TopicSettings;
use consensus::ReplicaId;

/// A partition, its owner and its options, all of one state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) key: PartitionKey,
    pub(crate) owner: ReplicaId,
    pub(crate) options: PartitionOptions,
}

impl Place {
    /// The partition with this key; `None` when the state does not contain it.
    pub(super) fn of(state: &MetadataState, key: &PartitionKey) -> Option<Self> {
        let owner = state.partition(key)?.owner;
        let stream = state.stream(&Identifier::Id(key.stream_id))?;
        let topic = stream.topic(&Identifier::Id(key.topic_id))?;
        Some(Self {
            key: *key,
            owner,
            options: TopicSettings::of(&topic.options).partition_options(topic.partitions.len()),
        })
    }
}
