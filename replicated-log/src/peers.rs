//! The replicas of a cluster, and their addresses.

use std::collections::BTreeMap;

use consensus::ReplicaId;

/// The address of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The replica.
    pub replica: ReplicaId,
    /// The `host:port` that the other replicas dial.
    pub address: String,
}

/// Every replica of a cluster with the address that the others dial.
///
/// A node holds this as one watched value. Its links, its listener and everything above
/// them follow the value, so that none of them keeps a list of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(BTreeMap<ReplicaId, String>);

impl Peers {
    /// Whether the replica belongs to the cluster.
    #[must_use]
    pub fn contains(&self, replica: ReplicaId) -> bool {
        self.0.contains_key(&replica)
    }

    /// The `host:port` of a replica.
    #[must_use]
    pub fn address(&self, replica: ReplicaId) -> Option<&str> {
        self.0.get(&replica).map(String::as_str)
    }

    /// All replicas, in ascending order.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.0.keys().copied()
    }

    /// Adds a replica, or changes its address.
    pub fn insert(&mut self, peer: PeerAddress) {
        self.0.insert(peer.replica, peer.address);
    }

    /// Removes a replica.
    pub fn remove(&mut self, replica: ReplicaId) {
        self.0.remove(&replica);
    }
}

impl FromIterator<PeerAddress> for Peers {
    fn from_iter<I: IntoIterator<Item = PeerAddress>>(peers: I) -> Self {
        let pairs = peers.into_iter().map(|peer| (peer.replica, peer.address));
        Self(pairs.collect())
    }
}
