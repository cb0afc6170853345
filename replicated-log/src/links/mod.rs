//! Links between the nodes of a cluster.
//!
//! Each node dials every other node once per [`Channel`], so that consensus messages never
//! wait for large transfers. A channel carries either one-way messages, which may be lost,
//! or requests with replies. A connection starts with a handshake that names the cluster,
//! the sender and the receiver; a node of another cluster, with another list of replicas,
//! or with an incarnation that is out of date, is refused.
//!
//! Bounds: every queue is bounded in messages and bytes. A full queue of one-way messages
//! drops (the protocols repeat them), a full queue of requests refuses. A broken connection
//! is dialled again with a growing pause.
//!
//! Copies of partitions replicate over three further channels, the [lanes](Lanes): streams of
//! frames that are taken from their source when the peer has granted credit for them.
//!
//! One pool ([`Links`]) opens and closes links when the list of peers changes.

mod activity;
mod channel;
mod counters;
mod dial;
mod disk_history;
mod fence;
mod frame;
mod handshake;
mod lanes;
mod listener;
mod one_way;
mod outgoing;
mod pool;
mod requests;
mod rpc;
mod socket;
mod target;

pub use channel::Channel;
pub use counters::LinkCounters;
pub use lanes::{Credit, LANE_FRAME_BYTES_MAX, LaneFrame, LaneSink, LaneSource, Lanes};
pub use listener::descriptors_max;
pub use pool::Links;
pub use requests::RequestLinks;
pub use rpc::{RpcError, RpcHandler, RpcReply};

pub(crate) use disk_history::{AdmissionService, DiskHistory, request as request_disk_history};
pub(crate) use fence::Outdated;
pub(crate) use handshake::HandshakeError;
pub(crate) use lanes::{LaneCounts, LaneLabels};
pub(crate) use listener::Services;
pub(crate) use one_way::OneWayLink;
pub(crate) use pool::{OneWayLinks, OneWaySender};
pub(crate) use target::{Identity, Target};
