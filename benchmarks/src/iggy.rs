//! A client of Iggy 0.11 that speaks the wire itself, as far as the scenarios need it.
//!
//! One request at a time on one connection, as the stock client has it. It does not
//! look for the leader, reconnect or encrypt: the scenarios connect it to the leader,
//! where a stock client ends up after its login. What the stock client adds to a
//! latency is not measured here; the integration tests measure it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use bytes::{BufMut, BytesMut};
use iggy_binary_protocol::codes::POLL_MESSAGES_CODE;
use iggy_binary_protocol::consensus::{
    Command, HEADER_SIZE, Operation, RESULT_COUNT_LEN, ReplyHeader, RequestHeader, result_code,
};
use iggy_binary_protocol::requests::consumer_groups::CreateConsumerGroupRequest;
use iggy_binary_protocol::requests::messages::{
    PollMessagesRequest, RawMessage, SendMessagesEncoder,
};
use iggy_binary_protocol::requests::streams::{CreateStreamRequest, DeleteStreamRequest};
use iggy_binary_protocol::requests::topics::CreateTopicRequest;
use iggy_binary_protocol::requests::users::LoginRegisterRequest;
use iggy_binary_protocol::responses::users::LoginRegisterResponse;
use iggy_binary_protocol::version::{ClientVersionInfo, IGGY_PROTOCOL_VERSION};
use iggy_binary_protocol::{
    WireConsumer, WireDecode, WireEncode, WireIdentifier, WireName, WireOptions, WirePartitioning,
    WirePollingStrategy,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// The root user of a new cluster.
const USER: &str = "iggy";
const PASSWORD: &str = "iggy";
/// *Not committed*, *not accepted*: the same request may be repeated.
const TRANSIENT: [u32; 2] = [57, 58];
/// A request is repeated for this long.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
/// A poll's reply before its batches.
const POLL_PREFIX_BYTES: usize = 16;

/// A session at one node.
pub(crate) struct IggyClient {
    stream: BufReader<TcpStream>,
    client: u128,
    session: u64,
    request: u64,
    frame: BytesMut,
    reply: Vec<u8>,
}

impl IggyClient {
    /// Connects and logs in.
    pub(crate) async fn connect(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Self {
            stream: BufReader::with_capacity(64 << 10, stream),
            client: unique_id(),
            session: 0,
            request: 0,
            frame: BytesMut::new(),
            reply: Vec::new(),
        };
        let login = LoginRegisterRequest {
            version_info: ClientVersionInfo {
                protocol_version: IGGY_PROTOCOL_VERSION,
                sdk_name: WireName::new("iggy-cluster-bench")?,
                sdk_version: WireName::new(env!("CARGO_PKG_VERSION"))?,
            },
            username: WireName::new(USER)?,
            password: PASSWORD.into(),
            client_context: None,
        };
        let reply = client.change(Operation::Register, &login).await?;
        let (login, _) = LoginRegisterResponse::decode(reply)?;
        client.session = login.session;
        Ok(client)
    }

    pub(crate) async fn create_stream(&mut self, name: &str) -> anyhow::Result<()> {
        let create = CreateStreamRequest {
            name: WireName::new(name)?,
            options: WireOptions::empty(),
        };
        self.change(Operation::CreateStream, &create).await?;
        Ok(())
    }

    pub(crate) async fn delete_stream(&mut self, name: &str) -> anyhow::Result<()> {
        let stream_id = WireIdentifier::named(name)?;
        let delete = DeleteStreamRequest { stream_id };
        self.change(Operation::DeleteStream, &delete).await?;
        Ok(())
    }

    pub(crate) async fn create_topic(
        &mut self,
        stream: &str,
        name: &str,
        partitions: u32,
    ) -> anyhow::Result<()> {
        let create = CreateTopicRequest {
            stream_id: WireIdentifier::named(stream)?,
            partitions_count: partitions,
            name: WireName::new(name)?,
            options: WireOptions::empty(),
        };
        self.change(Operation::CreateTopic, &create).await?;
        Ok(())
    }

    pub(crate) async fn create_group(
        &mut self,
        stream: &str,
        topic: &str,
        name: &str,
    ) -> anyhow::Result<()> {
        let create = CreateConsumerGroupRequest {
            stream_id: WireIdentifier::named(stream)?,
            topic_id: WireIdentifier::named(topic)?,
            name: WireName::new(name)?,
        };
        self.change(Operation::CreateConsumerGroup, &create).await?;
        Ok(())
    }

    /// Sends a batch of messages to a partition.
    pub(crate) async fn send(
        &mut self,
        (stream, topic, partition): (&str, &str, u32),
        messages: u32,
        payload: &[u8],
    ) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let origin_timestamp = u64::try_from(now.as_micros())?;
        let messages: Vec<_> = (1..=u128::from(messages))
            .map(|id| RawMessage {
                id,
                origin_timestamp,
                headers: None,
                payload,
            })
            .collect();
        let mut body = BytesMut::new();
        SendMessagesEncoder::encode(
            &mut body,
            &WireIdentifier::named(stream)?,
            &WireIdentifier::named(topic)?,
            &WirePartitioning::PartitionId(partition),
            &messages,
        )?;
        self.exchange(Operation::SendMessages, 0, &body).await?;
        Ok(())
    }

    /// Polls messages from the start of a partition; there must be some.
    pub(crate) async fn poll(
        &mut self,
        (stream, topic, partition): (&str, &str, u32),
        messages: u32,
    ) -> anyhow::Result<()> {
        let poll = PollMessagesRequest {
            consumer: WireConsumer::consumer(WireIdentifier::numeric(1)),
            stream_id: WireIdentifier::named(stream)?,
            topic_id: WireIdentifier::named(topic)?,
            partition_id: Some(partition),
            strategy: WirePollingStrategy::offset(0),
            count: messages,
            auto_commit: false,
        };
        let (operation, code) = (Operation::NonReplicated, POLL_MESSAGES_CODE);
        self.exchange(operation, code, &poll.to_bytes()).await?;
        anyhow::ensure!(
            self.reply.len() > POLL_PREFIX_BYTES,
            "a poll returned no messages"
        );
        Ok(())
    }

    /// A change of the metadata; returns the reply behind its result section.
    async fn change(
        &mut self,
        operation: Operation,
        body: &impl WireEncode,
    ) -> anyhow::Result<&[u8]> {
        let body = body.to_bytes();
        let started = Instant::now();
        if operation != Operation::Register {
            self.request += 1;
        }
        loop {
            let request = self.request;
            self.round_trip(operation, 0, request, &body).await?;
            let code = result_code(&self.reply).context("a reply without a result")?;
            match code {
                0 => return Ok(&self.reply[RESULT_COUNT_LEN..]),
                code if TRANSIENT.contains(&code) && started.elapsed() < PATIENCE => {
                    tokio::time::sleep(PAUSE).await;
                }
                code => bail!("Iggy refused {operation:?} with error {code}"),
            }
        }
    }

    /// A request whose reply has no result section.
    async fn exchange(
        &mut self,
        operation: Operation,
        code: u32,
        body: &[u8],
    ) -> anyhow::Result<()> {
        self.request += 1;
        let request = self.request;
        self.round_trip(operation, code, request, body).await
    }

    /// Sends a request and reads the body of its reply.
    async fn round_trip(
        &mut self,
        operation: Operation,
        code: u32,
        request: u64,
        body: &[u8],
    ) -> anyhow::Result<()> {
        let mut header = RequestHeader {
            size: u32::try_from(HEADER_SIZE + body.len())?,
            command: Command::Request,
            client: self.client,
            request,
            operation,
            session: self.session,
            ..RequestHeader::default()
        };
        header.reserved[..4].copy_from_slice(&code.to_le_bytes());
        self.frame.clear();
        self.frame.put_slice(bytemuck::bytes_of(&header));
        self.frame.put_slice(body);
        self.stream.get_mut().write_all(&self.frame).await?;

        let mut header = [0; HEADER_SIZE];
        self.stream.read_exact(&mut header).await?;
        let header: ReplyHeader = bytemuck::checked::try_pod_read_unaligned(&header)
            .map_err(|error| anyhow::anyhow!("a reply with an invalid header: {error}"))?;
        anyhow::ensure!(
            header.command == Command::Reply,
            "the node ended the session: {:?}",
            header.command
        );
        let bytes = (header.size as usize).checked_sub(HEADER_SIZE);
        let bytes = bytes.context("a reply without a size")?;
        self.reply.resize(bytes, 0);
        self.stream.read_exact(&mut self.reply).await?;
        match header.status {
            0 => Ok(()),
            status => bail!("Iggy refused {operation:?} with error {status}"),
        }
    }
}

/// An id that no other client of the cluster has: all of them are of this process.
fn unique_id() -> u128 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    (u128::from(std::process::id()) << 64) | u128::from(number)
}
