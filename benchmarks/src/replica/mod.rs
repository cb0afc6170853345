//! One process of a benchmark's cluster: a replica of the log, with a state machine
//! that keeps values by key, and a port for the load generator.

mod disk;
mod machine;
mod ownership;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use consensus::{ProposeError, StateMachine};
use iggy_cluster::config;

use replica::disk::{Disk, RealDisk};
use replicated_log::links::LinkCounters;
use replicated_log::{EmptyDisk, LogHandle, LogNode, Outcome, ReplicatedLog};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use crate::wire::{self, Control, Frames, ReplicaReport};
use disk::{DiskControl, MeasuredDisk};
pub(crate) use machine::{KEY_BYTES, KeyValues};
pub(crate) use ownership::{COMMAND_BYTES, Ownership, OwnershipCommand};

/// Commands of a connection that have no outcome yet, at most; then it is not read.
const OPEN_MAX: usize = 1 << 20;
/// Rounds whose outcomes are written together at most.
const TOLD_MAX: usize = 64;

/// When a command counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// When a majority has synced it
    Fsync,
    /// When a majority has written it to the page cache
    None,
}

impl Durability {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::None => "none",
        }
    }
}

/// What a replica keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Machine {
    /// Values by key
    Values,
    /// Owners of partitions
    Ownership,
}

impl Machine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Ownership => "ownership",
        }
    }

    fn build(self) -> Box<dyn StateMachine> {
        match self {
            Self::Values => Box::new(KeyValues::default()),
            Self::Ownership => Box::new(Ownership::default()),
        }
    }
}

/// What becomes of memory that is freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Memory {
    /// The allocator keeps it for a second, as in a node
    #[default]
    Kept,
    /// It goes back to the system at once
    Returned,
    /// It is kept, and made of huge pages
    HugePages,
}

impl Memory {
    pub(crate) const ALL: [Self; 3] = [Self::Kept, Self::Returned, Self::HugePages];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Returned => "returned",
            Self::HugePages => "huge-pages",
        }
    }

    /// What tells the allocator.
    pub(crate) fn environment(self) -> Vec<(OsString, OsString)> {
        match self {
            Self::Kept | Self::HugePages => Vec::new(),
            Self::Returned => vec![("MIMALLOC_PURGE_DELAY".into(), "0".into())],
        }
    }
}

/// Arguments of a benchmark's replica.
#[derive(Debug, Args)]
pub(crate) struct ReplicaArgs {
    #[arg(long)]
    config: PathBuf,
    #[arg(long)]
    replica_id: u8,
    #[arg(long)]
    durability: Durability,
    #[arg(long)]
    machine: Machine,
    #[arg(long, default_value = "kept")]
    pub(crate) memory: Memory,
}

struct Replica {
    log: LogHandle,
    links: Arc<LinkCounters>,
    disk: Arc<DiskControl>,
    opened_micros: u64,
    entries_at_start: u64,
}

/// Runs a replica until it is killed.
///
/// # Errors
/// When it cannot start, or must stop.
pub(crate) async fn run(args: &ReplicaArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let config = config::load(Some(&args.config), config::environment(), None)?.config;
    let section = config.node(args.replica_id).context("no such replica")?;
    let log = config.log(section)?;
    let control = Arc::new(DiskControl::default());
    let skip = args.durability == Durability::None;
    control.skip_syncs.store(skip, Ordering::Relaxed);
    let disk: Arc<dyn Disk> = Arc::new(MeasuredDisk {
        inner: RealDisk::new(&config.storage.path)?,
        control: Arc::clone(&control),
    });
    let node = LogNode::builder(log, args.machine.build())
        .disk(disk)
        .empty_disk(EmptyDisk::Format);
    let mut node = node.start().await?;
    let status = node.log().status().await.context("the replica is gone")?;
    let opened_micros = u64::try_from(begun.elapsed().as_micros())?;
    let listener = TcpListener::bind((section.ip.as_str(), section.ports.tcp)).await?;
    let replica = Arc::new(Replica {
        log: node.log().clone(),
        links: Arc::clone(node.links().counters()),
        disk: control,
        opened_micros,
        entries_at_start: status.core.last.0 + 1 - status.core.first.0.max(status.applied.0 + 1),
    });
    let serving = async {
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(Arc::clone(&replica).serve(stream));
        }
    };
    tokio::select! {
        result = serving => result,
        stopped = node.stopped() => stopped.map_err(anyhow::Error::from),
    }
}

impl Replica {
    /// Serves a connection until it breaks, in either direction.
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (reader, mut writer) = stream.into_split();
        let (outcomes, mut done) = mpsc::unbounded_channel::<Vec<Outcome>>();
        let room = Arc::new(Semaphore::new(OPEN_MAX));
        let freed = Arc::clone(&room);
        let (answers, mut answered) = mpsc::channel::<Bytes>(16);
        let writing = tokio::spawn(async move {
            let mut waiting = Vec::with_capacity(TOLD_MAX);
            let mut frame = BytesMut::new();
            loop {
                let mut told = 0;
                tokio::select! {
                    taken = done.recv_many(&mut waiting, TOLD_MAX) => {
                        if taken == 0 {
                            break;
                        }
                        let at = wire::begin_frame(&mut frame, wire::OUTCOMES);
                        for outcome in waiting.drain(..).flatten() {
                            told += 1;
                            wire::put_outcome(&mut frame, outcome.tag, code(&outcome));
                        }
                        wire::end_frame(&mut frame, at);
                    }
                    Some(answer) = answered.recv() => frame.extend_from_slice(&answer),
                }
                if writer.write_all(&frame).await.is_err() {
                    break;
                }
                frame.clear();
                freed.add_permits(told);
            }
            freed.close();
        });
        let mut frames = Frames::new(reader);
        while let Ok(Some((kind, body))) = frames.next().await {
            match kind {
                wire::COMMANDS => match wire::commands(body) {
                    Some(commands) if commands.len() <= OPEN_MAX => {
                        // Given back with their outcomes.
                        match room.acquire_many(commands.len() as u32).await {
                            Ok(taken) => taken.forget(),
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
                    let Ok(answer) = self.control(control).await else {
                        break;
                    };
                    if answers.send(answer).await.is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
        drop((outcomes, answers));
        writing.abort();
    }

    async fn control(&self, control: Control) -> anyhow::Result<Bytes> {
        if let Control::DelayDisk(micros) = control {
            self.disk.delay_micros.store(micros, Ordering::Relaxed);
        }
        let status = self.log.status().await.context("the replica is gone")?;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let report = ReplicaReport {
            leader: status
                .core
                .leader
                .and_then(|id| u8::try_from(id.0 - 1).ok()),
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
        Ok(wire::json_frame(wire::ANSWER, &report)?.freeze())
    }
}

fn code(outcome: &Outcome) -> u8 {
    match &outcome.result {
        Ok(_) => wire::DONE,
        Err(ProposeError::NotLeader { .. }) => wire::NOT_LEADER,
        Err(ProposeError::Overloaded | ProposeError::TooLarge { .. }) => wire::OVERLOADED,
        Err(ProposeError::OutcomeUnknown) => wire::UNKNOWN,
    }
}
