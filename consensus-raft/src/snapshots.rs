//! Snapshots travel beside the protocol: the offer is a Raft message, the bytes
//! are pulled by the receiver. Raft sees the offer only when they are durable.
//!
//! At the leader, an offer without a response expires: otherwise raft-rs would
//! never replicate to that peer again.

use std::collections::BTreeMap;

use consensus::{ReplicaId, SnapshotMeta, Tick};
use raft::eraftpb::Message;

/// What a follower does with an offer.
pub(crate) enum Offer {
    /// Fetch it.
    Fetch,
    /// Step the message: the bytes are here.
    Step(SnapshotMeta),
    /// A fetch is in flight.
    Wait,
}

#[derive(Default)]
pub(crate) struct Snapshots {
    fetching: Option<SnapshotMeta>,
    fetched: Option<SnapshotMeta>,
    /// The newest offer, kept until the bytes are here.
    offer: Option<Message>,
    /// Offers made, and when each expires.
    offered: BTreeMap<u64, Tick>,
}

impl Snapshots {
    /// An offer arrived that is ahead of this replica.
    pub(crate) fn receive(&mut self, offer: &Message, meta: &SnapshotMeta) -> Offer {
        if let Some(fetched) = &self.fetched
            && fetched.index >= meta.index
        {
            return Offer::Step(fetched.clone());
        }
        self.offer = Some(offer.clone());
        if self.fetching.is_some() {
            return Offer::Wait;
        }
        self.fetching = Some(meta.clone());
        Offer::Fetch
    }

    /// The bytes are durable; the offer may be stepped now if its sender still
    /// leads in `term`. Otherwise the next offer will find them here.
    pub(crate) fn fetched(&mut self, meta: SnapshotMeta, term: u64) -> Option<Message> {
        self.fetching = None;
        self.fetched = Some(meta);
        self.offer.take().filter(|offer| offer.term == term)
    }

    pub(crate) fn fetch_failed(&mut self) {
        self.fetching = None;
        self.offer = None;
    }

    /// The log has reached `index` by other means.
    pub(crate) fn forget_through(&mut self, index: u64) {
        if self.fetched.as_ref().is_some_and(|m| m.index.0 <= index) {
            self.fetched = None;
        }
    }

    pub(crate) fn offered(&mut self, to: u64, deadline: Tick) {
        self.offered.insert(to, deadline);
    }

    /// Removes the offers that have expired, and returns their peers.
    pub(crate) fn expired(&mut self, now: Tick) -> Vec<ReplicaId> {
        if self.offered.is_empty() {
            return Vec::new();
        }
        let due: Vec<_> = self
            .offered
            .iter()
            .filter(|(_, deadline)| now >= **deadline)
            .map(|(id, _)| ReplicaId(*id))
            .collect();
        for id in &due {
            self.offered.remove(&id.0);
        }
        due
    }
}
