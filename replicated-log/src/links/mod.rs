//! Links between the nodes of a cluster.
//!
//! Each node dials every other node once per [`Lane`], so that consensus
//! messages never queue behind message data. A lane carries either one-way
//! messages, which may be lost, or requests with answers. A connection begins
//! with a handshake that names the cluster, the sender and the receiver; a node
//! of another cluster is refused there.
//!
//! Bounds: every queue is bounded in messages and bytes; a full one-way queue
//! drops (the protocols above repeat), a full request queue refuses. A broken
//! connection is dialled again with a growing pause.

mod dial;
mod frame;
mod handshake;
mod listener;
mod one_way;
mod outgoing;
mod pool;
mod rpc;
mod socket;
mod standing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use consensus::ReplicaId;

pub use handshake::HandshakeError;
pub use listener::{PeerListener, Services};
pub use one_way::OneWayLink;
pub use pool::Links;
pub use rpc::{RpcError, RpcHandler, RpcLink, RpcReply};
pub use standing::{Standing, Witness, ask};

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// Messages of the consensus protocol, one way.
    Consensus = 1,
    /// Snapshot pieces, one way.
    Bulk = 2,
    /// Metadata commands, with answers.
    Control = 3,
    /// Messages of partitions, with answers.
    Data = 4,
    /// One question of a node whose disk is empty: see [`Standing`].
    Standing = 5,
}

impl Lane {
    fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Consensus),
            2 => Some(Self::Bulk),
            3 => Some(Self::Control),
            4 => Some(Self::Data),
            5 => Some(Self::Standing),
            _ => None,
        }
    }
}

/// Who this node is to its peers.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster's name; a peer of another is refused.
    pub cluster: String,
    /// This node.
    pub replica: ReplicaId,
    /// Rises with every start of the node.
    pub incarnation: u64,
}

/// Bounds of the links.
#[derive(Clone, Copy, Debug)]
pub struct LinkLimits {
    /// A longer frame closes the connection.
    pub frame_bytes_max: usize,
    /// Messages that wait in one link.
    pub queue_messages_max: usize,
    /// Bytes that wait in one link.
    pub queue_bytes_max: usize,
    /// Requests of one peer that are worked on at once; more wait unread.
    pub requests_max: usize,
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

/// Counts of all links of a node.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// One-way messages handed to a connection.
    pub sent: AtomicU64,
    /// Their bytes.
    pub sent_bytes: AtomicU64,
    /// Messages dropped at a full queue or a broken connection.
    pub dropped: AtomicU64,
    /// Frames or handshakes that were refused.
    pub refused: AtomicU64,
    /// Connections made.
    pub connected: AtomicU64,
}

impl LinkCounters {
    fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// Where a peer is and how to present oneself.
#[derive(Clone, Debug)]
pub struct Target {
    /// The peer.
    pub replica: ReplicaId,
    /// Its `host:port` for replica traffic.
    pub address: String,
    /// This node.
    pub identity: Arc<Identity>,
    /// Bounds.
    pub limits: LinkLimits,
    /// Where to count.
    pub counters: Arc<LinkCounters>,
}
