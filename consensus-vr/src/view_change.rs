//! View changes (VRR 4.2).
//!
//! A backup that has heard nothing from its primary for an election timeout asks
//! for the next view with `StartViewChange`, and stays where it is. Others join in
//! only when they miss the primary too, or when it is the primary itself that
//! asks. With a quorum asking, a replica moves: that is durable before the
//! `DoViewChange` that reveals it leaves. So whoever is cut off cannot disturb the
//! others when it returns.
//!
//! The timers are a function of the order: the next primary's ends first, so that
//! there is no duel.

use std::collections::BTreeMap;

use consensus::rule;
use consensus::{Index, RefusalReason, ReplicaId};

use crate::catch_up::{CatchUp, Target};
use crate::choose::{Choice, Verdict, choose};
use crate::core::{Phase, VrCore};
use crate::ids::View;
use crate::message::{DoViewChange, HEADERS_MAX, Message};

/// After so many election timeouts in normal operation the timeouts of view
/// changes are short again.
const STABLE_ELECTION_TIMEOUTS: u64 = 4;
/// The timeout of a view change doubles up to this power of two.
const BACKOFF_MAX: u32 = 3;

/// Who wants another view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Suspicion {
    /// The view that this replica asks for.
    pub(crate) my_vote: Option<View>,
    voted_at: u64,
    /// The views that others ask for, and when they last said so.
    votes: BTreeMap<ReplicaId, (View, u64)>,
    /// View changes that did not finish since things were last stable.
    attempts: u32,
    stable_since: u64,
    /// View changes that this replica began.
    pub(crate) started: u64,
}

impl Suspicion {
    pub(crate) fn became_normal(&mut self, clock: u64) {
        self.stable_since = clock;
    }
}

/// A view that has not begun here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ViewChange {
    /// Since when nothing has happened.
    pub(crate) since: u64,
    asked_at: u64,
    /// What the replicas brought, at the view's primary.
    pub(crate) brought: BTreeMap<ReplicaId, DoViewChange>,
    pub(crate) choice: Option<Choice>,
    pub(crate) catch_up: Option<CatchUp>,
}

