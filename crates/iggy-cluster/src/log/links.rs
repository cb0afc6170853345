//! The links of one node to the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use consensus::ReplicaId;

use super::engine::PeerLinks;
use super::inbox::Inbox;
use crate::config::{ClusterConfig, NodeSection};
use crate::peers::{
    Identity, Lane, LinkCounters, LinkLimits, OneWayLink, PeerListener, RpcLink, Services, Target,
};

/// Where the other nodes are, and who this one is to them.
pub(crate) struct Links {
    targets: BTreeMap<ReplicaId, Target>,
    identity: Arc<Identity>,
    limits: LinkLimits,
    pub(crate) counters: Arc<LinkCounters>,
}

impl Links {
    pub(crate) fn new(config: &ClusterConfig, section: &NodeSection, incarnation: u64) -> Self {
        let identity = Arc::new(Identity {
            cluster: config.cluster.name.clone(),
            replica: section.replica(),
            incarnation,
        });
        let limits = LinkLimits::default();
        let counters = Arc::<LinkCounters>::default();
        let others = config
            .cluster
            .nodes
            .iter()
            .filter(|node| node.replica() != section.replica());
        let targets = others
            .map(|node| {
                let target = Target {
                    replica: node.replica(),
                    address: node.replica_address(),
                    identity: Arc::clone(&identity),
                    limits,
                    counters: Arc::clone(&counters),
                };
                (node.replica(), target)
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
    pub(crate) fn others(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.targets.keys().copied()
    }

    /// Those of them that vote.
    pub(crate) fn voters(&self, config: &ClusterConfig) -> Vec<Target> {
        let voters = config.voters();
        let targets = self.targets.values();
        targets
            .filter(|target| voters.contains(&target.replica))
            .cloned()
            .collect()
    }

    /// Starts the links that carry the replica's messages.
    pub(super) fn one_way(&self, inbox: &Inbox) -> PeerLinks {
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
    pub(crate) fn rpc(&self, lane: Lane) -> BTreeMap<ReplicaId, RpcLink> {
        let links = self.targets.iter();
        links
            .map(|(id, target)| (*id, RpcLink::start(target.clone(), lane)))
            .collect()
    }

    /// What accepts the others' links. Without services, the node has not begun.
    pub(crate) fn listener(&self, services: Option<Services>) -> PeerListener {
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
