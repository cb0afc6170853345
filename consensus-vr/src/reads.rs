//! Linearizable reads that a quorum confirms, without clocks.
//!
//! A read at the primary waits until a quorum has answered a beat that left after
//! the read came, and until an op of this view is committed. A backup asks the
//! primary. All reads that wait share one round; a round is named by the core's
//! seed and a counter, so that an answer to an earlier life confirms nothing.
//! Every read is answered: confirmed, or rejected at its deadline.

use std::collections::{BTreeMap, VecDeque};

use consensus::rule;
use consensus::{Effect, Index, ReadError, ReadToken, RefusalReason, ReplicaId};

use crate::core::{Phase, VrCore};
use crate::ids::View;
use crate::message::Message;

/// A read is given up after this many election timeouts.
const READ_ELECTION_TIMEOUTS: u64 = 4;
/// Rounds of one peer that wait at the primary; it will ask again.
const ROUNDS_PER_PEER_MAX: usize = 64;

/// The reads of this replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reads {
    nonce: u64,
    next_round: u64,
    waiting: Vec<Read>,
    asked: BTreeMap<u64, Vec<Read>>,
    asked_at: u64,
    count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Read {
    token: ReadToken,
    deadline: u64,
}

/// Rounds that wait at the primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Confirmations(VecDeque<Confirmation>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Confirmation {
    /// `None` for the primary itself.
    peer: Option<(ReplicaId, u64)>,
    round: u64,
    /// The beat that a quorum has to answer.
    beat: u64,
}

impl Reads {
    pub(crate) fn new(nonce: u64) -> Self {
        Self {
            nonce,
            next_round: 0,
            waiting: Vec::new(),
            asked: BTreeMap::new(),
            asked_at: 0,
            count: 0,
        }
    }

    /// What was asked is asked again.
    pub(crate) fn restart(&mut self) {
        for (_, mut reads) in std::mem::take(&mut self.asked) {
            self.waiting.append(&mut reads);
        }
    }

    fn begin_round(&mut self, clock: u64) -> u64 {
        let round = self.next_round;
        self.next_round += 1;
        self.asked_at = clock;
        self.asked.insert(round, std::mem::take(&mut self.waiting));
        round
    }

    /// A round that was confirmed confirms the earlier ones too.
    fn confirm(&mut self, round: u64) -> Vec<ReadToken> {
        let later = self.asked.split_off(&(round + 1));
        let confirmed = std::mem::replace(&mut self.asked, later);
        let tokens: Vec<_> = confirmed
            .into_values()
            .flatten()
            .map(|read| read.token)
            .collect();
        self.count -= tokens.len();
        tokens
    }

    fn expire(&mut self, clock: u64) -> Vec<ReadToken> {
        let mut expired = Vec::new();
        let mut keep = |reads: &mut Vec<Read>| {
            reads.retain(|read| {
                let live = clock < read.deadline;
                if !live {
                    expired.push(read.token);
                }
                live
            });
        };
        keep(&mut self.waiting);
        self.asked.values_mut().for_each(&mut keep);
        self.asked.retain(|_, reads| !reads.is_empty());
        self.count -= expired.len();
        expired
    }
}

impl VrCore {
    pub(crate) fn read_index(&mut self, token: ReadToken) {
        if self.reads.count >= self.limits.pending_reads_max {
            let error = ReadError::Overloaded;
            self.effects
                .push_back(Effect::ReadRejected { token, error });
            return;
        }
        let deadline = self.clock + READ_ELECTION_TIMEOUTS * self.election_ticks;
        self.reads.waiting.push(Read { token, deadline });
        self.reads.count += 1;
    }

    pub(crate) fn reads_time(&mut self) {
        if self.reads.count == 0 {
            return;
        }
        let expired = self.reads.expire(self.clock).into_iter();
        for token in expired.filter(|_| rule!(ReadTimesOut)) {
            let error = ReadError::Unconfirmed;
            self.effects
                .push_back(Effect::ReadRejected { token, error });
        }
        // E6: the question or its answer was lost.
        let again = self.reads.asked_at + 2 * self.heartbeat_ticks;
        if matches!(self.phase, Phase::Backup(_)) && self.clock >= again {
            self.reads.restart();
        }
    }

    /// Asks for all reads that wait.
    pub(crate) fn begin_reads(&mut self) {
        if self.reads.waiting.is_empty() {
            return;
        }
        let Some(leader) = self.leader_hint() else {
            return;
        };
        let round = self.reads.begin_round(self.clock);
        if leader == self.id {
            self.await_quorum(None, round);
        } else {
            let nonce = self.reads.nonce;
            self.send_durable_view(leader, Message::ReadRequest { nonce, round });
        }
    }

    pub(crate) fn on_read_request(&mut self, from: ReplicaId, view: View, nonce: u64, round: u64) {
        if view == self.view {
            self.await_quorum(Some((from, nonce)), round);
        }
    }

    fn await_quorum(&mut self, peer: Option<(ReplicaId, u64)>, round: u64) {
        let Phase::Primary(primary) = &mut self.phase else {
            return;
        };
        // Whatever nonces it names.
        let id = peer.map(|(id, _)| id);
        let of_peer = primary.confirmations.0.iter();
        let of_peer = of_peer.filter(|waiting| waiting.peer.map(|(id, _)| id) == id);
        if peer.is_some() && of_peer.count() >= ROUNDS_PER_PEER_MAX {
            return;
        }
        primary.beat_due = true;
        primary.confirmations.0.push_back(Confirmation {
            peer,
            round,
            beat: primary.beat + u64::from(rule!(ReadByLaterHeartbeat)),
        });
        self.confirm_reads();
    }

    /// Answers the rounds whose beat a quorum has answered.
    pub(crate) fn confirm_reads(&mut self) {
        if !matches!(&self.phase, Phase::Primary(primary) if !primary.confirmations.0.is_empty()) {
            return;
        }
        let voters = self.membership.voters().to_vec();
        let quorum = self.membership.quorum();
        while let Phase::Primary(primary) = &mut self.phase
            && self.commit >= primary.first_op
            && let Some(first) = primary.confirmations.0.front().copied()
            && (primary.answered(&voters, first.beat) + 1 >= quorum || !rule!(ReadByQuorum))
        {
            primary.confirmations.0.pop_front();
            let commit = self.commit;
            match first.peer {
                None => self.reads_confirmed(first.round, commit),
                Some((peer, nonce)) => {
                    let round = first.round;
                    self.send(
                        peer,
                        Message::ReadReply {
                            nonce,
                            round,
                            commit,
                        },
                    );
                }
            }
        }
    }

    pub(crate) fn on_read_reply(
        &mut self,
        view: View,
        nonce: u64,
        round: u64,
        commit: Index,
    ) -> Result<(), RefusalReason> {
        if nonce != self.reads.nonce {
            return Ok(());
        }
        if round >= self.reads.next_round {
            return Err(RefusalReason::Impossible(format!(
                "an answer to round {round} of reads, which was not asked"
            )));
        }
        if view == self.view && self.log_view == view {
            self.commit_up_to(commit);
        }
        self.reads_confirmed(round, commit);
        Ok(())
    }

    fn reads_confirmed(&mut self, round: u64, index: Index) {
        for token in self.reads.confirm(round) {
            self.effects.push_back(Effect::ReadReady { token, index });
        }
    }
}
