//! The links to all peers on which the engine sends.

use std::collections::BTreeMap;

use consensus::{Parts, ReplicaId};
use replica::driver::Channel;

use crate::links::{OneWayLink, OneWayLinks};

/// The one-way links to every peer.
#[derive(Default)]
pub(crate) struct PeerLinks(BTreeMap<ReplicaId, PeerLink>);

struct PeerLink {
    links: OneWayLinks,
    /// A message was sent on the link in this round.
    consensus_used: bool,
    bulk_used: bool,
}

impl PeerLinks {
    /// Adds the links to a peer, in place of those to its former address.
    pub(crate) fn open(&mut self, peer: ReplicaId, links: OneWayLinks) {
        let link = PeerLink {
            links,
            consensus_used: false,
            bulk_used: false,
        };
        self.0.insert(peer, link);
    }

    /// Closes the links to a peer, after what was sent on them.
    pub(crate) fn close(&mut self, peer: ReplicaId) {
        self.0.remove(&peer);
    }

    /// Sends a message, which [`Self::flush`] writes. Without a link it is lost.
    pub(crate) fn send(&mut self, to: ReplicaId, channel: Channel, message: Parts) {
        let Some(peer) = self.0.get_mut(&to) else {
            return;
        };
        match channel {
            Channel::Consensus => {
                peer.links.consensus.send(message);
                peer.consensus_used = true;
            }
            Channel::Bulk => {
                peer.links.bulk.send(message);
                peer.bulk_used = true;
            }
        }
    }

    /// Writes what was sent in this round.
    pub(crate) fn flush(&mut self) {
        for peer in self.0.values_mut() {
            flush(&peer.links.consensus, &mut peer.consensus_used);
            flush(&peer.links.bulk, &mut peer.bulk_used);
        }
    }
}

fn flush(link: &OneWayLink, used: &mut bool) {
    if std::mem::take(used) {
        link.flush();
    }
}
