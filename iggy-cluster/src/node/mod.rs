//! One running node.

mod admission;
mod builder;
mod data_directory;
mod descriptors;
mod empty_disk;
mod services;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::partitions::{NodeStorage, PartitionStorage, StorageError};
use consensus::MembershipError;
use replica::disk::RealDisk;
use replicated_log::{FatalError, LogError, LogNode, OpenError, ReplicatedLog};
use thiserror::Error;
use tokio::task::JoinSet;
use tracing::error;

use crate::config::{ClusterConfig, RootUser};
use crate::copies::Copies;
use crate::server::TlsError;

pub use builder::NodeBuilder;

/// Why a node cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration does not list this node.
    #[error("replica_id {0} is not in [[cluster.nodes]]; start a node that is listed")]
    UnknownReplica(u8),
    /// The cluster has several nodes, and the program does not say which of them to start.
    #[error("[[cluster.nodes]] lists several nodes: choose one by its replica_id")]
    NoReplicaId,
    /// The process may have too few files and connections open.
    #[error(
        "the limit on open files is {limit}, and a node of this cluster needs at least {needed}; raise it (LimitNOFILE in a unit of systemd, ulimit -Hn in a shell)"
    )]
    OpenFiles {
        /// The limit.
        limit: usize,
        /// The lowest limit with which the node starts.
        needed: usize,
    },
    /// The data directory cannot be used.
    #[error(
        "the data directory {path} (storage.path) cannot be used: {source}; the user of this process must be able to read and write it"
    )]
    DataDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The list of nodes is not a membership.
    #[error("cluster.nodes: {0}")]
    Membership(#[from] MembershipError),
    /// The replica of the metadata cannot start.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The partitions cannot be opened.
    #[error("partitions: {0}")]
    Storage(#[from] StorageError),
    /// Clients cannot be served over TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A running node. Dropping it stops it immediately, as a crash would.
pub struct Node {
    replica: LogNode,
    log: Arc<dyn ReplicatedLog>,
    storage: Arc<dyn PartitionStorage>,
    copies: Arc<Copies>,
    files: Arc<NodeStorage>,
    tasks: JoinSet<()>,
}

impl Node {
    /// A node of the cluster with this configuration, to be started with
    /// [`NodeBuilder::start`].
    pub fn builder(config: ClusterConfig) -> NodeBuilder {
        NodeBuilder::new(config)
    }

    /// Starts a node with the partition storage that is built in: the short form of
    /// [`Self::builder`].
    ///
    /// # Errors
    /// The errors of [`NodeBuilder::start`].
    pub async fn start(
        config: ClusterConfig,
        root: RootUser,
        replica_id: u8,
    ) -> Result<Self, StartError> {
        let builder = Self::builder(config).replica_id(replica_id).root(root);
        builder.start().await
    }

    /// Initializes the data directory of a node that has never run, without asking the
    /// other nodes. A node whose disk was lost must not return with an empty directory
    /// under its `replica_id`.
    ///
    /// # Errors
    /// When there is no such node, the directory belongs to a replica already, or the
    /// disk fails.
    pub fn format(config: &ClusterConfig, replica_id: u8) -> Result<(), StartError> {
        let section = config
            .node(replica_id)
            .ok_or(StartError::UnknownReplica(replica_id))?;
        let path = &config.storage.path;
        data_directory::use_data_directory(path)?;
        let disk = RealDisk::new(path).map_err(|error| open_error(path, error))?;
        Ok(LogNode::format(&config.log(section)?, &disk)?)
    }

    /// The same, after asking the other nodes that can be reached whether this one has run.
    /// Returns the `replica_id`s of those that have not confirmed that it has never run:
    /// they cannot be reached, or cannot know.
    ///
    /// # Errors
    /// The errors of [`Self::format`], and when another node knows this one, or has another
    /// list of nodes.
    pub async fn format_unless_known(
        config: &ClusterConfig,
        replica_id: u8,
    ) -> Result<Vec<u64>, StartError> {
        let section = config
            .node(replica_id)
            .ok_or(StartError::UnknownReplica(replica_id))?;
        let path = &config.storage.path;
        data_directory::use_data_directory(path)?;
        let disk = RealDisk::new(path).map_err(|error| open_error(path, error))?;
        let log = config.log(section)?;
        let unconfirmed = LogNode::format_unless_known(&log, &disk).await?;
        Ok(unconfirmed.iter().map(|peer| peer.number()).collect())
    }

    /// The replicated log.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn ReplicatedLog> {
        &self.log
    }

    /// Waits until the node stops by itself, which it does only after a fatal error.
    ///
    /// # Errors
    /// The fatal error.
    pub async fn stopped(&mut self) -> Result<(), FatalError> {
        self.replica.stopped().await
    }

    /// Stops the node. Acknowledged metadata is durable at any time; messages that were
    /// acknowledged before they were durable are fsynced now.
    pub async fn stop(mut self) {
        self.tasks.abort_all();
        if let Err(error) = self.replica.stop().await {
            error!(%error, "the replica could not continue");
        }
        self.copies.end();
        let closed = self.storage.shutdown().await;
        // Only then everything is on the disk.
        let recorded = closed.and_then(|()| self.files.stopped());
        if let Err(error) = recorded {
            error!(%error, "not all partitions could be closed");
        }
    }
}

fn open_error(path: &Path, source: impl Into<OpenError>) -> LogError {
    LogError::Open {
        path: path.to_owned(),
        source: Box::new(source.into()),
    }
}
