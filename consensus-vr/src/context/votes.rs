//! Votes for another view (VRR 4.2), and the timeouts of view changes.
//!
//! A replica votes with `StartViewChange` and stays in its view until a quorum votes.
//! A vote that is not repeated expires after an election timeout.

use std::collections::BTreeMap;

use consensus::{ReplicaId, rule};

use super::clock::Clock;
use crate::ids::View;

/// After so many election timeouts in normal operation the timeouts of view changes are
/// short again.
const STABLE_ELECTION_TIMEOUTS: u64 = 4;
/// The timeout of a view change doubles up to this power of two.
const BACKOFF_MAX: u32 = 3;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Votes {
    /// The view that this replica votes for.
    own: Option<View>,
    cast_at: u64,
    /// The votes of the other replicas, and when each was last received.
    others: BTreeMap<ReplicaId, (View, u64)>,
    /// View changes that did not finish since the last stable time.
    attempts: u32,
    stable_since: u64,
    /// View changes that this replica started.
    started: u64,
}

/// The votes.
impl Votes {
    pub(crate) fn own(&self) -> Option<View> {
        self.own
    }

    /// The primary leads: no other view is needed.
    pub(crate) fn withdraw(&mut self) {
        self.own = None;
    }

    pub(super) fn cast(&mut self, view: View, clock: &Clock) {
        self.own = Some(view);
        self.cast_at = clock.now();
    }

    /// When this replica repeats its vote, if it has one.
    pub(crate) fn resend_at(&self, clock: &Clock) -> Option<u64> {
        self.own.map(|_| self.cast_at + clock.heartbeat_ticks())
    }

    /// E6: the vote that is to be sent again now.
    pub(super) fn due(&self, clock: &Clock) -> Option<View> {
        let due = self.resend_at(clock).is_some_and(|at| clock.now() >= at);
        self.own.filter(|_| due && rule!(ViewVoteResent))
    }

    pub(super) fn receive(&mut self, from: ReplicaId, view: View, clock: &Clock) {
        self.others.insert(from, (view, clock.now()));
    }

    /// The votes of others for views after the current one that have not expired.
    fn fresh(&self, clock: &Clock, current: View) -> impl Iterator<Item = (ReplicaId, View)> {
        let (now, expiry) = (clock.now(), clock.election_ticks());
        self.others
            .iter()
            .filter(move |(_, (_, at))| now - at <= expiry)
            .map(|(id, (view, _))| (*id, *view))
            .filter(move |(_, view)| *view > current)
    }

    /// The latest view that another replica votes for.
    pub(super) fn latest(&self, clock: &Clock, current: View) -> Option<View> {
        self.fresh(clock, current).map(|(_, view)| view).max()
    }

    /// Whether this replica votes for another view.
    pub(super) fn is_by(&self, id: ReplicaId, clock: &Clock, current: View) -> bool {
        self.fresh(clock, current).any(|(voter, _)| voter == id)
    }

    /// The latest view that a quorum votes for. A vote for a later view also counts for
    /// the earlier ones.
    pub(super) fn elected(&self, clock: &Clock, current: View, quorum: usize) -> Option<View> {
        let mut views: Vec<View> = self.fresh(clock, current).map(|(_, view)| view).collect();
        views.extend(self.own);
        views.sort_unstable_by(|a, b| b.cmp(a));
        let elected = views.get(quorum - 1).copied();
        elected.filter(|view| *view > current)
    }

    /// The replica has entered this view: votes for it and for earlier ones are spent.
    pub(super) fn entered(&mut self, view: View) {
        self.others.retain(|_, (voted, _)| *voted > view);
        self.own = None;
    }
}

/// The timeouts.
impl Votes {
    /// The view changes that this replica started.
    pub(crate) fn started(&self) -> u64 {
        self.started
    }

    /// E7: the timeout of a view change grows with every one that does not finish, and
    /// shrinks only after a stable time.
    pub(crate) fn timeout_ticks(&self, clock: &Clock) -> u64 {
        clock.election_ticks() << self.attempts.min(BACKOFF_MAX)
    }

    /// The replica starts a view change of its own accord.
    pub(super) fn timed_out(&mut self, in_view_change: bool) {
        self.started += 1;
        if in_view_change {
            self.attempts += 1;
        }
    }

    pub(super) fn became_normal(&mut self, clock: &Clock) {
        self.stable_since = clock.now();
    }

    /// In normal operation: after a stable time the next view change is quick again.
    pub(crate) fn settle(&mut self, clock: &Clock) {
        let stable = STABLE_ELECTION_TIMEOUTS * clock.election_ticks();
        if clock.now() >= self.stable_since + stable {
            self.attempts = 0;
        }
    }
}
