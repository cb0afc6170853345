//! A connection to a replica, with many commands in flight.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::replica::KEY_BYTES;
use crate::wire::{self, Control, Frames, ReplicaReport};

const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Keys that a client writes to, in turn.
const KEYS: u64 = 10_000;

pub(crate) struct Client {
    frames: Frames<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    frame: BytesMut,
    /// The bytes after the key of every command.
    value: Bytes,
    next_tag: u64,
}

impl Client {
    /// Connects for commands of this many bytes.
    pub(crate) async fn connect(address: &str, command_bytes: usize) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let value = vec![b'v'; command_bytes.saturating_sub(KEY_BYTES)];
        Ok(Self {
            frames: Frames::new(reader),
            writer,
            frame: BytesMut::new(),
            value: value.into(),
            next_tag: 0,
        })
    }

    /// Sends this many commands in one frame; returns the first's tag. The others have
    /// the tags that follow.
    pub(crate) async fn send(&mut self, commands: usize) -> std::io::Result<u64> {
        let value = self.value.clone();
        self.send_with(commands, KEY_BYTES + value.len(), put(&value))
            .await
    }

    /// The same, with commands of one length that the caller encodes.
    pub(crate) async fn send_with(
        &mut self,
        commands: usize,
        length: usize,
        write: impl Fn(u64, &mut BytesMut),
    ) -> std::io::Result<u64> {
        let first = self.next_tag;
        self.frame.clear();
        let at = wire::start_frame(&mut self.frame, wire::COMMANDS);
        self.frame.put_u64_le(first);
        self.frame.put_u32_le(length as u32);
        for _ in 0..commands {
            write(self.next_tag, &mut self.frame);
            self.next_tag += 1;
        }
        wire::end_frame(&mut self.frame, at);
        self.writer.write_all(&self.frame).await?;
        Ok(first)
    }

    /// Tags and codes of the outcomes that have arrived, at least one.
    pub(crate) async fn outcomes(
        &mut self,
    ) -> anyhow::Result<impl Iterator<Item = (u64, u8)> + use<>> {
        match self.frames.next().await? {
            Some((wire::OUTCOMES, body)) => Ok(wire::outcomes(body)),
            Some((kind, _)) => bail!("a frame of kind {kind} instead of outcomes"),
            None => bail!("the replica closed the connection"),
        }
    }

    /// Sends commands, with at most this many in flight, until all are executed.
    pub(crate) async fn execute(&mut self, commands: u64, in_flight: usize) -> anyhow::Result<()> {
        let value = self.value.clone();
        let length = KEY_BYTES + value.len();
        self.execute_with(commands, in_flight, length, put(&value))
            .await
    }

    /// The same, with commands of one length that the caller encodes.
    pub(crate) async fn execute_with(
        &mut self,
        commands: u64,
        in_flight: usize,
        length: usize,
        write: impl Fn(u64, &mut BytesMut),
    ) -> anyhow::Result<()> {
        let (mut sent, mut done) = (0, 0);
        while done < commands {
            let room = (in_flight as u64 - (sent - done)).min(commands - sent);
            if room > 0 {
                self.send_with(room as usize, length, &write).await?;
                sent += room;
            }
            for (_, code) in self.outcomes().await? {
                anyhow::ensure!(code == wire::DONE, "a command was refused: code {code}");
                done += 1;
            }
        }
        Ok(())
    }

    /// Sends a control and returns the report; no command may be in flight.
    pub(crate) async fn control(&mut self, control: Control) -> anyhow::Result<ReplicaReport> {
        let frame = wire::json_frame(wire::CONTROL, &control)?;
        self.writer.write_all(&frame).await?;
        let reply = tokio::time::timeout(REPLY_TIMEOUT, self.frames.next()).await??;
        match reply.context("the replica closed the connection")? {
            (wire::REPLY, body) => Ok(serde_json::from_slice(&body)?),
            (kind, _) => bail!("a frame of kind {kind} instead of a reply"),
        }
    }
}

/// Writes a value under each key in turn.
fn put(value: &[u8]) -> impl Fn(u64, &mut BytesMut) + '_ {
    move |tag, frame| {
        frame.put_u64_le(tag % KEYS);
        frame.put_slice(value);
    }
}
