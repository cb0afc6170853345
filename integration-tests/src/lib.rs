//! Clusters of real processes, for tests and measurements.

pub mod fixture;
mod garbage;
mod pinned;
mod raw;
pub mod readers;

use std::ffi::OsString;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iggy::prelude::*;
use iggy_cluster::admin::{self, ClusterReport};
use iggy_cluster::config::{ClusterConfig, PortsSection};
use local_cluster::{Processes, Program, free_node_ports, get};

pub use garbage::Garbage;
pub use iggy_cluster::config::Backend;
pub use local_cluster::sibling;
pub use pinned::PinnedClient;
pub use raw::{Answer, RawClient};

/// Declares two tests for each of these functions, which accept a [`Backend`]: one on Raft
/// and one on VR.
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

/// The longest time that tests wait for a cluster to be ready or to do something.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// A cluster of child processes on loopback; dropping it kills them.
pub struct Cluster {
    processes: Processes,
    config: ClusterConfig,
}

impl Cluster {
    /// Starts `nodes` processes of `binary`, which has the command line of iggy-cluster, and
    /// waits until all of them are ready.
    ///
    /// # Errors
    /// When a process cannot be started, or the cluster is not ready in time.
    pub async fn start(
        binary: impl Into<PathBuf>,
        backend: Backend,
        nodes: u8,
    ) -> anyhow::Result<Self> {
        Self::start_with(binary, backend, nodes, |_| {}).await
    }

    /// The same, after `change` has changed the configuration.
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
        cluster.start_all()?;
        cluster.ready().await?;
        Ok(cluster)
    }

    /// The same, with processes that may have this many files and connections open.
    ///
    /// # Errors
    /// The same.
    pub async fn start_with_open_files(
        binary: impl Into<PathBuf>,
        backend: Backend,
        nodes: u8,
        open_files: u32,
        change: impl FnOnce(&mut ClusterConfig),
    ) -> anyhow::Result<Self> {
        let limited = format!("ulimit -n {open_files}; exec \"$0\" \"$@\"");
        let arguments: [OsString; 4] = [
            "-c".into(),
            limited.into(),
            binary.into().into(),
            "serve".into(),
        ];
        let program = Program::new("/bin/sh", arguments);
        let mut cluster = Self::prepare_program(program, backend, nodes, change)?;
        cluster.start_all()?;
        cluster.ready().await?;
        Ok(cluster)
    }

    /// A cluster of which no node is started.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn prepare(
        binary: impl Into<PathBuf>,
        backend: Backend,
        nodes: u8,
        change: impl FnOnce(&mut ClusterConfig),
    ) -> anyhow::Result<Self> {
        let program = Program {
            // A test that is killed leaves no nodes.
            ends_with_input: true,
            ..Program::new(binary, ["serve", "--stop-with-input"])
        };
        Self::prepare_program(program, backend, nodes, change)
    }

    fn prepare_program(
        program: Program,
        backend: Backend,
        nodes: u8,
        change: impl FnOnce(&mut ClusterConfig),
    ) -> anyhow::Result<Self> {
        let ports = free_node_ports(nodes)?;
        let sections = ports.iter().map(|ports| PortsSection {
            tcp: ports.client,
            tcp_replica: ports.replica,
            admin: ports.admin,
        });
        let mut config = ClusterConfig::on_this_machine(backend, sections);
        change(&mut config);
        let processes = Processes::new(program, ports, &config.to_toml()?)?;
        Ok(Self { processes, config })
    }

    /// The configuration of the cluster.
    #[must_use]
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// Initializes the data directory of a node, as `iggy-cluster format` does.
    ///
    /// # Errors
    /// When it belongs to a replica already.
    pub fn format(&self, node: u8) -> anyhow::Result<()> {
        let mut config = self.config.clone();
        config.storage.path = self.data(node);
        Ok(iggy_cluster::Node::format(&config, node)?)
    }

    /// Waits until a node's process has ended by itself, and returns its last lines.
    ///
    /// # Errors
    /// When it keeps running.
    pub async fn refused(&mut self, node: u8) -> anyhow::Result<String> {
        let started = Instant::now();
        while self.is_running(node) {
            if started.elapsed() > PATIENCE {
                bail!("node {node} keeps running:\n{}", self.last_lines(node));
            }
            tokio::time::sleep(POLL).await;
        }
        self.forget(node);
        Ok(self.last_lines(node))
    }

    /// Waits until every node that runs is ready.
    ///
    /// # Errors
    /// When a node is not ready in time.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        for node in self.running() {
            while !admin::is_ready(&self.admin(node)).await {
                if started.elapsed() > PATIENCE {
                    bail!("node {node} is not ready:\n{}", self.last_lines(node));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Waits until a node is the leader, and returns its number.
    ///
    /// # Errors
    /// When there is no leader in time.
    pub async fn leader(&self) -> anyhow::Result<u8> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            for node in self.running() {
                let leads = |report: ClusterReport| {
                    let own = report.nodes.into_iter().find(|own| own.replica_id == node);
                    own.is_some_and(|own| own.role == "leader")
                };
                if admin::node_report(&self.admin(node)).await.is_ok_and(leads) {
                    return Ok(node);
                }
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("no node is the leader")
    }

    /// The report of all nodes.
    ///
    /// # Errors
    /// When the node does not reply.
    pub async fn report(&self) -> anyhow::Result<ClusterReport> {
        let node = self.running().next().context("no node runs")?;
        Ok(admin::cluster_report(&self.admin(node)).await?)
    }

    /// A counter of a node's metrics, by its name without prefix and suffix.
    ///
    /// # Errors
    /// When the node does not reply, or has no such counter.
    pub async fn counter(&self, node: u8, name: &str) -> anyhow::Result<u64> {
        let metrics = get(&self.admin(node), "/metrics").await?;
        let prefix = format!("iggy_cluster_{name}_total ");
        let value = String::from_utf8(metrics)?
            .lines()
            .find_map(|line| line.strip_prefix(&prefix).map(str::parse));
        Ok(value.with_context(|| format!("no counter {name}"))??)
    }

    /// Waits until a counter of a node is not zero.
    ///
    /// # Errors
    /// When it stays zero for too long.
    pub async fn counted(&self, node: u8, name: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.counter(node, name).await? == 0 {
            if started.elapsed() > PATIENCE {
                bail!(
                    "{name} of node {node} stays zero:\n{}",
                    self.last_lines(node)
                );
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until the last lines of a node's output contain this text.
    ///
    /// # Errors
    /// When they do not in time.
    pub async fn logged(&self, node: u8, text: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        while !self.last_lines(node).contains(text) {
            if started.elapsed() > PATIENCE {
                bail!("no {text:?} in:\n{}", self.last_lines(node));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// A stock client that is connected to this node and logged in.
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
        self.ports(node).client_address()
    }

    /// A node's address for other nodes.
    #[must_use]
    pub fn replica(&self, node: u8) -> String {
        self.ports(node).replica_address()
    }

    /// A node's admin endpoint.
    #[must_use]
    pub fn admin(&self, node: u8) -> String {
        self.ports(node).admin_address()
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
