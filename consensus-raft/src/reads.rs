//! Linearizable reads by read-index (Raft 6.4), many behind one round.
//!
//! raft-rs drops a read without a word when there is no leader, before the first
//! commit of a term, and when a message is lost. Here every read is kept until
//! it is confirmed or its deadline passes. A round is named by the core's seed
//! and a counter, so that an answer to an earlier incarnation of this replica
//! can never be taken for an answer to this one.
//!
//! What a peer asks is put under a name of the leader's own, and back under the
//! peer's when it is answered. raft-rs answers every read that was asked before the
//! one whose name a quorum repeats: a question that arrives twice, and an answer to
//! it that was given long ago, would confirm what was asked in between.

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::rule;
use consensus::{ReadToken, Tick};

/// Seed and counter, little-endian.
pub(crate) const CONTEXT_BYTES: usize = 16;
/// Questions of peers that may be open at the leader; further ones are dropped,
/// and time out where they were asked.
const PEERS_ROUNDS_MAX: usize = 4096;

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
    /// Questions of peers, by the round that stands for them here.
    of_peers: BTreeMap<u64, Bytes>,
    count: usize,
}

impl Reads {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            next_round: 0,
            waiting: Vec::new(),
            rounds: BTreeMap::new(),
            of_peers: BTreeMap::new(),
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
        let (round, context) = self.name();
        self.rounds.insert(round, std::mem::take(&mut self.waiting));
        Some(context)
    }

    /// A name that was never used before.
    fn name(&mut self) -> (u64, Vec<u8>) {
        let round = self.next_round;
        self.next_round += 1;
        let mut context = Vec::with_capacity(CONTEXT_BYTES);
        context.extend_from_slice(&self.seed.to_le_bytes());
        context.extend_from_slice(&round.to_le_bytes());
        (round, context)
    }

    /// The name under which a peer's question is asked here; `None` when too many
    /// are open.
    pub(crate) fn take_question(&mut self, context: Bytes) -> Option<Bytes> {
        if self.of_peers.len() >= PEERS_ROUNDS_MAX {
            return None;
        }
        let (round, name) = self.name();
        self.of_peers.insert(round, context);
        Some(name.into())
    }

    /// The peer's own name for a question that is answered.
    pub(crate) fn give_answer(&mut self, name: &[u8]) -> Option<Bytes> {
        let round = self.round(name)?;
        self.of_peers.remove(&round)
    }

    fn round(&self, name: &[u8]) -> Option<u64> {
        let (seed, round) = name.split_first_chunk::<8>()?;
        let round = <[u8; 8]>::try_from(round).ok()?;
        let mine = u64::from_le_bytes(*seed) == self.seed || !rule!(ReadOfThisIncarnation);
        mine.then_some(u64::from_le_bytes(round))
    }

    /// The reads that a confirmed context answers.
    pub(crate) fn confirm(&mut self, context: &[u8]) -> Vec<ReadToken> {
        let Some(round) = self.round(context) else {
            return Vec::new();
        };
        let answered = self.rounds.remove(&round).unwrap_or_default();
        self.count -= answered.len();
        answered.into_iter().map(|read| read.token).collect()
    }

    /// The leader changed: rounds under way are void, their reads wait again.
    pub(crate) fn restart(&mut self) {
        for (_, mut reads) in std::mem::take(&mut self.rounds) {
            self.waiting.append(&mut reads);
        }
    }

    /// This replica leads no more: its peers ask somebody else.
    pub(crate) fn forget_questions(&mut self) {
        self.of_peers.clear();
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
    fn a_question_that_arrives_twice_is_two_questions() {
        let mut reads = Reads::new(1);
        let question = Bytes::from_static(b"of a peer");
        let first = reads.take_question(question.clone()).unwrap();
        let own = {
            reads.push(ReadToken(1), Tick(9));
            reads.begin_round().unwrap()
        };
        let second = reads.take_question(question.clone()).unwrap();
        assert_ne!(first, second, "an old answer would confirm what is between");
        assert_eq!(reads.give_answer(&first), Some(question.clone()));
        assert_eq!(reads.give_answer(&first), None);
        assert_eq!(reads.give_answer(&own), None);
        assert_eq!(reads.give_answer(&second), Some(question));
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
