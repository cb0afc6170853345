//! One-way messages to one peer. They may be lost; they are never reordered
//! within a connection.
//!
//! The thread that sends messages writes them to the socket itself, as far as the socket
//! accepts them, so that no other thread has to wake up. The task of the link writes the
//! rest.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Buf;
use consensus::{Parts, ReplicaId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use super::channel::Channel;
use super::counters::LinkCounters;
use super::dial::{self, Backoff};
use super::outgoing::Outgoing;
use super::target::Target;

/// More than this is left to the task: the sender does not wait for the kernel to copy it.
const DIRECT_BYTES_MAX: usize = 256 << 10;
/// While this much is unwritten, the task leaves the rest in the queue, which is bounded.
const WRITE_BYTES_MIN: usize = 256 << 10;
/// Slices of one vectored write.
const SLICES_MAX: usize = 64;

/// The sending end of a channel to one peer. When it is dropped, the connection closes after
/// what was sent.
#[derive(Debug)]
pub(crate) struct OneWayLink(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the task.
    task: Notify,
    target: Target,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Parts>,
    queued_bytes: usize,
    /// While the task does not use it.
    socket: Option<Socket>,
    closed: bool,
}

#[derive(Debug)]
struct Socket {
    writer: OwnedWriteHalf,
    /// What the socket has not accepted yet.
    unwritten: Outgoing,
}

impl OneWayLink {
    /// Starts the link. `broken` is called whenever the connection breaks or
    /// cannot be made.
    #[must_use]
    pub(crate) fn start(
        target: Target,
        channel: Channel,
        broken: impl Fn(ReplicaId) + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::new(target));
        let task = Arc::clone(&shared);
        tokio::spawn(async move { task.run(channel, broken).await });
        Self(shared)
    }

    /// Queues a message until the next [`OneWayLink::flush`]; drops it when the queue
    /// is full.
    pub(crate) fn send(&self, message: Parts) {
        let limits = &self.0.target.limits;
        let mut state = self.0.state();
        let bytes = state.queued_bytes + message.len();
        if bytes > limits.queue_bytes_max || state.queue.len() >= limits.queue_messages_max {
            LinkCounters::add(&self.0.target.counters.dropped, 1);
            return;
        }
        state.queued_bytes = bytes;
        state.queue.push_back(message);
    }

    /// Writes what was queued, or leaves it to the task. Does not wait.
    pub(crate) fn flush(&self) {
        let mut state = self.0.state();
        if state.queue.is_empty() {
            return;
        }
        let few = state.queued_bytes <= DIRECT_BYTES_MAX;
        if !few || !self.0.write_now(&mut state) {
            self.0.task.notify_one();
        }
    }
}

impl Drop for OneWayLink {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.task.notify_one();
    }
}

impl State {
    fn next(&mut self) -> Option<Parts> {
        let message = self.queue.pop_front()?;
        self.queued_bytes -= message.len();
        Some(message)
    }
}

