//! What enough copies have.

use consensus::{Index, ReplicaId, rule};

use super::{Leader, value};
use crate::replication::context::Context;
use crate::replication::message::Trust;

impl Leader {
    /// Up to where the leader's log is committed: by the quorums of every in-sync set that
    /// may be in force.
    pub(super) fn committed(&self, context: &mut Context) -> Index {
        let own = self.own(context);
        let mut commit = self.quorum_has(context, own, &context.assignment.in_sync);
        if rule!(CommitsOnOpenSets) {
            for set in &self.proposed {
                commit = commit.min(self.quorum_has(context, own, set));
            }
        }
        // What is answered can be read here.
        let (written, _) = context.acknowledged(context.chain.last().index);
        commit.min(written)
    }

    /// What the leader's own copy counts for.
    pub(super) fn own(&self, context: &mut Context) -> Index {
        let (written, synced) = context.acknowledged(context.chain.last().index);
        if context.trust != Trust::Trusted && rule!(UntrustedNotCounted) {
            return Index(0);
        }
        value(context, written, synced)
    }

    /// The largest index that a commit quorum of the set has.
    pub(super) fn quorum_has(&self, context: &Context, own: Index, set: &[ReplicaId]) -> Index {
        let has = |node: ReplicaId| {
            if node == context.me {
                return own;
            }
            match self.peer(node) {
                Some(peer) if peer.trusted || !rule!(UntrustedNotCounted) => {
                    value(context, peer.written, peer.synced)
                }
                _ => Index(0),
            }
        };
        let quorum = context.assignment.commit_quorum(set.len());
        largest_of(set, quorum, has)
    }

    /// Whether enough copies answer.
    pub(super) fn reaches_quorum(&self, context: &Context) -> bool {
        let answers = |node: ReplicaId| {
            let peer = || self.peer(node);
            node == context.me || peer().is_some_and(|peer| peer.is_reachable(context.now))
        };
        let reaches = |set: &[ReplicaId]| {
            let answering = set.iter().filter(|node| answers(**node)).count();
            answering >= context.assignment.commit_quorum(set.len())
        };
        reaches(&context.assignment.in_sync) && self.proposed.iter().all(|set| reaches(set))
    }
}

/// The largest number that at least `quorum` of the set have. Sets are so small that
/// comparing each with each costs less than sorting them.
pub(super) fn largest_of<N: Copy + Ord + Default>(
    set: &[ReplicaId],
    quorum: usize,
    has: impl Fn(ReplicaId) -> N,
) -> N {
    let enough = |least: &N| set.iter().filter(|node| has(**node) >= *least).count() >= quorum;
    let numbers = set.iter().map(|node| has(*node));
    numbers.filter(enough).max().unwrap_or_default()
}
