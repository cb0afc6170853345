//! A replica of the log under a state machine of the caller's, without Iggy.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::{ReplicaId, StateMachine};
use replica::disk::Disk;
use replica::superblock;
use tokio::task::JoinSet;

use super::{Links, LogError, LogHandle, OpenError, RunningLog, listen, open};
use crate::config::{ClusterConfig, NodeSection};
use crate::metrics::Metrics;
use crate::peers::{Lane, LinkCounters, RpcHandler, RpcReply, Services, Standing, Witness};

/// A running replica. Dropping it stops it at once, as a crash would.
///
/// It has the threads, the log format, the links and the backends of
/// [`Node`](crate::Node). It listens for the other replicas on its `tcp_replica`
/// port, and serves no clients: that is up to whoever runs it.
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
    /// When there is no such node, or the disk holds a replica already or fails.
    pub fn format(config: &ClusterConfig, replica_id: u8, disk: &dyn Disk) -> Result<(), LogError> {
        let section = section(config, replica_id)?;
        superblock::format(disk, &open::identity(config, section.replica()))
            .map_err(|source| failed(config, source))
    }

    /// Starts the replica of this number on a disk that was begun.
    ///
    /// # Errors
    /// When it is not in the configuration, its disk cannot be opened, or its address
    /// is taken.
    pub async fn start(
        config: &ClusterConfig,
        replica_id: u8,
        disk: &Arc<dyn Disk>,
        machine: Box<dyn StateMachine>,
    ) -> Result<Self, LogError> {
        let section = section(config, replica_id)?;
        let port = listen(&section.ip, section.ports.tcp_replica, "other nodes").await?;
        let opened = open::open(config, section.replica(), disk, machine)
            .map_err(|source| failed(config, source))?;
        let links = Links::new(config, section, opened.incarnation);
        let running = RunningLog::start(opened, config, &links, &Arc::new(Metrics::new()))?;
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

fn section(config: &ClusterConfig, replica_id: u8) -> Result<&NodeSection, LogError> {
    let section = config.node(replica_id);
    section.ok_or(LogError::UnknownReplica(replica_id))
}

fn failed(config: &ClusterConfig, source: impl Into<OpenError>) -> LogError {
    LogError::Open {
        path: config.storage.path.clone(),
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
