//! A view that has not started here (VRR 4.2).
//!
//! A backup that has received nothing from its primary for an election timeout votes for
//! the next view with `StartViewChange`, and stays in its own. Others join in only when
//! they miss the primary too, or when the primary itself votes. With the votes of a
//! quorum a replica enters the view: that is durable before the `DoViewChange` that
//! reveals it leaves. So a replica that is partitioned off cannot disturb the others when
//! it returns.
//!
//! The timers are a function of the order: that of the next primary ends first, so that
//! replicas do not compete.

use consensus::rule;
use consensus::{Entry, Index, RefusalReason, ReplicaId, Role};

use super::catch_up::{CatchUp, Target};
use super::choose::{Logs, Verdict, choose};
use super::handler::{Handler, Next};
use super::state_transfer::{self, Transfer};
use crate::context::{Context, Snapshot};
use crate::message::{DoViewChange, HEADERS_MAX, Message};

/// While its primary is active, the start of a view is requested at most once in so many
/// ticks.
const REQUEST_TICKS: u64 = 2;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ViewChange {
    /// When anything last happened.
    since: u64,
    requested_at: u64,
    /// What was committed here when the view was entered: every later view has it.
    inherited: Index,
    /// At the view's primary: the logs of the replicas.
    logs: Logs,
    catch_up: Option<CatchUp>,
}

impl ViewChange {
    pub(crate) fn new(now: u64, inherited: Index) -> Self {
        Self {
            since: now,
            requested_at: now,
            inherited,
            ..Self::default()
        }
    }
}

impl Handler for ViewChange {
    fn role(&self, context: &Context) -> Role {
        match context.is_voter() {
            false => Role::Learner,
            true => Role::Candidate,
        }
    }

    fn status(&self, _context: &Context) -> &'static str {
        match self.catch_up {
            Some(_) => "catching up",
            None => "view change",
        }
    }

    fn leader(&self, _context: &Context) -> Option<ReplicaId> {
        None
    }

    fn deadline(&self, context: &Context) -> u64 {
        let resend_at = self.requested_at + context.clock.heartbeat_ticks();
        let vote_at = context.votes.resend_at(&context.clock);
        vote_at.unwrap_or_else(|| self.patience_ends(context).min(resend_at))
    }

    fn receive(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        message: Message,
    ) -> Result<Next, RefusalReason> {
        match message {
            Message::Prepare { .. } | Message::Commit { .. } => {
                self.on_primary_active(context);
                Ok(Next::Stay)
            }
            Message::DoViewChange(log) => self.on_do_view_change(context, from, log),
            Message::StartView {
                commit,
                head,
                entries,
            } => self.on_start_view(context, Target { head, commit }, entries),
            Message::Prepares { entries } => self.on_prepares(context, from, entries),
            Message::RequestPrepares { op } => {
                state_transfer::send_log(context, from, op);
                Ok(Next::Stay)
            }
            Message::SnapshotOffer { snapshot, checksum } => {
                let meta = snapshot;
                self.on_snapshot_offer(context, from, Snapshot { meta, checksum })
            }
            Message::Missing { op } => state_transfer::check_missing(context, from, op),
            // For a primary.
            Message::PrepareOk { .. }
            | Message::RequestStartView { .. }
            | Message::ReadRequest { .. } => Ok(Next::Stay),
            // For the core.
            Message::StartViewChange { .. } | Message::ReadReply { .. } => Ok(Next::Stay),
        }
    }

    /// E6: repeats whatever this replica waits for.
    fn tick(&mut self, context: &mut Context) -> Next {
        let (now, interval) = (context.clock.now(), context.clock.heartbeat_ticks());
        if now < self.requested_at + interval || !rule!(DoViewChangeResent) {
            return Next::Stay;
        }
        self.requested_at = now;
        if let Some(catch_up) = &self.catch_up {
            catch_up.request_next(context);
            return Next::Stay;
        }
        if !context.is_voter() {
            self.request_start_view(context);
            return Next::Stay;
        }
        self.send_log(context)
    }

    fn seek_view(&mut self, context: &mut Context) -> Next {
        if context.disk_stalls() {
            // It could not make another view durable.
            return Next::Stay;
        }
        Next::elect(context.seek_view(self.patience_ends(context), true))
    }

    fn suspects(&self, context: &Context) -> bool {
        let timeout = context.votes.timeout_ticks(&context.clock);
        let silent = context.clock.now() - self.since >= timeout;
        context.is_voter() && (context.primary_votes() || silent)
    }

    fn snapshot_fetched(&mut self, context: &mut Context, snapshot: &Snapshot) -> Next {
        state_transfer::restore(context, snapshot);
        self.skip_to(snapshot.meta.index);
        // Nothing here can contradict a peer.
        self.advance(context).unwrap_or(Next::Stay)
    }
}

/// Entering.
impl ViewChange {
    /// When this replica votes for another view of its own accord.
    fn patience_ends(&self, context: &Context) -> u64 {
        let timeout = context.votes.timeout_ticks(&context.clock);
        self.since + timeout + context.stagger_ticks()
    }

    /// Asks the primary for the start of a view that has started without this replica.
    pub(crate) fn request_start_view(&self, context: &mut Context) {
        let op = context.commit();
        context.send_durable(context.primary(), Message::RequestStartView { op });
    }

