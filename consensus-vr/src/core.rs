//! The replica: inputs in, effects out.
//!
//! A step changes the context and the role, and queues messages; [`VrCore::collect`] then
//! turns what has changed into effects, in this order: one batch to be made durable,
//! messages, commits. So what a driver passes in together becomes one batch and few
//! messages.
//!
//! Roles are built here and nowhere else: at a restart, and when a role returns what
//! follows from an input ([`Next`]).

use bytes::Bytes;
use consensus::rule;
use consensus::{
    Consensus, CoreConfig, Effect, Index, Input, PersistId, ProposalId, ProposeError, RecoverError,
    Recovered, RefusalReason, RefusedMessage, ReplicaId, SnapshotMeta, Status, StepError, Tick,
};

use crate::context::{Context, CoreContext};
use crate::guard;
use crate::ids::View;
use crate::message::{Envelope, Message};
use crate::recover::recover;
use crate::roles::{Backup, Next, Primary, Role, ViewChange};

/// One replica of one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VrCore {
    context: CoreContext,
    role: Role,
}

impl VrCore {
    /// Builds a replica from its configuration and from what its disk remembers.
    ///
    /// # Errors
    /// When the configuration contradicts itself, or the disk has lost or mixed up what
    /// was written to it.
    pub fn new(config: &CoreConfig, recovered: Recovered) -> Result<Self, RecoverError> {
        let context = recover(config, recovered)?;
        let role = recovered_role(&context);
        Ok(Self { context, role })
    }
}

/// The role in which a replica restarts.
fn recovered_role(context: &Context) -> Role {
    if context.log_view() < context.view() {
        // A snapshot of this view may be part of what is committed here.
        Role::ViewChange(ViewChange::new(0, Index::ZERO))
    } else if !context.is_primary() {
        Role::Backup(Backup::new(0))
    } else if context.view() == View::ZERO || rule!(PrimaryStepsDownAtRestart) {
        // View 0 never starts: nothing is prepared in it.
        Role::Backup(Backup::ceded())
    } else {
        Role::Primary(Primary::restarted(context))
    }
}

/// Transitions.
impl VrCore {
    fn perform(&mut self, mut next: Next) {
        loop {
            next = match next {
                Next::Stay => return,
                Next::Follow(view) => self.follow(view),
                Next::Elect(view) => self.elect(view),
                Next::Join(logs) => {
                    self.role = if self.context.is_primary() {
                        Role::Primary(Primary::start(&mut self.context, &logs))
                    } else {
                        Role::Backup(Backup::joined(self.context.clock.now()))
                    };
                    Next::Stay
                }
                Next::Cede => {
                    self.context.abandon_proposals();
                    self.context.restart_reads();
                    self.role = Role::Backup(Backup::ceded());
                    Next::Stay
                }
            };
        }
    }

    fn follow(&mut self, view: View) -> Next {
        self.context.enter(view);
        let change = ViewChange::new(self.context.clock.now(), self.context.commit());
        change.request_start_view(&mut self.context);
        self.role = Role::ViewChange(change);
        Next::Stay
    }

    fn elect(&mut self, view: View) -> Next {
        self.context.enter(view);
        let mut change = ViewChange::new(self.context.clock.now(), self.context.commit());
        let next = change.send_log(&mut self.context);
        self.role = Role::ViewChange(change);
        next
    }
}

/// Time.
impl VrCore {
    fn advance_clock(&mut self, now: Tick) {
        if !self.context.advance_clock(now) {
            return;
        }
        let next = self.role.tick(&mut self.context);
        self.perform(next);
        let leads = matches!(self.role, Role::Primary(_));
        let next = self.role.seek_view(&mut self.context);
        self.perform(next);
        if !leads {
            let suspects = self.role.suspects(&self.context);
            let next = Next::elect(self.context.join_vote(suspects));
            self.perform(next);
        }
        self.context.expire_reads();
        if matches!(self.role, Role::Backup(_)) {
            self.context.restart_overdue_reads();
        }
    }
}

/// Messages.
impl VrCore {
    fn receive(&mut self, from: ReplicaId, bytes: Bytes) -> Result<(), StepError> {
        let refused = |kind| move |reason| RefusedMessage { from, kind, reason };
        let envelope = Envelope::decode(self.context.group(), bytes).map_err(refused("message"))?;
        let kind = envelope.message.name();
        let (id, view) = (self.context.id(), self.context.view());
        guard::check(id, view, self.context.membership(), from, &envelope)
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
        let Some(next) = self.admit(view, &message) else {
            return Ok(());
        };
        self.perform(next);
        let next = match message {
            Message::StartViewChange { .. } => self.on_start_view_change(from, view),
            Message::ReadReply {
                nonce,
                round,
                commit,
            } => {
                self.context
                    .receive_read_reply(view, nonce, round, commit)?;
                Next::Stay
            }
            message => self.role.receive(&mut self.context, from, message)?,
        };
        self.perform(next);
        Ok(())
    }

