//! A member of a consumer group.

use std::collections::{BTreeMap, BTreeSet};

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The client.
    pub client: u128,
    /// The partitions that it holds, including those that are being revoked.
    pub owned: BTreeSet<u32>,
    /// The partitions that are being revoked.
    pub revoking: BTreeMap<u32, Revocation>,
}

/// The pending move of a partition from its holder to another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The slot of the member that gets the partition.
    pub to: u32,
    /// When it started, in microseconds since the Unix epoch.
    pub since: u64,
    /// Identifies it: the confirmation of another revocation does not complete it.
    pub id: u64,
}

impl Member {
    /// The partitions that it may be served: those that it holds and that are not being
    /// revoked.
    pub fn readable(&self) -> impl Iterator<Item = u32> + '_ {
        let kept = |id: &&u32| !self.revoking.contains_key(id);
        self.owned.iter().filter(kept).copied()
    }

    /// Whether it may be served messages of the partition.
    #[must_use]
    pub fn may_read(&self, partition: u32) -> bool {
        self.holds(partition) && !self.revoking.contains_key(&partition)
    }

    /// Whether it holds the partition, and may store its offset.
    #[must_use]
    pub fn holds(&self, partition: u32) -> bool {
        self.owned.contains(&partition)
    }
}
