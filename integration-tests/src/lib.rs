//! Clusters of real processes, for tests and measurements.

pub mod fixture;
mod garbage;
pub mod readers;

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iggy::prelude::*;
use iggy_cluster::admin::{self, ClusterReport};
use iggy_cluster::config::ClusterConfig;
use local_cluster::{Processes, Program};

pub use garbage::Garbage;
pub use iggy_cluster::config::Backend;
pub use local_cluster::sibling;

/// Makes of each of these functions, which take a [`Backend`], a test on Raft and
/// one on VR.
#[macro_export]
macro_rules! on_each_backend {
    ($($scenario:ident)*) => {
        mod raft {
            $(#[tokio::test] async fn $scenario() {
                super::$scenario($crate::Backend::Raft).await;
            })*
        }
        mod vr {
            $(#[tokio::test] async fn $scenario() {
                super::$scenario($crate::Backend::Vr).await;
            })*
        }
    };
}

/// A cluster gets ready, or does what it is waited for, within this time.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// A cluster of child processes on loopback; they end with it.
pub struct Cluster {
    processes: Processes,
}

impl Cluster {
    /// Starts `nodes` processes of `binary`, whose command line is
    /// iggy-cluster's, and waits until all of them are ready.
    ///
    /// # Errors
    /// When a process cannot be started or the cluster does not get ready.
    pub async fn start(
        binary: impl Into<PathBuf>,
        backend: Backend,
        nodes: u8,
    ) -> anyhow::Result<Self> {
        Self::start_with(binary, backend, nodes, |_| {}).await
    }

    /// The same, with a configuration that is changed first.
    ///
    /// # Errors
    /// The same.
    pub async fn start_with(
        binary: impl Into<PathBuf>,
        backend: Backend,
        nodes: u8,
        change: impl FnOnce(&mut ClusterConfig),
    ) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare(binary, backend, nodes, change)?;
        for node in 0..nodes {
            cluster.run(node)?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// A cluster of which no node runs yet.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn prepare(
        binary: impl Into<PathBuf>,
        backend: Backend,
        nodes: u8,
        change: impl FnOnce(&mut ClusterConfig),
    ) -> anyhow::Result<Self> {
        let program = Program::serve(binary);
        let processes = Processes::prepare(program, backend, nodes, change)?;
        Ok(Self { processes })
    }

    /// Begins the disk of a node as an operator does.
    ///
    /// # Errors
    /// When it holds a replica already.
    pub fn format(&self, node: u8) -> anyhow::Result<()> {
        let mut config = self.config().clone();
        config.storage.path = self.data(node);
        Ok(iggy_cluster::Node::format(&config, node)?)
    }

    /// Waits until a node's process has ended by itself, and returns what it said.
    ///
    /// # Errors
    /// When it goes on running.
    pub async fn refused(&mut self, node: u8) -> anyhow::Result<String> {
        let begun = Instant::now();
        while self.runs(node) {
            if begun.elapsed() > PATIENCE {
                bail!("node {node} goes on:\n{}", self.last_lines(node));
            }
            tokio::time::sleep(POLL).await;
        }
        self.forget(node);
        Ok(self.last_lines(node))
    }

    /// Waits until every node that runs is ready.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        for node in self.running() {
            while !admin::is_ready(&self.admin(node)).await {
                if begun.elapsed() > PATIENCE {
                    bail!("node {node} is not ready:\n{}", self.last_lines(node));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// The leader, waited for.
    ///
    /// # Errors
    /// When nobody leads for too long.
    pub async fn leader(&self) -> anyhow::Result<u8> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            for node in self.running() {
                let leads = |report: ClusterReport| {
                    let own = report.nodes.into_iter().find(|own| own.replica_id == node);
                    own.is_some_and(|own| own.role == "leader")
                };
                if admin::ask(&self.admin(node)).await.is_ok_and(leads) {
                    return Ok(node);
                }
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("nobody leads")
    }

    /// The report of all nodes.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn report(&self) -> anyhow::Result<ClusterReport> {
        let node = self.running().next().context("no node runs")?;
        Ok(admin::gather(&self.admin(node)).await?)
    }

    /// A counter among a node's metrics, without its prefix and suffix.
    ///
    /// # Errors
    /// When the node does not answer, or has no such counter.
    pub async fn counter(&self, node: u8, name: &str) -> anyhow::Result<u64> {
        let metrics = admin::fetch(&self.admin(node), "/metrics").await?;
        let prefix = format!("iggy_cluster_{name}_total ");
        let value = String::from_utf8(metrics)?
            .lines()
            .find_map(|line| line.strip_prefix(&prefix).map(str::parse));
        Ok(value.with_context(|| format!("no counter {name}"))??)
    }

    /// Waits until a node counted one of these.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn counted(&self, node: u8, name: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.counter(node, name).await? == 0 {
            if begun.elapsed() > PATIENCE {
                bail!("node {node} has no {name}:\n{}", self.last_lines(node));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// A stock client that is logged in, through this node at first.
    ///
    /// # Errors
    /// When it cannot connect.
    pub async fn client(&self, node: u8) -> anyhow::Result<IggyClient> {
        let client =
            IggyClient::from_connection_string(&format!("iggy://iggy:iggy@{}", self.tcp(node)))?;
        client.connect().await?;
        Ok(client)
    }

    /// A node's address for clients.
    #[must_use]
    pub fn tcp(&self, node: u8) -> String {
        format!("127.0.0.1:{}", self.section(node).ports.tcp)
    }

    /// A node's address for other nodes.
    #[must_use]
    pub fn replica(&self, node: u8) -> String {
        format!("127.0.0.1:{}", self.section(node).ports.tcp_replica)
    }

    /// A node's admin endpoint.
    #[must_use]
    pub fn admin(&self, node: u8) -> String {
        format!("127.0.0.1:{}", self.section(node).ports.admin)
    }
}

impl Deref for Cluster {
    type Target = Processes;

    fn deref(&self) -> &Processes {
        &self.processes
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut Processes {
        &mut self.processes
    }
}
