//! A topic, its partitions and its consumer groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use partitions::PartitionKey;
use partitions::replication::Recovery;

use super::partitions::Partitions;
use crate::metadata::error::MetadataError;
use crate::metadata::groups::Group;
use crate::metadata::options::Options;
use crate::metadata::types::{Identifier, Name};

/// The most topics of a stream, as on Iggy's server.
pub const TOPICS_MAX: u32 = 4096;
/// The most partitions of a topic, as on Iggy's server.
pub const PARTITIONS_MAX: u32 = 1_000_000;

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id, the lowest that was free in its stream.
    pub id: u32,
    /// Its name, unique in its stream.
    pub name: Name,
    /// When it was created, in microseconds since the Unix epoch.
    pub created_at: u64,
    /// Its options.
    pub options: Options,
    /// Its partitions.
    pub partitions: Partitions,
    /// The latest epoch of a partition that was started without a quorum of trusted
    /// copies, by partition.
    pub(in crate::metadata) recoveries: BTreeMap<u32, Recovery>,
    pub(in crate::metadata) groups: Groups,
}

/// The consumer groups of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::metadata) struct Groups {
    by_id: BTreeMap<u32, Arc<Group>>,
    names: BTreeMap<Name, u32>,
    /// The id of the next one; ids are not reused as long as the topic exists.
    pub(in crate::metadata) next: u32,
}

impl Groups {
    /// Groups as they were stored; `None` when they contradict each other.
    pub(in crate::metadata) fn restored(next: u32, groups: Vec<Group>) -> Option<Self> {
        let mut restored = Self {
            next,
            ..Self::default()
        };
        for group in groups {
            let known = group.id >= next
                || restored
                    .names
                    .insert(group.name.clone(), group.id)
                    .is_some()
                || restored.by_id.insert(group.id, Arc::new(group)).is_some();
            if known {
                return None;
            }
        }
        Some(restored)
    }
}

impl Topic {
    /// The key of a partition.
    #[must_use]
    pub fn key(&self, stream_id: u32, partition_id: u32) -> Option<PartitionKey> {
        let partition = self.partitions.get(partition_id)?;
        Some(PartitionKey {
            stream_id,
            topic_id: self.id,
            partition_id,
            generation: partition.generation,
        })
    }

    /// The keys of all partitions.
    pub fn keys(&self, stream_id: u32) -> impl Iterator<Item = PartitionKey> + '_ {
        (0..self.partitions.len() as u32).filter_map(move |id| self.key(stream_id, id))
    }

    /// All partitions get another generation, in which they are empty: requests in
    /// flight for the former one no longer find it. Returns the former keys.
    pub(in crate::metadata) fn purge(
        &mut self,
        stream_id: u32,
        generation: u64,
    ) -> Vec<PartitionKey> {
        let former = self.keys(stream_id).collect();
        self.partitions.set_generation(generation);
        self.recoveries.clear();
        former
    }

    /// The latest epoch of a partition that was started without a quorum of trusted copies.
    #[must_use]
    pub fn recovery(&self, partition: u32) -> Option<Recovery> {
        self.recoveries.get(&partition).copied()
    }

    /// The groups, by id.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &Arc<Group>> {
        self.groups.by_id.values()
    }

    /// The group with this id or name.
    #[must_use]
    pub fn group(&self, group: &Identifier) -> Option<&Arc<Group>> {
        let id = match group {
            Identifier::Id(id) => id,
            Identifier::Name(name) => self.groups.names.get(name)?,
        };
        self.groups.by_id.get(id)
    }

    pub(in crate::metadata) fn group_mut(&mut self, id: u32) -> Option<&mut Group> {
        self.groups.by_id.get_mut(&id).map(Arc::make_mut)
    }

    /// Creates a group without members, and returns its id.
    pub(in crate::metadata) fn create_group(&mut self, name: Name) -> Result<u32, MetadataError> {
        let groups = &mut self.groups;
        if groups.names.contains_key(&name) {
            return Err(MetadataError::GroupNameAlreadyExists);
        }
        let id = groups.next;
        // A topic never has 2^32 groups.
        groups.next = id.checked_add(1).ok_or(MetadataError::InvalidCommand)?;
        groups.names.insert(name.clone(), id);
        groups.by_id.insert(id, Arc::new(Group::new(id, name)));
        Ok(id)
    }

    pub(in crate::metadata) fn remove_group(&mut self, id: u32) -> Option<Arc<Group>> {
        let group = self.groups.by_id.remove(&id)?;
        self.groups.names.remove(&group.name);
        Some(group)
    }
}
