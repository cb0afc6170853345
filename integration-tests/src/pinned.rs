//! A client that stays at the node it connects to. Stock clients follow the leader and the
//! owners of partitions, so they do not show what other nodes answer.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use iggy_binary_protocol::codes::POLL_MESSAGES_CODE;
use iggy_binary_protocol::consensus::{Command, Operation};
use iggy_binary_protocol::requests::messages::{
    PollMessagesRequest, RawMessage, SendMessagesEncoder,
};
use iggy_binary_protocol::requests::users::LoginRegisterRequest;
use iggy_binary_protocol::version::{ClientVersionInfo, IGGY_PROTOCOL_VERSION};
use iggy_binary_protocol::{WireEncode, WireIdentifier, WireName, WirePartitioning};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Cluster;

const HEADER_BYTES: usize = 256;
const SIZE_AT: usize = 48;
const COMMAND_AT: usize = 60;
const CLIENT_AT: usize = 128;
const OPERATION_AT: usize = 176;
const REQUEST_AT: usize = 168;
const SESSION_AT: usize = 184;
const CODE_AT: usize = 196;
/// In the body of the reply to a login: after the result and the user's id.
const LOGIN_SESSION_AT: usize = 8;
const STATUS_AT: usize = 216;

static CLIENTS: AtomicU64 = AtomicU64::new(1);

/// A connection to one node, logged in.
pub struct PinnedClient {
    stream: TcpStream,
    id: u128,
    session: u64,
    /// The number of the last request that names the session.
    requests: u64,
    /// Its body.
    last: Bytes,
}

impl PinnedClient {
    /// Connects to a node and logs in as the root user.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn connect(cluster: &Cluster, node: u8) -> anyhow::Result<Self> {
        Self::connect_as(cluster, node, "iggy", "iggy").await
    }

    /// The same as another user.
    ///
    /// # Errors
    /// The same.
    pub async fn connect_as(
        cluster: &Cluster,
        node: u8,
        username: &str,
        password: &str,
    ) -> anyhow::Result<Self> {
        let mut client = Self {
            stream: TcpStream::connect(cluster.tcp(node)).await?,
            id: u128::from(CLIENTS.fetch_add(1, Ordering::Relaxed)),
            session: 0,
            requests: 0,
            last: Bytes::new(),
        };
        client.stream.set_nodelay(true)?;
        let login = LoginRegisterRequest {
            version_info: ClientVersionInfo {
                protocol_version: IGGY_PROTOCOL_VERSION,
                sdk_name: WireName::new("pinned")?,
                sdk_version: WireName::new("0.11.0")?,
            },
            username: WireName::new(username)?,
            password: password.into(),
            client_context: None,
        };
        let login = login.to_bytes();
        let (status, reply) = client.exchange(Operation::Register, 0, &login).await?;
        ensure!(status == 0, "the login is refused with {status}");
        let mut session = reply.slice(LOGIN_SESSION_AT.min(reply.len())..);
        client.session = session.try_get_u64_le()?;
        Ok(client)
    }

    /// Sends a request that is not replicated; returns the status and the body of the reply.
    ///
    /// # Errors
    /// When the connection breaks, or the node ends the session.
    pub async fn request(&mut self, code: u32, body: &[u8]) -> anyhow::Result<(u32, Bytes)> {
        self.exchange(Operation::NonReplicated, code, body).await
    }

    /// Sends one message to a partition of the stream `s` and the topic `t`; returns the
    /// status of the reply.
    ///
    /// # Errors
    /// Those of [`Self::request`].
    pub async fn send(&mut self, partition: u32) -> anyhow::Result<u32> {
        self.send_payload(partition, b"payload").await
    }

    /// The same with this payload.
    ///
    /// # Errors
    /// Those of [`Self::request`].
    pub async fn send_payload(&mut self, partition: u32, payload: &[u8]) -> anyhow::Result<u32> {
        let message = RawMessage {
            id: u128::from(CLIENTS.fetch_add(1, Ordering::Relaxed)),
            origin_timestamp: 1,
            headers: None,
            payload,
        };
        let (stream, topic) = (WireIdentifier::named("s")?, WireIdentifier::named("t")?);
        let to = WirePartitioning::PartitionId(partition);
        let mut body = BytesMut::new();
        SendMessagesEncoder::encode(&mut body, &stream, &topic, &to, &[message])?;
        self.requests += 1;
        self.last = body.freeze();
        self.repeat().await
    }

    /// Sends the last request of [`Self::send`] again, as the same request.
    ///
    /// # Errors
    /// Those of [`Self::request`].
    pub async fn repeat(&mut self) -> anyhow::Result<u32> {
        let body = self.last.clone();
        Ok(self.exchange(Operation::SendMessages, 0, &body).await?.0)
    }

    /// Polls.
    ///
    /// # Errors
    /// Those of [`Self::request`].
    pub async fn poll(&mut self, poll: &PollMessagesRequest) -> anyhow::Result<(u32, Bytes)> {
        self.request(POLL_MESSAGES_CODE, &poll.to_bytes()).await
    }

    /// Polls and waits until the reply starts. It is not read: drop the client.
    ///
    /// # Errors
    /// When the connection breaks, or the poll is refused.
    pub async fn poll_unread(&mut self, poll: &PollMessagesRequest) -> anyhow::Result<()> {
        let body = poll.to_bytes();
        self.write(Operation::NonReplicated, POLL_MESSAGES_CODE, &body)
            .await?;
        let (status, _) = self.read_header().await?;
        ensure!(status == 0, "the poll is refused with {status}");
        Ok(())
    }

    async fn exchange(
        &mut self,
        operation: Operation,
        code: u32,
        body: &[u8],
    ) -> anyhow::Result<(u32, Bytes)> {
        self.write(operation, code, body).await?;
        let (status, length) = self.read_header().await?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((status, body.into()))
    }

    async fn write(&mut self, operation: Operation, code: u32, body: &[u8]) -> anyhow::Result<()> {
        let mut frame = vec![0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
        put(SIZE_AT, &((HEADER_BYTES + body.len()) as u32).to_le_bytes());
        put(COMMAND_AT, &[Command::Request as u8]);
        put(CLIENT_AT, &self.id.to_le_bytes());
        put(OPERATION_AT, &[operation as u8]);
        put(CODE_AT, &code.to_le_bytes());
        if operation == Operation::SendMessages {
            put(SESSION_AT, &self.session.to_le_bytes());
            put(REQUEST_AT, &self.requests.to_le_bytes());
        }
        frame.extend_from_slice(body);
        self.stream.write_all(&frame).await?;
        Ok(())
    }

    /// The status of a reply, and how long its body is.
    async fn read_header(&mut self) -> anyhow::Result<(u32, usize)> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).await?;
        if header[COMMAND_AT] != Command::Reply as u8 {
            bail!("the node ends the session");
        }
        let number = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_le_bytes(bytes)
        };
        let length = (number(SIZE_AT) as usize).saturating_sub(HEADER_BYTES);
        Ok((number(STATUS_AT), length))
    }
}
