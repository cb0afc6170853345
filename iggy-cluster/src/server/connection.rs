//! One client's connection: frames in, replies out, one after the other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adapters::metadata::{PartitionKey, TokenHash, code};
use adapters::wire::v0_11::{
    Eviction, FrameError, HEADER_BYTES, Reply, RequestHeader, body_matches,
};
use bytes::{Bytes, BytesMut};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::error::Elapsed;
use tracing::debug;

use super::Server;
use crate::partitions::{Receipt, has_session};

/// A header and a short body; longer ones are read past it. Small, because every
/// idle connection has one.
const READ_BUFFER_BYTES: usize = 512;
/// A reply up to this size is written at once.
const WRITE_AT_ONCE_BYTES: usize = 16 << 10;
/// A reply that was written so long ago, on a connection that is still open, has
/// arrived.
const RECEIPT_TIME: Duration = Duration::from_millis(100);
/// Memory for a body grows by this much at a time, as bytes arrive.
const BODY_STEP_BYTES: usize = 1 << 20;

/// Nobody needs longer frames before it has logged in.
const LOGIN_BYTES_MAX: usize = 16 << 10;
/// How often it is looked whether a silent client still has a session.
const LOOK: Duration = Duration::from_secs(30);

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
    /// The session, opened through another connection, whose consumer this one
    /// carries.
    pub(super) attached: Option<Bound>,
    /// The session's request whose outcome the client was told last is unknown.
    pub(super) open: Option<u64>,
    /// The metadata position that this client was told last; it never goes back.
    pub(super) commit: u64,
    /// What the last poll commits once its messages have arrived.
    pub(super) receipt: Option<Receipt>,
    /// The token that the request under way makes.
    pub(super) new_token: Option<(TokenHash, SecretString)>,
    pub(super) address: SocketAddr,
    /// Through which offset a request removes segments.
    pub(super) trimming: Option<(Trimming, Option<u64>)>,
    /// Since when it has no session.
    unbound_since: Instant,
}

/// What to do after a request.
pub(super) enum Outcome {
    Reply(Reply),
    /// Send these bytes and end the connection's session.
    Evict(Bytes),
}

/// What came of waiting for a frame.
enum Begun {
    /// Its first byte is there.
    Frame,
    /// The client closed the connection.
    End,
    /// This client is silent, and a member of a group for which it is silent for too
    /// long, or without a session.
    Silence(u128),
}

impl Connection {
    pub(super) fn new(server: Arc<Server>, address: SocketAddr) -> Self {
        Self {
            id: server.clients.add(address),
            server,
            bound: None,
            attached: None,
            open: None,
            commit: 0,
            receipt: None,
            new_token: None,
            address,
            trimming: None,
            unbound_since: Instant::now(),
        }
    }

    pub(super) async fn run(
        mut self,
        reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
    ) {
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
        if let Err(error) = self.serve(&mut reader, &mut writer).await {
            debug!(client = self.id, %error, "a connection ended");
        }
        if let Some(receipt) = self.receipt.take() {
            self.server.partitions.local.withdraw(&receipt);
        }
        self.server.clients.remove(self.id);
        self.close_session();
    }

    /// The client is gone, and its session with it: nobody else may use it.
    pub(super) fn close_session(&mut self) {
        self.open = None;
        self.attached = None;
        self.trimming = None;
        self.unbound_since = Instant::now();
        let Some(Bound {
            client, session, ..
        }) = self.bound.take()
        else {
            return;
        };
        let server = Arc::clone(&self.server);
        tokio::spawn(async move { server.end_session(client, session).await });
    }

    /// Waits for a frame. A client may be silent between frames, not within one; a
    /// member of a group may not, because others wait for what it holds.
    async fn begun(
        &mut self,
        reader: &mut BufReader<impl AsyncRead + Unpin>,
        byte: &mut [u8],
    ) -> io::Result<Begun> {
        let silence_max = self.server.config.heartbeat.silence_max();
        let login_timeout = self.server.config.tcp.login_timeout.duration();
        // Counted from when it came, whatever it sends meanwhile.
        let login_timeout = login_timeout.saturating_sub(self.unbound_since.elapsed());
        let read = loop {
            if let Some(receipt) = self.receipt.take() {
                let read = tokio::time::timeout(RECEIPT_TIME, reader.read(byte)).await;
                match self.arrived(receipt, read).await {
                    Some(read) => break read?,
                    None => continue,
                }
            }
            let read = reader.read(byte);
            let Some(bound) = self.bound else {
                break match login_timeout.is_zero() {
                    true => return Err(io::ErrorKind::TimedOut.into()),
                    false => in_time(login_timeout, read).await?,
                };
            };
            match tokio::time::timeout(silence_max.unwrap_or(LOOK), read).await {
                Ok(read) => break read?,
                Err(_) if self.has_ended(bound) => return Ok(Begun::Silence(bound.client)),
                Err(_) if silence_max.is_some() && self.is_member(bound) => {
                    return Ok(Begun::Silence(bound.client));
                }
                Err(_) => {}
            }
        };
        Ok(match read {
            0 => Begun::End,
            _ => Begun::Frame,
        })
    }

