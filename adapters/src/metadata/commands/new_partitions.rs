//! What an intent and a command say of the partitions that they create.

use consensus::ReplicaId;

/// What is known of partitions that are to be created: [`PartitionCount`] in an
/// intent, [`Owners`] in a command.
pub trait NewPartitions: Sized {
    /// How many there are.
    fn count(&self) -> u32;

    /// The owner of each, as far as that is decided.
    fn owners(&self) -> &[ReplicaId];

    /// From the encoding, which has room for both; `None` when a command does not
    /// have an owner for each partition.
    fn from_parts(count: u32, owners: Vec<ReplicaId>) -> Option<Self>;
}

/// So many partitions are to be created; the leader decides where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionCount(pub u32);

/// The owners of the partitions that are created, one each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners(pub Vec<ReplicaId>);

impl NewPartitions for PartitionCount {
    fn count(&self) -> u32 {
        self.0
    }

    fn owners(&self) -> &[ReplicaId] {
        &[]
    }

    fn from_parts(count: u32, _owners: Vec<ReplicaId>) -> Option<Self> {
        Some(Self(count))
    }
}

impl NewPartitions for Owners {
    fn count(&self) -> u32 {
        self.0.len() as u32
    }

    fn owners(&self) -> &[ReplicaId] {
        &self.0
    }

    fn from_parts(count: u32, owners: Vec<ReplicaId>) -> Option<Self> {
        (owners.len() == count as usize).then_some(Self(owners))
    }
}
