//! The threads of a replica: one runs rounds that no other thread runs, one writes the
//! write-ahead log, one reads and writes snapshots.

use std::sync::{Arc, mpsc};
use std::time::Instant;

use replica::driver::FileEvent;
use replica::open::Opened;
use tokio::sync::{oneshot, watch};

use crate::config::ConsensusSettings;
use crate::disk_watch::DiskWatch;
use crate::engine::Engine;
use crate::error::{FatalError, LogError, LogThread};
use crate::handle::{Leadership, LogHandle};
use crate::inbox::{Inbox, Message};
use crate::metrics::LogMetrics;
use crate::peer_links::PeerLinks;
use crate::pending::PendingReplies;
use crate::refusals::Refusals;
use crate::wal_thread;

/// A replica whose threads run. They stop when it is dropped.
pub(crate) struct ReplicaThreads {
    pub(crate) log: LogHandle,
    /// The result of the consensus thread, until it is returned.
    result: Option<oneshot::Receiver<Result<(), FatalError>>>,
}

impl ReplicaThreads {
    /// Starts the threads. `connect` opens the links on which the replica sends, before it
    /// sends its first message.
    pub(crate) fn start(
        opened: Opened,
        settings: &ConsensusSettings,
        metrics: &Arc<LogMetrics>,
        connect: impl FnOnce(&Inbox),
    ) -> Result<Self, LogError> {
        metrics.set_wal(opened.wal.size());
        metrics.set_snapshot_bytes(opened.snapshot_bytes);
        let (inbox, receiver) = Inbox::new();
        connect(&inbox);
        let (leadership, watched) = watch::channel(Leadership::default());
        let (wal_jobs, jobs) = mpsc::channel();
        let (file_jobs, files) = mpsc::channel();
        let (ended, result) = oneshot::channel();
        let engine = Engine {
            replica: opened.replica,
            tick: settings.tick(),
            disk: DiskWatch::new(settings.disk_stall()),
            inbox: receiver,
            wal: wal_jobs,
            files: file_jobs,
            links: PeerLinks::default(),
            leadership,
            pending: PendingReplies::default(),
            refusals: Refusals::default(),
            started: Instant::now(),
            metrics: Arc::clone(metrics),
        };
        let (wal, wal_inbox, wal_metrics) = (opened.wal, inbox.clone(), Arc::clone(metrics));
        spawn(LogThread::Wal, move || {
            let _panic = PanicIsFatal(LogThread::Wal, wal_inbox.clone());
            wal_thread::run(wal, &jobs, &wal_inbox, &wal_metrics);
        })?;
        let (worker, file_inbox) = (opened.files, inbox.clone());
        let file_metrics = Arc::clone(metrics);
        spawn(LogThread::Snapshots, move || {
            let _panic = PanicIsFatal(LogThread::Snapshots, file_inbox.clone());
            while let Ok(job) = files.recv() {
                let event = worker.execute(job);
                match &event {
                    FileEvent::Saved(Err(error)) => {
                        tracing::error!(error, "cannot store a snapshot; it is tried again later");
                    }
                    FileEvent::Saved(Ok((_, bytes))) => file_metrics.set_snapshot_bytes(*bytes),
                    FileEvent::Received {
                        state: Some(state), ..
                    } => file_metrics.set_snapshot_bytes(state.len() as u64),
                    _ => {}
                }
                file_inbox.post_and_wake(Message::File(event));
            }
        })?;
        let rounds = inbox.clone();
        // If this thread cannot be started, the engine is dropped, and the others end.
        spawn(LogThread::Consensus, move || {
            let _ = ended.send(rounds.run(Box::new(engine)));
        })?;
        let log = LogHandle {
            inbox,
            leadership: watched,
        };
        Ok(Self {
            log,
            result: Some(result),
        })
    }

    /// Waits until the replica has stopped. The error is returned once.
    pub(crate) async fn stopped(&mut self) -> Result<(), FatalError> {
        let Some(result) = &mut self.result else {
            return Ok(());
        };
        let result = result.await;
        self.result = None;
        result.unwrap_or_else(|_| Err(FatalError::panic(LogThread::Consensus)))
    }

    /// Requests the replica to stop.
    pub(crate) fn stop(&self) {
        self.log.inbox.post_and_wake(Message::Stop);
    }
}

impl Drop for ReplicaThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A replica cannot continue without one of its threads: nothing would become durable, and
/// no caller would learn of it.
struct PanicIsFatal(LogThread, Inbox);

impl Drop for PanicIsFatal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(thread, inbox) = self;
            let error = FatalError::panic(*thread);
            inbox.post_and_wake(Message::Fatal(Box::new(error)));
        }
    }
}

fn spawn(thread: LogThread, run: impl FnOnce() + Send + 'static) -> Result<(), LogError> {
    let builder = std::thread::Builder::new().name(thread.name().into());
    let spawned = builder.spawn(run);
    spawned
        .map(drop)
        .map_err(|source| LogError::Thread { thread, source })
}
