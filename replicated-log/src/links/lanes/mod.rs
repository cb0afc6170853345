//! Lanes: streams of frames to every peer, over which copies of partitions replicate.
//!
//! There is one TCP stream for each peer, lane and direction. The sender dials it, at the
//! first [`Lanes::wake`], and again whenever it breaks. Nothing is queued here: a lane takes
//! the next frame from its [`LaneSource`] when the socket has room for it and the receiver has
//! granted credit. So what a slow peer lacks stays where it is, and what is sent is as recent
//! as it can be.
//!
//! After the handshake:
//!
//! ```text
//! sender:   piece, piece, ...
//! piece:    head u32 | bytes of the frame that follow this piece u32 | bytes
//! head:     0..24 length of the piece | 24..26 slot | 31 the first piece of a frame
//! receiver: window u64, then any number of: released u64, the total of this connection
//! ```
//!
//! All numbers are little-endian. A frame has up to 65 MiB and travels in pieces of up to
//! 256 KiB. Up to four frames are in progress, each in a slot of its own, and take turns piece
//! by piece: a long frame delays a short one by a piece, not by its length. Frames of the same
//! [stream](LaneFrame::stream) never take turns, so they arrive in order.
//!
//! **Credit.** The receiver never stops reading. Instead it announces a window, and the sender
//! keeps what the receiver has not released within it: the length of each frame and 64 bytes,
//! from its first piece on. A frame that is longer than the window is sent when hardly
//! anything else is unreleased (a sixteenth of the window). The receiver reports releases in
//! totals, as soon as a sixteenth of the window is unreported; an error on a connection cannot
//! lose credit, because the next connection counts anew.
//!
//! **Order of connections.** The receiver numbers connections in the order in which it
//! accepts them. A new connection of a peer replaces the former one on the lane: what was not
//! delivered from that is dropped.
//!
//! **Threads.** [`Lanes::wake`] writes to the socket in the calling thread as far as the
//! socket has room, and leaves the rest to the lane's task. A frame is delivered in the task
//! that reads it.

mod counts;
mod credit;
mod gate;
mod hub;
mod link;
mod rate;
mod receive;
mod sending;
mod wire;

use bytes::Bytes;
use consensus::ReplicaId;

use super::channel::Channel;

pub(super) use counts::LaneCountsMap;
pub(crate) use counts::{LaneCounts, LaneLabels};
pub use credit::Credit;
pub use hub::Lanes;
pub(super) use receive::{Receiving, receive};
pub use wire::FRAME_BYTES_MAX as LANE_FRAME_BYTES_MAX;

/// A frame to be sent.
#[derive(Clone, Debug, Default)]
pub struct LaneFrame {
    /// Frames of the same stream arrive in the order in which they were taken from the source,
    /// those of different streams may overtake each other. For instance the number of a
    /// partition.
    pub stream: u64,
    /// The content, which is sent without joining it; at most [`LANE_FRAME_BYTES_MAX`] bytes.
    pub parts: Vec<Bytes>,
}

/// Where the lanes of this node take their frames from.
pub trait LaneSource: Send + Sync {
    /// The next frame for this peer, or `None` when there is none: then the lane asks again
    /// after the next [`Lanes::wake`]. Called by the lane's task and within `wake`, never
    /// concurrently for the same lane and peer; it must not block.
    ///
    /// A frame that was taken is sent or lost with its connection. One that is longer than
    /// [`LANE_FRAME_BYTES_MAX`] is dropped with an error in the log.
    fn next(&self, lane: Channel, to: ReplicaId) -> Option<LaneFrame>;

    /// A new connection to the peer replaces the former one. What was taken before may be
    /// lost; what is taken from now on is sent on the new connection.
    fn connected(&self, lane: Channel, to: ReplicaId);
}

/// Receives the frames of other nodes.
pub trait LaneSink: Send + Sync {
    /// A frame of a peer. It must not block: the frames after it wait.
    ///
    /// `incarnation` is that of the peer's handshake. `connection` rises with every connection
    /// of the peer on this lane; after a frame of one connection, none of an earlier one is
    /// delivered. Within a connection, frames of the same stream of the sender are delivered
    /// in order. The frame counts against the credit of the peer until `credit` is dropped.
    fn frame(
        &self,
        from: ReplicaId,
        incarnation: u64,
        lane: Channel,
        connection: u64,
        frame: Bytes,
        credit: Credit,
    );
}

#[cfg(test)]
mod tests;
