//! The replica: inputs in, effects out.
//!
//! A step changes state and queues messages; [`VrCore::collect`] then turns what
//! has changed into effects, in this order: one batch to be made durable, messages,
//! commits. So what a driver hands over together becomes one batch and few
//! messages.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use consensus::rule;
use consensus::{
    Committed, Consensus, CoreConfig, Effect, Index, Input, Limits, Membership, PersistId,
    ProposalId, ProposeError, RecoverError, Recovered, RefusalReason, RefusedMessage, ReplicaId,
    Role, SnapshotMeta, Status, StepError, Term, Tick,
};

use crate::backup::Backup;
use crate::durability::Durability;
use crate::guard;
use crate::hard_state::{Anchor, HardState};
use crate::ids::{Checksum, View};
use crate::log::{self, Log};
use crate::message::{Envelope, Message};
use crate::primary::Primary;
use crate::reads::Reads;
use crate::view_change::{Suspicion, ViewChange};

/// One replica of one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VrCore {
    pub(crate) id: ReplicaId,
    pub(crate) group: u128,
    pub(crate) limits: Limits,
    pub(crate) heartbeat_ticks: u64,
    pub(crate) election_ticks: u64,
    pub(crate) membership: Membership,
    pub(crate) now: Tick,
    /// Ticks, of which a driver that was held up loses some.
    pub(crate) clock: u64,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) outbox: Vec<Outgoing>,

    /// Invariant 1: never goes back, and is durable before a message of it leaves.
    pub(crate) view: View,
    /// The last view whose log this is. Invariant 2: `log_view <= view`.
    pub(crate) log_view: View,
    /// Invariant 3: never goes back, and `commit <= log.last()`.
    pub(crate) commit: Index,
    /// Invariant 4: `delivered <= min(commit, durable)`.
    pub(crate) delivered: Index,
    pub(crate) log: Log,
    pub(crate) durability: Durability,
    /// The batch with which `view` is durable.
    pub(crate) entered: PersistId,
    /// The batch with which `log_view` is durable.
    pub(crate) joined: PersistId,
    pub(crate) phase: Phase,
    pub(crate) suspicion: Suspicion,

    pub(crate) proposals: BTreeMap<Index, ProposalId>,
    pub(crate) reads: Reads,
    pub(crate) snapshot: Option<(SnapshotMeta, Option<Checksum>)>,
    pub(crate) fetching: Option<(SnapshotMeta, Option<Checksum>)>,
    pub(crate) leader: (Term, Option<ReplicaId>),
}

/// What a replica does in its view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Orders proposals (VRR 4.1).
    Primary(Primary),
    /// Follows the primary. A primary that restarted, or lost its quorum, is here
    /// too, and wants the next view.
    Backup(Backup),
    /// Waits for the view to begin, or for its log (VRR 4.2).
    ViewChange(ViewChange),
}

/// A message about to leave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Outgoing {
    to: ReplicaId,
    message: Message,
    view: View,
    /// Not before everything up to now is durable.
    after: bool,
}

impl VrCore {
    /// Builds a replica from its configuration and from what its disk remembers.
    ///
    /// # Errors
    /// When the configuration contradicts itself, or the disk has lost or mixed
    /// up what it once held.
    pub fn new(config: &CoreConfig, recovered: Recovered) -> Result<Self, RecoverError> {
        crate::recover::recover(config, recovered)
    }

    pub(crate) fn primary_of(&self, view: View) -> ReplicaId {
        guard::primary(&self.membership, view)
    }

    pub(crate) fn is_primary_of(&self, view: View) -> bool {
        self.primary_of(view) == self.id
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.membership.is_voter(self.id)
    }

    /// The other members.
    pub(crate) fn others(&self) -> Vec<ReplicaId> {
        let members = self.membership.members();
        members.filter(|id| *id != self.id).collect()
    }

    /// Queues a message of the present view.
    pub(crate) fn send(&mut self, to: ReplicaId, message: Message) {
        self.queue(to, self.view, message, false);
    }

    /// Queues a message that leaves when everything up to now is durable.
    pub(crate) fn send_durable(&mut self, to: ReplicaId, message: Message) {
        self.queue(to, self.view, message, rule!(ViewDurableBeforeMessage));
    }

    pub(crate) fn queue(&mut self, to: ReplicaId, view: View, message: Message, after: bool) {
        self.outbox.push(Outgoing {
            to,
            message,
            view,
            after,
        });
    }

    /// E3: the commit number never goes back. It waits for ops that are not here
    /// yet; whoever tells it will tell it again.
    pub(crate) fn commit_up_to(&mut self, commit: Index) {
        let held = match rule!(CommitWithinLog) {
            true => self.log.last(),
            false => commit,
        };
        let known = match rule!(CommitMonotonic) {
            true => self.commit,
            false => Index::ZERO,
        };
        self.commit = known.max(commit.min(held));
    }

