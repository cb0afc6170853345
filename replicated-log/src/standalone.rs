//! A replica of the log under a state machine of the caller's, without Iggy.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::{ReplicaId, StateMachine};
use replica::disk::Disk;
use replica::superblock;
use tokio::task::JoinSet;

use crate::config::LogConfig;
use crate::links::{Lane, LinkCounters, Links, RpcHandler, RpcReply, Services, Standing, Witness};
use crate::metrics::LogMetrics;
use crate::{LogError, LogHandle, OpenError, RunningLog, listen, open};

/// A running replica. Dropping it stops it at once, as a crash would.
///
/// It has the threads, the log format, the links and the backends of
/// an Iggy node. It listens for the other replicas, and serves no clients: that is up to
/// the program that embeds it.
pub struct LogNode {
    running: RunningLog,
    links: Links,
    _tasks: JoinSet<()>,
}

impl LogNode {
    /// Begins the disk of a replica that has never run. One whose disk was lost must
    /// not be begun again under its number: it may have voted and acknowledged.
    ///
    /// # Errors
    /// When the disk holds a replica already or fails.
    pub fn format(config: &LogConfig, disk: &dyn Disk) -> Result<(), LogError> {
        superblock::format(disk, &open::identity(config)).map_err(|source| failed(config, source))
    }

    /// Starts the replica on a disk that was begun.
    ///
    /// # Errors
    /// When its disk cannot be opened, or its address is taken.
    pub async fn start(
        config: &LogConfig,
        disk: &Arc<dyn Disk>,
        machine: Box<dyn StateMachine>,
    ) -> Result<Self, LogError> {
        let port = listen(&config.listen, "other nodes").await?;
        let opened = open::open(config, disk, machine).map_err(|source| failed(config, source))?;
        let links = Links::new(config, opened.incarnation);
        let running = RunningLog::start(opened, config, &links, &Arc::new(LogMetrics::default()))?;
        let services = Services {
            one_way: running.log.receiver(|_| {}),
            requests: Arc::new(Nothing),
            witness: Arc::new(Nothing),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(links.listener(Some(services)).run(Arc::new(port)));
        Ok(Self {
            running,
            links,
            _tasks: tasks,
        })
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &LogHandle {
        &self.running.log
    }

    /// What the links to the other replicas count.
    #[must_use]
    pub fn link_counters(&self) -> &Arc<LinkCounters> {
        &self.links.counters
    }

    /// Waits until the replica stops by itself, which it does only when it must.
    ///
    /// # Errors
    /// Why it had to.
    pub async fn stopped(&mut self) -> Result<(), String> {
        self.running.stopped().await
    }
}

fn failed(config: &LogConfig, source: impl Into<OpenError>) -> LogError {
    LogError::Open {
        path: config.data.clone(),
        source: source.into(),
    }
}

/// Serves no requests, and lets no node begin anew that may have run.
struct Nothing;

#[async_trait]
impl RpcHandler for Nothing {
    async fn handle(&self, _from: ReplicaId, _lane: Lane, _kind: u8, _payload: Bytes) -> RpcReply {
        RpcReply::new()
    }
}

#[async_trait]
impl Witness for Nothing {
    async fn standing(&self, _of: ReplicaId) -> Standing {
        Standing::Known
    }
}
