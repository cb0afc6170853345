//! What applied commands mean for the node that hosts the replica.

use consensus::ReplicaId;
use partitions::PartitionKey;

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataEvent {
    /// These generations of partitions are gone for good.
    PartitionsRemoved(Vec<PartitionKey>),
    /// A node registered.
    NodeRegistered(ReplicaId),
    /// A node was fenced.
    NodeFenced(ReplicaId),
    /// The sessions of these clients ended.
    SessionsClosed(Vec<u128>),
    /// A consumer group is gone.
    GroupRemoved(RemovedGroup),
    /// Revocations are pending in a consumer group that has changed.
    Revoking,
    /// The whole state was replaced.
    Restored,
}

/// A group that is gone, and the partitions that may store offsets of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedGroup {
    /// Its id within the topic.
    pub group_id: u32,
    /// The topic's partitions.
    pub partitions: Vec<PartitionKey>,
}

/// Called with each change, in the order of the log. The next command is applied only
/// when it returns.
pub type Observer = Box<dyn FnMut(MetadataEvent) + Send>;
