//! One replica of the replicated log: its disk, its threads, its links.
//!
//! Three threads beside those of the runtime: one drives the replica when nobody else
//! does, one writes the log, one reads and writes snapshots. [`Node`](crate::Node)
//! keeps Iggy's metadata in it; [`LogNode`] runs it under any other state machine.

mod answers;
mod engine;
mod handle;
mod inbox;
mod links;
mod open;
mod standalone;
mod turns;
mod wal_thread;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use replica::driver::FileEvent;
use replica::open::Opened;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::config::{ClusterConfig, join_host_port};
use crate::metrics::Metrics;
use answers::Answers;
use engine::Engine;
use inbox::{Inbox, Message};

pub use handle::{Leadership, LogHandle, Outcome, Outcomes, ReplicatedLog};
pub(crate) use links::Links;
pub(crate) use open::{format, is_empty, open};
pub use replica::open::OpenError;
pub use standalone::LogNode;

/// Why a replica of the log cannot start.
#[derive(Debug, Error)]
pub enum LogError {
    /// The configuration does not list this node.
    #[error("replica id {0} is not in [[cluster.nodes]]")]
    UnknownReplica(u8),
    /// The data directory cannot be opened.
    #[error("{path}: {source}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// An address is taken or not this machine's.
    #[error(
        "cannot listen on {address} for {purpose}: {source}; is another node running, or is the address not this machine's?"
    )]
    Listen {
        /// The address.
        address: String,
        /// For whom.
        purpose: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A replica whose threads run.
pub(crate) struct RunningLog {
    pub(crate) log: LogHandle,
    /// How the consensus thread ended.
    pub(crate) stopped: oneshot::Receiver<Result<(), String>>,
}

impl RunningLog {
    /// Starts the threads and the links that they send on.
    pub(crate) fn start(
        opened: Opened,
        config: &ClusterConfig,
        links: &Links,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, LogError> {
        metrics.set_wal(opened.wal.size());
        metrics
            .snapshot_bytes
            .store(opened.snapshot_bytes, std::sync::atomic::Ordering::Relaxed);
        let (inbox, waiting) = Inbox::new();
        let (leadership, follows) = watch::channel(Leadership::default());
        let (wal_jobs, jobs) = mpsc::channel();
        let (file_jobs, files) = mpsc::channel();
        let (ended, stopped) = oneshot::channel();
        let engine = Engine {
            replica: opened.replica,
            tick: config.cluster.consensus.tick(),
            waiting,
            wal: wal_jobs,
            files: file_jobs,
            links: links.one_way(&inbox),
            leadership,
            answers: Answers::default(),
            started: Instant::now(),
            metrics: Arc::clone(metrics),
        };
        let (wal, wal_inbox, wal_metrics) = (opened.wal, inbox.clone(), Arc::clone(metrics));
        thread("wal", move || {
            let _panic = FatalPanic("the thread of the write-ahead log", wal_inbox.clone());
            wal_thread::run(wal, &jobs, &wal_inbox, &wal_metrics);
        })?;
        let (worker, file_inbox) = (opened.files, inbox.clone());
        thread("snapshots", move || {
            let _panic = FatalPanic("the thread of the snapshots", file_inbox.clone());
            while let Ok(job) = files.recv() {
                let event = worker.execute(job);
                if let FileEvent::Saved(Err(why)) = &event {
                    tracing::error!(why, "cannot store a snapshot; it will be tried again");
                }
                file_inbox.leave(Message::File(event));
            }
        })?;
        let traffic = Arc::clone(inbox.traffic());
        // With a thread that cannot be started, the engine goes too.
        thread("consensus", move || {
            traffic.turns().begin(engine);
            let _ = ended.send(traffic.turns().run());
        })?;
        let log = LogHandle {
            inbox,
            leadership: follows,
        };
        Ok(Self { log, stopped })
    }

    /// Waits until the replica stops by itself, which it does only when it must.
    pub(crate) async fn stopped(&mut self) -> Result<(), String> {
        match (&mut self.stopped).await {
            Ok(result) => result,
            Err(_) => Err("the consensus thread is gone".into()),
        }
    }

    pub(crate) fn stop(&self) {
        self.log.inbox.leave(Message::Stop);
    }
}

impl Drop for RunningLog {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A replica does not go on without one of its threads: nothing would become durable,
/// and nobody would say so.
struct FatalPanic(&'static str, Inbox);

impl Drop for FatalPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(who, inbox) = self;
            inbox.leave(Message::Fatal(format!("{who} has panicked")));
        }
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), LogError> {
    let builder = std::thread::Builder::new().name(name.into());
    builder.spawn(run).map(drop).map_err(LogError::Thread)
}

pub(crate) async fn listen(
    ip: &str,
    port: u16,
    purpose: &'static str,
) -> Result<TcpListener, LogError> {
    let address = join_host_port(ip, port);
    TcpListener::bind(&address)
        .await
        .map_err(|source| LogError::Listen {
            address,
            purpose,
            source,
        })
}
