//! What a leader knows of a follower.

use std::time::Duration;

use consensus::Index;

use super::chain::Position;

/// How long an append may stay without an answer before the follower reports again where
/// it is.
const ANSWER_PATIENCE: Duration = Duration::from_millis(200);
/// How often a follower that needs nothing gets an empty append.
const BEAT: Duration = Duration::from_millis(100);
/// Records that are sent to a follower without its acknowledgement, at most.
const IN_FLIGHT_MAX: u64 = 256;

pub(super) struct Progress {
    /// Whose numbers these are.
    pub(super) registration: Option<u64>,
    /// The record after which the next append starts.
    pub(super) predecessor: Position,
    /// Whether `predecessor` is a guess: then one append at a time is sent.
    probing: bool,
    outstanding: bool,
    sent_at: Duration,
    sent_commit: Index,
    pub(super) matched: Index,
    pub(super) written: Index,
    pub(super) synced: Index,
    pub(super) trusted: bool,
    /// When it last answered.
    pub(super) answered_at: Option<Duration>,
    /// It has everything that the leader had then.
    pub(super) caught_up: Duration,
    /// Since when it has been caught up without a break.
    pub(super) steady_since: Option<Duration>,
}

impl Progress {
    pub(super) fn new(guess: Position, now: Duration) -> Self {
        Self {
            registration: None,
            predecessor: guess,
            probing: true,
            outstanding: false,
            sent_at: Duration::ZERO,
            sent_commit: Index(0),
            matched: Index(0),
            written: Index(0),
            synced: Index(0),
            trusted: false,
            answered_at: None,
            caught_up: now,
            steady_since: None,
        }
    }

    /// How many records may be sent now; `None` when nothing is to be sent, `Some(0)` for
    /// an append that conveys only the commit index and the end.
    pub(super) fn may_send(
        &self,
        now: Duration,
        end: Index,
        commit: Index,
        append_max: u64,
    ) -> Option<u64> {
        let waited = now.saturating_sub(self.sent_at);
        if self.probing {
            let may = !self.outstanding || waited >= ANSWER_PATIENCE;
            return may.then_some(append_max.min(end.0 - self.predecessor.index.0.min(end.0)));
        }
        let in_flight = self.predecessor.index.0.saturating_sub(self.matched.0);
        let left = end.0.saturating_sub(self.predecessor.index.0);
        let records = left
            .min(append_max)
            .min(IN_FLIGHT_MAX.saturating_sub(in_flight));
        let idle = left == 0 && in_flight == 0;
        let news = self.sent_commit < commit && idle || waited >= BEAT;
        (records > 0 || news).then_some(records)
    }

    pub(super) fn sent(&mut self, now: Duration, through: Position, commit: Index) {
        self.sent_at = now;
        self.outstanding = true;
        self.sent_commit = commit;
        if !self.probing {
            self.predecessor = through;
        }
    }

    /// The follower has what precedes; from here on appends follow each other.
    pub(super) fn matched(&mut self, at: Position) {
        self.outstanding = false;
        if self.probing || at.index > self.predecessor.index {
            self.probing = false;
            self.predecessor = at;
        }
    }

    /// Asks again where the follower is, from this guess.
    pub(super) fn probe(&mut self, guess: Position) {
        self.probing = true;
        self.outstanding = false;
        self.predecessor = guess;
    }

    /// Whether what was sent has stayed without an answer for too long.
    pub(super) fn is_stuck(&self, now: Duration) -> bool {
        !self.probing
            && self.predecessor.index > self.matched
            && now.saturating_sub(self.sent_at) >= ANSWER_PATIENCE
            && self
                .answered_at
                .is_none_or(|answered_at| now.saturating_sub(answered_at) >= ANSWER_PATIENCE)
    }
}
