//! The context of the core.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use consensus::{
    Committed, CoreConfig, Effect, Index, Membership, PersistId, ProposalId, ProposeError,
    ReadError, ReadToken, RefusalReason, ReplicaId, SnapshotMeta, StepError, Tick, rule,
};

use super::clock::Clock;
use super::outbox::Outbox;
use super::progress::Progress;
use super::reads::Reads;
use super::shared::Context;
use super::snapshots::{Snapshot, Snapshots};
use super::views::Views;
use super::votes::Votes;
use crate::hard_state::{Anchor, HardState};
use crate::ids::View;
use crate::journal::Journal;
use crate::log::{self, Log};

/// A [`Context`], with the rights of the core.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CoreContext(Context);

impl Deref for CoreContext {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}

impl DerefMut for CoreContext {
    fn deref_mut(&mut self) -> &mut Context {
        &mut self.0
    }
}

/// With what a replica starts.
pub(crate) struct Start {
    pub(crate) membership: Membership,
    pub(crate) view: View,
    pub(crate) log_view: View,
    pub(crate) commit: Index,
    /// What the state machine has.
    pub(crate) delivered: Index,
    pub(crate) log: Log,
    pub(crate) snapshot: Option<Snapshot>,
}

impl CoreContext {
    pub(crate) fn new(config: &CoreConfig, start: Start) -> Self {
        Self(Context {
            id: config.id,
            group: config.group,
            limits: config.limits.clone(),
            membership: start.membership,
            clock: Clock::new(config),
            views: Views::recovered(start.view, start.log_view),
            journal: Journal::recovered(start.log),
            progress: Progress::recovered(start.commit, start.delivered),
            votes: Votes::default(),
            proposals: BTreeMap::new(),
            reads: Reads::new(config.seed),
            snapshots: Snapshots::recovered(start.snapshot),
            outbox: Outbox::default(),
            leader: (start.view.term(), None),
        })
    }

    pub(crate) fn group(&self) -> u128 {
        self.group
    }

    /// Whether time passed.
    pub(crate) fn advance_clock(&mut self, now: Tick) -> bool {
        self.clock.advance(now)
    }

    pub(crate) fn deadline(&self, due: u64) -> Tick {
        self.clock.deadline(due)
    }

    /// As if the driver's time had been this when the replica started.
    #[cfg(test)]
    pub(crate) fn start_at(&mut self, now: Tick) {
        self.clock.start_at(now);
    }

    /// The last op that the driver has.
    #[cfg(test)]
    pub(crate) fn delivered(&self) -> Index {
        self.progress.delivered()
    }

    /// Enters a later view.
    pub(crate) fn enter(&mut self, view: View) {
        let batch = self.journal.next_batch();
        self.views.enter(view, batch);
        if rule!(ViewStored) {
            self.journal.state_changed();
        }
        if rule!(ProposalsEndWithView) {
            self.abandon_proposals();
        }
        self.reads.restart();
        self.votes.entered(view);
    }

    /// A vote of another replica for a later view. The view that a quorum now votes for.
    pub(crate) fn receive_vote(
        &mut self,
        from: ReplicaId,
        view: View,
        suspects: impl FnOnce(&Context) -> bool,
    ) -> Option<View> {
        let context = &mut self.0;
        context.votes.receive(from, view, &context.clock);
        let suspects = suspects(context);
        context.join_vote(suspects).or_else(|| context.elected())
    }

    /// These batches are durable. Whether the durable log has grown.
    pub(crate) fn persisted(&mut self, batch: PersistId) -> bool {
        let now = self.clock.now();
        self.journal.persisted(now, batch)
    }
}

/// Proposals and reads.
impl CoreContext {
    pub(crate) fn reject_proposal(&mut self, proposal: ProposalId, error: ProposeError) {
        self.outbox
            .push(Effect::ProposalRejected { proposal, error });
    }

    /// The outcome of the open proposals is not for this replica to report.
    pub(crate) fn abandon_proposals(&mut self) {
        for (_, proposal) in std::mem::take(&mut self.proposals) {
            self.reject_proposal(proposal, ProposeError::OutcomeUnknown);
        }
    }

    pub(crate) fn read_index(&mut self, token: ReadToken) {
        let context = &mut self.0;
        let count_max = context.limits.pending_reads_max;
        if let Err(error) = context.reads.add(token, &context.clock, count_max) {
            self.reject_read(token, error);
        }
    }

    fn reject_read(&mut self, token: ReadToken, error: ReadError) {
        self.outbox.push(Effect::ReadRejected { token, error });
    }

    pub(crate) fn expire_reads(&mut self) {
        let context = &mut self.0;
        let expired = context.reads.expire(&context.clock).into_iter();
        for token in expired.filter(|_| rule!(ReadTimesOut)) {
            self.reject_read(token, ReadError::Unconfirmed);
        }
    }