    /// The primary of the view is active: the start of the view was missed.
    fn on_primary_active(&mut self, context: &mut Context) {
        let (now, interval) = (context.clock.now(), context.clock.heartbeat_ticks());
        self.since = now;
        if self.catch_up.is_none() && now >= self.requested_at + interval.min(REQUEST_TICKS) {
            self.requested_at = now;
            self.request_start_view(context);
        }
    }

    /// Sends the log to the primary of the view, or adds it to those from which this
    /// replica, as the primary, chooses.
    pub(crate) fn send_log(&mut self, context: &mut Context) -> Next {
        if !context.is_voter() {
            return Next::Stay;
        }
        let log = own_log(context);
        if !context.is_primary() {
            // E1: the view is durable before this leaves.
            context.send_durable(context.primary(), Message::DoViewChange(log));
            return Next::Stay;
        }
        self.logs.insert(context.id(), log);
        // A contradiction with the own log is not due to a peer's message.
        self.choose(context).unwrap_or(Next::Stay)
    }

    fn on_do_view_change(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        log: DoViewChange,
    ) -> Result<Next, RefusalReason> {
        if self.catch_up.is_some() {
            return Ok(Next::Stay);
        }
        self.logs.insert(from, log);
        self.choose(context)
    }

    /// With the logs of a quorum, the view gets its log.
    fn choose(&mut self, context: &mut Context) -> Result<Next, RefusalReason> {
        let voters = context.membership().voters().len();
        let quorum = context.membership().quorum() - usize::from(!rule!(ViewStartsByQuorum));
        let (source, why) = match choose(&self.logs, voters, quorum) {
            Verdict::Wait => return Ok(Next::Stay),
            Verdict::Start(choice) if choice.head.op < context.commit() => {
                (choice.source, "here (invariant 5)")
            }
            Verdict::Start(choice) => {
                self.catch_up = Some(CatchUp::to_choice(choice, context));
                return self.advance(context);
            }
            Verdict::Contradiction(source) => (source, "elsewhere"),
        };
        self.logs.remove(&source);
        Err(RefusalReason::Impossible(format!(
            "the log of replica {source} ends before what is committed {why}"
        )))
    }
}

/// Catching up.
impl ViewChange {
    fn on_start_view(
        &mut self,
        context: &mut Context,
        target: Target,
        entries: Vec<Entry>,
    ) -> Result<Next, RefusalReason> {
        let Target { head, commit } = target;
        if head.op < self.inherited {
            return Err(RefusalReason::Diverged(format!(
                "view {} has started with {} ops, and {} are committed here",
                context.view(),
                head.op,
                self.inherited
            )));
        }
        if commit > head.op || head.op < context.commit() {
            return Err(RefusalReason::Impossible(format!(
                "a view of {} ops, {commit} of them committed; {} are committed here",
                head.op,
                context.commit()
            )));
        }
        self.since = context.clock.now();
        if self.catch_up.is_none() {
            // Where the logs agree according to the sender, or where they must.
            let connects = entries
                .first()
                .filter(|first| context.log().connects(first))
                .map(|first| first.index);
            let next = connects.unwrap_or_default().max(context.commit().next());
            self.catch_up = Some(CatchUp::to_primary(target, next));
        }
        self.receive_entries(context, entries)
    }

    fn on_prepares(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        entries: Vec<Entry>,
    ) -> Result<Next, RefusalReason> {
        let source = self.catch_up.as_ref().map(|it| it.source(context));
        if source != Some(from) {
            return Ok(Next::Stay);
        }
        if from == context.primary() {
            self.since = context.clock.now();
        }
        self.receive_entries(context, entries)
    }

    fn receive_entries(
        &mut self,
        context: &mut Context,
        entries: Vec<Entry>,
    ) -> Result<Next, RefusalReason> {
        if let Some(catch_up) = &mut self.catch_up
            && let Err(reason) = catch_up.receive(context, entries)
        {
            self.catch_up = None;
            return Err(reason);
        }
        self.advance(context)
    }

    /// Joins the view when nothing of its log is missing.
    fn advance(&mut self, context: &mut Context) -> Result<Next, RefusalReason> {
        match self.catch_up.take_if(|it| it.advance(context)) {
            Some(complete) => complete.finish(context)?,
            None => return Ok(Next::Stay),
        }
        Ok(Next::Join(std::mem::take(&mut self.logs)))
    }

    fn on_snapshot_offer(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        snapshot: Snapshot,
    ) -> Result<Next, RefusalReason> {
        self.since = context.clock.now();
        let op = snapshot.meta.index;
        if state_transfer::receive_offer(context, from, snapshot) != Transfer::Committed {
            return Ok(Next::Stay);
        }
        self.skip_to(op);
        self.advance(context)
    }

    fn skip_to(&mut self, op: Index) {
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.skip_to(op);
        }
    }
}

/// The log as this replica sends it into its view. It does not change before the view has
/// started, so it is the same however often it is sent (VRR 4.2).
fn own_log(context: &Context) -> DoViewChange {
    let last = context.log().last();
    let oldest = Index((last.0 + 1).saturating_sub(HEADERS_MAX as u64));
    DoViewChange {
        log_view: context.log_view(),
        commit: context.commit(),
        head: context.log().head(),
        headers: context.log().headers(context.commit().max(oldest)),
    }
}
