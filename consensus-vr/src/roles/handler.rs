//! What every role answers for, and what may follow from an input.

use bytes::Bytes;
use consensus::{
    PeerProgress, ProposalId, ProposeError, RefusalReason, ReplicaId, Role, StepError,
};

use super::choose::Logs;
use crate::context::{Context, Snapshot};
use crate::ids::View;
use crate::message::Message;

/// What a replica does next. The core carries it out.
#[derive(Debug)]
#[must_use]
pub(crate) enum Next {
    /// It keeps its role.
    Stay,
    /// It enters a view that has started without it, and requests its log.
    Follow(View),
    /// It enters a view, and takes part in choosing its log.
    Elect(View),
    /// It has the log of its view, and becomes its primary or a backup. These are the logs
    /// of others that a primary knows.
    Join(Logs),
    /// It stops leading its view.
    Cede,
}

impl Next {
    /// After a vote: with a quorum, the replica enters the view.
    pub(crate) fn elect(view: Option<View>) -> Self {
        view.map_or(Self::Stay, Self::Elect)
    }
}

/// A role: a method that is not overridden has nothing to do in it.
pub(crate) trait Handler {
    fn role(&self, context: &Context) -> Role;

    /// For people: by default, normal operation, or waiting for the first view.
    fn status(&self, context: &Context) -> &'static str {
        match context.view() {
            View::ZERO => "waiting",
            _ => "normal",
        }
    }

    /// The primary of the view, as far as this replica follows it.
    fn leader(&self, context: &Context) -> Option<ReplicaId>;

    fn peers(&self, _context: &Context) -> Vec<PeerProgress> {
        Vec::new()
    }

    /// When [`tick`](Self::tick) is due.
    fn deadline(&self, context: &Context) -> u64;

    /// A message that passed the guard, and is of this view.
    fn receive(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        message: Message,
    ) -> Result<Next, RefusalReason>;

    /// Time passed: what is due is sent again.
    fn tick(&mut self, _context: &mut Context) -> Next {
        Next::Stay
    }

    /// Time passed: votes for another view, when this one is without a primary.
    fn seek_view(&mut self, context: &mut Context) -> Next;

    /// Whether this replica votes for another view as soon as another replica does.
    fn suspects(&self, context: &Context) -> bool;

    fn propose(
        &mut self,
        context: &mut Context,
        _proposal: ProposalId,
        _payload: &Bytes,
    ) -> Result<(), ProposeError> {
        let leader = self.leader(context);
        Err(ProposeError::NotLeader { leader })
    }

    fn transfer_leadership(&mut self, _context: &Context, _to: ReplicaId) -> Result<(), StepError> {
        Err(StepError::Request(
            "only the leader can transfer leadership".into(),
        ))
    }

    fn unreachable(&mut self, _peer: ReplicaId) {}

    /// More of the log is durable.
    fn log_persisted(&mut self, _context: &mut Context) {}

    /// A snapshot of more than is committed here is durable.
    fn snapshot_fetched(&mut self, _context: &mut Context, _snapshot: &Snapshot) -> Next {
        Next::Stay
    }

    /// Before a batch leaves: what may still change the view.
    fn finish_step(&mut self, _context: &mut Context) -> Next {
        Next::Stay
    }

    /// Has the reads confirmed that wait.
    fn confirm_reads(&mut self, context: &mut Context) {
        if let Some(leader) = self.leader(context)
            && let Some(round) = context.start_read_round()
        {
            context.request_read(leader, round);
        }
    }

    /// After a batch has left: sends what is new.
    fn send_new(&mut self, _context: &mut Context) {}
}
