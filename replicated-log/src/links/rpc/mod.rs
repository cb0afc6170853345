//! Requests to one peer and their replies, many concurrently on one connection.
//!
//! On [`Channel::Data`] requests and replies may be long. Nodes that know
//! [`Channel::DataPieces`] carry them in pieces there, so that a long one does not keep the
//! others waiting; with a node of version 0.1, each is a frame. Nothing on these channels
//! waits for memory: a request for which there is none is refused, and a reply has memory
//! that its caller has reserved.

mod arrivals;
mod dialler;
mod serving;
mod turns;
mod wire;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use consensus::ReplicaId;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::channel::Channel;
use super::target::Target;
use crate::memory::ReservedMemory;

pub(super) use serving::{Serving, serve};
pub(super) use wire::Form;

/// Requests and replies of [`Channel::Data`] of up to this size are not counted.
const UNCOUNTED_BYTES_MAX: usize = 64 << 10;

/// What was reserved for a reply is released if it has no more bytes.
const FREE_BYTES_MAX: usize = 1 << 10;

/// A reply in parts, which are written without joining them.
pub type RpcReply = Vec<Bytes>;

/// Serves the requests of peers.
#[async_trait]
pub trait RpcHandler: Send + Sync {
    /// Serves one request of the channel [`Channel::Control`] or [`Channel::Data`].
    /// Requests of one peer are served concurrently.
    async fn handle(&self, from: ReplicaId, channel: Channel, kind: u8, payload: Bytes)
    -> RpcReply;

    /// The reply to a request of [`Channel::Data`] for which there is no memory: it was
    /// dropped, and had no effect.
    fn without_memory(&self) -> RpcReply;
}

/// Why a request has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RpcError {
    /// The request did not leave this node, so it had no effect.
    #[error("the peer cannot be reached; the request was not sent")]
    NotSent,
    /// The request was sent, and the connection broke or time ran out before the reply: it
    /// may have had an effect.
    #[error("no reply of the peer; the request may have had an effect")]
    Unknown,
    /// The request was served, and its reply dropped: it has more bytes than were reserved
    /// for it, and there is no memory for them.
    #[error("no memory for a reply of {0} bytes")]
    NoRoom(usize),
}

type Reply = Result<Bytes, RpcError>;

/// Memory for a reply. The caller drops it when it waits no more, the link takes it when the
/// reply arrives.
#[derive(Clone, Debug)]
struct Room(Arc<Mutex<Option<ReservedMemory>>>);

impl Room {
    fn new(reserved: ReservedMemory) -> Self {
        Self(Arc::new(Mutex::new(Some(reserved))))
    }

    fn take(&self) -> Option<ReservedMemory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What waits for a reply.
struct Caller {
    reply: oneshot::Sender<Reply>,
    room: Option<Room>,
}

struct Request {
    kind: u8,
    parts: Vec<Bytes>,
    caller: Caller,
    /// Until it is written.
    queued: Queued,
}

/// The bytes of a request that waits in a link.
struct Queued {
    bytes: usize,
    of_link: Arc<AtomicUsize>,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.of_link.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A request that waits for its reply.
pub(super) struct Call {
    replied: oneshot::Receiver<Reply>,
    room: Option<Room>,
}

impl Call {
    /// Waits for the reply.
    pub(super) async fn reply(mut self) -> Reply {
        let reply = (&mut self.replied).await;
        let reply = reply.unwrap_or(Err(RpcError::Unknown))?;
        // A long reply has taken it.
        let left = self.room.as_ref().and_then(Room::take);
        Ok(match left {
            Some(mut reserved) if reply.len() > FREE_BYTES_MAX => {
                reserved.shrink(reply.len());
                reserved.attach(reply)
            }
            _ => reply,
        })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(room) = &self.room {
            drop(room.take());
        }
    }
}

/// The requesting end of a channel to one peer. The connection closes when it is dropped.
pub(super) struct RpcLink {
    queue: mpsc::Sender<Request>,
    queued_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl RpcLink {
    /// Starts the link. `channel` is [`Channel::Control`] or [`Channel::Data`].
    pub(super) fn start(target: Target, channel: Channel) -> Self {
        let (queue, requests) = mpsc::channel(target.limits.queue_messages_max);
        let link = Self {
            queue,
            queued_bytes: Arc::default(),
            bytes_max: target.limits.queue_bytes_max,
        };
        dialler::start(target, channel, requests);
        link
    }

    /// Queues a request. Its reply may be as long as what is reserved for it, or longer if
    /// there is memory then.
    pub(super) fn send(
        &self,
        kind: u8,
        parts: Vec<Bytes>,
        reserved: Option<ReservedMemory>,
    ) -> Result<Call, RpcError> {
        let queued = self.enqueue(parts.iter().map(Bytes::len).sum())?;
        let (reply, replied) = oneshot::channel();
        let room = reserved.map(Room::new);
        let call = Call {
            replied,
            room: room.clone(),
        };
        let request = Request {
            kind,
            parts,
            caller: Caller { reply, room },
            queued,
        };
        match self.queue.try_send(request) {
            Ok(()) => Ok(call),
            Err(_) => Err(RpcError::NotSent),
        }
    }

    /// Long requests that wait do not keep out short ones.
    fn enqueue(&self, bytes: usize) -> Result<Queued, RpcError> {
        let bytes = match bytes > UNCOUNTED_BYTES_MAX {
            true => bytes,
            false => 0,
        };
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let queued = Queued {
            bytes,
            of_link: Arc::clone(&self.queued_bytes),
        };
        match bytes > 0 && before + bytes > self.bytes_max {
            true => Err(RpcError::NotSent),
            false => Ok(queued),
        }
    }
}

#[cfg(test)]
mod tests;
