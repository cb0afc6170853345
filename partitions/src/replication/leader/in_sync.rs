//! Which copies are in sync: the leader proposes, and the metadata decides.

use std::time::Duration;

use consensus::{Index, ReplicaId, rule};

use super::{Leader, value};
use crate::replication::context::Context;
use crate::replication::effect::{Effect, Proposal};
use crate::replication::progress::Progress;

/// How long a proposal may stay without effect before it is repeated.
const PROPOSE_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Leader {
    /// The set that should be in force.
    fn target(&self, context: &Context) -> Vec<ReplicaId> {
        let mut target: Vec<ReplicaId> = context
            .assignment
            .replicas
            .iter()
            .copied()
            .filter(|&node| self.belongs(context, node))
            .collect();
        target.sort_unstable();
        target
    }

    fn belongs(&self, context: &Context, node: ReplicaId) -> bool {
        if node == context.me {
            return true;
        }
        let now = context.now;
        let assignment = &context.assignment;
        let Some(peer) = self.peer(node) else {
            return false;
        };
        if assignment.is_in_sync(node) {
            let lag = now.saturating_sub(peer.caught_up);
            assignment.is_live(node) && lag < context.settings.replica_lag_max
        } else {
            let since = peer.steady_since.map(|since| now.saturating_sub(since));
            let is_steady = since.is_some_and(|since| since >= context.settings.steady);
            let has_table = peer.table >= self.offsets.may_be_committed();
            // What is before the start cannot be sent to it any more.
            let has = value(context, peer.written, peer.synced);
            let start = context.table.start.base;
            // After a recovery the log may not reach its former start.
            let has_start = has >= start.index || !context.chain.contains(start);
            assignment.is_live(node) && peer.trusted && is_steady && has_table && has_start
        }
    }

    pub(super) fn propose_set(&mut self, context: &mut Context) {
        let now = context.now;
        if !self.proposed.is_empty() {
            // What was proposed may take effect at any time: it is repeated, not replaced.
            if now.saturating_sub(self.proposed_at) < PROPOSE_AGAIN_AFTER {
                return;
            }
            if !rule!(ProposalsStayOpen) {
                self.proposed.clear();
                return;
            }
        } else {
            let target = self.target(context);
            if target == context.assignment.in_sync {
                return;
            }
            if target.len() < context.assignment.min_in_sync {
                return;
            }
            let own = self.own(context);
            let proven = self.quorum_has(context, own, &target);
            let may_be_committed = context.commit.max(Index(self.first.0.saturating_sub(1)));
            let table = self.table_of_quorum(context, &target);
            let lacks = proven < may_be_committed || table < self.offsets.may_be_committed();
            if rule!(SetProvenBeforeProposal) && lacks {
                return;
            }
            self.proposed.push(target);
        }
        self.proposed_at = now;
        for in_sync in self.proposed.clone() {
            context.emit(Effect::Propose(Proposal::AlterInSync {
                epoch: context.assignment.epoch,
                version: context.assignment.version,
                in_sync,
            }));
        }
    }

    /// The assignment has changed within the epoch: what was proposed on the former version
    /// has taken effect, or never will.
    pub(in crate::replication) fn reassigned(&mut self, context: &Context) {
        self.proposed.clear();
        let others = context.others();
        self.peers.retain(|(node, _)| others.contains(node));
        for node in others {
            if self.peer(node).is_none() {
                let guess = context.chain.last();
                self.peers.push((node, Progress::new(guess, context.now)));
            }
        }
    }
}
