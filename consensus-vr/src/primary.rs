//! Normal operation at the primary (VRR 4.1).
//!
//! Prepares leave at once and are made durable here in parallel; the primary
//! counts itself only when its own write is durable. A peer is sent prepares when
//! it has joined the view, which its first `PrepareOk` says; until then it asks for
//! what it lacks, because beats tell it that the view has begun. What was lost on
//! the way is seen by the answer to a later beat, and sent again (E6).
//!
//! A primary that hears from no quorum for an election timeout cedes: it answers
//! what is open as unknown, falls silent, and asks for the next view. The paper
//! lets it go on; here nobody may claim to lead whom a quorum may have left.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use consensus::rule;
use consensus::{
    EntryKind, Index, PeerProgress, PeerState, ProposalId, ProposeError, RefusalReason, ReplicaId,
    StepError,
};

use crate::backup::Backup;
use crate::core::{Phase, VrCore};
use crate::ids::View;
use crate::log::LINK_BYTES;
use crate::message::{HEADERS_MAX, Message};
use crate::reads::Confirmations;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Primary {
    peers: BTreeMap<ReplicaId, Peer>,
    /// The no-op with which the view began. Once it is committed, so is all that
    /// the view inherited.
    pub(crate) first_op: Index,
    uncommitted_bytes: usize,
    /// Beats sent.
    pub(crate) beat: u64,
    beat_at: u64,
    pub(crate) beat_due: bool,
    pub(crate) confirmations: Confirmations,
    handover: Option<Handover>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Peer {
    /// Durable there.
    matched: Index,
    /// In its log.
    received: Index,
    feed: Feed,
    /// The last op of each message that is not known to be durable there: a disk
    /// that does not keep up is not fed without bound.
    in_flight: VecDeque<Index>,
    heard: u64,
    /// The last beat that it answered.
    beat: u64,
    /// A beat, and the last op that had been sent before it. The next one is taken
    /// when this is answered: beats may be closer together than a round trip.
    probe: (u64, Index),
}

impl Peer {
    /// Goes on from there, whatever is under way.
    fn resend_from(&mut self, op: Index) {
        self.feed = Feed::Streaming(op);
        self.in_flight.clear();
        self.probe.1 = self.probe.1.min(op.prev());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Feed {
    /// It has not joined the view.
    Joining,
    /// The next op to be sent.
    Streaming(Index),
    /// It needs a snapshot. The answer to the next beat tells whether it still does.
    Snapshot,
}

/// Leadership goes to the primary of that view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Handover {
    view: View,
    to: ReplicaId,
    deadline: u64,
    begun: bool,
}

impl Primary {
    pub(crate) fn new(
        others: impl IntoIterator<Item = ReplicaId>,
        clock: u64,
        first_op: Index,
        uncommitted_bytes: usize,
    ) -> Self {
        let peer = Peer {
            matched: Index::ZERO,
            received: Index::ZERO,
            feed: Feed::Joining,
            in_flight: VecDeque::new(),
            heard: clock,
            beat: 0,
            probe: (0, Index::ZERO),
        };
        Self {
            peers: others.into_iter().map(|id| (id, peer.clone())).collect(),
            first_op,
            uncommitted_bytes,
            beat: 0,
            beat_at: clock,
            beat_due: true,
            confirmations: Confirmations::default(),
            handover: None,
        }
    }

    /// Whether it has asked for another's view and fallen silent.
    pub(crate) fn has_ceded(&self) -> bool {
        self.handover.is_some_and(|handover| handover.begun)
    }

    pub(crate) fn next_beat(&self) -> u64 {
        self.beat_at
    }

    /// How many of these peers have answered a beat, or a later one.
    pub(crate) fn answered(&self, voters: &[ReplicaId], beat: u64) -> usize {
        let peers = voters.iter().filter_map(|id| self.peers.get(id));
        peers.filter(|peer| peer.beat >= beat).count()
    }

    pub(crate) fn progress(&self, clock: u64, election_ticks: u64) -> Vec<PeerProgress> {
        self.peers
            .iter()
            .map(|(id, peer)| PeerProgress {
                id: *id,
                matched: peer.matched,
                state: match peer.feed {
                    Feed::Joining => PeerState::Probe,
                    Feed::Streaming(_) => PeerState::Replicate,
                    Feed::Snapshot => PeerState::Snapshot,
                },
                active: clock - peer.heard <= election_ticks,
            })
            .collect()
    }
}

impl VrCore {
    pub(crate) fn try_propose(
        &mut self,
        proposal: ProposalId,
        payload: &Bytes,
    ) -> Result<(), ProposeError> {
        let bytes = payload.len();
        let max = self.limits.entry_bytes_max;
        if bytes > max {
            return Err(ProposeError::TooLarge { bytes, max });
        }
        let (leader, leads) = (self.leader_hint(), self.leads());
        let Phase::Primary(primary) = &mut self.phase else {
            return Err(ProposeError::NotLeader { leader });
        };
        if !leads {
            return Err(ProposeError::NotLeader { leader });
        }
        let full = primary.uncommitted_bytes > 0
            && primary.uncommitted_bytes + bytes > self.limits.uncommitted_bytes_max;
        let many = (self.log.last().0 - self.commit.0) as usize >= HEADERS_MAX - 1;
        if full || many || primary.handover.is_some() {
            return Err(ProposeError::Overloaded);
        }
        primary.uncommitted_bytes += bytes;
        let op = self.log.prepare(self.view, EntryKind::Command, payload);
        self.durability.wrote(op);
        self.proposals.insert(op, proposal);
        Ok(())
    }

    pub(crate) fn on_prepare_ok(
        &mut self,
        from: ReplicaId,
        view: View,
        op: Index,
        received: Index,
        beat: u64,
    ) -> Result<(), RefusalReason> {
        let last = self.log.last();
        let clock = self.clock;
        let current = view == self.view;
        let Phase::Primary(primary) = &mut self.phase else {
            return Ok(());
        };
        if !current && rule!(EarlierAckIgnored) {
            return Ok(());
        }
        if received > last || beat > primary.beat {
            return Err(RefusalReason::Impossible(format!(
                "op {received} and beat {beat} are acknowledged, the last are {last} and {}",
                primary.beat
            )));
        }
        let Some(peer) = primary.peers.get_mut(&from) else {
            return Ok(());
        };
        peer.heard = clock;
        peer.matched = peer.matched.max(op);
        peer.received = received;
        peer.beat = peer.beat.max(beat);
        while peer.in_flight.front().is_some_and(|last| *last <= op) {
            peer.in_flight.pop_front();
        }
        match peer.feed {
            Feed::Streaming(next) => {
                // Links are ordered: what was sent before the beat and is not
                // there when it is answered was lost.
                let lost = beat >= peer.probe.0 && received < peer.probe.1;
                if lost && received.next() < next && rule!(PrepareResent) {
                    peer.resend_from(received.next());
                }
            }
            // The view is durable there, and its log with it.
            Feed::Joining | Feed::Snapshot => peer.resend_from(received.next()),
        }
        self.count_acknowledgements();
        self.confirm_reads();
        Ok(())
    }

    /// Commits what is durable at a quorum. Ops of earlier views count like those
    /// of this one: whoever acknowledges has adopted the log of this view.
    pub(crate) fn count_acknowledgements(&mut self) {
        let own = match rule!(OwnAckOnlyDurable) {
            true => self.durability.durable(),
            false => self.log.last(),
        };
        let joined = self.durability.is_durable(self.joined);
        let Phase::Primary(primary) = &mut self.phase else {
            return;
        };
        if !joined {
            return;
        }
        let voters = self.membership.voters();
        let mut durable: Vec<Index> = voters
            .iter()
            .map(|id| match primary.peers.get(id) {
                Some(peer) => peer.matched,
                None => own,
            })
            .collect();
        durable.sort_unstable_by(|a, b| b.cmp(a));
        let short = usize::from(!rule!(CommitByQuorum));
        let commit = durable[self.membership.quorum() - 1 - short];
        if commit <= self.commit {
            return;
        }
        for op in self.commit.0 + 1..=commit.0 {
            let held = self.log.get(Index(op));
            let bytes = held.map_or(0, |entry| entry.payload.len() - LINK_BYTES);
            primary.uncommitted_bytes = primary.uncommitted_bytes.saturating_sub(bytes);
        }
        self.commit = commit;
        self.confirm_reads();
    }

    pub(crate) fn primary_time(&mut self) {
        let Phase::Primary(primary) = &mut self.phase else {
            return;
        };
        let clock = self.clock;
        if let Some(handover) = primary.handover
            && clock >= handover.deadline
        {
            primary.handover = None;
            self.suspicion.my_vote = None;
        }
        let voters = self.membership.voters().iter();
        let heard = voters
            .filter_map(|id| primary.peers.get(id))
            .filter(|peer| clock - peer.heard <= self.election_ticks)
            .count();
        if heard + 1 < self.membership.quorum() && rule!(PrimaryCedesWithoutQuorum) {
            self.cede();
            return;
        }
        if primary.has_ceded() {
            self.repeat_vote();
            return;
        }
        if clock >= primary.beat_at {
            primary.beat_due = true;
        }
        self.settle_down();
    }

    /// Gives up leading this view, for good.
    fn cede(&mut self) {
        self.abandon_proposals();
        self.phase = Phase::Backup(Backup::ceded());
        self.reads.restart();
        self.view_change_time();
    }

    /// Begins the view at a peer whose log is known to agree up to `agreed`.
    pub(crate) fn send_start_view(&mut self, to: ReplicaId, agreed: Index) {
        let entries = self.log.slice(agreed.next(), self.limits.message_bytes_max);
        let message = Message::StartView {
            commit: self.commit,
            head: self.log.head(),
            entries,
        };
        self.send_durable(to, message);
    }

    /// Who asks for the log of the view is in it, and has not left for a later one.
    pub(crate) fn hear_joining(&mut self, from: ReplicaId) {
        if let Phase::Primary(primary) = &mut self.phase
            && let Some(peer) = primary.peers.get_mut(&from)
        {
            peer.heard = self.clock;
        }
    }

    pub(crate) fn on_request_start_view(&mut self, from: ReplicaId, view: View, op: Index) {
        if view == self.view && matches!(self.phase, Phase::Primary(_)) {
            self.hear_joining(from);
            self.send_start_view(from, op.min(self.log.last()));
        }
    }

    /// Somebody in this view lacks a part of its log.
    pub(crate) fn on_request_prepares(&mut self, from: ReplicaId, view: View, op: Index) {
        if view != self.view || op > self.log.last() {
            return;
        }
        self.hear_joining(from);
        if let Phase::Primary(primary) = &mut self.phase
            && let Some(peer) = primary.peers.get_mut(&from)
            && matches!(peer.feed, Feed::Streaming(_))
        {
            peer.resend_from(op);
            return;
        }
        if op < self.log.first() {
            self.offer_snapshot(from);
            return;
        }
        let entries = self.log.slice(op, self.limits.message_bytes_max);
        self.send_durable(from, Message::Prepares { entries });
    }

    pub(crate) fn peer_unreachable(&mut self, id: ReplicaId) {
        if let Phase::Primary(primary) = &mut self.phase
            && let Some(peer) = primary.peers.get_mut(&id)
            && let Feed::Streaming(_) = peer.feed
        {
            peer.resend_from(peer.received.next());
        }
    }

    /// Sends what is new, and beats.
    pub(crate) fn replicate(&mut self) {
        let last = self.log.last();
        let Phase::Primary(primary) = &mut self.phase else {
            return;
        };
        if primary.has_ceded() {
            return;
        }
        let mut prepares = Vec::new();
        let mut offers = Vec::new();
        for (id, peer) in &mut primary.peers {
            let Feed::Streaming(mut next) = peer.feed else {
                continue;
            };
            while next <= last && peer.in_flight.len() < self.limits.inflight_messages_max {
                let entries = self.log.slice(next, self.limits.message_bytes_max);
                let Some(end) = entries.last().map(|entry| entry.index) else {
                    break;
                };
                peer.in_flight.push_back(end);
                next = end.next();
                prepares.push((*id, entries));
            }
            peer.feed = Feed::Streaming(next);
            if next < self.log.first() {
                peer.feed = Feed::Snapshot;
                offers.push(*id);
            }
        }
        let beats = primary.beat_due;
        if beats {
            primary.beat_due = false;
            primary.beat += 1;
            primary.beat_at = self.clock + self.heartbeat_ticks;
            for peer in primary.peers.values_mut() {
                if let Feed::Streaming(next) = peer.feed
                    && peer.beat >= peer.probe.0
                {
                    peer.probe = (primary.beat, next.prev());
                }
            }
        }
        let (commit, beat) = (self.commit, primary.beat);
        for (id, entries) in prepares {
            self.send(id, Message::Prepare { commit, entries });
        }
        if beats {
            for id in self.others() {
                self.send_durable_view(id, Message::Commit { commit, beat });
            }
        }
        for id in offers {
            self.offer_snapshot(id);
        }
    }

    /// Queues a message that says that the replica has joined the view: not before
    /// that is durable.
    pub(crate) fn send_durable_view(&mut self, to: ReplicaId, message: Message) {
        let after = !self.durability.is_durable(self.joined);
        self.queue(to, self.view, message, after);
    }

    /// Leadership goes to a named replica: to the next view of which it is the
    /// primary.
    pub(crate) fn transfer_leadership(&mut self, to: ReplicaId) -> Result<(), StepError> {
        let refuse = |what: String| Err(StepError::Request(what));
        if !self.membership.is_voter(to) {
            return refuse(format!("replica {to} is not a voter"));
        }
        let mut view = self.view.next();
        while self.primary_of(view) != to {
            view = view.next();
        }
        let deadline = self.clock + self.election_ticks;
        let Phase::Primary(primary) = &mut self.phase else {
            return refuse("only the leader can hand leadership over".into());
        };
        if primary.handover.is_some() {
            return refuse("a handover is under way".into());
        }
        if to != self.id {
            primary.handover = Some(Handover {
                view,
                to,
                deadline,
                begun: false,
            });
        }
        Ok(())
    }

    /// The view is asked for when everything proposed is committed, here and known
    /// to be held by the successor.
    pub(crate) fn go_on_with_handover(&mut self) {
        let Phase::Primary(primary) = &mut self.phase else {
            return;
        };
        let Some(handover) = &mut primary.handover else {
            return;
        };
        let successor = primary.peers.get(&handover.to);
        let ready = self.commit == self.log.last()
            && successor.is_some_and(|peer| peer.matched == self.log.last());
        if ready && !handover.begun {
            handover.begun = true;
            let view = handover.view;
            self.vote(view);
        }
    }
}