    /// Whether this replica is the view's primary, its log of the view is durable
    /// and it has not ceded.
    pub(crate) fn leads(&self) -> bool {
        match &self.phase {
            Phase::Primary(primary) => {
                !primary.has_ceded() && self.durability.is_durable(self.joined)
            }
            _ => false,
        }
    }

    /// The primary of the view, as far as this replica follows it.
    pub(crate) fn leader_hint(&self) -> Option<ReplicaId> {
        match &self.phase {
            Phase::Primary(_) => self.leads().then_some(self.id),
            Phase::Backup(_) => {
                let leads = self.view > View::ZERO
                    && !self.is_primary_of(self.view)
                    && self.suspicion.my_vote.is_none();
                leads.then(|| self.primary_of(self.view))
            }
            Phase::ViewChange(_) => None,
        }
    }

    /// At most one heartbeat interval at a time: a driver that was held up has
    /// messages waiting that say whether the primary lives, and a burst of ticks
    /// before them would start a view change for nothing.
    fn advance_clock(&mut self, now: Tick) {
        let elapsed = now.0.saturating_sub(self.now.0);
        self.now = self.now.max(now);
        if elapsed == 0 {
            return;
        }
        self.clock += elapsed.min(self.heartbeat_ticks);
        match &self.phase {
            Phase::Primary(_) => self.primary_time(),
            Phase::Backup(_) | Phase::ViewChange(_) => self.view_change_time(),
        }
        self.reads_time();
    }

    fn propose(&mut self, proposal: ProposalId, payload: &Bytes) {
        if let Err(error) = self.try_propose(proposal, payload) {
            self.effects
                .push_back(Effect::ProposalRejected { proposal, error });
        }
    }

    fn receive(&mut self, from: ReplicaId, bytes: Bytes) -> Result<(), StepError> {
        let refused = |kind| move |reason| RefusedMessage { from, kind, reason };
        let envelope = Envelope::decode(self.group, bytes).map_err(refused("message"))?;
        let kind = envelope.message.name();
        guard::check(self.id, self.view, &self.membership, from, &envelope)
            .and_then(|()| self.dispatch(from, envelope.view, envelope.message))
            .map_err(refused(kind))?;
        Ok(())
    }

    fn dispatch(
        &mut self,
        from: ReplicaId,
        view: View,
        message: Message,
    ) -> Result<(), RefusalReason> {
        match message {
            Message::Prepare { commit, entries } => self.on_prepare(view, commit, &entries),
            Message::PrepareOk { op, received, beat } => {
                self.on_prepare_ok(from, view, op, received, beat)
            }
            Message::Commit { commit, beat } => {
                self.on_commit(view, commit, beat);
                Ok(())
            }
            Message::StartViewChange { at } => {
                self.on_start_view_change(from, view, at);
                Ok(())
            }
            Message::DoViewChange(brought) => self.on_do_view_change(from, view, brought),
            Message::StartView {
                commit,
                head,
                entries,
            } => self.on_start_view(view, commit, head, entries),
            Message::RequestStartView { op } => {
                self.on_request_start_view(from, view, op);
                Ok(())
            }
            Message::RequestPrepares { op } => {
                self.on_request_prepares(from, view, op);
                Ok(())
            }
            Message::Prepares { entries } => self.on_prepares(from, view, entries),
            Message::SnapshotOffer { snapshot, checksum } => {
                self.on_snapshot_offer(from, view, snapshot, checksum)
            }
            Message::ReadRequest { nonce, round } => {
                self.on_read_request(from, view, nonce, round);
                Ok(())
            }
            Message::ReadReply {
                nonce,
                round,
                commit,
            } => self.on_read_reply(view, nonce, round, commit),
        }
    }

    fn persisted(&mut self, id: PersistId) {
        if self.durability.persisted(id) {
            match &mut self.phase {
                Phase::Primary(_) => self.count_acknowledgements(),
                Phase::Backup(backup) => backup.ack_due = true,
                Phase::ViewChange(_) => {}
            }
        }
    }

    /// Turns what has changed into effects.
    fn collect(&mut self) {
        // May end in another view, which is in the batch then.
        self.go_on_with_handover();
        self.begin_reads();
        if self.durability.is_dirty() {
            let hard_state = HardState {
                epoch: self.membership.epoch,
                view: self.view,
                log_view: self.log_view,
                commit: self.commit,
                anchors: self.anchors(),
            };
            let batch = self.durability.flush(&self.log, hard_state.encode());
            self.effects.extend(batch.map(Effect::Persist));
        }
        self.replicate();
        self.acknowledge();
        self.send_outbox();
        self.deliver();
        self.leader_may_have_changed();
    }

    /// The checksums that a restart could not compute from the log.
    fn anchors(&self) -> [Anchor; 2] {
        let base = self.log.first().prev();
        let fetching = self.fetching.as_ref();
        let fetching = fetching.and_then(|(meta, checksum)| Some((meta.index, (*checksum)?)));
        let base = self.log.checksum(base).map(|checksum| (base, checksum));
        [base.unwrap_or_default(), fetching.unwrap_or_default()]
    }

