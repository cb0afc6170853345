//! The links of one node to all others.
//!
//! The pool follows the watched list of peers: it opens the links to a peer that is added,
//! closes those to a peer that is removed, and replaces those to a peer whose address has
//! changed. Nothing else keeps a list of peers: the engine receives its links from here, a
//! [`RequestLinks`] has its links set from here, and the listener reads the list itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use consensus::{Membership, ReplicaId};
use tokio::sync::watch;

use super::activity::PeerActivity;
use super::channel::Channel;
use super::counters::LinkCounters;
use super::fence::{Fence, Outdated};
use super::frame::FrameMemory;
use super::lanes::{LaneSource, Lanes};
use super::listener::{PeerListener, Services};
use super::one_way::OneWayLink;
use super::requests::RequestLinks;
use super::rpc::RpcLink;
use super::target::{Identity, LinkLimits, Target};
use crate::admission::Registration;
use crate::memory::MemoryBudget;
use crate::peers::Peers;

/// The one-way links to a peer.
pub(crate) struct OneWayLinks {
    pub(crate) consensus: OneWayLink,
    pub(crate) bulk: OneWayLink,
}

/// Sends on the one-way links, which the pool opens and closes.
pub(crate) trait OneWaySender: Send + Sync {
    /// The links to a peer were opened, in place of any former ones.
    fn opened(&self, peer: ReplicaId, links: OneWayLinks);

    /// The links to a peer are to be dropped.
    fn closed(&self, peer: ReplicaId);

    /// A connection to a peer broke, or cannot be established.
    fn unreachable(&self, peer: ReplicaId);
}

/// The links of this node to all others. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Pool>);

struct Pool {
    identity: Arc<Identity>,
    limits: LinkLimits,
    counters: Arc<LinkCounters>,
    activity: Arc<PeerActivity>,
    fence: Arc<Fence>,
    memory: FrameMemory,
    peers: watch::Receiver<Peers>,
    lanes: Lanes,
    open: Mutex<Open>,
}

/// The links that are open.
#[derive(Default)]
struct Open {
    /// The peers that have links, this node not among them.
    peers: Peers,
    one_way: Option<Arc<dyn OneWaySender>>,
    requests: Vec<(Channel, RequestLinks)>,
}

impl Links {
    /// A pool for a node that presents this identity. No link is open yet.
    pub(crate) fn new(
        identity: Identity,
        peers: watch::Receiver<Peers>,
        memory: MemoryBudget,
    ) -> Self {
        let pool = Pool {
            identity: Arc::new(identity),
            limits: LinkLimits::default(),
            counters: Arc::default(),
            activity: Arc::default(),
            fence: Arc::default(),
            memory: FrameMemory::new(memory),
            peers,
            lanes: Lanes::default(),
            open: Mutex::default(),
        };
        pool.update();
        Self(Arc::new(pool))
    }

    /// Links for requests of the program around the log to all peers. `channel` is
    /// [`Channel::Control`] or [`Channel::Data`]; the peers serve them with their
    /// [`RpcHandler`](super::RpcHandler).
    #[must_use]
    pub fn requests(&self, channel: Channel) -> RequestLinks {
        let links = RequestLinks::default();
        let mut open = self.0.open();
        for peer in open.peers.replicas() {
            if let Some(target) = self.0.target(&open.peers, peer) {
                links.set(peer, Some(RpcLink::start(target, channel)));
            }
        }
        open.requests.push((channel, links.clone()));
        links
    }

    /// The lanes to all peers. They are without effect before the node was given a
    /// [`LaneSource`].
    #[must_use]
    pub fn lanes(&self) -> Lanes {
        self.0.lanes.clone()
    }

    /// Opens the lanes, which take their frames from `source`.
    pub(crate) fn connect_lanes(&self, source: Arc<dyn LaneSource>) {
        let open = self.0.open();
        self.0.lanes.set_source(source);
        for peer in open.peers.replicas() {
            if let Some(target) = self.0.target(&open.peers, peer) {
                self.0.lanes.open(&target);
            }
        }
    }

    /// How long a peer has sent no message of the protocol, counted from `since` at the
    /// earliest. Zero for a replica that is not a peer.
    #[must_use]
    pub fn silence(&self, peer: ReplicaId, since: Instant) -> Duration {
        match self.0.peers.borrow().contains(peer) {
            true => self.0.activity.silence(peer, since),
            false => Duration::ZERO,
        }
    }

