//! One connection of the load generator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use consensus::ProposeError;
use replicated_log::{LogHandle, Outcome, ReplicatedLog};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Semaphore, mpsc};

use super::disk::DiskControl;
use crate::wire::{self, Control, Frames, ReplicaReport};
use replicated_log::links::LinkCounters;

/// Commands of a connection without an outcome, at most; beyond it, the connection is
/// not read.
const OPEN_MAX: usize = 1 << 20;
/// Groups of outcomes that are written together, at most.
const GROUPS_MAX: usize = 64;
/// Replies to controls that wait to be written, at most.
const REPLIES_MAX: usize = 16;

/// What connections share.
pub(super) struct Shared {
    pub(super) log: LogHandle,
    pub(super) links: Arc<LinkCounters>,
    pub(super) disk: Arc<DiskControl>,
    /// From the start of the process until the log was open.
    pub(super) opened_micros: u64,
    /// Entries in the log at that time.
    pub(super) entries_at_start: u64,
}

impl Shared {
    /// Serves a connection until it breaks, in either direction.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let (outcomes, executed) = mpsc::unbounded_channel();
        let (replies, pending) = mpsc::channel(REPLIES_MAX);
        let room = Arc::new(Semaphore::new(OPEN_MAX));
        let writing = tokio::spawn(write(writer, executed, pending, Arc::clone(&room)));
        let mut frames = Frames::new(reader);
        while let Ok(Some((kind, body))) = frames.next().await {
            match kind {
                wire::COMMANDS => match wire::commands(body) {
                    Some(commands) if commands.len() <= OPEN_MAX => {
                        // Released when their outcomes are written.
                        match room.acquire_many(commands.len() as u32).await {
                            Ok(permits) => permits.forget(),
                            Err(_) => break,
                        }
                        self.log.queue(commands, &outcomes).await;
                    }
                    _ => break,
                },
                wire::CONTROL => {
                    let Ok(control) = serde_json::from_slice(&body) else {
                        break;
                    };
                    let Ok(reply) = self.control(control).await else {
                        break;
                    };
                    if replies.send(reply).await.is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
        drop((outcomes, replies));
        writing.abort();
    }

    async fn control(&self, control: Control) -> anyhow::Result<Bytes> {
        if let Control::DelayDisk(micros) = control {
            self.disk.delay_micros.store(micros, Ordering::Relaxed);
        }
        let status = self.log.status().await.context("the replica has stopped")?;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let leader = status.core.leader;
        let report = ReplicaReport {
            leader: leader.and_then(|id| u8::try_from(id.number()).ok()),
            term: status.core.term.0,
            applied: status.applied.0,
            elections: status.core.elections_started,
            commands: status.counters.commands_applied,
            batches: status.counters.batch_commands.count(),
            overloaded: status.counters.overloaded,
            messages: count(&self.links.sent),
            message_bytes: count(&self.links.sent_bytes),
            syncs: count(&self.disk.syncs),
            written_bytes: count(&self.disk.written_bytes),
            opened_micros: self.opened_micros,
            entries_at_start: self.entries_at_start,
        };
        Ok(wire::json_frame(wire::REPLY, &report)?.freeze())
    }
}

/// Writes outcomes and replies until the connection breaks or the reader drops its ends.
async fn write(
    mut writer: OwnedWriteHalf,
    mut executed: mpsc::UnboundedReceiver<Vec<Outcome>>,
    mut replies: mpsc::Receiver<Bytes>,
    room: Arc<Semaphore>,
) {
    let mut groups = Vec::with_capacity(GROUPS_MAX);
    let mut frame = BytesMut::new();
    loop {
        let mut written = 0;
        tokio::select! {
            received = executed.recv_many(&mut groups, GROUPS_MAX) => {
                if received == 0 {
                    break;
                }
                let at = wire::start_frame(&mut frame, wire::OUTCOMES);
                for outcome in groups.drain(..).flatten() {
                    written += 1;
                    wire::put_outcome(&mut frame, outcome.tag, code(&outcome));
                }
                wire::end_frame(&mut frame, at);
            }
            Some(reply) = replies.recv() => frame.extend_from_slice(&reply),
        }
        if writer.write_all(&frame).await.is_err() {
            break;
        }
        frame.clear();
        room.add_permits(written);
    }
    room.close();
}

fn code(outcome: &Outcome) -> u8 {
    match &outcome.result {
        Ok(_) => wire::DONE,
        Err(ProposeError::NotLeader { .. }) => wire::NOT_LEADER,
        Err(ProposeError::Overloaded | ProposeError::TooLarge { .. }) => wire::OVERLOADED,
        Err(ProposeError::OutcomeUnknown) => wire::UNKNOWN,
    }
}
