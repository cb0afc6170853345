//! Nodes of the product: started as operators start them, and observed through their
//! admin endpoints.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use local_cluster::{Ports, Processes, Program, free_node_ports, get};
use replicated_log::Backend;
use serde::Deserialize;

use crate::replica::Memory;

const READY_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// What `/status` reports, as far as it is needed here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) leader: Option<u8>,
    pub(crate) nodes: Vec<NodeStatus>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NodeStatus {
    /// Its admin endpoint, as `host:port`.
    pub(crate) admin: String,
}

/// What the node at this admin endpoint reports of its cluster.
///
/// # Errors
/// When it does not reply, or not as a node does.
pub(crate) async fn status(admin: &str) -> anyhow::Result<Status> {
    let body = get(admin, "/status").await?;
    serde_json::from_slice(&body)
        .with_context(|| format!("{admin} is not the admin endpoint of a node"))
}

/// The metrics of one node.
pub(crate) struct Metrics(String);

impl Metrics {
    /// # Errors
    /// When the node does not reply.
    pub(crate) async fn of(admin: &str) -> anyhow::Result<Self> {
        Ok(Self(String::from_utf8(get(admin, "/metrics").await?)?))
    }

    /// The value of a metric without labels.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.0.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(' ')?;
            value.parse().ok()
        })
    }

    /// # Errors
    /// When the node has no such metric.
    pub(crate) fn required(&self, name: &str) -> anyhow::Result<f64> {
        let value = self.value(name);
        value.with_context(|| format!("the node has no metric {name}"))
    }
}

/// How many commands the replicated log has executed for the clients of a node, and for
/// how long they waited.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Committed {
    pub(crate) commands: f64,
    pub(crate) seconds: f64,
}

/// The processes of a cluster that serves Iggy's clients.
pub(crate) struct Nodes {
    pub(crate) processes: Processes,
}

impl Nodes {
    /// Starts nodes with the default configuration, and waits until all are ready.
    pub(crate) async fn start(
        binary: &Path,
        backend: Backend,
        nodes: u8,
        memory: Memory,
    ) -> anyhow::Result<Self> {
        let program = Program {
            environment: memory.environment(),
            // After a kill -9 of this process they stop themselves.
            ends_with_input: true,
            ..Program::new(binary, ["serve", "--stop-with-input"])
        };
        let ports = free_node_ports(nodes)?;
        let config = configuration(backend, &ports);
        let mut processes = Processes::new(program, ports, &config)?;
        processes.start_all()?;
        let cluster = Self { processes };
        let started = Instant::now();
        for node in cluster.processes.nodes() {
            while get(&cluster.admin(node), "/readyz").await.is_err() {
                anyhow::ensure!(
                    started.elapsed() < READY_TIMEOUT,
                    "node {node} is not ready after {} s:\n{}",
                    READY_TIMEOUT.as_secs(),
                    cluster.processes.last_lines(node)
                );
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(cluster)
    }

    pub(crate) fn admin(&self, node: u8) -> String {
        self.processes.ports(node).admin_address()
    }

    /// Where clients reach the leader.
    pub(crate) async fn leader_address(&self) -> anyhow::Result<String> {
        let leader = status(&self.admin(0)).await?.leader;
        let leader = leader.context("the cluster has no leader")?;
        Ok(self.processes.ports(leader).client_address())
    }

    /// What the replicated log has done so far for the clients of all nodes.
    pub(crate) async fn committed(&self) -> anyhow::Result<Committed> {
        let mut committed = Committed::default();
        for node in self.processes.nodes() {
            let metrics = Metrics::of(&self.admin(node)).await?;
            committed.commands += metrics.required("iggy_cluster_commit_seconds_count")?;
            committed.seconds += metrics.required("iggy_cluster_commit_seconds_sum")?;
        }
        Ok(committed)
    }
}

/// The configuration file of the nodes; what it leaves out has its default.
fn configuration(backend: Backend, ports: &[Ports]) -> String {
    let mut text = format!(
        "[cluster]\nname = \"bench\"\n\n[cluster.consensus]\nbackend = \"{}\"\n",
        backend.name()
    );
    for (node, ports) in ports.iter().enumerate() {
        let (client, replica, admin) = (ports.client, ports.replica, ports.admin);
        let _ = write!(
            text,
            "\n[[cluster.nodes]]\nname = \"node-{node}\"\nip = \"127.0.0.1\"\nreplica_id = {node}\nports = {{ tcp = {client}, tcp_replica = {replica}, admin = {admin} }}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let metrics = Metrics("a_count_total 1\na_count 2.5\n# EOF\n".into());
        assert_eq!(metrics.value("a_count"), Some(2.5));
        assert_eq!(metrics.value("a"), None);
    }
}
