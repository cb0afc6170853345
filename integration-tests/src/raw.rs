//! A client that sends what a stock client never does.

use anyhow::{Context, bail, ensure};
use iggy_binary_protocol::consensus::{Command, EvictionReason, Operation};
use iggy_binary_protocol::requests::users::LoginRegisterRequest;
use iggy_binary_protocol::version::{ClientVersionInfo, IGGY_PROTOCOL_VERSION};
use iggy_binary_protocol::{WireEncode, WireName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEADER_BYTES: usize = 256;

/// A connection with frames written by hand.
pub struct RawClient {
    stream: TcpStream,
    /// The client's id.
    pub id: u128,
    session: u64,
    request: u64,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A reply with this code; zero for success.
    Code(u32),
    /// The end of the session, for this reason.
    Evicted(u8),
}

impl Answer {
    /// The end of the session.
    #[must_use]
    pub fn evicted(reason: EvictionReason) -> Self {
        Self::Evicted(reason as u8)
    }
}

impl RawClient {
    /// Connects with a client id of the caller's choice.
    ///
    /// # Errors
    /// When the node does not accept the connection.
    pub async fn connect(address: &str, id: u128) -> anyhow::Result<Self> {
        Ok(Self {
            stream: TcpStream::connect(address).await?,
            id,
            session: 0,
            request: 0,
        })
    }

    /// Logs in with the version of the protocol that the cluster serves.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn log_in(&mut self, username: &str, password: &str) -> anyhow::Result<Answer> {
        self.log_in_with(IGGY_PROTOCOL_VERSION, username, password)
            .await
    }

    /// Logs in with any version of the protocol.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn log_in_with(
        &mut self,
        protocol_version: u32,
        username: &str,
        password: &str,
    ) -> anyhow::Result<Answer> {
        let name = |text: &str| WireName::new(text).map_err(|_| anyhow::anyhow!("no name: {text}"));
        let login = LoginRegisterRequest {
            version_info: ClientVersionInfo {
                protocol_version,
                sdk_name: name("raw")?,
                sdk_version: name("0")?,
            },
            username: name(username)?,
            password: password.into(),
            client_context: None,
        };
        (self.session, self.request) = (0, 0);
        let (answer, body) = self
            .exchange(Operation::Register, 0, &login.to_bytes())
            .await?;
        if answer == Answer::Code(0) {
            // The section with the result, and the user's id.
            let session = body.get(8..16).context("a short reply")?;
            self.session = u64::from_le_bytes(session.try_into()?);
        }
        Ok(answer)
    }

    /// The next change has this number again, or for the first time.
    pub fn number_next(&mut self, request: u64) {
        self.request = request - 1;
    }

    /// Sends a command in a frame that is not replicated.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn read(&mut self, code: u32, body: &[u8]) -> anyhow::Result<Answer> {
        let sent = self.exchange(Operation::NonReplicated, code, body).await?;
        Ok(sent.0)
    }

    /// Sends a replicated operation.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn change(&mut self, operation: Operation, body: &[u8]) -> anyhow::Result<Answer> {
        let (answer, body) = self.exchange(operation, 0, body).await?;
        // The code is in the section with the result.
        match (answer, body.get(..12)) {
            (Answer::Code(0), Some(section)) if section[..4] == [1, 0, 0, 0] => {
                Ok(Answer::Code(u32::from_le_bytes(section[8..].try_into()?)))
            }
            _ => Ok(answer),
        }
    }

    async fn exchange(
        &mut self,
        operation: Operation,
        code: u32,
        body: &[u8],
    ) -> anyhow::Result<(Answer, Vec<u8>)> {
        let mut frame = vec![0; HEADER_BYTES];
        let size = (HEADER_BYTES + body.len()) as u32;
        frame[48..52].copy_from_slice(&size.to_le_bytes());
        frame[60] = Command::Request as u8;
        frame[128..144].copy_from_slice(&self.id.to_le_bytes());
        if operation != Operation::Register {
            self.request += 1;
        }
        frame[168..176].copy_from_slice(&self.request.to_le_bytes());
        frame[176] = operation as u8;
        frame[184..192].copy_from_slice(&self.session.to_le_bytes());
        if operation == Operation::NonReplicated {
            frame[196..200].copy_from_slice(&code.to_le_bytes());
        }
        frame.extend_from_slice(body);
        self.stream.write_all(&frame).await?;
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).await?;
        let size = u32::from_le_bytes(header[48..52].try_into()?) as usize;
        ensure!(size >= HEADER_BYTES, "a frame of {size} bytes");
        let mut body = vec![0; size - HEADER_BYTES];
        self.stream.read_exact(&mut body).await?;
        let answer = match header[60] {
            kind if kind == Command::Reply as u8 => {
                Answer::Code(u32::from_le_bytes(header[216..220].try_into()?))
            }
            kind if kind == Command::Eviction as u8 => Answer::Evicted(header[HEADER_BYTES - 1]),
            kind => bail!("a frame of kind {kind}"),
        };
        Ok((answer, body))
    }
}
