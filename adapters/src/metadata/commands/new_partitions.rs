//! What an intent and a command say of the partitions that they create.

use consensus::ReplicaId;

use crate::metadata::replicas::Replicas;

/// What is known of partitions that are to be created: [`PartitionCount`] in an
/// intent, [`Placement`] in a command.
pub trait NewPartitions: Sized {
    /// How many there are.
    fn count(&self) -> u32;

    /// The nodes with copies of each, as far as that is decided.
    fn replicas(&self) -> &[Replicas];

    /// From the encoding, which has room for both; `None` when a command does not
    /// have nodes for each partition.
    fn from_parts(count: u32, replicas: Vec<Replicas>) -> Option<Self>;
}

/// So many partitions are to be created; the leader decides where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionCount(pub u32);

/// The nodes with copies of the partitions that are created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement(pub Vec<Replicas>);

impl Placement {
    /// One copy each. `None` when an id is none that a node can have.
    #[must_use]
    pub fn single(owners: &[ReplicaId]) -> Option<Self> {
        let replicas = owners.iter().copied().map(Replicas::single);
        replicas.collect::<Option<_>>().map(Self)
    }
}

impl NewPartitions for PartitionCount {
    fn count(&self) -> u32 {
        self.0
    }

    fn replicas(&self) -> &[Replicas] {
        &[]
    }

    fn from_parts(count: u32, _replicas: Vec<Replicas>) -> Option<Self> {
        Some(Self(count))
    }
}

impl NewPartitions for Placement {
    fn count(&self) -> u32 {
        self.0.len() as u32
    }

    fn replicas(&self) -> &[Replicas] {
        &self.0
    }

    fn from_parts(count: u32, replicas: Vec<Replicas>) -> Option<Self> {
        (replicas.len() == count as usize).then_some(Self(replicas))
    }
}
