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
    /// How far after the log's end the first message of that epoch, or of the first one
    /// after it that starts, gets its offset: no offset that a consumer has seen ever names
    /// another message. Bits 0 to 39 are offsets that are left out, bits 40 to 62 count the
    /// recoveries that an operator has forced, and bit 63 is set when this one was forced.
    pub offset_gap: u64,
}

/// Each forced recovery continues at the next multiple of this offset.
const FORCED_OFFSETS: u64 = 1 << 40;
const FORCED: u64 = 1 << 63;

impl Recovery {
    /// A recovery that leaves out so many offsets, below 2^40. `before` is the partition's
    /// latest recovery.
    #[must_use]
    pub fn usual(epoch: Epoch, before: Option<Self>, offsets: u64) -> Self {
        let forced = before.map_or(0, |before| {
            before.offset_gap & !FORCED & !(FORCED_OFFSETS - 1)
        });
        let offset_gap = forced | offsets.min(FORCED_OFFSETS - 1);
        Self { epoch, offset_gap }
    }

    /// A recovery from a copy that an operator has named, whatever the others may have. It
    /// leaves out everything up to a multiple of 2^40 that none before it has reached: the
    /// named copy may lack any number of messages.
    #[must_use]
    pub fn forced(epoch: Epoch, before: Option<Self>) -> Self {
        let before = before.map_or(0, |before| before.offset_gap);
        let offset_gap = FORCED | ((before & !FORCED) + FORCED_OFFSETS);
        Self { epoch, offset_gap }
    }

    /// Whether an operator has forced it.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.offset_gap & FORCED != 0
    }

    /// The offset of the first message, where the log continues at `next_offset`.
    #[must_use]
    pub fn first_offset(&self, next_offset: u64) -> u64 {
        let offsets = self.offset_gap & (FORCED_OFFSETS - 1);
        let forced = self.offset_gap & !FORCED & !(FORCED_OFFSETS - 1);
        next_offset.saturating_add(offsets).max(forced)
    }
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
        if !consensus::rule!(ElectionIgnoresMin) {
            return set + 1 - self.commit_quorum(set).min(set);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_continues_after_every_offset_that_may_have_been_seen() {
        let first = Recovery::usual(Epoch(3), None, 1 << 22);
        assert_eq!(first.first_offset(500), 500 + (1 << 22));
        let forced = Recovery::forced(Epoch(5), Some(first));
        assert_eq!(forced.first_offset(500), 1 << 40);
        assert!(forced.is_forced() && !first.is_forced());
        let again = Recovery::forced(Epoch(6), Some(forced));
        assert_eq!(again.first_offset(500), 2 << 40);
        let usual = Recovery::usual(Epoch(9), Some(again), 1 << 22);
        assert_eq!(usual.first_offset(500), 2 << 40);
        assert_eq!(usual.first_offset(3 << 40), (3 << 40) + (1 << 22));
        assert!(!usual.is_forced());
    }
}
