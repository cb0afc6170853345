//! A connection to a replica, with many commands under way.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::replica::KEY_BYTES;
use crate::wire::{self, Control, Frames, ReplicaReport};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Keys that a client writes to, one after the other.
const KEYS: u64 = 10_000;

pub(crate) struct Client {
    frames: Frames<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    frame: BytesMut,
    /// What every command holds behind its key.
    value: Bytes,
    next_tag: u64,
}

impl Client {
    /// Connects; commands will have so many bytes.
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

    /// Sends so many commands in one frame; returns the first's tag, the others
    /// follow.
    pub(crate) async fn send(&mut self, commands: usize) -> std::io::Result<u64> {
        let value = self.value.clone();
        self.send_with(commands, KEY_BYTES + value.len(), put(&value))
            .await
    }

    /// The same, with commands of one length that the caller writes.
    pub(crate) async fn send_with(
        &mut self,
        commands: usize,
        length: usize,
        write: impl Fn(u64, &mut BytesMut),
    ) -> std::io::Result<u64> {
        let first = self.next_tag;
        self.frame.clear();
        let at = wire::begin_frame(&mut self.frame, wire::COMMANDS);
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

    /// Outcomes that have arrived, at least one: tags and codes.
    pub(crate) async fn outcomes(
        &mut self,
    ) -> anyhow::Result<impl Iterator<Item = (u64, u8)> + use<>> {
        match self.frames.next().await? {
            Some((wire::OUTCOMES, body)) => Ok(wire::outcomes(body)),
            Some((kind, _)) => bail!("a frame of kind {kind} instead of outcomes"),
            None => bail!("the replica closed the connection"),
        }
    }

    /// Sends commands, so many under way at a time, until all are carried out.
    pub(crate) async fn carry_out(
        &mut self,
        commands: u64,
        in_flight: usize,
    ) -> anyhow::Result<()> {
        let value = self.value.clone();
        let length = KEY_BYTES + value.len();
        self.carry_out_with(commands, in_flight, length, put(&value))
            .await
    }

    /// The same, with commands of one length that the caller writes.
    pub(crate) async fn carry_out_with(
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

    /// Asks beside commands; none may be under way.
    pub(crate) async fn control(&mut self, control: Control) -> anyhow::Result<ReplicaReport> {
        let frame = wire::json_frame(wire::CONTROL, &control)?;
        self.writer.write_all(&frame).await?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.frames.next()).await??;
        match answer.context("the replica closed the connection")? {
            (wire::ANSWER, body) => Ok(serde_json::from_slice(&body)?),
            (kind, _) => bail!("a frame of kind {kind} instead of an answer"),
        }
    }
}

/// Writes a value under one key after the other.
fn put(value: &[u8]) -> impl Fn(u64, &mut BytesMut) + '_ {
    move |tag, frame| {
        frame.put_u64_le(tag % KEYS);
        frame.put_slice(value);
    }
}
