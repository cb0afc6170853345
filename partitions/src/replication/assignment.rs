//! What the metadata states about a partition's copies.

use std::collections::BTreeMap;

use consensus::ReplicaId;

use super::chain::Epoch;
use crate::types::Durability;

/// Leader, copies and in-sync set of a partition, as of one position of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Rises with every change of the leader, or of the leader's registration.
    pub epoch: Epoch,
    /// Rises with every change of this assignment.
    pub version: u64,
    /// The node that leads the epoch; none while no live node may.
    pub leader: Option<ReplicaId>,
    /// The nodes with a copy, the preferred leader first.
    pub replicas: Vec<ReplicaId>,
    /// Those whose copies count, ascending; a subset of `replicas`.
    pub in_sync: Vec<ReplicaId>,
    /// Copies that an acknowledged record is on, at least.
    pub min_in_sync: usize,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// The nodes with a copy as the metadata knows them.
    pub members: BTreeMap<ReplicaId, Member>,
    /// The latest epoch that was started without a quorum of trusted copies.
    pub recovery: Option<Recovery>,
}

/// A node with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its latest registration: one for every start.
    pub registration: u64,
    /// Whether it is believed to run.
    pub live: bool,
}

/// How an epoch was started whose leader's copy was taken as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// That epoch.
    pub epoch: Epoch,
    /// The first message of that epoch, or of the first one after it that starts, gets an
    /// offset so far after the log's end: no offset that a consumer has seen ever names
    /// another message.
    pub offset_gap: u64,
}

impl Assignment {
    /// Copies of a set of this size that have a committed record: a majority, and at least
    /// [`min_in_sync`](Self::min_in_sync).
    #[must_use]
    pub fn commit_quorum(&self, set: usize) -> usize {
        let majority = set / 2 + 1;
        if consensus::rule!(CommitsOnMinInSync) {
            majority.max(self.min_in_sync)
        } else {
            majority
        }
    }

    /// Copies that a new leader must have queried: so many that one of them has every record
    /// that a majority has. `min_in_sync` is not part of it, since it may change.
    #[must_use]
    pub fn election_quorum(&self) -> usize {
        let set = self.in_sync.len();
        if !consensus::rule!(ElectsByQuorum) {
            return (set - (set / 2 + 1)).max(1);
        }
        set - (set / 2 + 1) + 1
    }

    /// Whether this very epoch was started without a quorum of trusted copies.
    #[must_use]
    pub fn is_recovery(&self) -> bool {
        self.recovery
            .is_some_and(|recovery| recovery.epoch == self.epoch)
    }

    /// Whether this node's copy counts.
    #[must_use]
    pub fn is_in_sync(&self, node: ReplicaId) -> bool {
        self.in_sync.contains(&node)
    }

    /// Whether the node is believed to run.
    #[must_use]
    pub fn is_live(&self, node: ReplicaId) -> bool {
        self.members.get(&node).is_some_and(|member| member.live)
    }

    /// The first other in-sync node, in the order of preference, that is believed to run.
    #[must_use]
    pub fn next_leader(&self, after: ReplicaId) -> Option<ReplicaId> {
        let position = self.replicas.iter().position(|&node| node == after)?;
        let (before, behind) = self.replicas.split_at(position);
        behind[1..]
            .iter()
            .chain(before)
            .copied()
            .find(|&node| self.is_in_sync(node) && self.is_live(node))
    }
}
