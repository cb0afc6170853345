//! A replicated log for any state machine, on Raft or Viewstamped Replication.
//!
//! [`LogNode`] runs one replica of it: its disk, its threads, its links. Three threads
//! beside those of the runtime: one drives the replica when nobody else does, one writes
//! the log, one reads and writes snapshots.

mod answers;
mod config;
mod engine;
mod handle;
mod inbox;
pub mod links;
mod metrics;
mod open;
mod refusals;
mod standalone;
mod turns;
mod units;
mod wal_thread;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use replica::driver::FileEvent;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use answers::Answers;
use engine::Engine;
use inbox::{Inbox, Message};
use refusals::Refusals;

pub use config::{Backend, ConsensusSettings, LogConfig, PeerAddress, join_host_port};
pub use handle::{Leadership, LogHandle, Outcome, Outcomes, ReplicatedLog};
pub use metrics::LogMetrics;
pub use open::{format, is_empty, open};
pub use replica::open::{OpenError, Opened};
pub use standalone::LogNode;
pub use units::{HumanDuration, HumanSize};

use links::Links;

/// Why a replica of the log cannot start.
#[derive(Debug, Error)]
pub enum LogError {
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
pub struct RunningLog {
    /// What the program reaches it by.
    pub log: LogHandle,
    /// How the consensus thread ended.
    stopped: oneshot::Receiver<Result<(), String>>,
}

impl RunningLog {
    /// Starts the threads and the links that they send on.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        opened: Opened,
        config: &LogConfig,
        links: &Links,
        metrics: &Arc<LogMetrics>,
    ) -> Result<Self, LogError> {
        metrics.set_wal(opened.wal.size());
        metrics.set_snapshot_bytes(opened.snapshot_bytes);
        let (inbox, waiting) = Inbox::new();
        let (leadership, follows) = watch::channel(Leadership::default());
        let (wal_jobs, jobs) = mpsc::channel();
        let (file_jobs, files) = mpsc::channel();
        let (ended, stopped) = oneshot::channel();
        let engine = Engine {
            replica: opened.replica,
            tick: config.settings.tick(),
            waiting,
            wal: wal_jobs,
            files: file_jobs,
            links: links.one_way(&inbox),
            leadership,
            answers: Answers::default(),
            started: Instant::now(),
            refusals: Refusals::default(),
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
    ///
    /// # Errors
    /// Why it had to.
    pub async fn stopped(&mut self) -> Result<(), String> {
        match (&mut self.stopped).await {
            Ok(result) => result,
            Err(_) => Err("the consensus thread is gone".into()),
        }
    }

    /// Asks the replica to stop.
    pub fn stop(&self) {
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

/// Listens on an address for connections of this kind.
///
/// # Errors
/// When it is taken, or not this machine's.
pub async fn listen(address: &str, purpose: &'static str) -> Result<TcpListener, LogError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| LogError::Listen {
            address: address.to_owned(),
            purpose,
            source,
        })
}
