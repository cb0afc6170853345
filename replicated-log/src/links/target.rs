//! What a link needs to know to dial a peer.

use std::sync::Arc;

use consensus::{Membership, ReplicaId};

use super::counters::LinkCounters;
use super::fence::Fence;
use super::frame::FrameMemory;

/// The identity that this node presents to its peers.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The name of the cluster; a peer of another one is refused.
    pub(crate) cluster: String,
    /// This node.
    pub(crate) replica: ReplicaId,
    /// Rises with every start of the node.
    pub(crate) incarnation: u64,
    /// Names its disk. Zero while the disk is empty.
    pub(crate) storage_id: u128,
    /// The replicas of its configuration; a peer with others is refused. `None` for a node
    /// that does not compare them.
    pub(crate) membership: Option<Membership>,
}

/// Bounds of the links.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkLimits {
    /// A longer frame closes the connection.
    pub(crate) frame_bytes_max: usize,
    /// Messages that wait in one link.
    pub(crate) queue_messages_max: usize,
    /// Bytes that wait in one link.
    pub(crate) queue_bytes_max: usize,
    /// Requests of one connection that are served concurrently; more wait unread.
    pub(crate) requests_max: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 80 << 20,
            queue_messages_max: 16_384,
            queue_bytes_max: 128 << 20,
            requests_max: 4_096,
        }
    }
}

/// A peer to dial.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The peer.
    pub(crate) replica: ReplicaId,
    /// Its `host:port` for other replicas.
    pub(crate) address: String,
    /// This node.
    pub(crate) identity: Arc<Identity>,
    pub(crate) limits: LinkLimits,
    pub(crate) counters: Arc<LinkCounters>,
    pub(crate) fence: Arc<Fence>,
    /// For replies.
    pub(crate) memory: FrameMemory,
}
