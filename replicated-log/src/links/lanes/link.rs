//! The sending end of a lane to one peer.

use std::io::{self, ErrorKind, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use bytes::Buf;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::LaneSource;
use super::counts::{LaneCounts, add};
use super::rate::RateLimit;
use super::sending::Sending;
use super::wire::LaneError;
use crate::links::channel::Channel;
use crate::links::dial::{self, Backoff};
use crate::links::handshake::HandshakeError;
use crate::links::target::Target;

/// A thread that wakes the lane writes at most about this much, and leaves the rest to the
/// task: it does not wait for the kernel to copy it.
const DIRECT_BYTES_MAX: usize = 256 << 10;
/// The task writes this much before other tasks of its thread have a turn.
const TURN_BYTES_MAX: usize = 2 << 20;
/// Slices of one vectored write.
const SLICES_MAX: usize = 128;
/// A connection that has lasted for this long is dialled again without a growing pause.
const STABLE: Duration = Duration::from_secs(1);
/// The pause after a peer of a version without lanes. When such a peer is upgraded, it dials
/// this node, which ends the pause.
const PAUSE_UNKNOWN: Duration = Duration::from_secs(60);

/// The lane to one peer. The connection closes when it is dropped.
pub(super) struct LaneLink {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    target: Target,
    lane: Channel,
    source: Arc<dyn LaneSource>,
    rate: Option<Arc<RateLimit>>,
    counts: Arc<LaneCounts>,
    /// The source may have frames, which no thread has looked for yet.
    woken: AtomicBool,
    state: Mutex<State>,
    /// Wakes the task.
    task: Notify,
    /// Ends the pause after a peer of a version without lanes.
    retry: Notify,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// The source may have frames.
    has_more: bool,
}

struct Connection {
    stream: Arc<TcpStream>,
    sending: Sending,
    /// The socket is full; the task waits until it is not.
    is_full: bool,
}

/// What the task has to do after a turn.
#[derive(Debug)]
enum Turn {
    /// Nothing before the next wake or release.
    Idle,
    /// Wait until the socket has room.
    Full,
    /// Wait until then: the rate is limited.
    Limited(Instant),
    /// Continue.
    Unfinished,
    /// The connection is broken.
    Broken(io::Error),
}

impl LaneLink {
    /// A lane that connects when it is woken for the first time.
    pub(super) fn start(
        target: Target,
        lane: Channel,
        source: Arc<dyn LaneSource>,
        rate: Option<Arc<RateLimit>>,
    ) -> Self {
        let counts = target.counters.lanes.of(target.replica, lane);
        let shared = Arc::new(Shared {
            target,
            lane,
            source,
            rate,
            counts,
            woken: AtomicBool::new(false),
            state: Mutex::default(),
            task: Notify::new(),
            retry: Notify::new(),
        });
        let task = tokio::spawn(Arc::clone(&shared).run());
        Self {
            shared,
            task: task.abort_handle(),
        }
    }

    /// The source has frames.
    pub(super) fn wake(&self) {
        self.shared.wake();
    }

    /// The peer has lanes, if it had none before.
    pub(super) fn retry(&self) {
        self.shared.retry.notify_one();
    }
}

impl Drop for LaneLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_state(&self) -> Option<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Sends what the source has. Never waits: a thread that has the state looks at `woken`
    /// again when it has released it.
    fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let Some(mut state) = self.try_state() else {
            return;
        };
        let waits = state.connection.as_ref().map(|now| now.is_full);
        let turn = self.turn(&mut state, DIRECT_BYTES_MAX);
        drop(state);
        let needs_task = match waits {
            // It may wait for the first wake.
            None => true,
            Some(false) => !matches!(turn, Turn::Idle) || self.is_woken(),
            // It waits for the socket.
            Some(true) => false,
        };
        if needs_task {
            self.task.notify_one();
        }
    }

    /// Whether the lane was woken while this thread had the state.
    fn is_woken(&self) -> bool {
        fence(Ordering::SeqCst);
        self.woken.load(Ordering::SeqCst)
    }

    /// Writes until there is nothing to be written, the socket is full, or about so many bytes
    /// are written.
    fn turn(&self, state: &mut State, bytes_max: usize) -> Turn {
        let State {
            connection,
            has_more,
        } = state;
        *has_more |= self.woken.swap(false, Ordering::SeqCst);
        let Some(connection) = connection else {
            return Turn::Idle;
        };
        if connection.is_full {
            return Turn::Full;
        }
        let mut written = 0;
        loop {
            if let Some(until) = self
                .rate
                .as_ref()
                .and_then(|rate| rate.until(Instant::now()))
            {
                return Turn::Limited(until);
            }
            self.fill(&mut connection.sending, has_more);
            if !connection.sending.unwritten.has_remaining() {
                return Turn::Idle;
            }
            if written >= bytes_max {
                return Turn::Unfinished;
            }
            match connection.write() {
                Ok(bytes) => {
                    written += bytes;
                    if let Some(rate) = &self.rate {
                        rate.spend(Instant::now(), bytes);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    connection.is_full = true;
                    return Turn::Full;
                }
                Err(error) => return Turn::Broken(error),
            }
        }
    }

    fn fill(&self, sending: &mut Sending, has_more: &mut bool) {
        let next = || self.source.next(self.lane, self.target.replica);
        let filled = sending.fill(*has_more, next);
        *has_more = !filled.is_dry;
        if filled.frames > 0 {
            add(&self.counts.sent, filled.frames);
            add(&self.counts.sent_bytes, filled.bytes);
            self.note_unreleased(sending);
        }
        if filled.stalled {
            add(&self.counts.stalls, 1);
        }
        if let Some(bytes) = filled.too_long {
            error!(peer = %self.target.replica, lane = ?self.lane, bytes, "a frame is too long for a lane and is not sent");
        }
    }

    fn note_unreleased(&self, sending: &Sending) {
        let unreleased = sending.unreleased();
        self.counts
            .unreleased_bytes
            .store(unreleased, Ordering::Relaxed);
    }

    /// Dials after the first wake, and whenever the connection breaks.
    async fn run(self: Arc<Self>) {
        self.task.notified().await;
        let mut backoff = Backoff::new();
        let mut is_known = true;
        loop {
            match dial::attempt(&self.target, self.lane).await {
                Ok(stream) => {
                    is_known = true;
                    let connected = Instant::now();
                    self.serve(stream).await;
                    if connected.elapsed() >= STABLE {
                        backoff.reset();
                    }
                }
                Err(Some(HandshakeError::UnknownChannel)) => {
                    if std::mem::take(&mut is_known) {
                        info!(peer = %self.target.replica, lane = ?self.lane, "a peer of an older version has no lanes; they are tried again when it connects, and every minute");
                    }
                    let retry = self.retry.notified();
                    let _ = tokio::time::timeout(PAUSE_UNKNOWN, retry).await;
                    continue;
                }
                Err(_) => {}
            }
            backoff.pause().await;
        }
    }

    /// Uses a connection until it breaks.
    async fn serve(&self, mut stream: TcpStream) {
        // A peer that does not serve yet announces no window.
        let window = match stream.read_u64_le().await {
            Ok(window) => window,
            Err(error) => return self.broken(&error),
        };
        add(&self.counts.connections, 1);
        self.source.connected(self.lane, self.target.replica);
        let stream = Arc::new(stream);
        {
            let mut state = self.state();
            state.has_more = true;
            state.connection = Some(Connection {
                stream: Arc::clone(&stream),
                sending: Sending::new(window),
                is_full: false,
            });
        }
        let error = self.use_connection(&stream).await;
        self.state().connection = None;
        self.counts.unreleased_bytes.store(0, Ordering::Relaxed);
        self.broken(&error);
    }

    fn broken(&self, error: &io::Error) {
        debug!(peer = %self.target.replica, lane = ?self.lane, %error, "the connection of a lane broke");
    }

    async fn use_connection(&self, stream: &TcpStream) -> io::Error {
        let mut releases = ReleaseReader {
            bytes: [0; 64],
            filled: 0,
        };
        loop {
            let turn = self.turn(&mut self.state(), TURN_BYTES_MAX);
            let mut until = None;
            let is_full = match turn {
                Turn::Full => true,
                Turn::Limited(then) => {
                    until = Some(then);
                    false
                }
                Turn::Idle if !self.is_woken() => false,
                Turn::Idle | Turn::Unfinished => {
                    // The peer's releases and the end of the connection are looked at too.
                    tokio::task::yield_now().await;
                    if let Err(error) = self.read_releases(stream, &mut releases) {
                        return error;
                    }
                    continue;
                }
                Turn::Broken(error) => return error,
            };
            tokio::select! {
                readable = stream.readable() => {
                    let read = readable.and_then(|()| self.read_releases(stream, &mut releases));
                    if let Err(error) = read {
                        return error;
                    }
                }
                writable = stream.writable(), if is_full => {
                    if let Err(error) = writable {
                        return error;
                    }
                    if let Some(connection) = &mut self.state().connection {
                        connection.is_full = false;
                    }
                }
                () = self.task.notified() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Reads what the peer has released. An error at the end of the connection, too.
    fn read_releases(&self, stream: &TcpStream, reader: &mut ReleaseReader) -> io::Result<()> {
        let Some(released) = reader.read(stream)? else {
            return Ok(());
        };
        let mut state = self.state();
        let Some(connection) = &mut state.connection else {
            return Ok(());
        };
        match connection.sending.released(released) {
            Ok(()) => {
                self.note_unreleased(&connection.sending);
                Ok(())
            }
            Err(error) => {
                drop(state);
                self.refuse(error);
                Err(ErrorKind::InvalidData.into())
            }
        }
    }

    fn refuse(&self, error: LaneError) {
        let peer = self.target.replica;
        let counters = &self.target.counters;
        if let Some(suppressed) = counters.refuse(Some(peer), "lane", error.label()) {
            warn!(%peer, lane = ?self.lane, %error, suppressed, "refused a number of a peer, and closed the connection");
        }
    }
}

async fn sleep_until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then).await,
        None => std::future::pending().await,
    }
}

impl Connection {
    /// Writes once.
    fn write(&mut self) -> io::Result<usize> {
        let unwritten = &mut self.sending.unwritten;
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = unwritten.chunks_vectored(&mut slices);
        let written = self.stream.try_write_vectored(&slices[..count])?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        unwritten.advance(written);
        Ok(written)
    }
}

/// Reads totals, of which only the last one matters.
struct ReleaseReader {
    bytes: [u8; 64],
    /// Of a number that has not arrived completely.
    filled: usize,
}

impl ReleaseReader {
    /// The last total that has arrived, or `None` when there is none.
    fn read(&mut self, stream: &TcpStream) -> io::Result<Option<u64>> {
        let mut last = None;
        loop {
            match stream.try_read(&mut self.bytes[self.filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    let end = self.filled + read;
                    let (numbers, rest) = self.bytes[..end].as_chunks::<8>();
                    last = numbers
                        .last()
                        .map(|bytes| u64::from_le_bytes(*bytes))
                        .or(last);
                    let rest = end - rest.len()..end;
                    self.filled = rest.len();
                    self.bytes.copy_within(rest, 0);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(last),
                Err(error) => return Err(error),
            }
        }
    }
}
