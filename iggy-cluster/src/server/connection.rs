//! One client's connection: it reads a request, serves it and writes the reply, before it
//! reads the next one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adapters::metadata::{PartitionKey, TokenHash, code};
use adapters::wire::v0_11::{
    Eviction, FrameError, HEADER_BYTES, Reply, RequestHeader, body_matches,
};
use bytes::Bytes;
use replicated_log::{CountedBuffer, MemoryShare};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tracing::debug;

use super::Server;
use super::admission::Place;
use crate::partitions::{Delivery, PollBytes, has_session};

/// For a header and a short body; longer bodies are read directly. Small, because every
/// idle connection has one.
const READ_BUFFER_BYTES: usize = 512;
/// A reply of at most this size is written with one call.
const SINGLE_WRITE_BYTES_MAX: usize = 16 << 10;
/// A reply counts as delivered this long after it was written, if the connection is still
/// open.
const DELIVERY_TIME: Duration = Duration::from_millis(100);
/// Bodies and replies of up to this size are not counted in the memory of the node.
pub(super) const UNCOUNTED_BYTES_MAX: usize = 16 << 10;
/// The longest body of a connection that is not logged in.
const LOGIN_BYTES_MAX: usize = 16 << 10;
/// Of a frame that is too large, at most this much is read and dropped after the reply, before
/// the connection is closed.
const DRAINED_BYTES_MAX: usize = 256 << 20;
/// How often the session of a silent client is checked.
const SESSION_CHECK: Duration = Duration::from_secs(30);

/// The session of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) client: u128,
    pub(super) session: u64,
    pub(super) user_id: u32,
}

/// A request that removes segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trimming {
    pub(super) session: u64,
    pub(super) request: u64,
    pub(super) key: PartitionKey,
    pub(super) count: u32,
}

/// One connection's state.
pub(super) struct Connection {
    pub(super) server: Arc<Server>,
    pub(super) id: u32,
    pub(super) bound: Option<Bound>,
    /// A session, opened through another connection, whose consumer reads on this one.
    pub(super) attached: Option<Bound>,
    /// The session's last request, if the client was answered that its outcome is unknown.
    pub(super) open: Option<u64>,
    /// The last metadata position that this client has seen. It never decreases.
    pub(super) watermark: u64,
    /// What the last poll commits once its messages are delivered.
    pub(super) pending_commit: Option<Delivery>,
    /// The token that the current request creates.
    pub(super) new_token: Option<(TokenHash, SecretString)>,
    pub(super) address: SocketAddr,
    /// The offset through which a request removes segments.
    pub(super) trimming: Option<(Trimming, Option<u64>)>,
    /// What its polls need.
    pub(super) poll_bytes: PollBytes,
    /// A reply was not read in time.
    is_unread: bool,
    /// Its share of the memory of this user.
    memory: Option<(u32, MemoryShare)>,
    /// Its place among the connections without a login, while it is one of them.
    place: Option<Place>,
    /// When it must be logged in, if it is not.
    login_by: Instant,
}

/// The outcome of a request.
pub(super) enum Outcome {
    Reply(Reply),
    /// Send these bytes and end the connection's session.
    Evict(Bytes),
}

/// The end of waiting for a frame.
enum Next {
    /// The first byte of a frame has arrived.
    Frame,
    /// The client closed the connection.
    End,
    /// This client has sent nothing for too long as a member of a group, or its session has
    /// ended.
    Silence(u128),
}

impl Connection {
    /// A connection that has this place among those without a login since it was accepted.
    pub(super) fn new(server: Arc<Server>, address: SocketAddr, place: Place) -> Self {
        Self {
            id: server.clients.add(address),
            login_by: place.since() + server.config.tcp.login_timeout.duration(),
            place: Some(place),
            server,
            bound: None,
            attached: None,
            open: None,
            watermark: 0,
            pending_commit: None,
            new_token: None,
            address,
            trimming: None,
            poll_bytes: PollBytes::default(),
            is_unread: false,
            memory: None,
        }
    }

    /// The memory for its requests and replies, a share of that of its user. Only short ones
    /// are served without a login, and not counted.
    pub(super) fn memory(&mut self) -> &MemoryShare {
        let user = self.bound.map_or(u32::MAX, |bound| bound.user_id);
        let same = self.memory.take().filter(|(of, _)| *of == user);
        let memory = same.unwrap_or_else(|| (user, self.server.memory.share(user)));
        &self.memory.insert(memory).1
    }

    /// Serves the client until the connection ends. Returns whether that is because the client
    /// has not read a reply in time: then the kernel still has a part of it.
    pub(super) async fn run(
        mut self,
        reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
    ) -> bool {
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
        if let Err(error) = self.serve(&mut reader, &mut writer).await {
            debug!(client = self.id, %error, "a connection ended");
        }
        if let Some(commit) = self.pending_commit.take() {
            self.server.partitions.drop_commit(&commit);
        }
        self.server.clients.remove(self.id);
        self.close_session();
        self.is_unread
    }

