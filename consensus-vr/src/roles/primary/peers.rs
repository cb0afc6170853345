//! What a primary knows of the other replicas, and how it sends them the log.

use std::collections::{BTreeMap, VecDeque};

use consensus::{Index, PeerProgress, PeerState, ReplicaId, rule};

use crate::context::Context;
use crate::ids::Checksum;
use crate::message::Message;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peers(BTreeMap<ReplicaId, Peer>);

impl Peers {
    pub(super) fn new(ids: impl IntoIterator<Item = ReplicaId>, now: u64) -> Self {
        let peer = |id| (id, Peer::new(now));
        Self(ids.into_iter().map(peer).collect())
    }

    pub(super) fn get(&self, id: ReplicaId) -> Option<&Peer> {
        self.0.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ReplicaId) -> Option<&mut Peer> {
        self.0.get_mut(&id)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.0.values_mut()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ReplicaId, &mut Peer)> {
        self.0.iter_mut().map(|(id, peer)| (*id, peer))
    }

    /// The peers among the voters.
    pub(super) fn voters<'a>(&'a self, context: &'a Context) -> impl Iterator<Item = &'a Peer> {
        let voters = context.membership().voters().iter();
        voters.filter_map(|id| self.0.get(id))
    }

    /// The peer is in the view, and has not left for a later one.
    pub(super) fn contact(&mut self, id: ReplicaId, now: u64) {
        if let Some(peer) = self.0.get_mut(&id) {
            peer.last_contact = now;
        }
    }

    pub(super) fn progress(&self, context: &Context) -> Vec<PeerProgress> {
        self.0
            .iter()
            .map(|(id, peer)| PeerProgress {
                id: *id,
                matched: peer.matched,
                state: match peer.feed {
                    Feed::Joining => PeerState::Probe,
                    Feed::Streaming(_) => PeerState::Replicate,
                    Feed::Snapshot => PeerState::Snapshot,
                },
                active: peer.is_active(context),
            })
            .collect()
    }
}

/// A `PrepareOk`.
pub(super) struct Acknowledgement {
    pub(super) op: Index,
    pub(super) received: Index,
    pub(super) beat: u64,
    pub(super) checksum: Option<Checksum>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    /// Durable there.
    matched: Index,
    /// The last beat that had been sent when that was last found.
    matched_at: u64,
    /// In its log.
    received: Index,
    feed: Feed,
    /// The last op of each message that is not known to be durable there: a replica with a
    /// slow disk is not sent entries without bound.
    in_flight: VecDeque<Index>,
    last_contact: u64,
    /// The last beat that it answered.
    beat: u64,
    /// A beat, and the last op that was sent before it. The next one is recorded when this
    /// is answered: beats may be closer together than a round trip.
    probe: (u64, Index),
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

impl Peer {
    fn new(now: u64) -> Self {
        Self {
            matched: Index::ZERO,
            matched_at: 0,
            received: Index::ZERO,
            feed: Feed::Joining,
            in_flight: VecDeque::new(),
            last_contact: now,
            beat: 0,
            probe: (0, Index::ZERO),
        }
    }

    /// The last op that is durable there.
    pub(super) fn matched(&self) -> Index {
        self.matched
    }

    /// The last beat that it answered.
    pub(super) fn beat(&self) -> u64 {
        self.beat
    }

    /// Whether it sent anything within an election timeout.
    pub(super) fn is_active(&self, context: &Context) -> bool {
        context.clock.now() - self.last_contact <= context.clock.election_ticks()
    }

    /// Whether it has joined the view and its log continues here.
    pub(super) fn is_streaming(&self) -> bool {
        matches!(self.feed, Feed::Streaming(_))
    }

    /// What was durable there and is not any more, as the answer to a beat that left after
    /// that was acknowledged shows. Only of a peer that knows version 2.
    pub(super) fn forgotten(&self, ack: &Acknowledgement) -> Option<Index> {
        let later = ack.beat > self.matched_at && ack.checksum.is_some();
        (later && ack.op < self.matched).then_some(self.matched)
    }

    /// `sent` is the last beat that was sent.
    pub(super) fn on_prepare_ok(&mut self, ack: &Acknowledgement, sent: u64, now: u64) {
        let Acknowledgement {
            op, received, beat, ..
        } = *ack;
        self.last_contact = now;
        if op > self.matched {
            self.matched = op;
            self.matched_at = sent;
        }
        self.received = received;
        self.beat = self.beat.max(beat);
        while self.in_flight.front().is_some_and(|last| *last <= op) {
            self.in_flight.pop_front();
        }
        match self.feed {
            Feed::Streaming(next) => {
                // Links are ordered: what was sent before the beat and is not there when
                // it is answered was lost.
                let lost = beat >= self.probe.0 && received < self.probe.1;
                if lost && received.next() < next && rule!(PrepareResent) {
                    self.resend_from(received.next());
                }
            }
            // The view is durable there, and its log with it.
            Feed::Joining | Feed::Snapshot => self.resend_from(received.next()),
        }
    }

    /// Continues from there, whatever is in flight.
    pub(super) fn resend_from(&mut self, op: Index) {
        self.feed = Feed::Streaming(op);
        self.in_flight.clear();
        self.probe.1 = self.probe.1.min(op.prev());
    }

    /// Nothing that is in flight arrives.
    pub(super) fn unreachable(&mut self) {
        if self.is_streaming() {
            self.resend_from(self.received.next());
        }
    }

    /// Sends as much of the log as may be in flight. Whether it needs a snapshot instead.
    pub(super) fn stream(&mut self, id: ReplicaId, context: &mut Context) -> bool {
        let Feed::Streaming(mut next) = self.feed else {
            return false;
        };
        let commit = context.commit();
        let in_flight_max = context.limits().inflight_messages_max;
        let bytes_max = context.limits().message_bytes_max;
        while next <= context.log().last() && self.in_flight.len() < in_flight_max {
            let entries = context.log().slice(next, bytes_max);
            let Some(end) = entries.last().map(|entry| entry.index) else {
                break;
            };
            self.in_flight.push_back(end);
            next = end.next();
            context.send(id, Message::Prepare { commit, entries });
        }
        let compacted = next < context.log().first();
        self.feed = if compacted {
            Feed::Snapshot
        } else {
            Feed::Streaming(next)
        };
        compacted
    }

    /// This beat leaves after what was sent.
    pub(super) fn on_beat(&mut self, beat: u64) {
        if let Feed::Streaming(next) = self.feed
            && self.beat >= self.probe.0
        {
            self.probe = (beat, next.prev());
        }
    }
}