impl Shared {
    fn new(target: Target) -> Self {
        Self {
            state: Mutex::default(),
            task: Notify::new(),
            target,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves messages from the queue to the unwritten bytes, enough for one write.
    fn take(&self, state: &mut State, unwritten: &mut Outgoing) {
        let counters = &self.target.counters;
        while unwritten.remaining() < WRITE_BYTES_MIN
            && let Some(message) = state.next()
        {
            if unwritten.frame(&message) {
                LinkCounters::add(&counters.sent, 1);
                LinkCounters::add(&counters.sent_bytes, message.len() as u64);
            } else {
                LinkCounters::add(&counters.dropped, 1);
            }
        }
    }

    /// Writes the queue to the socket without waiting. Returns whether all was written.
    fn write_now(&self, state: &mut State) -> bool {
        let Some(mut socket) = state.socket.take() else {
            return false;
        };
        if !socket.unwritten.has_remaining() {
            self.take(state, &mut socket.unwritten);
            while socket.unwritten.has_remaining() {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = socket.unwritten.chunks_vectored(&mut slices);
                // The task finds the error too, and handles it.
                match socket.writer.try_write_vectored(&slices[..count]) {
                    Ok(written) if written > 0 => socket.unwritten.advance(written),
                    _ => break,
                }
            }
        }
        let all = !socket.unwritten.has_remaining() && state.queue.is_empty();
        state.socket = Some(socket);
        all
    }

    /// Connects after every failure, until the link is dropped.
    async fn run(&self, channel: Channel, broken: impl Fn(ReplicaId)) {
        let mut backoff = Backoff::new();
        loop {
            if let Some(stream) = dial::connect(&self.target, channel).await {
                backoff.reset();
                if self.serve(stream).await.is_ok() {
                    return;
                }
            }
            broken(self.target.replica);
            if self.start_over() {
                return;
            }
            backoff.pause().await;
            self.start_over();
        }
    }

    /// Writes until the connection breaks (an error) or the link is dropped.
    async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let (mut reader, writer) = stream.into_split();
        let mut socket = Socket {
            writer,
            unwritten: Outgoing::default(),
        };
        loop {
            // A lost connection is noticed also while the peer does not read.
            let flow = tokio::select! {
                flow = self.write(socket) => flow?,
                error = end_of(&mut reader) => return Err(error),
            };
            if flow == Flow::Closed {
                return Ok(());
            }
            socket = loop {
                tokio::select! {
                    () = self.task.notified() => {}
                    error = end_of(&mut reader) => return Err(error),
                }
                if let Some(socket) = self.state().socket.take() {
                    break socket;
                }
            };
        }
    }

    /// Writes all that waits, then leaves the socket to the senders.
    async fn write(&self, socket: Socket) -> io::Result<Flow> {
        let Socket {
            mut writer,
            mut unwritten,
        } = socket;
        loop {
            writer.write_all_buf(&mut unwritten).await?;
            let mut state = self.state();
            if !state.queue.is_empty() {
                self.take(&mut state, &mut unwritten);
                continue;
            }
            if state.closed {
                return Ok(Flow::Closed);
            }
            state.socket = Some(Socket { writer, unwritten });
            return Ok(Flow::Idle);
        }
    }

    /// Drops what was queued for a broken connection: it is stale on the next one. Returns
    /// whether the link was dropped.
    fn start_over(&self) -> bool {
        let mut state = self.state();
        state.socket = None;
        while state.next().is_some() {
            LinkCounters::add(&self.target.counters.dropped, 1);
        }
        state.closed
    }
}

/// Waits for the end of a connection, on which the peer never sends.
async fn end_of(reader: &mut OwnedReadHalf) -> io::Error {
    match reader.read(&mut [0]).await {
        Err(error) => error,
        Ok(_) => io::ErrorKind::ConnectionReset.into(),
    }
}

/// Why the task stops writing.
#[derive(PartialEq, Eq)]
enum Flow {
    /// All is written.
    Idle,
    /// All is written, and the link was dropped.
    Closed,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use bytes::{BufMut, Bytes, BytesMut};
    use tokio::io::BufReader;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::super::frame::{self, FrameMemory};
    use super::super::handshake;
    use super::super::target::{Identity, LinkLimits};
    use super::*;
    use crate::memory::MemoryBudget;

    const FRAME_BYTES_MAX: usize = 1 << 20;

    fn identity(replica: u64) -> Identity {
        Identity {
            cluster: "c".into(),
            replica: ReplicaId(replica),
            incarnation: 1,
            storage_id: 7,
            membership: None,
        }
    }

    fn target(address: &str, limits: LinkLimits) -> Target {
        Target {
            replica: ReplicaId(2),
            address: address.into(),
            identity: Arc::new(identity(1)),
            limits,
            counters: Arc::default(),
            fence: Arc::default(),
            memory: FrameMemory::new(MemoryBudget::new(FRAME_BYTES_MAX)),
        }
    }

    struct Peer {
        listener: TcpListener,
        link: OneWayLink,
        broken: mpsc::UnboundedReceiver<ReplicaId>,
    }

    impl Peer {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let target = target(&address, LinkLimits::default());
            let (sender, broken) = mpsc::unbounded_channel();
            let on_broken = move |peer| {
                let _ = sender.send(peer);
            };
            let link = OneWayLink::start(target, Channel::Consensus, on_broken);
            Self {
                listener,
                link,
                broken,
            }
        }

