//! The reads of this replica that wait for a primary to confirm them.
//!
//! All reads that wait share one round. A round is named by the core's seed and a
//! counter, so that the reply to an earlier incarnation confirms nothing. Every read
//! gets an answer: confirmed, or rejected at its deadline.

use std::collections::BTreeMap;

use consensus::{ReadError, ReadToken, rule};

use super::clock::Clock;

/// A read is rejected after this many election timeouts.
const TIMEOUT_ELECTIONS: u64 = 4;
/// A round that is not confirmed after this many heartbeat intervals is repeated.
const RESEND_HEARTBEATS: u64 = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reads {
    nonce: u64,
    next_round: u64,
    /// Of no round yet.
    queued: Vec<Read>,
    rounds: BTreeMap<u64, Vec<Read>>,
    last_round_at: u64,
    count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Read {
    token: ReadToken,
    deadline: u64,
}

impl Reads {
    pub(super) fn new(nonce: u64) -> Self {
        Self {
            nonce,
            next_round: 0,
            queued: Vec::new(),
            rounds: BTreeMap::new(),
            last_round_at: 0,
            count: 0,
        }
    }

    /// Names the rounds of this incarnation.
    pub(super) fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Whether a round of this number was ever started.
    pub(super) fn has_started(&self, round: u64) -> bool {
        round < self.next_round
    }

    pub(super) fn add(
        &mut self,
        token: ReadToken,
        clock: &Clock,
        count_max: usize,
    ) -> Result<(), ReadError> {
        if self.count >= count_max {
            return Err(ReadError::Overloaded);
        }
        let deadline = clock.now() + TIMEOUT_ELECTIONS * clock.election_ticks();
        self.queued.push(Read { token, deadline });
        self.count += 1;
        Ok(())
    }

    /// Every read needs a new round.
    pub(super) fn restart(&mut self) {
        for (_, mut reads) in std::mem::take(&mut self.rounds) {
            self.queued.append(&mut reads);
        }
    }

    /// E6: the request or its reply may be lost.
    pub(super) fn restart_overdue(&mut self, clock: &Clock) {
        if clock.now() >= self.last_round_at + RESEND_HEARTBEATS * clock.heartbeat_ticks() {
            self.restart();
        }
    }

    /// A round for all queued reads, when there are any.
    pub(super) fn start_round(&mut self, clock: &Clock) -> Option<u64> {
        if self.queued.is_empty() {
            return None;
        }
        let round = self.next_round;
        self.next_round += 1;
        self.last_round_at = clock.now();
        self.rounds.insert(round, std::mem::take(&mut self.queued));
        Some(round)
    }

    /// The reads of the round, and of earlier ones, which it confirms too.
    pub(super) fn confirm(&mut self, round: u64) -> Vec<ReadToken> {
        let later = self.rounds.split_off(&(round + 1));
        let confirmed = std::mem::replace(&mut self.rounds, later);
        let tokens: Vec<_> = confirmed
            .into_values()
            .flatten()
            .map(|read| read.token)
            .collect();
        if rule!(ConfirmedReadsReleased) {
            self.count -= tokens.len();
        }
        tokens
    }

    /// Removes the reads whose deadline has come.
    pub(super) fn expire(&mut self, clock: &Clock) -> Vec<ReadToken> {
        let mut expired = Vec::new();
        if self.count == 0 {
            return expired;
        }
        let mut keep = |reads: &mut Vec<Read>| {
            reads.retain(|read| {
                let open = clock.now() < read.deadline;
                if !open {
                    expired.push(read.token);
                }
                open
            });
        };
        keep(&mut self.queued);
        self.rounds.values_mut().for_each(&mut keep);
        self.rounds.retain(|_, reads| !reads.is_empty());
        self.count -= expired.len();
        expired
    }
}
