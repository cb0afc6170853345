//! Requests to one peer, and their answers, many at once on one connection.
//!
//! ```text
//! request: id u64 | kind u8 | payload        answer: id u64 | payload
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use consensus::ReplicaId;
use thiserror::Error;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::debug;

use super::dial::{self, Backoff};
use super::{Lane, LinkCounters, LinkLimits, Target, frame};

const BUFFER_BYTES: usize = 64 << 10;

/// An answer in parts, written without joining them.
pub type RpcReply = Vec<Bytes>;

/// Serves the requests of peers.
#[async_trait]
pub trait RpcHandler: Send + Sync {
    /// Answers one request. Requests of one peer are served concurrently.
    async fn handle(&self, from: ReplicaId, lane: Lane, kind: u8, payload: Bytes) -> RpcReply;
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RpcError {
    /// It did not leave this node: certainly without effect.
    #[error("the peer cannot be reached")]
    NotSent,
    /// It left, and the connection broke or time ran out before the answer: it
    /// may have taken effect.
    #[error("the peer was lost before it answered")]
    Unknown,
}

struct Request {
    kind: u8,
    parts: Vec<Bytes>,
    answer: oneshot::Sender<Result<Bytes, RpcError>>,
}

impl Request {
    fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

/// The requesting end of a lane to one peer. Cheap to clone.
#[derive(Clone)]
pub struct RpcLink {
    queue: mpsc::Sender<Request>,
    queued_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl RpcLink {
    /// Starts the link.
    #[must_use]
    pub fn start(target: Target, lane: Lane) -> Self {
        let (queue, requests) = mpsc::channel(target.limits.queue_messages_max);
        let link = Self {
            queue,
            queued_bytes: Arc::default(),
            bytes_max: target.limits.queue_bytes_max,
        };
        let dialler = Dialler {
            target,
            lane,
            requests,
            queued_bytes: Arc::clone(&link.queued_bytes),
        };
        tokio::spawn(dialler.run());
        link
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`RpcError::NotSent`] when it certainly had no effect,
    /// [`RpcError::Unknown`] when it may have had.
    pub async fn call(
        &self,
        kind: u8,
        parts: Vec<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        let (answer, answered) = oneshot::channel();
        let request = Request {
            kind,
            parts,
            answer,
        };
        let bytes = request.bytes();
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued + bytes > self.bytes_max || self.queue.try_send(request).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(RpcError::NotSent);
        }
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(RpcError::Unknown),
        }
    }
}

struct Dialler {
    target: Target,
    lane: Lane,
    requests: mpsc::Receiver<Request>,
    queued_bytes: Arc<AtomicUsize>,
}

type Waiting = Arc<std::sync::Mutex<HashMap<u64, oneshot::Sender<Result<Bytes, RpcError>>>>>;

impl Dialler {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            match dial::connect(&self.target, self.lane).await {
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
            // Requests that arrive in the pause fail at once: their callers know
            // better what to do than to wait here.
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
        let _ = request.answer.send(Err(RpcError::NotSent));
    }

    fn refuse_queued(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            self.refuse(request);
        }
    }

    /// Serves until the connection breaks (an error) or the link is dropped.
    async fn serve(&mut self, stream: TcpStream) -> std::io::Result<()> {
        let waiting = Waiting::default();
        let (reader, writer) = stream.into_split();
        let bytes_max = self.target.limits.frame_bytes_max;
        let mut answers = tokio::spawn(read_answers(reader, Arc::clone(&waiting), bytes_max));
        let result = tokio::select! {
            result = self.write(writer, &waiting) => result,
            _ = &mut answers => Err(std::io::ErrorKind::ConnectionReset.into()),
        };
        answers.abort();
        for (_, answer) in lock(&waiting).drain() {
            let _ = answer.send(Err(RpcError::Unknown));
        }
        result
    }

    async fn write(&mut self, writer: OwnedWriteHalf, waiting: &Waiting) -> std::io::Result<()> {
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
        let mut next_id = 0_u64;
        while let Some(mut request) = self.requests.recv().await {
            loop {
                self.queued_bytes
                    .fetch_sub(request.bytes(), Ordering::Relaxed);
                next_id += 1;
                let Request {
                    kind,
                    parts,
                    answer,
                } = request;
                // A caller that has given up needs no answer.
                if !answer.is_closed() {
                    lock(waiting).insert(next_id, answer);
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

async fn read_answers(reader: OwnedReadHalf, waiting: Waiting, bytes_max: usize) {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    while let Ok(Some(mut answer)) = frame::read(&mut reader, bytes_max).await {
        let Ok(id) = answer.try_get_u64_le() else {
            return;
        };
        let caller = lock(&waiting).remove(&id);
        if let Some(caller) = caller {
            let _ = caller.send(Ok(answer));
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
    from: ReplicaId,
    lane: Lane,
    handler: Arc<dyn RpcHandler>,
    limits: LinkLimits,
    counters: &LinkCounters,
) {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let permits = Arc::new(Semaphore::new(limits.requests_max));
    let (answers, queued) = mpsc::channel(limits.requests_max);
    let writing = tokio::spawn(write_answers(writer, queued));
    let unknown = AtomicU64::new(0);
    loop {
        let mut frame = match frame::read(&mut reader, limits.frame_bytes_max).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                LinkCounters::add(&counters.refused, 1);
                debug!(peer = %from, %error, "a request could not be read");
                break;
            }
        };
        let (Ok(id), Ok(kind)) = (frame.try_get_u64_le(), frame.try_get_u8()) else {
            LinkCounters::add(&counters.refused, 1);
            unknown.fetch_add(1, Ordering::Relaxed);
            break;
        };
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            break;
        };
        let handler = Arc::clone(&handler);
        let answers = answers.clone();
        tokio::spawn(async move {
            let reply = handler.handle(from, lane, kind, frame).await;
            let _ = answers.send((id, reply)).await;
            drop(permit);
        });
    }
    drop(answers);
    let _ = writing.await;
}

async fn write_answers(writer: OwnedWriteHalf, mut queued: mpsc::Receiver<(u64, RpcReply)>) {
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