    /// A client that goes on, that ends the connection in order, or that keeps it
    /// open for a moment has got its last reply.
    async fn arrived(
        &self,
        receipt: Receipt,
        read: Result<io::Result<usize>, Elapsed>,
    ) -> Option<io::Result<usize>> {
        let local = &self.server.partitions.local;
        match &read {
            // Without a closing message of TLS, still in order.
            Ok(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                local.withdraw(&receipt);
            }
            _ => local.confirm(receipt).await,
        }
        read.ok()
    }

    /// Whether its session was ended by others: the user is gone, or it made room.
    fn has_ended(&self, bound: Bound) -> bool {
        let state = self.server.metadata.reader.read();
        state.applied() >= self.commit && !has_session(&state, bound.client, bound.session)
    }

    fn is_member(&self, bound: Bound) -> bool {
        let state = self.server.metadata.reader.read();
        state.memberships(bound.client).next().is_some()
    }

    async fn serve(
        &mut self,
        reader: &mut BufReader<impl AsyncRead + Unpin>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let frame_bytes_max = self.server.config.tcp.frame_size_max.bytes() as usize;
        let frame_timeout = self.server.config.tcp.frame_timeout.duration();
        loop {
            let mut bytes = [0; HEADER_BYTES];
            match self.begun(reader, &mut bytes[..1]).await? {
                Begun::Frame => {}
                Begun::End => return Ok(()),
                Begun::Silence(client) => {
                    // Whoever is told so on an open connection does not notice.
                    let told = Eviction::StaleClient.encode(client);
                    return in_time(frame_timeout, write_all(writer, &told)).await;
                }
            }
            let rest = reader.read_exact(&mut bytes[1..]);
            in_time(frame_timeout, rest).await?;
            let outcome = match RequestHeader::parse(&bytes, frame_bytes_max) {
                Ok(header) if self.bound.is_none() && header.body_bytes > LOGIN_BYTES_MAX => {
                    skip_body(reader, header.body_bytes, frame_timeout).await?;
                    self.not_bound(&header)
                }
                Ok(header) => {
                    let body = read_body(reader, header.body_bytes);
                    let body = in_time(frame_timeout, body).await?;
                    if body_matches(&header, &body) {
                        // An idle connection has no room for what a request needs.
                        let begun = Instant::now();
                        let outcome = Box::pin(self.handle(&header, body)).await;
                        let took = begun.elapsed().as_secs_f64();
                        self.server.metrics.request_seconds.observe(took);
                        outcome
                    } else {
                        self.server.metrics.frames_refused.inc();
                        Outcome::Reply(Reply::denied(&header, self.commit, code::INVALID_COMMAND))
                    }
                }
                Err(FrameError::Invalid { header, code }) => {
                    self.server.metrics.frames_refused.inc();
                    skip_body(reader, header.body_bytes, frame_timeout).await?;
                    Outcome::Reply(Reply::denied(&header, self.commit, code))
                }
                Err(error) => {
                    self.server.metrics.frames_refused.inc();
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            // Whoever does not take its replies does not get a node's memory for them.
            match outcome {
                Outcome::Reply(reply) => {
                    in_time(frame_timeout, write_reply(writer, &reply)).await?;
                }
                Outcome::Evict(frame) => {
                    in_time(frame_timeout, write_all(writer, &frame)).await?;
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
    if bytes <= WRITE_AT_ONCE_BYTES {
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

async fn in_time<T>(at_most: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(at_most, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn read_body(
    reader: &mut BufReader<impl AsyncRead + Unpin>,
    length: usize,
) -> io::Result<Bytes> {
    let mut body = BytesMut::with_capacity(length.min(BODY_STEP_BYTES));
    while body.len() < length {
        let missing = length - body.len();
        body.reserve(missing.min(BODY_STEP_BYTES));
        let read = (&mut *reader)
            .take(missing as u64)
            .read_buf(&mut body)
            .await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(body.freeze())
}

async fn skip_body(
    reader: &mut BufReader<impl AsyncRead + Unpin>,
    length: usize,
    at_most: Duration,
) -> io::Result<()> {
    let mut body = (&mut *reader).take(length as u64);
    let mut nowhere = tokio::io::sink();
    let skipped = in_time(at_most, tokio::io::copy(&mut body, &mut nowhere)).await?;
    match skipped == length as u64 {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