    /// Ends the session of a client that has disconnected. No other connection may use it.
    /// Returns the session, and the task that ends it.
    pub(super) fn close_session(&mut self) -> Option<(Bound, JoinHandle<()>)> {
        self.open = None;
        self.attached = None;
        self.trimming = None;
        let bound = self.bound.take()?;
        let server = Arc::clone(&self.server);
        let ending = async move { server.end_session(bound.client, bound.session).await };
        Some((bound, tokio::spawn(ending)))
    }

    /// Waits for a frame. Clients may be silent between frames, but not within one. Members
    /// of groups may not, because other members wait for their partitions.
    async fn next(
        &mut self,
        reader: &mut BufReader<impl AsyncRead + Unpin>,
        byte: &mut [u8],
    ) -> io::Result<Next> {
        let silence_max = self.server.config.heartbeat.silence_max();
        let read = loop {
            if let Some(commit) = self.pending_commit.take() {
                let read = tokio::time::timeout(DELIVERY_TIME, reader.read(byte)).await;
                match self.settle(commit, read).await {
                    Some(read) => break read?,
                    None => continue,
                }
            }
            let read = reader.read(byte);
            let Some(bound) = self.bound else {
                break limited(&mut self.place, self.login_by, read).await?;
            };
            match tokio::time::timeout(silence_max.unwrap_or(SESSION_CHECK), read).await {
                Ok(read) => break read?,
                Err(_) if self.has_ended(bound) => return Ok(Next::Silence(bound.client)),
                Err(_) if silence_max.is_some() && self.is_member(bound) => {
                    return Ok(Next::Silence(bound.client));
                }
                Err(_) => {}
            }
        };
        Ok(match read {
            0 => Next::End,
            _ => Next::Frame,
        })
    }

    /// A client that sends another request, closes the connection in order, or keeps it open
    /// for a moment has received its last reply.
    async fn settle(
        &self,
        commit: Delivery,
        read: Result<io::Result<usize>, Elapsed>,
    ) -> Option<io::Result<usize>> {
        let partitions = &self.server.partitions;
        match &read {
            // A TLS connection without a close_notify was still closed in order.
            Ok(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                partitions.drop_commit(&commit);
            }
            _ => partitions.delivered(commit).await,
        }
        read.ok()
    }

    /// Whether the session has ended: the user was deleted, or the session was evicted.
    fn has_ended(&self, bound: Bound) -> bool {
        let state = self.server.metadata.reader.read();
        state.applied() >= self.watermark && !has_session(&state, bound.client, bound.session)
    }

    fn is_member(&self, bound: Bound) -> bool {
        let state = self.server.metadata.reader.read();
        state.memberships(bound.client).next().is_some()
    }

    /// The body of a request, or the answer if it was skipped.
    async fn read_request(
        &mut self,
        reader: &mut BufReader<impl AsyncRead + Unpin>,
        header: &RequestHeader,
        deadline: Instant,
    ) -> io::Result<Result<Bytes, Outcome>> {
        let judged = match header.body_bytes > UNCOUNTED_BYTES_MAX {
            // Boxed for the same reason as below.
            true => Box::pin(self.judge_long(header)).await,
            false => Ok(()),
        };
        if let Err(failure) = judged {
            let skipped = skip_body(reader, header.body_bytes);
            limited(&mut self.place, deadline, skipped).await?;
            return Ok(Err(self.reply(header, Err(failure))));
        }
        let memory = self.memory().clone();
        let body = read_body(reader, header.body_bytes, &memory);
        Ok(match limited(&mut self.place, deadline, body).await? {
            Some(body) => Ok(body),
            None => Err(self.without_memory(header)),
        })
    }

    async fn serve_frame(&mut self, header: &RequestHeader, body: Bytes) -> Outcome {
        if !body_matches(header, &body) {
            self.server.metrics.frames_refused.inc();
            let reply = Reply::denied(header, self.watermark, code::INVALID_COMMAND);
            return Outcome::Reply(reply);
        }
        // Boxed, so that an idle connection does not reserve memory for it.
        let started = Instant::now();
        let outcome = Box::pin(self.handle(header, body)).await;
        let took = started.elapsed().as_secs_f64();
        self.server.metrics.request_seconds.observe(took);
        outcome
    }

    /// Enters or leaves the connections without a login.
    fn update_place(&mut self) {
        if self.bound.is_some() {
            self.place = None;
        } else if self.place.is_none() {
            let place = self.server.without_login(self.address.ip());
            self.login_by = place.since() + self.server.config.tcp.login_timeout.duration();
            self.place = Some(place);
        }
    }

    /// When a frame that has started must be complete. Before a login the time for the login
    /// applies too, however many frames the client starts.
    fn frame_deadline(&self) -> Instant {
        let deadline = Instant::now() + self.server.config.tcp.frame_timeout.duration();
        match self.place {
            Some(_) => deadline.min(self.login_by),
            None => deadline,
        }
    }

