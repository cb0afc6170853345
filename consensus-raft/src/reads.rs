//! Linearizable reads by ReadIndex (Raft 6.4), many per round.
//!
//! raft-rs drops a read silently when there is no leader, before the first commit
//! of a term, and when a message is lost. Here every read is pending until it is
//! confirmed or its deadline passes. The context of a round is the core's seed and
//! a counter, so that a response to an earlier incarnation of this replica never
//! confirms a round of this one.
//!
//! The leader replaces the context of a peer's request by one of its own, and
//! restores it in the response. raft-rs confirms all requests up to the one whose
//! context a quorum acknowledges: with the peer's context, a request that arrives
//! twice, and an acknowledgement of its first copy, would confirm the requests
//! between the two copies.

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::rule;
use consensus::{ReadToken, Tick};

/// Seed and counter, little-endian.
pub(crate) const CONTEXT_BYTES: usize = 16;
/// Requests of peers that may be pending at the leader; further ones are dropped,
/// and time out at the peer.
const PEER_REQUESTS_MAX: usize = 4096;

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
    /// The contexts of peers' requests, by the round in which they are confirmed here.
    peer_requests: BTreeMap<u64, Bytes>,
    count: usize,
}

impl Reads {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            next_round: 0,
            waiting: Vec::new(),
            rounds: BTreeMap::new(),
            peer_requests: BTreeMap::new(),
            count: 0,
        }
    }

    /// Reads that are pending, in a round or before one.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn push(&mut self, token: ReadToken, deadline: Tick) {
        self.waiting.push(Pending { token, deadline });
        self.count += 1;
    }

    /// Starts a round with all reads that are in none, and returns its context.
    pub(crate) fn start_round(&mut self) -> Option<Vec<u8>> {
        if self.waiting.is_empty() {
            return None;
        }
        let (round, context) = self.new_context();
        self.rounds.insert(round, std::mem::take(&mut self.waiting));
        Some(context)
    }

    /// A round and its context, which is used once.
    fn new_context(&mut self) -> (u64, Vec<u8>) {
        let round = self.next_round;
        self.next_round += 1;
        let mut context = Vec::with_capacity(CONTEXT_BYTES);
        context.extend_from_slice(&self.seed.to_le_bytes());
        context.extend_from_slice(&round.to_le_bytes());
        (round, context)
    }

    /// The context of a peer's request at this leader; `None` when too many are
    /// pending.
    pub(crate) fn accept_request(&mut self, context: Bytes) -> Option<Bytes> {
        if self.peer_requests.len() >= PEER_REQUESTS_MAX {
            return None;
        }
        let (round, own) = self.new_context();
        self.peer_requests.insert(round, context);
        Some(own.into())
    }

    /// The peer's own context of a request that is confirmed.
    pub(crate) fn finish_request(&mut self, context: &[u8]) -> Option<Bytes> {
        let round = self.round(context)?;
        self.peer_requests.remove(&round)
    }

    fn round(&self, context: &[u8]) -> Option<u64> {
        let (seed, round) = context.split_first_chunk::<8>()?;
        let round = <[u8; 8]>::try_from(round).ok()?;
        if u64::from_le_bytes(*seed) != self.seed && rule!(ReadOfThisIncarnation) {
            return None;
        }
        Some(u64::from_le_bytes(round))
    }

    /// Removes the reads of a confirmed round.
    pub(crate) fn confirm(&mut self, context: &[u8]) -> Vec<ReadToken> {
        let Some(round) = self.round(context) else {
            return Vec::new();
        };
        let confirmed = self.rounds.remove(&round).unwrap_or_default();
        self.count -= confirmed.len();
        confirmed.into_iter().map(|read| read.token).collect()
    }

    /// The leader changed: rounds in flight are void, and their reads need another.
    pub(crate) fn restart(&mut self) {
        for (_, mut reads) in std::mem::take(&mut self.rounds) {
            self.waiting.append(&mut reads);
        }
    }

    /// This replica leads no more: its peers repeat their requests at the next leader.
    pub(crate) fn drop_requests(&mut self) {
        self.peer_requests.clear();
    }

    /// Removes the reads whose deadline has passed.
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
    fn a_response_to_an_earlier_incarnation_confirms_nothing() {
        let mut before = Reads::new(1);
        before.push(ReadToken(1), Tick(9));
        let stale = before.start_round().unwrap();
        let mut after = Reads::new(2);
        after.push(ReadToken(1), Tick(9));
        let own = after.start_round().unwrap();
        assert_eq!(after.confirm(&stale), []);
        assert_eq!(after.confirm(&own), [ReadToken(1)]);
        assert_eq!(after.len(), 0);
    }

    #[test]
    fn a_request_that_arrives_twice_has_two_contexts() {
        let mut reads = Reads::new(1);
        let request = Bytes::from_static(b"of a peer");
        let first = reads.accept_request(request.clone()).unwrap();
        let own = {
            reads.push(ReadToken(1), Tick(9));
            reads.start_round().unwrap()
        };
        let second = reads.accept_request(request.clone()).unwrap();
        assert_ne!(
            first, second,
            "an old response would confirm what is between"
        );
        assert_eq!(reads.finish_request(&first), Some(request.clone()));
        assert_eq!(reads.finish_request(&first), None);
        assert_eq!(reads.finish_request(&own), None);
        assert_eq!(reads.finish_request(&second), Some(request));
    }

    #[test]
    fn reads_of_a_void_round_join_another_and_expire_at_their_own_deadline() {
        let mut reads = Reads::new(1);
        reads.push(ReadToken(1), Tick(5));
        let void = reads.start_round().unwrap();
        reads.push(ReadToken(2), Tick(9));
        reads.restart();
        assert_eq!(reads.confirm(&void), []);
        assert_eq!(reads.expire(Tick(5)), [ReadToken(1)]);
        let context = reads.start_round().unwrap();
        assert_eq!(reads.confirm(&context), [ReadToken(2)]);
        assert!(reads.start_round().is_none());
    }
}
