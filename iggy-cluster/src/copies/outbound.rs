//! What the copies of this node have to send, by the receiving node.
//!
//! Copies with records for a peer stand in a queue and are served in turn, one append each,
//! so that none holds up the others.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};

use consensus::ReplicaId;
use replicated_log::links::{Channel, LaneFrame, Lanes};

use super::copy::Copy;
use super::lock;

/// Control messages that wait for one peer. Further ones are dropped: the protocol repeats
/// what is not answered.
const CONTROL_MAX: usize = 1 << 16;

#[derive(Default)]
pub(super) struct Outbound {
    lanes: OnceLock<Lanes>,
    peers: Mutex<HashMap<ReplicaId, Peer>>,
}

#[derive(Default)]
struct Peer {
    control: VecDeque<LaneFrame>,
    /// Appends that were read from the disk.
    appends: VecDeque<LaneFrame>,
    /// Copies with something to append.
    ready: VecDeque<Arc<Copy>>,
}

/// Lanes to be woken once no lock is held.
#[derive(Default)]
pub(super) struct Wake(Vec<(Channel, ReplicaId)>);

impl Wake {
    pub(super) fn control(&mut self, to: ReplicaId) {
        self.add(Channel::CopiesControl, to);
    }

    pub(super) fn appends(&mut self, to: ReplicaId) {
        self.add(Channel::CopiesAppend, to);
    }

    fn add(&mut self, lane: Channel, to: ReplicaId) {
        if !self.0.contains(&(lane, to)) {
            self.0.push((lane, to));
        }
    }
}

impl Outbound {
    pub(super) fn connect(&self, lanes: Lanes) {
        // Nothing else sets it.
        let _ = self.lanes.set(lanes);
    }

    pub(super) fn queue_control(&self, to: ReplicaId, frame: LaneFrame) {
        let mut peers = lock(&self.peers);
        let queue = &mut peers.entry(to).or_default().control;
        if queue.len() < CONTROL_MAX {
            queue.push_back(frame);
        }
    }

    pub(super) fn queue_append(&self, to: ReplicaId, frame: LaneFrame) {
        let mut peers = lock(&self.peers);
        peers.entry(to).or_default().appends.push_back(frame);
    }

    pub(super) fn queue_ready(&self, to: ReplicaId, copy: Arc<Copy>) {
        let mut peers = lock(&self.peers);
        peers.entry(to).or_default().ready.push_back(copy);
    }

    /// Not under the lock of a copy: the lane asks copies for frames.
    pub(super) fn wake(&self, wake: Wake) {
        if let Some(lanes) = self.lanes.get() {
            for (lane, to) in wake.0 {
                lanes.wake(lane, to);
            }
        }
    }

    /// The next frame for a peer.
    pub(super) fn next(&self, lane: Channel, to: ReplicaId) -> Option<LaneFrame> {
        match lane {
            Channel::CopiesControl => lock(&self.peers).get_mut(&to)?.control.pop_front(),
            Channel::CopiesAppend => self.next_append(to),
            _ => None,
        }
    }

    fn next_append(&self, to: ReplicaId) -> Option<LaneFrame> {
        loop {
            let copy = {
                let mut peers = lock(&self.peers);
                let peer = peers.get_mut(&to)?;
                if let Some(frame) = peer.appends.pop_front() {
                    return Some(frame);
                }
                peer.ready.pop_front()?
            };
            if let Some(frame) = copy.next_append(to) {
                self.queue_ready(to, copy);
                return Some(frame);
            }
        }
    }

    /// What was queued for a connection that is replaced is out of date.
    pub(super) fn connected(&self, lane: Channel, to: ReplicaId) {
        if lane == Channel::CopiesAppend
            && let Some(peer) = lock(&self.peers).get_mut(&to)
        {
            peer.appends.clear();
        }
    }
}
