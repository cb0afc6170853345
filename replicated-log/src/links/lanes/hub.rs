//! The lanes of a node to all peers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use consensus::ReplicaId;

use super::LaneSource;
use super::gate::Gate;
use super::link::LaneLink;
use super::rate::RateLimit;
use crate::links::channel::Channel;
use crate::links::target::Target;

/// The lanes of this node to all peers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Lanes(Arc<Hub>);

#[derive(Default)]
struct Hub {
    source: OnceLock<Arc<dyn LaneSource>>,
    links: ArcSwap<BTreeMap<(ReplicaId, Channel), Arc<LaneLink>>>,
    /// Of what is received.
    gates: Mutex<BTreeMap<(ReplicaId, Channel), Arc<Gate>>>,
    accepted: AtomicU64,
    catch_up_rate: Arc<RateLimit>,
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").finish_non_exhaustive()
    }
}

impl Lanes {
    /// The source has frames for a peer. They are written in this thread as far as the socket
    /// has room, and this thread calls [`LaneSource::next`] for that: do not hold a lock that
    /// `next` takes. Never waits. Without effect for a replica that is not a peer.
    pub fn wake(&self, lane: Channel, peer: ReplicaId) {
        if let Some(link) = self.0.links.load().get(&(peer, lane)) {
            link.wake();
        }
    }

    /// Limits what this node sends on [`Channel::CopiesCatchUp`] to all peers together, from
    /// now on; zero, as at the start, is no limit.
    pub fn set_catch_up_rate(&self, bytes_per_second: u64) {
        self.0.catch_up_rate.set(bytes_per_second);
    }

    /// Sets where the frames are taken from. The first call counts.
    pub(in crate::links) fn set_source(&self, source: Arc<dyn LaneSource>) {
        let _ = self.0.source.set(source);
    }

    /// Opens the lanes to a peer, in place of any former ones.
    pub(in crate::links) fn open(&self, target: &Target) {
        let Some(source) = self.0.source.get() else {
            return;
        };
        self.change(|links| {
            for lane in Channel::LANES {
                let rate = (lane == Channel::CopiesCatchUp).then(|| &self.0.catch_up_rate);
                let link = LaneLink::start(
                    target.clone(),
                    lane,
                    Arc::clone(source),
                    rate.map(Arc::clone),
                );
                links.insert((target.replica, lane), Arc::new(link));
            }
        });
    }

    /// Closes the lanes to a peer.
    pub(in crate::links) fn close(&self, peer: ReplicaId) {
        self.change(|links| links.retain(|(to, _), _| *to != peer));
    }

    #[cfg(test)]
    pub(super) fn is_closed_to(&self, peer: ReplicaId) -> bool {
        self.0.links.load().keys().all(|(to, _)| *to != peer)
    }

    /// Callers have a lock of the pool.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<(ReplicaId, Channel), Arc<LaneLink>>)) {
        let mut links = BTreeMap::clone(&self.0.links.load());
        change(&mut links);
        self.0.links.store(Arc::new(links));
    }

    /// A peer has connected a lane, so it has lanes.
    pub(in crate::links) fn connected_by(&self, peer: ReplicaId) {
        let links = self.0.links.load();
        for (_, link) in links.iter().filter(|((to, _), _)| *to == peer) {
            link.retry();
        }
    }

    /// The number of a connection that was just accepted.
    pub(in crate::links) fn number(&self) -> u64 {
        self.0.accepted.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What lets only the newest connection of a peer pass.
    pub(in crate::links) fn gate(&self, peer: ReplicaId, lane: Channel) -> Arc<Gate> {
        let mut gates = self.0.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry((peer, lane)).or_default())
    }
}
