//! The processes of a cluster on loopback: started, killed, looked at.
//!
//! Owns directories, ports and children, and ends them with itself. What the nodes
//! say to clients is up to whoever uses it.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use iggy_cluster::config::{Backend, ClusterConfig, NodeSection};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A program that runs one node. It is given `--config FILE --replica-id N` behind
/// its arguments, and the data directory in `IGGY_STORAGE_PATH`.
#[derive(Clone, Debug)]
pub struct Program {
    /// The binary.
    pub binary: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<OsString>,
    /// Variables of its environment, beside those of whoever starts it.
    pub environment: Vec<(OsString, OsString)>,
}

impl Program {
    /// `binary serve`.
    #[must_use]
    pub fn serve(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            arguments: vec!["serve".into()],
            environment: Vec::new(),
        }
    }
}

/// The processes of one cluster.
pub struct Processes {
    program: Program,
    config: ClusterConfig,
    dir: TempDir,
    children: Vec<Option<Child>>,
}

impl Processes {
    /// A cluster of `nodes`, of which none runs yet. `change` has the last word on
    /// its configuration.
    ///
    /// # Errors
    /// When its configuration cannot be written, or no ports are free.
    pub fn prepare(
        program: Program,
        backend: Backend,
        nodes: u8,
        change: impl FnOnce(&mut ClusterConfig),
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("iggy-cluster-local-")
            .tempdir()?;
        let mut config = ClusterConfig::for_dev(nodes, backend, free_base_port(nodes)?, 10);
        change(&mut config);
        std::fs::write(dir.path().join("cluster.toml"), config.to_toml()?)?;
        Ok(Self {
            program,
            config,
            dir,
            children: (0..nodes).map(|_| None).collect(),
        })
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
        let child = Command::new(&self.program.binary)
            .args(&self.program.arguments)
            .args(["--replica-id", &node.to_string(), "--config"])
            .arg(self.dir.path().join("cluster.toml"))
            .envs(self.program.environment.iter().cloned())
            .env("IGGY_STORAGE_PATH", &data)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.binary.display()))?;
        self.children[usize::from(node)] = Some(child);
        Ok(())
    }

    /// Kills a node as `kill -9` does, and waits for its end.
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

    /// Stops a node's process where it is, or lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, node: u8, pause: bool) -> anyhow::Result<()> {
        let pid = self.pid(node).context("the node does not run")?;
        let pid = Pid::from_raw(pid.cast_signed()).context("a process without a number")?;
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        Ok(kill_process(pid, signal)?)
    }

    /// Forgets a node that has ended by itself.
    pub fn forget(&mut self, node: u8) {
        self.children[usize::from(node)] = None;
    }

    /// Whether a node's process still runs.
    pub fn runs(&mut self, node: u8) -> bool {
        self.children[usize::from(node)]
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Numbers of the nodes whose processes were not killed.
    pub fn running(&self) -> impl Iterator<Item = u8> + '_ {
        (0..)
            .zip(&self.children)
            .filter(|(_, child)| child.is_some())
            .map(|(node, _)| node)
    }

    /// The configuration of the cluster.
    #[must_use]
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// What the configuration says of a node.
    #[must_use]
    pub fn section(&self, node: u8) -> &NodeSection {
        &self.config.cluster.nodes[usize::from(node)]
    }

    /// A node's data directory.
    #[must_use]
    pub fn data(&self, node: u8) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    /// A node's process id.
    #[must_use]
    pub fn pid(&self, node: u8) -> Option<u32> {
        self.children[usize::from(node)].as_ref().map(Child::id)
    }

    /// Memory that a node's process uses; zero when it does not run.
    #[must_use]
    pub fn memory_bytes(&self, node: u8) -> u64 {
        self.pid(node).map_or(0, memory_bytes)
    }

    /// Processor time that a node's process has used, its children not counted;
    /// zero when it does not run.
    #[must_use]
    pub fn cpu_time(&self, node: u8) -> Duration {
        self.pid(node).map_or(Duration::ZERO, cpu_time)
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

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Memory that a process uses; zero when there is none.
#[must_use]
pub fn memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Processor time that a process has used, in its own code and in the kernel's; zero
/// when there is none.
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    // The kernel counts in hundredths of a second here.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: u32 = times.filter_map(|time| time.parse::<u32>().ok()).sum();
    TICK * ticks
}

/// A port from which on a cluster finds all its ports free.
fn free_base_port(nodes: u8) -> anyhow::Result<u16> {
    for _ in 0..200 {
        let base = next_port();
        let config = ClusterConfig::for_dev(nodes, Backend::default(), base, 10);
        let free = config.cluster.nodes.iter().all(|node| {
            let ports = [node.ports.tcp, node.ports.tcp_replica, node.ports.admin];
            ports.into_iter().all(is_free)
        });
        if free {
            return Ok(base);
        }
    }
    bail!("no free ports")
}

/// A number of ports that are free, each for one server.
///
/// # Errors
/// When there are not so many.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let mut free = Vec::with_capacity(count);
    for _ in 0..200 {
        let base = next_port();
        free.extend((base..base + 100).filter(|port| is_free(*port)));
        if free.len() >= count {
            free.truncate(count);
            return Ok(free);
        }
    }
    bail!("no free ports")
}

fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that start one after the other begin far from each other: a port that
    // is free now is not held until its node listens.
    let start = std::process::id() % 180 * 37 % 180 * 100;
    let next = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) * 100;
    12_000 + ((start + next) % 18_000) as u16
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
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