    /// Writes to a client that reads it in time.
    async fn in_time(&mut self, writing: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        let at_most = self.server.config.tcp.frame_timeout.duration();
        let Ok(written) = tokio::time::timeout(at_most, writing).await else {
            let user_id = self.bound.map(|bound| bound.user_id);
            self.server.unread(user_id, self.address);
            self.is_unread = true;
            return Err(io::ErrorKind::TimedOut.into());
        };
        written
    }

    async fn serve(
        &mut self,
        reader: &mut BufReader<impl AsyncRead + Unpin>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let frame_bytes_max = self.server.config.tcp.frame_size_max.bytes() as usize;
        loop {
            self.update_place();
            let mut bytes = [0; HEADER_BYTES];
            match self.next(reader, &mut bytes[..1]).await? {
                Next::Frame => {}
                Next::End => return Ok(()),
                Next::Silence(client) => {
                    // The connection is closed too: clients ignore an eviction on an open one.
                    let eviction = Eviction::StaleClient.encode(client);
                    return self.in_time(write_all(writer, &eviction)).await;
                }
            }
            let deadline = self.frame_deadline();
            let rest = reader.read_exact(&mut bytes[1..]);
            limited(&mut self.place, deadline, rest).await?;
            let outcome = match RequestHeader::parse(&bytes, frame_bytes_max) {
                Ok(header) if self.bound.is_none() && header.body_bytes > LOGIN_BYTES_MAX => {
                    let skipped = skip_body(reader, header.body_bytes);
                    limited(&mut self.place, deadline, skipped).await?;
                    self.not_bound(&header)
                }
                Ok(header) => match self.read_request(reader, &header, deadline).await? {
                    Ok(body) => self.serve_frame(&header, body).await,
                    Err(refused) => refused,
                },
                Err(FrameError::Invalid { header, code }) => {
                    self.server.metrics.frames_refused.inc();
                    let skipped = skip_body(reader, header.body_bytes);
                    limited(&mut self.place, deadline, skipped).await?;
                    Outcome::Reply(Reply::denied(&header, self.watermark, code))
                }
                Err(error) => {
                    self.server.metrics.frames_refused.inc();
                    if let FrameError::TooLarge { header, code, .. } = &error {
                        let reply = Reply::denied(header, self.watermark, *code);
                        self.in_time(write_reply(writer, &reply)).await?;
                        // Bytes that are not read would reset the connection, and the client
                        // would lose the reply with it.
                        let rest = header.body_bytes.min(DRAINED_BYTES_MAX);
                        let skipped = skip_body(reader, rest);
                        limited(&mut self.place, deadline, skipped).await?;
                    }
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            // A client that does not read its replies is disconnected.
            match outcome {
                Outcome::Reply(reply) => {
                    self.in_time(write_reply(writer, &reply)).await?;
                }
                Outcome::Evict(frame) => {
                    self.in_time(write_all(writer, &frame)).await?;
                    self.close_session();
                    self.server.clients.set_user(self.id, None);
                }
            }
        }
    }
}

async fn write_reply(writer: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> io::Result<()> {
    let bytes = reply.head.len() + reply.body.iter().map(Bytes::len).sum::<usize>();
    if reply.body.is_empty() {
        return write_all(writer, &reply.head).await;
    }
    if bytes <= SINGLE_WRITE_BYTES_MAX {
        let mut whole = Vec::with_capacity(bytes);
        whole.extend_from_slice(&reply.head);
        for part in &reply.body {
            whole.extend_from_slice(part);
        }
        return write_all(writer, &whole).await;
    }
    writer.write_all(&reply.head).await?;
    for part in &reply.body {
        writer.write_all(part).await?;
    }
    writer.flush().await
}

async fn write_all(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// The same until a moment, or until the connection has to make room for another one without
/// a login.
pub(super) async fn limited<T>(
    place: &mut Option<Place>,
    deadline: Instant,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let closed = async {
        match place {
            Some(place) => place.closed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        result = tokio::time::timeout_at(deadline, work) => {
            result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
        () = closed => Err(io::Error::other("closed for another connection without a login")),
    }
}

/// Reads a body. `None` when there is no memory for it: then it was skipped, and holds none.
async fn read_body(
    reader: &mut BufReader<impl AsyncRead + Unpin>,
    length: usize,
    memory: &MemoryShare,
) -> io::Result<Option<Bytes>> {
    let mut body = CountedBuffer::new(length, UNCOUNTED_BYTES_MAX);
    while body.missing() > 0 {
        if !body.try_grow(memory) {
            let rest = body.missing();
            drop(body);
            skip_body(reader, rest).await?;
            return Ok(None);
        }
        body.read(reader).await?;
    }
    Ok(Some(body.finish()))
}

async fn skip_body(
    reader: &mut BufReader<impl AsyncRead + Unpin>,
    length: usize,
) -> io::Result<()> {
    let mut body = (&mut *reader).take(length as u64);
    let mut nowhere = tokio::io::sink();
    let skipped = tokio::io::copy(&mut body, &mut nowhere).await?;
    match skipped == length as u64 {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
