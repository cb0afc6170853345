//! Clusters of real processes, for tests and measurements.

mod garbage;
pub mod readers;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iggy::prelude::*;
use iggy_cluster::admin::{self, ClusterReport};
use iggy_cluster::config::ClusterConfig;
use tempfile::TempDir;

pub use garbage::Garbage;
pub use iggy_cluster::config::Backend;

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
    binary: PathBuf,
    config: ClusterConfig,
    dir: TempDir,
    children: Vec<Option<Child>>,
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
        let dir = tempfile::Builder::new()
            .prefix("iggy-cluster-test-")
            .tempdir()?;
        let mut config = ClusterConfig::for_dev(nodes, backend, free_base_port(nodes)?, 10);
        change(&mut config);
        std::fs::write(dir.path().join("cluster.toml"), config.to_toml()?)?;
        Ok(Self {
            binary: binary.into(),
            config,
            dir,
            children: (0..nodes).map(|_| None).collect(),
        })
    }

    /// Begins the disk of a node as an operator does.
    ///
    /// # Errors
    /// When it holds a replica already.
    pub fn format(&self, node: u8) -> anyhow::Result<()> {
        let mut config = self.config.clone();
        config.storage.path = self.data(node);
        Ok(iggy_cluster::Node::format(&config, node)?)
    }

    /// Starts a node that does not run.
    ///
    /// # Errors
    /// When its process cannot be started.
    pub fn run(&mut self, node: u8) -> anyhow::Result<()> {
        let data = self.data(node);
        std::fs::create_dir_all(&data)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(node))?;
        let child = Command::new(&self.binary)
            .args(["serve", "--replica-id", &node.to_string(), "--config"])
            .arg(self.dir.path().join("cluster.toml"))
            .env("IGGY_STORAGE_PATH", &data)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start a node")?;
        self.children[usize::from(node)] = Some(child);
        Ok(())
    }

    /// Kills a node as `kill -9` does.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, node: u8) -> anyhow::Result<()> {
        let mut child = self.children[usize::from(node)]
            .take()
            .context("the node does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
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
        self.children[usize::from(node)] = None;
        Ok(self.last_lines(node))
    }

    /// Whether a node's process still runs.
    pub fn runs(&mut self, node: u8) -> bool {
        self.children[usize::from(node)]
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
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

    /// Numbers of the nodes whose processes were not killed.
    pub fn running(&self) -> impl Iterator<Item = u8> + '_ {
        (0..)
            .zip(&self.children)
            .filter(|(_, child)| child.is_some())
            .map(|(node, _)| node)
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

    /// A node's data directory.
    #[must_use]
    pub fn data(&self, node: u8) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    /// Memory that a node's process uses; zero when it does not run.
    #[must_use]
    pub fn memory_bytes(&self, node: u8) -> u64 {
        let pid = self.pid(node).unwrap_or(0);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) << 10
    }

    /// The configuration of the cluster.
    #[must_use]
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// A node's process id.
    #[must_use]
    pub fn pid(&self, node: u8) -> Option<u32> {
        self.children[usize::from(node)].as_ref().map(Child::id)
    }

    fn section(&self, node: u8) -> &iggy_cluster::config::NodeSection {
        &self.config.cluster.nodes[usize::from(node)]
    }

    fn log(&self, node: u8) -> PathBuf {
        self.data(node).join("log")
    }

    /// The end of a node's log.
    #[must_use]
    pub fn last_lines(&self, node: u8) -> String {
        let text = std::fs::read_to_string(self.log(node)).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port from which on a cluster finds all its ports free.
fn free_base_port(nodes: u8) -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 150) as u16 * 100;
    for _ in 0..200 {
        let base = 12_000 + (start + NEXT.fetch_add(100, Ordering::Relaxed)) % 18_000;
        let config = ClusterConfig::for_dev(nodes, Backend::default(), base, 10);
        let free = config.cluster.nodes.iter().all(|node| {
            let ports = [node.ports.tcp, node.ports.tcp_replica, node.ports.admin];
            ports
                .into_iter()
                .all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        });
        if free {
            return Ok(base);
        }
    }
    bail!("no free ports")
}

/// The binary beside the one that runs, which cargo built along.
///
/// # Errors
/// When it is not there.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own
        .parent()
        .map(|dir: &Path| dir.join(name))
        .filter(|path| path.exists());
    found.with_context(|| format!("{name} is not beside {}", own.display()))
}
