//! Normal operation at the primary (VRR 4.1).
//!
//! Prepares leave immediately and are made durable here concurrently; the primary counts
//! itself only when its own write is durable. A peer is sent prepares when it has joined
//! the view, which its first `PrepareOk` reports; until then it requests what it lacks,
//! because beats show it that the view has started. What was lost on the way is seen by
//! the answer to a later beat, and sent again (E6).
//!
//! A primary that receives nothing from a quorum for an election timeout cedes: it
//! answers open proposals as unknown, sends nothing more, and votes for the next view. In
//! the paper it continues; here no replica may claim to lead when a quorum may have left.
//! It cedes as well when its disk stalls: it can deliver nothing, and so answers nothing,
//! while its beats keep the others from electing.

mod peers;
mod read_rounds;

use bytes::Bytes;
use consensus::rule;
use consensus::{
    EntryKind, Index, PeerProgress, ProposalId, ProposeError, RefusalReason, ReplicaId, Role,
    StepError,
};

use self::peers::{Acknowledgement, Peers};
use self::read_rounds::{Origin, ReadRounds};
use super::choose::{Logs, agreement};
use super::handler::{Handler, Next};
use super::state_transfer;
use crate::context::Context;
use crate::ids::View;
use crate::log::LINK_BYTES;
use crate::message::{DoViewChange, FIRST_BEAT, HEADERS_MAX, Message};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Primary {
    peers: Peers,
    /// The no-op with which the view started. Once it is committed, so is all that the
    /// view inherited.
    first_op: Index,
    uncommitted_bytes: usize,
    /// Beats sent.
    beat: u64,
    next_beat_at: u64,
    beat_due: bool,
    read_rounds: ReadRounds,
    transfer: Option<Transfer>,
}

/// Leadership is transferred to the primary of that view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Transfer {
    view: View,
    to: ReplicaId,
    deadline: u64,
    /// Whether this replica has voted for the view. It sends nothing more in its own.
    voted: bool,
}

impl Primary {
    /// Starts the view: its first op is a no-op, which is committed only when the view
    /// works, and everything inherited with it. `logs` are those of other replicas, as far
    /// as they are known.
    pub(crate) fn start(context: &mut Context, logs: &Logs) -> Self {
        let first_op = context.prepare(EntryKind::Noop, &[]);
        let uncommitted = Self::bytes(context, context.commit(), first_op);
        let primary = Self::new(context, first_op, uncommitted);
        for id in context.others() {
            let agreed = logs
                .get(&id)
                .map_or(context.commit(), |log| agreement(context.log(), log));
            send_start_view(context, id, agreed);
        }
        primary
    }

    /// The primary of a view that it started before, which only a mutant continues to be.
    pub(crate) fn restarted(context: &Context) -> Self {
        Self::new(context, context.log().last(), 0)
    }

    fn new(context: &Context, first_op: Index, uncommitted_bytes: usize) -> Self {
        let now = context.clock.now();
        Self {
            peers: Peers::new(context.others(), now),
            first_op,
            uncommitted_bytes,
            beat: FIRST_BEAT,
            next_beat_at: now,
            beat_due: true,
            read_rounds: ReadRounds::default(),
            transfer: None,
        }
    }

    /// What was proposed in the ops after `from`, up to `to`.
    fn bytes(context: &Context, from: Index, to: Index) -> usize {
        let ops = (from.0 + 1..=to.0).map(Index);
        let entries = ops.filter_map(|op| context.log().get(op));
        entries.map(|entry| entry.payload.len() - LINK_BYTES).sum()
    }

    /// Whether it has voted for another view and sends nothing more.
    fn has_ceded(&self) -> bool {
        self.transfer.is_some_and(|transfer| transfer.voted)
    }

    /// Whether its log of the view is durable and it has not ceded.
    fn leads(&self, context: &Context) -> bool {
        !self.has_ceded() && context.has_durably_joined()
    }

    #[cfg(test)]
    pub(crate) fn first_op(&self) -> Index {
        self.first_op
    }

    #[cfg(test)]
    pub(crate) fn beat(&self) -> u64 {
        self.beat
    }
}

impl Handler for Primary {
    fn role(&self, context: &Context) -> Role {
        match context.is_voter() {
            _ if self.leads(context) => Role::Leader,
            false => Role::Learner,
            true => Role::Candidate,
        }
    }

    fn leader(&self, context: &Context) -> Option<ReplicaId> {
        self.leads(context).then(|| context.id())
    }

    fn peers(&self, context: &Context) -> Vec<PeerProgress> {
        self.peers.progress(context)
    }

    fn deadline(&self, _context: &Context) -> u64 {
        self.next_beat_at
    }

