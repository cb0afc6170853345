//! Requests to one peer and their replies, many concurrently on one connection.
//!
//! ```text
//! request: id u64 | kind u8 | payload        reply: id u64 | payload
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use consensus::ReplicaId;
use thiserror::Error;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{debug, warn};

use super::channel::Channel;
use super::counters::LinkCounters;
use super::dial::{self, Backoff};
use super::frame::{self, FrameLimits};
use super::handshake::Peer;
use super::target::Target;

const BUFFER_BYTES: usize = 64 << 10;

/// A reply in parts, which are written without joining them.
pub type RpcReply = Vec<Bytes>;

/// Serves the requests of peers.
#[async_trait]
pub trait RpcHandler: Send + Sync {
    /// Serves one request of the channel [`Channel::Control`] or [`Channel::Data`].
    /// Requests of one peer are served concurrently.
    async fn handle(&self, from: ReplicaId, channel: Channel, kind: u8, payload: Bytes)
    -> RpcReply;
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
}

type Reply = Result<Bytes, RpcError>;

struct Request {
    kind: u8,
    parts: Vec<Bytes>,
    reply: oneshot::Sender<Reply>,
}

impl Request {
    fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

/// The requesting end of a channel to one peer. The connection closes when it is dropped.
pub(super) struct RpcLink {
    queue: mpsc::Sender<Request>,
    queued_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl RpcLink {
    /// Starts the link.
    pub(super) fn start(target: Target, channel: Channel) -> Self {
        let (queue, requests) = mpsc::channel(target.limits.queue_messages_max);
        let link = Self {
            queue,
            queued_bytes: Arc::default(),
            bytes_max: target.limits.queue_bytes_max,
        };
        let dialler = Dialler {
            target,
            channel,
            requests,
            queued_bytes: Arc::clone(&link.queued_bytes),
        };
        tokio::spawn(dialler.run());
        link
    }

    /// Queues a request; its reply arrives on the receiver.
    pub(super) fn send(
        &self,
        kind: u8,
        parts: Vec<Bytes>,
    ) -> Result<oneshot::Receiver<Reply>, RpcError> {
        let (reply, replied) = oneshot::channel();
        let request = Request { kind, parts, reply };
        let bytes = request.bytes();
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued + bytes > self.bytes_max || self.queue.try_send(request).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(RpcError::NotSent);
        }
        Ok(replied)
    }
}

struct Dialler {
    target: Target,
    channel: Channel,
    requests: mpsc::Receiver<Request>,
    queued_bytes: Arc<AtomicUsize>,
}

type PendingReplies = Arc<std::sync::Mutex<HashMap<u64, oneshot::Sender<Reply>>>>;

impl Dialler {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            match dial::connect(&self.target, self.channel).await {
                Some(stream) => {
                    backoff.reset();
                    if self.serve(stream).await.is_ok() {
                        return;
                    }
                }
                None => self.refuse_queued(),
            }
            if self.requests.is_closed() {
                return;
            }
            // Requests that arrive in the pause fail immediately, so that their callers can
            // try another peer.
            let pause = backoff.pause();
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    request = self.requests.recv() => match request {
                        Some(request) => self.refuse(request),
                        None => return,
                    },
                }
            }
        }
    }

    fn refuse(&self, request: Request) {
        self.queued_bytes
            .fetch_sub(request.bytes(), Ordering::Relaxed);
        let _ = request.reply.send(Err(RpcError::NotSent));
    }

    fn refuse_queued(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            self.refuse(request);
        }
    }

    /// Serves until the connection breaks (an error) or the link is dropped.
    async fn serve(&mut self, stream: TcpStream) -> std::io::Result<()> {
        let pending = PendingReplies::default();
        let (reader, writer) = stream.into_split();
        let bytes_max = self.target.limits.frame_bytes_max;
        let limits = self.target.memory.limits(self.channel, bytes_max);
        let reading = read_replies(reader, Arc::clone(&pending), limits);
        let mut replies = tokio::spawn(reading);
        let result = tokio::select! {
            result = self.write(writer, &pending) => result,
            _ = &mut replies => Err(std::io::ErrorKind::ConnectionReset.into()),
        };
        replies.abort();
        for (_, reply) in lock(&pending).drain() {
            let _ = reply.send(Err(RpcError::Unknown));
        }
        result
    }

    async fn write(
        &mut self,
        writer: OwnedWriteHalf,
        pending: &PendingReplies,
    ) -> std::io::Result<()> {
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
        let mut next_id = 0_u64;
        while let Some(mut request) = self.requests.recv().await {
            loop {
                self.queued_bytes
                    .fetch_sub(request.bytes(), Ordering::Relaxed);
                next_id += 1;
                let Request { kind, parts, reply } = request;
                // The caller may have stopped waiting.
                if !reply.is_closed() {
                    lock(pending).insert(next_id, reply);
                    let id = next_id.to_le_bytes();
                    let kind = [kind];
                    let mut frame: Vec<&[u8]> = vec![&id, &kind];
                    frame.extend(parts.iter().map(|part| &part[..]));
                    frame::write(&mut writer, &frame).await?;
                }
                match self.requests.try_recv() {
                    Ok(next) => request = next,
                    Err(_) => break,
                }
            }
            writer.flush().await?;
        }
        Ok(())
    }
}

async fn read_replies(reader: OwnedReadHalf, pending: PendingReplies, limits: FrameLimits) {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    while let Ok(Some(mut reply)) = frame::read(&mut reader, &limits).await {
        let Ok(id) = reply.try_get_u64_le() else {
            return;
        };
        let caller = lock(&pending).remove(&id);
        if let Some(caller) = caller {
            let _ = caller.send(Ok(reply));
        }
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Serves one peer's connection until it ends.
pub(super) async fn serve(
    stream: TcpStream,
    Peer {
        replica: from,
        channel,
        ..
    }: Peer,
    handler: Arc<dyn RpcHandler>,
    requests_max: usize,
    limits: &FrameLimits,
    counters: &LinkCounters,
    received: impl Fn(),
) {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let permits = Arc::new(Semaphore::new(requests_max));
    let (replies, queued) = mpsc::channel(requests_max);
    let writing = tokio::spawn(write_replies(writer, queued));
    loop {
        let mut frame = match frame::read(&mut reader, limits).await {
            Ok(Some(frame)) => {
                received();
                frame
            }
            Ok(None) => break,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
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
        let (Ok(id), Ok(kind)) = (frame.try_get_u64_le(), frame.try_get_u8()) else {
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
            let reply = handler.handle(from, channel, kind, frame).await;
            let _ = replies.send((id, reply)).await;
            drop(permit);
        });
    }
    drop(replies);
    let _ = writing.await;
}

async fn write_replies(writer: OwnedWriteHalf, mut queued: mpsc::Receiver<(u64, RpcReply)>) {
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
    while let Some(mut next) = queued.recv().await {
        loop {
            let (id, parts) = next;
            let id = id.to_le_bytes();
            let mut frame: Vec<&[u8]> = vec![&id];
            frame.extend(parts.iter().map(|part| &part[..]));
            if frame::write(&mut writer, &frame).await.is_err() {
                return;
            }
            match queued.try_recv() {
                Ok(more) => next = more,
                Err(_) => break,
            }
        }
        if writer.flush().await.is_err() {
            return;
        }
    }
}