        async fn accept(&self) -> BufReader<TcpStream> {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let peer = handshake::receive(&mut stream, &identity(2), |_| true, |_, _| Ok(())).await;
            assert_eq!(peer.unwrap().channel, Channel::Consensus);
            BufReader::new(stream)
        }
    }

    async fn read(stream: &mut BufReader<TcpStream>) -> Option<Bytes> {
        frame::read_short(stream, FRAME_BYTES_MAX).await.unwrap()
    }

    fn message(sender: u64, number: u64, bytes: usize) -> Bytes {
        let mut message = BytesMut::new();
        message.put_u64_le(sender);
        message.put_u64_le(number);
        message.resize(16 + bytes, sender as u8 ^ number as u8);
        message.freeze()
    }

    /// Some are written by their senders, some by the task, and the reader is slow enough for
    /// the socket to be full many times.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn messages_arrive_whole_and_in_order() {
        const SENDERS: u64 = 3;
        const EACH: u64 = 400;
        let size = |number: u64| [0, 100, 9_000, 0, 40_000, 300_000][number as usize % 6];
        let peer = Peer::new().await;
        let mut stream = peer.accept().await;
        let link = Arc::new(peer.link);
        let senders = (0..SENDERS).map(|sender| {
            let link = Arc::clone(&link);
            std::thread::spawn(move || {
                for number in 0..EACH {
                    link.send(message(sender, number, size(number)).into());
                    if number % 3 > 0 {
                        link.flush();
                    }
                }
                link.flush();
            })
        });
        let senders: Vec<_> = senders.collect();
        let mut next = [0; SENDERS as usize];
        for _ in 0..SENDERS * EACH {
            let mut received = read(&mut stream).await.expect("more is to come");
            let (sender, number) = (received.get_u64_le(), received.get_u64_le());
            assert_eq!(number, next[sender as usize]);
            next[sender as usize] += 1;
            assert_eq!(received.len(), size(number));
            let fill = sender as u8 ^ number as u8;
            assert!(received.iter().all(|byte| *byte == fill));
        }
        for sender in senders {
            sender.join().unwrap();
        }
        let counters = &link.0.target.counters;
        assert_eq!(counters.sent.load(Ordering::Relaxed), SENDERS * EACH);
        assert_eq!(counters.dropped.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn messages_sent_before_the_drop_arrive() {
        let peer = Peer::new().await;
        let mut stream = peer.accept().await;
        peer.link.send(message(1, 1, 50).into());
        peer.link.send(message(1, 2, 200_000).into());
        drop(peer.link);
        assert_eq!(read(&mut stream).await, Some(message(1, 1, 50)));
        assert_eq!(read(&mut stream).await, Some(message(1, 2, 200_000)));
        assert_eq!(read(&mut stream).await, None);
    }

    #[tokio::test]
    async fn a_broken_connection_is_reported_and_replaced() {
        let mut peer = Peer::new().await;
        let mut stream = peer.accept().await;
        peer.link.send(message(1, 1, 50).into());
        peer.link.flush();
        assert_eq!(read(&mut stream).await, Some(message(1, 1, 50)));
        drop(stream);
        assert_eq!(peer.broken.recv().await, Some(ReplicaId(2)));
        // A message that is sent without a connection may be lost.
        let mut stream = peer.accept().await;
        loop {
            peer.link.send(message(1, 2, 50).into());
            peer.link.flush();
            tokio::select! {
                received = read(&mut stream) => {
                    assert_eq!(received, Some(message(1, 2, 50)));
                    break;
                }
                () = tokio::task::yield_now() => {}
            }
        }
    }

    #[test]
    fn a_full_queue_drops() {
        let limits = LinkLimits {
            queue_bytes_max: 300,
            queue_messages_max: 3,
            ..LinkLimits::default()
        };
        // Its task does not run.
        let link = OneWayLink(Arc::new(Shared::new(target("nowhere", limits))));
        for bytes in [200, 200, 60, 0, 0] {
            link.send(Bytes::from(vec![0; bytes]).into());
        }
        let counters = &link.0.target.counters;
        assert_eq!(counters.dropped.load(Ordering::Relaxed), 2);
        assert_eq!(link.0.state().queued_bytes, 260);
    }
}