    fn send_outbox(&mut self) {
        let pending = self.durability.pending();
        for outgoing in std::mem::take(&mut self.outbox) {
            let envelope = Envelope {
                from: self.id,
                to: outgoing.to,
                view: outgoing.view,
                message: outgoing.message,
            };
            self.effects.push_back(Effect::Send {
                to: outgoing.to,
                message: envelope.encode(self.group),
                after: pending.filter(|_| outgoing.after),
            });
        }
    }

    fn deliver(&mut self) {
        let through = self.commit.min(self.durability.durable());
        if through <= self.delivered {
            return;
        }
        let mut committed = Vec::new();
        while self.delivered < through {
            let op = self.delivered.next();
            let held = self.log.get(op);
            let mut entry = held.expect("what is not delivered is held").clone();
            entry.payload = log::body(&entry);
            let proposal = self.proposals.remove(&op);
            committed.push(Committed { entry, proposal });
            self.delivered = op;
        }
        self.effects.push_back(Effect::Commit(committed));
    }

    /// The proposals that are open are no longer this replica's to answer.
    pub(crate) fn abandon_proposals(&mut self) {
        for (_, proposal) in std::mem::take(&mut self.proposals) {
            self.effects.push_back(Effect::ProposalRejected {
                proposal,
                error: ProposeError::OutcomeUnknown,
            });
        }
    }

    fn leader_may_have_changed(&mut self) {
        let leader = (self.view.term(), self.leader_hint());
        if leader != self.leader {
            self.leader = leader;
            self.reads.restart();
            self.effects.push_back(Effect::LeaderChanged {
                term: leader.0,
                leader: leader.1,
            });
        }
    }

    pub(crate) fn role(&self) -> Role {
        match &self.phase {
            Phase::Primary(_) if self.leads() => Role::Leader,
            _ if !self.is_voter() => Role::Learner,
            Phase::Backup(_) if self.suspicion.my_vote.is_none() => Role::Follower,
            _ => Role::Candidate,
        }
    }

    fn phase_name(&self) -> &'static str {
        match &self.phase {
            Phase::Primary(_) | Phase::Backup(_) if self.view == View::ZERO => "waiting",
            Phase::Primary(_) | Phase::Backup(_) => "normal",
            Phase::ViewChange(change) if change.catch_up.is_some() => "catching up",
            Phase::ViewChange(_) => "view change",
        }
    }
}

impl Consensus for VrCore {
    fn step(&mut self, now: Tick, input: Input) -> Result<(), StepError> {
        self.advance_clock(now);
        match input {
            Input::Tick => Ok(()),
            Input::Propose { proposal, payload } => {
                self.propose(proposal, &payload);
                Ok(())
            }
            Input::Receive { from, message } => self.receive(from, message),
            Input::Persisted(id) => {
                self.persisted(id);
                Ok(())
            }
            Input::ReadIndex(token) => {
                self.read_index(token);
                Ok(())
            }
            Input::TransferLeadership(to) => self.transfer_leadership(to),
            Input::Unreachable(peer) => {
                self.peer_unreachable(peer);
                Ok(())
            }
            Input::SnapshotTaken(meta) => self.snapshot_taken(meta),
            Input::SnapshotFetched(meta) => {
                self.snapshot_fetched(&meta);
                Ok(())
            }
            Input::SnapshotFetchFailed(_) => {
                self.fetching = None;
                Ok(())
            }
        }
    }

    fn poll(&mut self) -> Option<Effect> {
        if self.effects.is_empty() {
            self.collect();
        }
        self.effects.pop_front()
    }

    fn next_deadline(&self) -> Option<Tick> {
        let due = match &self.phase {
            Phase::Primary(primary) => primary.next_beat(),
            Phase::Backup(_) | Phase::ViewChange(_) => self.view_change_deadline(),
        };
        let ticks = due.saturating_sub(self.clock);
        Some(Tick(self.now.0 + ticks.clamp(1, self.heartbeat_ticks)))
    }

    fn status(&self) -> Status {
        let peers = match &self.phase {
            Phase::Primary(primary) => primary.progress(self.clock, self.election_ticks),
            _ => Vec::new(),
        };
        Status {
            role: self.role(),
            term: self.view.term(),
            leader: self.leader_hint(),
            commit: self.commit,
            first: self.log.first(),
            last: self.log.last(),
            membership: self.membership.clone(),
            elections_started: self.suspicion.started,
            peers,
            detail: vec![
                ("status", self.phase_name().to_owned()),
                ("view", self.view.to_string()),
                ("log_view", self.log_view.to_string()),
                ("op", self.log.last().to_string()),
                ("durable_op", self.durability.durable().to_string()),
                ("commit", self.commit.to_string()),
            ],
        }
    }
}
