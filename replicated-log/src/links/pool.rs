//! The links of one node to the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use consensus::{Membership, ReplicaId};

use super::{
    Identity, Lane, LinkCounters, LinkLimits, OneWayLink, PeerListener, RpcLink, Services, Target,
};
use crate::config::LogConfig;
use crate::engine::PeerLinks;
use crate::inbox::Inbox;

/// Where the other nodes are, and who this one is to them.
pub struct Links {
    targets: BTreeMap<ReplicaId, Target>,
    identity: Arc<Identity>,
    limits: LinkLimits,
    /// What all of them count.
    pub counters: Arc<LinkCounters>,
}

impl Links {
    /// Of a replica whose data directory has been started this many times.
    #[must_use]
    pub fn new(config: &LogConfig, incarnation: u64) -> Self {
        let identity = Arc::new(Identity {
            cluster: config.cluster.clone(),
            replica: config.me,
            incarnation,
        });
        let limits = LinkLimits::default();
        let counters = Arc::<LinkCounters>::default();
        let others = config.peers.iter().filter(|peer| peer.replica != config.me);
        let targets = others
            .map(|peer| {
                let target = Target {
                    replica: peer.replica,
                    address: peer.address.clone(),
                    identity: Arc::clone(&identity),
                    limits,
                    counters: Arc::clone(&counters),
                };
                (peer.replica, target)
            })
            .collect();
        Self {
            targets,
            identity,
            limits,
            counters,
        }
    }

    /// The other nodes.
    pub fn others(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.targets.keys().copied()
    }

    /// Those of them that vote.
    #[must_use]
    pub fn voters(&self, membership: &Membership) -> Vec<Target> {
        let targets = self.targets.values();
        targets
            .filter(|target| membership.is_voter(target.replica))
            .cloned()
            .collect()
    }

    /// Starts the links that carry the replica's messages.
    pub(crate) fn one_way(&self, inbox: &Inbox) -> PeerLinks {
        let start = |lane: Lane| {
            let links = self.targets.iter().map(|(id, target)| {
                let inbox = inbox.clone();
                let broken = move |peer| inbox.unreachable(peer);
                (*id, OneWayLink::start(target.clone(), lane, broken).into())
            });
            links.collect()
        };
        PeerLinks {
            consensus: start(Lane::Consensus),
            bulk: start(Lane::Bulk),
        }
    }

    /// Starts links for requests to all others.
    #[must_use]
    pub fn rpc(&self, lane: Lane) -> BTreeMap<ReplicaId, RpcLink> {
        let links = self.targets.iter();
        links
            .map(|(id, target)| (*id, RpcLink::start(target.clone(), lane)))
            .collect()
    }

    /// What accepts the others' links. Without services, the node has not begun.
    #[must_use]
    pub fn listener(&self, services: Option<Services>) -> PeerListener {
        PeerListener {
            heard: Mutex::default(),
            identity: Arc::clone(&self.identity),
            members: self.targets.keys().copied().collect(),
            services,
            limits: self.limits,
            counters: Arc::clone(&self.counters),
        }
    }
}
