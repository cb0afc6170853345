//! The serving end: receives requests of one peer and sends the replies.

use std::io::ErrorKind;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, warn};

use super::arrivals::{Arrivals, Arrived, Growth, Place};
use super::turns::{Item, Turns};
use super::{Form, RpcHandler, RpcReply, UNCOUNTED_BYTES_MAX};
use crate::links::channel::Channel;
use crate::links::counters::LinkCounters;
use crate::links::frame::{self, FrameMemory};
use crate::links::handshake::Peer;
use crate::links::target::LinkLimits;
use crate::memory::{CountedBuffer, MemoryAccount, MemoryBudget};

/// What serves a peer's connection.
pub(in crate::links) struct Serving<'a> {
    pub(in crate::links) handler: Arc<dyn RpcHandler>,
    pub(in crate::links) limits: LinkLimits,
    pub(in crate::links) memory: &'a FrameMemory,
    pub(in crate::links) counters: &'a LinkCounters,
}

/// Memory for the requests of a connection.
enum RequestMemory {
    /// Long requests for which there is none are refused.
    Divided(MemoryAccount),
    /// Requests of up to so many bytes are not counted, longer ones wait for it.
    Waits(MemoryBudget, usize),
}

impl RequestMemory {
    fn place(&self, length: usize) -> Place {
        let (growth, uncounted) = match self {
            Self::Divided(_) if length <= UNCOUNTED_BYTES_MAX => (Growth::None, length),
            Self::Divided(account) => (Growth::Share(account.share()), UNCOUNTED_BYTES_MAX),
            Self::Waits(budget, uncounted) => (Growth::Waits(budget.clone()), *uncounted),
        };
        Place::Buffer(CountedBuffer::new(length, uncounted), growth)
    }
}

/// Serves one peer's connection until it ends.
pub(in crate::links) async fn serve(
    stream: TcpStream,
    peer: Peer,
    serving: Serving<'_>,
    received: impl Fn(),
) {
    let Serving {
        handler,
        limits,
        memory,
        counters,
    } = serving;
    let (from, channel) = (peer.replica, peer.channel.served());
    let form = match peer.channel {
        Channel::DataPieces => Form::Pieces,
        _ => Form::Frames,
    };
    let budget = memory.of(channel);
    let memory = match channel {
        Channel::Data => RequestMemory::Divided(budget.account()),
        _ => RequestMemory::Waits(budget.clone(), frame::UNCOUNTED_BYTES_MAX),
    };
    let (reader, writer) = stream.into_split();
    let requests_max = limits.requests_max;
    let mut arrivals = Arrivals::new(reader, form, limits.frame_bytes_max, requests_max);
    let permits = Arc::new(Semaphore::new(requests_max));
    let (replies, queued) = mpsc::channel(requests_max);
    let writing = tokio::spawn(write_replies(writer, form, queued));
    loop {
        let (id, arrived) = match arrivals.next(|_, length| memory.place(length)).await {
            Ok(Some(arrived)) => arrived,
            Ok(None) => break,
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                if let Some(suppressed) = counters.refuse(Some(from), "request", "frame") {
                    warn!(peer = %from, ?channel, %error, suppressed, "refused a request of a peer, and closed the connection");
                }
                break;
            }
            Err(error) => {
                debug!(peer = %from, %error, "the connection of a peer broke");
                break;
            }
        };
        received();
        let Arrived::Bytes(mut request) = arrived else {
            if replies.send((id, handler.without_memory())).await.is_err() {
                break;
            }
            continue;
        };
        let Ok(kind) = request.try_get_u8() else {
            if let Some(suppressed) = counters.refuse(Some(from), "request", "truncated") {
                warn!(peer = %from, ?channel, suppressed, "refused a request of a peer that is shorter than its header, and closed the connection");
            }
            break;
        };
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            break;
        };
        let handler = Arc::clone(&handler);
        let replies = replies.clone();
        tokio::spawn(async move {
            let reply = handler.handle(from, channel, kind, request).await;
            let _ = replies.send((id, reply)).await;
            drop(permit);
        });
    }
    drop(replies);
    let _ = writing.await;
}

async fn write_replies(
    mut writer: OwnedWriteHalf,
    form: Form,
    mut queued: mpsc::Receiver<(u64, RpcReply)>,
) {
    let mut turns = Turns::new(form);
    let add = |turns: &mut Turns<(), ()>, (id, parts): (u64, Vec<Bytes>)| {
        turns.add(Item {
            id,
            kind: None,
            parts,
            at_start: (),
            until_written: (),
        });
    };
    loop {
        while !turns.is_full()
            && let Ok(reply) = queued.try_recv()
        {
            add(&mut turns, reply);
        }
        if turns.is_empty() {
            match queued.recv().await {
                Some(reply) => add(&mut turns, reply),
                None => return,
            }
            continue;
        }
        turns.fill(|_, ()| {});
        if writer.write_buf(&mut turns.unwritten).await.is_err() {
            return;
        }
    }
}
