//! Linearizable reads that a quorum confirms, without clocks.
//!
//! A round of reads is confirmed when a quorum has answered a beat that left after it
//! arrived, and an op of this view is committed. A backup asks the primary.

use std::collections::VecDeque;

use consensus::{ReplicaId, rule};

use super::peers::Peers;
use crate::context::Context;
use crate::message::Message;

/// Rounds of one peer that wait at the primary; the peer asks again.
const ROUNDS_PER_PEER_MAX: usize = 64;

/// The rounds that wait at the primary, in the order in which they arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ReadRounds(VecDeque<ReadRound>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ReadRound {
    origin: Origin,
    round: u64,
    /// The beat that a quorum has to answer.
    beat: u64,
}

/// The replica whose reads they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    Primary,
    Peer { id: ReplicaId, nonce: u64 },
}

impl ReadRounds {
    /// Adds a round that arrived after this many beats were sent. Whether there was room.
    pub(super) fn add(&mut self, origin: Origin, round: u64, beats: u64) -> bool {
        // A peer cannot take more room by naming other nonces.
        if let Origin::Peer { id: peer, .. } = origin {
            let of_peer =
                |it: &&ReadRound| matches!(it.origin, Origin::Peer { id, .. } if id == peer);
            if self.0.iter().filter(of_peer).count() >= ROUNDS_PER_PEER_MAX {
                return false;
            }
        }
        let beat = beats + u64::from(rule!(ReadByLaterHeartbeat));
        self.0.push_back(ReadRound {
            origin,
            round,
            beat,
        });
        true
    }

    /// Answers the rounds whose beat a quorum has answered.
    pub(super) fn confirm(&mut self, context: &mut Context, peers: &Peers) {
        while let Some(first) = self.0.front().copied()
            && is_confirmed(first, context, peers)
        {
            self.0.pop_front();
            let (round, commit) = (first.round, context.commit());
            match first.origin {
                Origin::Primary => context.reads_confirmed(round, commit),
                Origin::Peer { id, nonce } => {
                    let reply = Message::ReadReply {
                        nonce,
                        round,
                        commit,
                    };
                    context.send(id, reply);
                }
            }
        }
    }
}

fn is_confirmed(round: ReadRound, context: &Context, peers: &Peers) -> bool {
    let answered = peers
        .voters(context)
        .filter(|peer| peer.beat() >= round.beat);
    answered.count() + 1 >= context.membership().quorum() || !rule!(ReadByQuorum)
}
