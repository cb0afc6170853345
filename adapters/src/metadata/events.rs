//! What applied commands mean for the node that hosts the replica.

use std::collections::BTreeSet;

use consensus::ReplicaId;
use partitions::PartitionKey;

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataEvent {
    /// These generations of partitions are gone for good.
    PartitionsRemoved(Vec<PartitionKey>),
    /// A client's request has changed how these nodes serve their partitions.
    OwnersAffected(OwnersAffected),
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
    /// [Assignments](super::MetadataState::assignment) have changed.
    AssignmentsChanged(AssignmentsChange),
    /// The whole state was replaced.
    Restored,
}

/// Whose assignments have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssignmentsChange {
    /// Those of these partitions.
    Of(Vec<PartitionKey>),
    /// Those of all partitions with a copy on this node, which has started or was fenced.
    OfNode(ReplicaId),
    /// Those of all partitions of this topic, which was created, changed, or got more.
    OfTopic {
        /// The stream's id.
        stream_id: u32,
        /// The topic's id.
        topic_id: u32,
    },
}

/// A request that has removed or purged partitions, or changed the options of their topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnersAffected {
    /// The client.
    pub client: u128,
    /// The number of the request in the client's session.
    pub request: u64,
    /// The owners of these partitions; none when there were no partitions.
    pub owners: BTreeSet<ReplicaId>,
}

/// A group that is gone, and the partitions that may store offsets of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedGroup {
    /// Its id within the topic.
    pub group_id: u32,
    /// The topic's partitions.
    pub partitions: Vec<PartitionKey>,
}

/// Called with each change, in the order of the log, before readers see the state with the
/// change: it must not read the state. The next command is applied only when it returns.
pub type Observer = Box<dyn FnMut(MetadataEvent) + Send>;
