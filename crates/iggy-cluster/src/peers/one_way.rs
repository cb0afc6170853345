//! One-way messages to one peer. They may be lost; they are never reordered
//! within a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use consensus::ReplicaId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::dial::{self, Backoff};
use super::{Lane, LinkCounters, Target, frame};

const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// The sending end of a lane to one peer. Cheap to clone; the connection closes
/// when the last clone is gone.
#[derive(Clone, Debug)]
pub struct OneWayLink {
    queue: mpsc::Sender<Bytes>,
    queued_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    counters: Arc<LinkCounters>,
}

impl OneWayLink {
    /// Starts the link. `broken` is called whenever the connection breaks or
    /// cannot be made.
    #[must_use]
    pub fn start(target: Target, lane: Lane, broken: impl Fn(ReplicaId) + Send + 'static) -> Self {
        let (queue, messages) = mpsc::channel(target.limits.queue_messages_max);
        let link = Self {
            queue,
            queued_bytes: Arc::default(),
            bytes_max: target.limits.queue_bytes_max,
            counters: Arc::clone(&target.counters),
        };
        let writer = Writer {
            target,
            lane,
            messages,
            queued_bytes: Arc::clone(&link.queued_bytes),
        };
        tokio::spawn(writer.run(broken));
        link
    }

    /// Queues a message; drops it when the queue is full.
    pub fn send(&self, message: Bytes) {
        let bytes = message.len();
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued + bytes > self.bytes_max || self.queue.try_send(message).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            LinkCounters::add(&self.counters.dropped, 1);
        }
    }

    /// Messages that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

struct Writer {
    target: Target,
    lane: Lane,
    messages: mpsc::Receiver<Bytes>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Writer {
    async fn run(mut self, broken: impl Fn(ReplicaId) + Send + 'static) {
        let mut backoff = Backoff::new();
        loop {
            if let Some(stream) = dial::connect(&self.target, self.lane).await {
                backoff.reset();
                if self.write(stream).await.is_ok() {
                    return;
                }
            }
            broken(self.target.replica);
            self.drop_queued();
            if self.messages.is_closed() {
                return;
            }
            backoff.pause().await;
            self.drop_queued();
        }
    }

    /// Writes until the connection breaks (an error) or the link is dropped.
    async fn write(&mut self, stream: TcpStream) -> std::io::Result<()> {
        let (mut reader, writer) = stream.into_split();
        let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, writer);
        let mut nothing = [0; 1];
        loop {
            let message = tokio::select! {
                message = self.messages.recv() => message,
                // The peer never sends here: readiness means that it is gone.
                _ = reader.read(&mut nothing) => {
                    return Err(std::io::ErrorKind::ConnectionReset.into());
                }
            };
            let Some(mut message) = message else {
                return Ok(());
            };
            loop {
                self.queued_bytes
                    .fetch_sub(message.len(), Ordering::Relaxed);
                frame::write(&mut writer, &[&message]).await?;
                LinkCounters::add(&self.target.counters.sent, 1);
                LinkCounters::add(&self.target.counters.sent_bytes, message.len() as u64);
                match self.messages.try_recv() {
                    Ok(next) => message = next,
                    Err(_) => break,
                }
            }
            writer.flush().await?;
        }
    }

    /// What was meant for a broken connection is stale by the next.
    fn drop_queued(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            self.queued_bytes
                .fetch_sub(message.len(), Ordering::Relaxed);
            LinkCounters::add(&self.target.counters.dropped, 1);
        }
    }
}