/// Asking.
impl VrCore {
    /// A vote that is not repeated is forgotten.
    fn fresh_votes(&self) -> impl Iterator<Item = (ReplicaId, View)> + '_ {
        self.suspicion
            .votes
            .iter()
            .filter(|(_, (_, at))| self.clock - at <= self.election_ticks)
            .map(|(id, (view, _))| (*id, *view))
            .filter(|(_, view)| *view > self.view)
    }

    /// The latest view that others ask for.
    fn wanted(&self) -> Option<View> {
        self.fresh_votes().map(|(_, view)| view).max()
    }

    /// Whether this replica would have another view, if somebody else asks first.
    fn suspects(&self) -> bool {
        if !self.is_voter() {
            return false;
        }
        let primary = self.primary_of(self.view);
        let primary_asks = self.fresh_votes().any(|(id, _)| id == primary);
        match &self.phase {
            Phase::Primary(_) => false,
            Phase::Backup(backup) => {
                primary_asks
                    || backup
                        .heard
                        .is_none_or(|heard| self.clock - heard >= self.election_ticks)
            }
            Phase::ViewChange(change) => {
                primary_asks || self.clock - change.since >= self.view_change_ticks()
            }
        }
    }

    /// Places behind the primary of the next view, in the order.
    fn distance(&self) -> u64 {
        let voters = self.membership.voters();
        let count = voters.len() as u64;
        let me = voters.iter().position(|id| *id == self.id).unwrap_or(0) as u64;
        (me + count - self.view.next().0 % count) % count
    }

    /// E7: it grows with every view change that does not finish, and shrinks only
    /// after a stable time.
    pub(crate) fn view_change_ticks(&self) -> u64 {
        self.election_ticks << self.suspicion.attempts.min(BACKOFF_MAX)
    }

    /// When this replica asks for a view of its own accord, or again.
    pub(crate) fn view_change_deadline(&self) -> u64 {
        if self.suspicion.my_vote.is_some() {
            return self.suspicion.voted_at + self.heartbeat_ticks;
        }
        match &self.phase {
            Phase::Backup(_) => self.patience_ends(),
            Phase::ViewChange(change) => self
                .patience_ends()
                .min(change.asked_at + self.heartbeat_ticks),
            Phase::Primary(_) => self.clock + self.heartbeat_ticks,
        }
    }

    pub(crate) fn view_change_time(&mut self) {
        self.settle_down();
        self.ask_again();
        if !self.is_voter() {
            return;
        }
        if self.suspicion.my_vote.is_some() {
            self.repeat_vote();
        } else if self.clock >= self.patience_ends() {
            self.suspicion.started += 1;
            if matches!(self.phase, Phase::ViewChange(_)) {
                self.suspicion.attempts += 1;
            }
            let wanted = self.wanted().unwrap_or_default();
            self.vote(wanted.max(self.view.next()));
        }
        self.join_in();
    }

    /// When this replica asks for another view of its own accord.
    fn patience_ends(&self) -> u64 {
        let stagger = self.distance() * self.heartbeat_ticks;
        match &self.phase {
            Phase::Backup(backup) => backup
                .heard
                .map_or(0, |heard| heard + self.election_ticks + stagger),
            Phase::ViewChange(change) => change.since + self.view_change_ticks() + stagger,
            Phase::Primary(_) => u64::MAX,
        }
    }

    /// After a stable time the next view change is quick again.
    pub(crate) fn settle_down(&mut self) {
        let stable = STABLE_ELECTION_TIMEOUTS * self.election_ticks;
        if !matches!(self.phase, Phase::ViewChange(_))
            && self.clock >= self.suspicion.stable_since + stable
        {
            self.suspicion.attempts = 0;
        }
    }

    /// Asks for a view.
    pub(crate) fn vote(&mut self, view: View) {
        self.suspicion.my_vote = Some(view);
        self.suspicion.voted_at = self.clock;
        let after = !self.durability.is_durable(self.entered);
        for other in self.others() {
            if self.membership.is_voter(other) {
                let at = self.view;
                self.queue(other, view, Message::StartViewChange { at }, after);
            }
        }
        self.count_votes();
    }

    /// E6.
    pub(crate) fn repeat_vote(&mut self) {
        if let Some(view) = self.suspicion.my_vote
            && self.clock >= self.suspicion.voted_at + self.heartbeat_ticks
            && rule!(ViewVoteResent)
        {
            self.vote(view);
        }
    }

    pub(crate) fn on_start_view_change(&mut self, from: ReplicaId, view: View, at: View) {
        if at > self.view && rule!(LaterViewFollowed) {
            // A quorum has asked for it, or the sender would not be there; it hears
            // nothing of this view any more.
            self.elect(at);
        }
        if view <= self.view {
            return;
        }
        self.suspicion.votes.insert(from, (view, self.clock));
        self.join_in();
        self.count_votes();
    }

    /// E4: who joins in adopts the view that was asked for.
    fn join_in(&mut self) {
        let Some(wanted) = self.wanted() else {
            return;
        };
        if self.suspicion.my_vote.is_none_or(|mine| mine < wanted) && self.suspects() {
            self.vote(wanted);
        }
    }

    /// Moves to the highest view that a quorum asks for. Who asks for a later view
    /// wants to leave this one as well.
    fn count_votes(&mut self) {
        let mut wanted: Vec<View> = self.fresh_votes().map(|(_, view)| view).collect();
        wanted.extend(self.suspicion.my_vote);
        wanted.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(view) = wanted.get(self.membership.quorum() - 1)
            && *view > self.view
        {
            self.elect(*view);
        }
    }
}

/// Moving.
impl VrCore {
    fn enter(&mut self, view: View) {
        assert!(view > self.view, "views do not go back (invariant 1)");
        if rule!(ProposalsEndWithView) {
            self.abandon_proposals();
        }
        self.reads.restart();
        self.view = view;
        if rule!(ViewStored) {
            self.durability.state_changed();
        }
        self.entered = self.durability.next_batch();
        self.suspicion.votes.retain(|_, (wanted, _)| *wanted > view);
        self.suspicion.my_vote = None;
        self.phase = Phase::ViewChange(ViewChange {
            since: self.clock,
            asked_at: self.clock,
            ..ViewChange::default()
        });
    }

    /// Takes part in electing the log of a view.
    pub(crate) fn elect(&mut self, view: View) {
        self.enter(view);
        self.bring_log();
    }

    /// Goes to a view that has begun without this replica.
    pub(crate) fn follow(&mut self, view: View) {
        self.enter(view);
        let op = self.commit;
        self.send_durable(self.primary_of(view), Message::RequestStartView { op });
    }

    /// The primary of the view speaks: its beginning was missed.
    pub(crate) fn view_has_begun(&mut self) {
        let (clock, interval) = (self.clock, self.heartbeat_ticks);
        let Phase::ViewChange(change) = &mut self.phase else {
            return;
        };
        change.since = clock;
        if change.catch_up.is_none() && clock >= change.asked_at + interval.min(2) {
            change.asked_at = clock;
            let op = self.commit;
            self.send_durable(self.primary_of(self.view), Message::RequestStartView { op });
        }
    }