    /// Every read needs a new round.
    pub(crate) fn restart_reads(&mut self) {
        self.reads.restart();
    }

    /// E6: rounds without a reply are started again.
    pub(crate) fn restart_overdue_reads(&mut self) {
        let context = &mut self.0;
        context.reads.restart_overdue(&context.clock);
    }

    /// The primary of `view` has confirmed a round.
    pub(crate) fn receive_read_reply(
        &mut self,
        view: View,
        nonce: u64,
        round: u64,
        commit: Index,
    ) -> Result<(), RefusalReason> {
        if nonce != self.reads.nonce() && rule!(ReadReplyOfThisIncarnation) {
            return Ok(());
        }
        if !self.reads.has_started(round) {
            return Err(RefusalReason::Impossible(format!(
                "a reply to round {round} of reads, which was not requested"
            )));
        }
        if view == self.view() && self.log_view() == view {
            self.commit_up_to(commit);
        }
        self.reads_confirmed(round, commit);
        Ok(())
    }
}

/// Snapshots.
impl CoreContext {
    pub(crate) fn snapshot_taken(&mut self, meta: SnapshotMeta) -> Result<(), StepError> {
        let delivered = self.progress.delivered();
        if meta.index > delivered {
            return Err(StepError::Request(format!(
                "snapshot at {}, but only {delivered} is applied",
                meta.index
            )));
        }
        let newest = self.snapshots.newest().map(|newest| newest.meta.index);
        if newest.is_some_and(|newest| newest >= meta.index) {
            return Ok(());
        }
        let limits = &self.limits;
        let through = self.log().compactable(
            meta.index,
            limits.log_tail_entries,
            limits.log_tail_bytes_max,
        );
        let checksum = self.log().checksum(meta.index);
        self.snapshots.set_newest(Snapshot { meta, checksum });
        self.journal.compact_through(through);
        self.outbox.push(Effect::Compact(through));
        Ok(())
    }

    /// The snapshot that was being fetched, when it is this one and not committed yet.
    pub(crate) fn snapshot_fetched(&mut self, meta: &SnapshotMeta) -> Option<Snapshot> {
        let fetched = self.snapshots.finish_fetch(meta);
        fetched.filter(|_| meta.index > self.commit())
    }

    pub(crate) fn snapshot_fetch_failed(&mut self) {
        self.snapshots.fail_fetch();
    }
}

/// Effects.
impl CoreContext {
    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        self.outbox.pop()
    }

    pub(crate) fn has_effects(&self) -> bool {
        self.outbox.has_effects()
    }

    /// One batch of everything that changed.
    pub(crate) fn flush(&mut self) {
        if !self.journal.is_dirty() {
            return;
        }
        let hard_state = HardState {
            epoch: self.membership.epoch,
            view: self.view(),
            log_view: self.log_view(),
            commit: self.commit(),
            anchors: self.anchors(),
        };
        let now = self.clock.now();
        if let Some(batch) = self.journal.flush(now, hard_state.encode()) {
            self.outbox.push(Effect::Persist(batch));
        }
    }

    /// The checksums that a restart could not compute from the log.
    fn anchors(&self) -> [Anchor; 2] {
        let base = self.log().first().prev();
        let base = self.log().checksum(base).map(|checksum| (base, checksum));
        let fetching = self.snapshots.fetching();
        let fetching =
            fetching.and_then(|snapshot| Some((snapshot.meta.index, snapshot.checksum?)));
        [base.unwrap_or_default(), fetching.unwrap_or_default()]
    }

    pub(crate) fn send_outbox(&mut self) {
        let context = &mut self.0;
        let pending = context.journal.pending();
        context.outbox.send(context.id, context.group, pending);
    }

    /// Delivers what is committed and durable.
    pub(crate) fn deliver(&mut self) {
        let durable = self.durable();
        let mut committed = Vec::new();
        while let Some(op) = self.progress.deliver_next(durable) {
            let entry = self.log().get(op);
            let mut entry = entry.expect("the log has what is not delivered").clone();
            entry.payload = log::body(&entry);
            let proposal = self.proposals.remove(&op);
            committed.push(Committed { entry, proposal });
        }
        if !committed.is_empty() {
            self.outbox.push(Effect::Commit(committed));
        }
    }

    /// Notifies the driver of the leader, when it changed.
    pub(crate) fn announce_leader(&mut self, leader: Option<ReplicaId>) {
        let term = self.view().term();
        if self.leader != (term, leader) {
            self.leader = (term, leader);
            self.reads.restart();
            self.outbox.push(Effect::LeaderChanged { term, leader });
        }
    }
}