    /// The list of replicas that the links follow, this one included.
    #[must_use]
    pub fn peers(&self) -> watch::Receiver<Peers> {
        self.0.peers.clone()
    }

    /// Counts of all these links.
    #[must_use]
    pub fn counters(&self) -> &Arc<LinkCounters> {
        &self.0.counters
    }

    /// The identity of this node.
    #[cfg(test)]
    pub(crate) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Refuses peers with a lower incarnation or another storage than this returns. The first
    /// call counts.
    pub(crate) fn fence(
        &self,
        registered: impl Fn(ReplicaId) -> Option<Registration> + Send + Sync + 'static,
    ) {
        self.0.fence.set(Box::new(registered));
    }

    /// Waits until a peer refuses this node because its disk is out of date.
    pub(crate) async fn outdated(&self) -> Outdated {
        self.0.fence.outdated().await
    }

    /// Opens the links on which `sender` sends.
    pub(crate) fn connect(&self, sender: Arc<dyn OneWaySender>) {
        let mut open = self.0.open();
        for peer in open.peers.replicas() {
            if let Some(target) = self.0.target(&open.peers, peer) {
                open_one_way(&sender, &target);
            }
        }
        open.one_way = Some(sender);
    }

    /// Opens and closes links until the list of peers changes no more.
    pub(crate) async fn follow_peers(self) {
        let mut peers = self.0.peers.clone();
        // A change before this subscription must not be missed.
        peers.mark_changed();
        while peers.changed().await.is_ok() {
            self.0.update();
        }
    }

    /// The other replicas that vote, to be dialled.
    pub(crate) fn voters(&self, membership: &Membership) -> Vec<Target> {
        let open = self.0.open();
        let voters = open.peers.replicas().filter(|id| membership.is_voter(*id));
        voters
            .filter_map(|voter| self.0.target(&open.peers, voter))
            .collect()
    }

    /// Accepts the links of the other nodes. Without services, this node has an empty disk:
    /// it replies so, and accepts nothing else.
    pub(crate) fn listener(&self, services: Option<Services>) -> PeerListener {
        PeerListener {
            identity: Arc::clone(&self.0.identity),
            peers: self.0.peers.clone(),
            services,
            limits: self.0.limits,
            counters: Arc::clone(&self.0.counters),
            activity: Arc::clone(&self.0.activity),
            fence: Arc::clone(&self.0.fence),
            memory: self.0.memory.clone(),
            lanes: self.0.lanes.clone(),
        }
    }
}

impl Pool {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn target(&self, peers: &Peers, peer: ReplicaId) -> Option<Target> {
        Some(Target {
            replica: peer,
            address: peers.address(peer)?.to_owned(),
            identity: Arc::clone(&self.identity),
            limits: self.limits,
            counters: Arc::clone(&self.counters),
            fence: Arc::clone(&self.fence),
            memory: self.memory.clone(),
        })
    }

    /// Opens and closes links until they match the current list of peers.
    fn update(&self) {
        let mut open = self.open();
        let mut current = self.peers.borrow().clone();
        current.remove(self.identity.replica);
        for peer in open.peers.replicas().filter(|id| !current.contains(*id)) {
            open.close_links(peer);
            self.lanes.close(peer);
        }
        for peer in current.replicas() {
            if open.peers.address(peer) != current.address(peer)
                && let Some(target) = self.target(&current, peer)
            {
                open.open_links(&target);
                self.lanes.open(&target);
            }
        }
        open.peers = current;
    }
}

impl Open {
    fn open_links(&self, target: &Target) {
        if let Some(sender) = &self.one_way {
            open_one_way(sender, target);
        }
        for (channel, links) in &self.requests {
            let link = RpcLink::start(target.clone(), *channel);
            links.set(target.replica, Some(link));
        }
    }

    fn close_links(&self, peer: ReplicaId) {
        if let Some(sender) = &self.one_way {
            sender.closed(peer);
        }
        for (_, links) in &self.requests {
            links.set(peer, None);
        }
    }
}

fn open_one_way(sender: &Arc<dyn OneWaySender>, target: &Target) {
    let start = |channel| {
        let sender = Arc::clone(sender);
        let broken = move |peer| sender.unreachable(peer);
        OneWayLink::start(target.clone(), channel, broken)
    };
    let links = OneWayLinks {
        consensus: start(Channel::Consensus),
        bulk: start(Channel::Bulk),
    };
    sender.opened(target.replica, links);
}

#[cfg(test)]
mod tests;