    /// What this replica brings into its view. The log does not change before the
    /// view has begun, so it is the same however often it is sent (VRR 4.2).
    fn own_log(&self) -> DoViewChange {
        let last = self.log.last();
        let oldest = Index((last.0 + 1).saturating_sub(HEADERS_MAX as u64));
        DoViewChange {
            log_view: self.log_view,
            commit: self.commit,
            head: self.log.head(),
            headers: self.log.headers(self.commit.max(oldest)),
        }
    }

    fn bring_log(&mut self) {
        if !self.is_voter() {
            return;
        }
        let brought = self.own_log();
        let primary = self.primary_of(self.view);
        if primary != self.id {
            // E1: the view is durable before this leaves.
            self.send_durable(primary, Message::DoViewChange(brought));
            return;
        }
        if let Phase::ViewChange(change) = &mut self.phase {
            change.brought.insert(self.id, brought);
        }
        // A contradiction with one's own log is none of a peer's message.
        let _ = self.try_to_begin();
    }

    /// E6: repeats whatever this replica waits for.
    fn ask_again(&mut self) {
        let (clock, interval) = (self.clock, self.heartbeat_ticks);
        let Phase::ViewChange(change) = &mut self.phase else {
            return;
        };
        if clock < change.asked_at + interval || !rule!(DoViewChangeResent) {
            return;
        }
        change.asked_at = clock;
        if change.catch_up.is_some() {
            self.ask_for_next();
        } else if !self.is_voter() {
            let op = self.commit;
            self.send_durable(self.primary_of(self.view), Message::RequestStartView { op });
        } else {
            self.bring_log();
        }
    }

    pub(crate) fn on_do_view_change(
        &mut self,
        from: ReplicaId,
        view: View,
        brought: DoViewChange,
    ) -> Result<(), RefusalReason> {
        if view < self.view && rule!(EarlierLogIgnored) {
            return Ok(());
        }
        if view > self.view {
            // A quorum has asked for it, or the sender would not have moved.
            self.elect(view);
        }
        let (view, log_view) = (self.view, self.log_view);
        match &mut self.phase {
            // It has missed the beginning.
            Phase::Primary(_) => {
                self.hear_joining(from);
                let agreed = self.agreement(&brought);
                self.send_start_view(from, agreed);
                Ok(())
            }
            Phase::ViewChange(change) if log_view < view && change.catch_up.is_none() => {
                change.brought.insert(from, brought);
                self.try_to_begin()
            }
            _ => Ok(()),
        }
    }

    /// The last op that this log and the other have in common, as far as the
    /// headers tell. What the other has committed is common in any case.
    pub(crate) fn agreement(&self, other: &DoViewChange) -> Index {
        let mut op = other.head.op.min(self.log.last());
        while op > other.commit {
            let theirs = other.header(op).map(|header| header.checksum);
            if theirs.is_some() && theirs == self.log.checksum(op) {
                return op;
            }
            op = op.prev();
        }
        op
    }

    /// With the logs of a quorum, the view gets its log.
    fn try_to_begin(&mut self) -> Result<(), RefusalReason> {
        let (voters, quorum) = (self.membership.voters().len(), self.membership.quorum());
        let Phase::ViewChange(change) = &mut self.phase else {
            return Ok(());
        };
        let quorum = quorum - usize::from(!rule!(ViewStartsByQuorum));
        let choice = match choose(&change.brought, voters, quorum) {
            Verdict::Wait => return Ok(()),
            Verdict::Contradiction(id) => {
                change.brought.remove(&id);
                return Err(RefusalReason::Impossible(format!(
                    "the log of replica {id} ends before what is committed"
                )));
            }
            Verdict::Start(choice) => choice,
        };
        if choice.head.op < self.commit {
            change.brought.remove(&choice.source);
            return Err(RefusalReason::Impossible(format!(
                "the log of replica {} ends before what is committed (invariant 5)",
                choice.source
            )));
        }
        let mut agreed = choice.head.op.min(self.log.last());
        while agreed > self.commit && rule!(ChosenLogFetched) {
            let theirs = choice.op(agreed).map(|(checksum, _)| checksum);
            if theirs.is_some() && theirs == self.log.checksum(agreed) {
                break;
            }
            agreed = agreed.prev();
        }
        let target = Target {
            head: choice.head,
            commit: choice.commit,
        };
        change.catch_up = Some(CatchUp::new(target, agreed.next()));
        change.choice = Some(choice);
        self.catch_up()
    }
}
