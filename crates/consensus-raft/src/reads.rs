//! Linearizable reads by read-index (Raft 6.4), many behind one round.
//!
//! raft-rs drops a read without a word when there is no leader, before the first
//! commit of a term, and when a message is lost. Here every read is kept until
//! it is confirmed or its deadline passes. A round is named by the core's seed
//! and a counter, so that an answer to an earlier incarnation of this replica
//! can never be taken for an answer to this one.

use std::collections::BTreeMap;

use consensus::{ReadToken, Tick};

/// Seed and counter, little-endian.
pub(crate) const CONTEXT_BYTES: usize = 16;

#[derive(Debug)]
struct Pending {
    token: ReadToken,
    deadline: Tick,
}

#[derive(Debug)]
pub(crate) struct Reads {
    seed: u64,
    next_round: u64,
    waiting: Vec<Pending>,
    rounds: BTreeMap<u64, Vec<Pending>>,
    count: usize,
}

impl Reads {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            next_round: 0,
            waiting: Vec::new(),
            rounds: BTreeMap::new(),
            count: 0,
        }
    }

    /// Reads that wait, in rounds or for one.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn push(&mut self, token: ReadToken, deadline: Tick) {
        self.waiting.push(Pending { token, deadline });
        self.count += 1;
    }

    /// Puts all that wait into one round and returns its context.
    pub(crate) fn begin_round(&mut self) -> Option<Vec<u8>> {
        if self.waiting.is_empty() {
            return None;
        }
        let round = self.next_round;
        self.next_round += 1;
        self.rounds.insert(round, std::mem::take(&mut self.waiting));
        let mut context = Vec::with_capacity(CONTEXT_BYTES);
        context.extend_from_slice(&self.seed.to_le_bytes());
        context.extend_from_slice(&round.to_le_bytes());
        Some(context)
    }

    /// The reads that a confirmed context answers.
    pub(crate) fn confirm(&mut self, context: &[u8]) -> Vec<ReadToken> {
        let Some((seed, round)) = context.split_first_chunk::<8>() else {
            return Vec::new();
        };
        let Ok(round) = <[u8; 8]>::try_from(round) else {
            return Vec::new();
        };
        if u64::from_le_bytes(*seed) != self.seed {
            return Vec::new();
        }
        let answered = self
            .rounds
            .remove(&u64::from_le_bytes(round))
            .unwrap_or_default();
        self.count -= answered.len();
        answered.into_iter().map(|read| read.token).collect()
    }

    /// The leader changed: rounds under way are void, their reads wait again.
    pub(crate) fn restart(&mut self) {
        for (_, mut reads) in std::mem::take(&mut self.rounds) {
            self.waiting.append(&mut reads);
        }
    }

    /// Takes out the reads whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Tick) -> Vec<ReadToken> {
        if self.count == 0 {
            return Vec::new();
        }
        let mut expired = Vec::new();
        let mut keep = |reads: &mut Vec<Pending>| {
            reads.retain(|read| {
                let live = now < read.deadline;
                if !live {
                    expired.push(read.token);
                }
                live
            });
        };
        keep(&mut self.waiting);
        self.rounds.values_mut().for_each(keep);
        self.rounds.retain(|_, reads| !reads.is_empty());
        self.count -= expired.len();
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_an_earlier_incarnation_confirms_nothing() {
        let mut before = Reads::new(1);
        before.push(ReadToken(1), Tick(9));
        let stale = before.begin_round().unwrap();
        let mut after = Reads::new(2);
        after.push(ReadToken(1), Tick(9));
        let own = after.begin_round().unwrap();
        assert_eq!(after.confirm(&stale), []);
        assert_eq!(after.confirm(&own), [ReadToken(1)]);
        assert_eq!(after.len(), 0);
    }

    #[test]
    fn reads_of_a_void_round_are_asked_again_and_expire_at_their_own_deadline() {
        let mut reads = Reads::new(1);
        reads.push(ReadToken(1), Tick(5));
        let void = reads.begin_round().unwrap();
        reads.push(ReadToken(2), Tick(9));
        reads.restart();
        assert_eq!(reads.confirm(&void), []);
        assert_eq!(reads.expire(Tick(5)), [ReadToken(1)]);
        let context = reads.begin_round().unwrap();
        assert_eq!(reads.confirm(&context), [ReadToken(2)]);
        assert!(reads.begin_round().is_none());
    }
}