    /// Whether a message is acted on in the current view, and what is to be done before:
    /// a replica enters a later view when a message shows that it has started, or that a
    /// quorum has voted for it.
    fn admit(&self, view: View, message: &Message) -> Option<Next> {
        let current = self.context.view();
        let (earlier, later) = (view < current, view > current);
        match message {
            Message::Prepare { .. } | Message::Commit { .. } => {
                let ignored = earlier && rule!(EarlierPrimaryIgnored);
                (!ignored).then_some(if later {
                    Next::Follow(view)
                } else {
                    Next::Stay
                })
            }
            Message::StartView { .. } if earlier && rule!(EarlierStartIgnored) => None,
            Message::StartView { .. } if later => Some(Next::Follow(view)),
            Message::StartView { .. } => Some(Next::Stay),
            Message::DoViewChange(_) => {
                // The sender entered it with a quorum of votes.
                let ignored = earlier && rule!(EarlierLogIgnored);
                (!ignored).then_some(if later { Next::Elect(view) } else { Next::Stay })
            }
            Message::PrepareOk { .. } => {
                let ignored = view != current && rule!(EarlierAckIgnored);
                (!ignored).then_some(Next::Stay)
            }
            // The sender entered its view with a quorum of votes, and receives nothing of
            // this one any more.
            Message::StartViewChange { at } if *at > current && rule!(LaterViewFollowed) => {
                Some(Next::Elect(*at))
            }
            Message::StartViewChange { .. } | Message::ReadReply { .. } => Some(Next::Stay),
            Message::RequestStartView { .. }
            | Message::RequestPrepares { .. }
            | Message::Prepares { .. }
            | Message::SnapshotOffer { .. }
            | Message::Missing { .. }
            | Message::ReadRequest { .. } => (view == current).then_some(Next::Stay),
        }
    }

    fn on_start_view_change(&mut self, from: ReplicaId, view: View) -> Next {
        if view <= self.context.view() {
            return Next::Stay;
        }
        let suspects = |context: &Context| self.role.suspects(context);
        Next::elect(self.context.receive_vote(from, view, suspects))
    }
}

/// Other inputs.
impl VrCore {
    fn propose(&mut self, proposal: ProposalId, payload: &Bytes) {
        let bytes = payload.len();
        let max = self.context.limits().entry_bytes_max;
        let accepted = match bytes > max {
            true => Err(ProposeError::TooLarge { bytes, max }),
            false => self.role.propose(&mut self.context, proposal, payload),
        };
        if let Err(error) = accepted {
            self.context.reject_proposal(proposal, error);
        }
    }

    fn persisted(&mut self, batch: PersistId) {
        if self.context.persisted(batch) {
            self.role.log_persisted(&mut self.context);
        }
    }

    fn transfer_leadership(&mut self, to: ReplicaId) -> Result<(), StepError> {
        if !self.context.membership().is_voter(to) {
            let refused = format!("replica {to} is not a voter");
            return Err(StepError::Request(refused));
        }
        self.role.transfer_leadership(&self.context, to)
    }

    fn snapshot_fetched(&mut self, meta: &SnapshotMeta) {
        if let Some(snapshot) = self.context.snapshot_fetched(meta) {
            let next = self.role.snapshot_fetched(&mut self.context, &snapshot);
            self.perform(next);
        }
    }
}

/// Effects.
impl VrCore {
    /// Turns what has changed into effects.
    fn collect(&mut self) {
        // May end in another view, which is in the batch then.
        let next = self.role.finish_step(&mut self.context);
        self.perform(next);
        self.role.confirm_reads(&mut self.context);
        self.context.flush();
        self.role.send_new(&mut self.context);
        self.context.send_outbox();
        self.context.deliver();
        let leader = self.role.leader(&self.context);
        self.context.announce_leader(leader);
    }
}

impl Consensus for VrCore {
    fn step(&mut self, now: Tick, input: Input) -> Result<(), StepError> {
        self.advance_clock(now);
        match input {
            Input::Tick => {}
            Input::Propose { proposal, payload } => self.propose(proposal, &payload),
            Input::Receive { from, message } => self.receive(from, message)?,
            Input::Persisted(batch) => self.persisted(batch),
            Input::ReadIndex(token) => self.context.read_index(token),
            Input::TransferLeadership(to) => self.transfer_leadership(to)?,
            Input::Unreachable(peer) => self.role.unreachable(peer),
            Input::SnapshotTaken(meta) => self.context.snapshot_taken(meta)?,
            Input::SnapshotFetched(meta) => self.snapshot_fetched(&meta),
            Input::SnapshotFetchFailed(_) => self.context.snapshot_fetch_failed(),
        }
        Ok(())
    }

    fn poll(&mut self) -> Option<Effect> {
        if !self.context.has_effects() {
            self.collect();
        }
        self.context.next_effect()
    }

    fn next_deadline(&self) -> Option<Tick> {
        let due = self.role.deadline(&self.context);
        Some(self.context.deadline(due))
    }

    fn status(&self) -> Status {
        let (context, log) = (&self.context, self.context.log());
        Status {
            role: self.role.role(context),
            term: context.view().term(),
            leader: self.role.leader(context),
            commit: context.commit(),
            first: log.first(),
            last: log.last(),
            membership: context.membership().clone(),
            elections_started: context.votes.started(),
            peers: self.role.peers(context),
        }
    }

    fn detail(&self) -> Vec<(&'static str, String)> {
        let context = &self.context;
        vec![
            ("status", self.role.status(context).to_owned()),
            ("view", context.view().to_string()),
            ("log_view", context.log_view().to_string()),
            ("op", context.log().last().to_string()),
            ("durable_op", context.durable().to_string()),
            ("commit", context.commit().to_string()),
        ]
    }
}

#[cfg(test)]
impl VrCore {
    pub(crate) fn context(&self) -> &CoreContext {
        &self.context
    }

    pub(crate) fn role(&self) -> &Role {
        &self.role
    }

    /// As if this replica had committed all of its log by itself.
    pub(crate) fn commit_alone(&mut self) {
        let last = self.context.log().last();
        self.context.commit_up_to(last);
    }

    /// As if the driver's time had been this when the replica started.
    pub(crate) fn start_at(&mut self, now: Tick) {
        self.context.start_at(now);
    }
}