    fn receive(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        message: Message,
    ) -> Result<Next, RefusalReason> {
        match message {
            Message::PrepareOk {
                op,
                received,
                beat,
                checksum,
            } => {
                let ack = Acknowledgement {
                    op,
                    received,
                    beat,
                    checksum,
                };
                self.on_prepare_ok(context, from, &ack)?;
            }
            Message::DoViewChange(log) => self.on_do_view_change(context, from, &log),
            Message::RequestStartView { op } => self.on_request_start_view(context, from, op),
            Message::RequestPrepares { op } => self.on_request_prepares(context, from, op),
            Message::ReadRequest { nonce, round } => {
                let origin = Origin::Peer { id: from, nonce };
                self.start_read_round(context, origin, round);
            }
            // From a primary, of which a view has one.
            Message::Prepare { .. }
            | Message::Commit { .. }
            | Message::StartView { .. }
            | Message::Missing { .. } => {}
            // For a replica that lacks a part of the log.
            Message::Prepares { .. } | Message::SnapshotOffer { .. } => {}
            // For the core.
            Message::StartViewChange { .. } | Message::ReadReply { .. } => {}
        }
        Ok(Next::Stay)
    }

    fn tick(&mut self, context: &mut Context) -> Next {
        let now = context.clock.now();
        if self
            .transfer
            .is_some_and(|transfer| now >= transfer.deadline)
        {
            self.transfer = None;
            context.votes.withdraw();
        }
        let voters = self.peers.voters(context);
        let active = voters.filter(|peer| peer.is_active(context)).count();
        if active + 1 < context.membership().quorum() && rule!(PrimaryCedesWithoutQuorum) {
            return Next::Cede;
        }
        let has_others = context.membership().quorum() > 1;
        if context.disk_stalls() && has_others && rule!(PrimaryCedesWithoutDisk) {
            return Next::Cede;
        }
        if !self.has_ceded() {
            self.beat_due |= now >= self.next_beat_at;
            context.votes.settle(&context.clock);
        }
        Next::Stay
    }

    fn seek_view(&mut self, context: &mut Context) -> Next {
        match self.has_ceded() {
            true => Next::elect(context.repeat_vote()),
            false => Next::Stay,
        }
    }

    fn suspects(&self, _context: &Context) -> bool {
        false
    }

    fn propose(
        &mut self,
        context: &mut Context,
        proposal: ProposalId,
        payload: &Bytes,
    ) -> Result<(), ProposeError> {
        if !self.leads(context) {
            return Err(ProposeError::NotLeader { leader: None });
        }
        let bytes = payload.len();
        let full = self.uncommitted_bytes > 0
            && self.uncommitted_bytes + bytes > context.limits().uncommitted_bytes_max;
        let uncommitted = (context.log().last().0 - context.commit().0) as usize;
        let full = full && rule!(UncommittedBounded);
        if full || uncommitted >= HEADERS_MAX - 1 || self.transfer.is_some() {
            return Err(ProposeError::Overloaded);
        }
        self.uncommitted_bytes += bytes;
        context.prepare_proposal(proposal, payload);
        Ok(())
    }

    /// To the next view of which the other replica is the primary.
    fn transfer_leadership(&mut self, context: &Context, to: ReplicaId) -> Result<(), StepError> {
        if self.transfer.is_some() {
            return Err(StepError::Request(
                "a transfer of leadership is in progress".into(),
            ));
        }
        let mut view = context.view().next();
        while context.primary_of(view) != to {
            view = view.next();
        }
        let deadline = context.clock.now() + context.clock.election_ticks();
        let transfer = Transfer {
            view,
            to,
            deadline,
            voted: false,
        };
        self.transfer = Some(transfer).filter(|_| to != context.id());
        Ok(())
    }

    fn unreachable(&mut self, peer: ReplicaId) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.unreachable();
        }
    }

    fn log_persisted(&mut self, context: &mut Context) {
        self.count_acknowledgements(context);
    }

    /// Votes for the view of a transfer when everything proposed is committed, here and
    /// known to be in the successor's log.
    fn finish_step(&mut self, context: &mut Context) -> Next {
        let Some(transfer) = &mut self.transfer else {
            return Next::Stay;
        };
        let last = context.log().last();
        let successor = self.peers.get(transfer.to);
        let has_all = successor.is_some_and(|peer| peer.matched() == last);
        if transfer.voted || context.commit() != last || !has_all {
            return Next::Stay;
        }
        transfer.voted = true;
        Next::elect(context.vote(transfer.view))
    }

    fn confirm_reads(&mut self, context: &mut Context) {
        if self.leads(context)
            && let Some(round) = context.start_read_round()
        {
            self.start_read_round(context, Origin::Primary, round);
        }
    }

    /// Prepares, and beats.
    fn send_new(&mut self, context: &mut Context) {
        if self.has_ceded() {
            return;
        }
        let mut without_log = Vec::new();
        for (id, peer) in self.peers.iter_mut() {
            if peer.stream(id, context) {
                without_log.push(id);
            }
        }
        if self.beat_due {
            self.send_beat(context);
        }
        for id in without_log.into_iter().filter(|_| rule!(SnapshotOffered)) {
            state_transfer::offer_snapshot(context, id);
        }
    }
}

