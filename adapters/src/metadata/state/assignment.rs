//! What the copies of a partition have to know.

use ::partitions::PartitionKey;
use ::partitions::replication::{Assignment, Epoch, Member};

use super::MetadataState;
use crate::metadata::types::Identifier;
use crate::wire::TopicSettings;

impl MetadataState {
    /// What the metadata states about a partition's copies; `None` when it has no such
    /// generation. A member's registration is the incarnation of its node: it rises with
    /// every start of the process, and is the same when a node that was fenced registers
    /// again.
    #[must_use]
    pub fn assignment(&self, key: &PartitionKey) -> Option<Assignment> {
        let partition = self.partition(key)?;
        let stream = self.streams.get(&key.stream_id)?;
        let topic = stream.topic(&Identifier::Id(key.topic_id))?;
        let member = |node| {
            let known = self.node(node);
            let member = Member {
                registration: known.map_or(0, |node| node.info.incarnation),
                live: known.is_some_and(|node| node.live),
            };
            (node, member)
        };
        let mut in_sync: Vec<_> = partition.in_sync().collect();
        in_sync.sort_unstable();
        Some(Assignment {
            epoch: Epoch(u64::from(partition.leadership.epoch)),
            version: u64::from(partition.leadership.version),
            leader: partition.leader(),
            replicas: partition.replicas.iter().collect(),
            in_sync,
            min_in_sync: topic.options.min_in_sync(partition.replicas.len()),
            durability: TopicSettings::of(&topic.options).partitions.durability,
            members: partition.replicas.iter().map(member).collect(),
            recovery: topic.recoveries.get(&key.partition_id).copied(),
        })
    }
}