/// Acknowledgements.
impl Primary {
    fn on_prepare_ok(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        ack: &Acknowledgement,
    ) -> Result<(), RefusalReason> {
        let last = context.log().last();
        let Acknowledgement {
            op, received, beat, ..
        } = *ack;
        if received > last || beat > self.beat {
            self.show_log(context, from, last);
            return Err(RefusalReason::Impossible(format!(
                "op {received} and beat {beat} are acknowledged, the last are {last} and {}",
                self.beat
            )));
        }
        let own = context.log().checksum(op);
        if ack.checksum.is_some() && own.is_some() && own != ack.checksum {
            self.show_log(context, from, op);
            return Err(RefusalReason::Impossible(format!(
                "another op {op} is acknowledged than that of this view"
            )));
        }
        let Some(peer) = self.peers.get_mut(from) else {
            return Ok(());
        };
        if let Some(matched) = peer.forgotten(ack) {
            context.send_joined(from, Message::Missing { op: matched });
            return Err(RefusalReason::Impossible(format!(
                "op {op} is acknowledged after op {matched}: the replica has lost what was durable there"
            )));
        }
        peer.on_prepare_ok(ack, self.beat, context.clock.now());
        self.count_acknowledgements(context);
        self.answer_reads(context);
        Ok(())
    }

    /// Sends the op that a peer has acknowledged with other content, or the last one where
    /// it has more: the peer compares, and stops where its log differs.
    fn show_log(&self, context: &mut Context, to: ReplicaId, op: Index) {
        if self.has_ceded() {
            return;
        }
        let commit = context.commit();
        let entries = context.log().get(op).cloned().into_iter().collect();
        context.send_joined(to, Message::Prepare { commit, entries });
    }

    /// Commits what is durable at a quorum. Ops of earlier views count like those of this
    /// one: a replica that acknowledges has adopted the log of this view.
    fn count_acknowledgements(&mut self, context: &mut Context) {
        if !context.has_durably_joined() {
            return;
        }
        let (durable, last) = (context.durable(), context.log().last());
        let own = if rule!(OwnAckOnlyDurable) {
            durable
        } else {
            last
        };
        let voters = context.membership().voters().iter();
        let acknowledged = voters.map(|id| self.peers.get(*id).map_or(own, |peer| peer.matched()));
        let mut acknowledged: Vec<Index> = acknowledged.collect();
        acknowledged.sort_unstable_by(|a, b| b.cmp(a));
        let short = usize::from(!rule!(CommitByQuorum));
        let commit = acknowledged[context.membership().quorum() - 1 - short];
        if commit <= context.commit() {
            return;
        }
        let bytes = Self::bytes(context, context.commit(), commit);
        if rule!(CommittedBytesReleased) {
            self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(bytes);
        }
        context.commit_up_to(commit);
        self.answer_reads(context);
    }

    fn send_beat(&mut self, context: &mut Context) {
        self.beat_due = false;
        self.beat += 1;
        self.next_beat_at = context.clock.now() + context.clock.heartbeat_ticks();
        for peer in self.peers.values_mut() {
            peer.on_beat(self.beat);
        }
        let (commit, beat) = (context.commit(), self.beat);
        for id in context.others() {
            context.send_joined(id, Message::Commit { commit, beat });
        }
    }
}

/// Reads.
impl Primary {
    fn start_read_round(&mut self, context: &mut Context, origin: Origin, round: u64) {
        if self.read_rounds.add(origin, round, self.beat) {
            self.beat_due = true;
            self.answer_reads(context);
        }
    }

    fn answer_reads(&mut self, context: &mut Context) {
        if context.commit() >= self.first_op {
            self.read_rounds.confirm(context, &self.peers);
        }
    }
}

/// Replicas that lack the log of the view.
impl Primary {
    /// It has missed the start of the view.
    fn on_do_view_change(&mut self, context: &mut Context, from: ReplicaId, log: &DoViewChange) {
        self.peers.contact(from, context.clock.now());
        let agreed = agreement(context.log(), log);
        send_start_view(context, from, agreed);
    }

    fn on_request_start_view(&mut self, context: &mut Context, from: ReplicaId, op: Index) {
        self.peers.contact(from, context.clock.now());
        let agreed = op.min(context.log().last());
        send_start_view(context, from, agreed);
    }

    fn on_request_prepares(&mut self, context: &mut Context, from: ReplicaId, op: Index) {
        if op > context.log().last() {
            return;
        }
        self.peers.contact(from, context.clock.now());
        match self.peers.get_mut(from) {
            Some(peer) if peer.is_streaming() => peer.resend_from(op),
            _ => state_transfer::send_log(context, from, op),
        }
    }
}

/// Starts the view at a peer whose log is known to agree up to `agreed`.
fn send_start_view(context: &mut Context, to: ReplicaId, agreed: Index) {
    let bytes_max = context.limits().message_bytes_max;
    let message = Message::StartView {
        commit: context.commit(),
        head: context.log().head(),
        entries: context.log().slice(agreed.next(), bytes_max),
    };
    if rule!(StartViewDurable) {
        context.send_durable(to, message);
    } else {
        context.send(to, message);
    }
}
