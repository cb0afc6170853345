//! Reports of nodes, requested from their admin endpoints.

use local_cluster::{GetError, get};
use thiserror::Error;

use super::{ClusterReport, NodeReport};

/// Why a node has no report.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The node does not reply, or replies with an error.
    #[error(transparent)]
    Get(#[from] GetError),
    /// The reply is not the report of a node.
    #[error("the reply is not the report of a node: {0}")]
    Json(#[from] serde_json::Error),
}

/// The report of the node at `address`, completed with the reports of all other nodes.
/// Nodes that do not reply have the role `unreachable`.
///
/// # Errors
/// When the node at `address` does not reply.
pub async fn cluster_report(address: &str) -> Result<ClusterReport, ReportError> {
    let mut cluster = node_report(address).await?;
    let addresses = cluster.nodes.iter().map(|node| node.admin.clone());
    let requests: Vec<_> = addresses
        .map(|admin| tokio::spawn(async move { node_report(&admin).await }))
        .collect();
    for (node, request) in cluster.nodes.iter_mut().zip(requests) {
        match request.await {
            Ok(Ok(report)) => complete(node, report),
            _ => complete(node, ClusterReport::default()),
        }
    }
    // Of several nodes that report themselves leader, the one with the highest term is it.
    let leader = cluster
        .nodes
        .iter()
        .filter(|node| node.role == "leader")
        .max_by_key(|node| node.term);
    cluster.leader = leader.map(|node| node.replica_id);
    let commits = cluster.nodes.iter().map(|node| node.commit);
    let commit = commits.max().unwrap_or(0);
    for node in &mut cluster.nodes {
        node.lag = match node.role.as_str() {
            "unreachable" => 0,
            _ => commit.saturating_sub(node.applied),
        };
    }
    Ok(cluster)
}

/// Replaces what another node knows of a node with the node's own report.
fn complete(node: &mut NodeReport, report: ClusterReport) {
    let mut reports = report.nodes.into_iter();
    match reports.find(|own| own.replica_id == node.replica_id) {
        Some(own) => *node = own,
        None => {
            node.role = "unreachable".into();
            node.healthy = false;
        }
    }
}

/// One node's report: complete for itself, with the addresses of the others.
///
/// # Errors
/// When it does not reply, or not as a node does.
pub async fn node_report(address: &str) -> Result<ClusterReport, ReportError> {
    Ok(serde_json::from_slice(&get(address, "/status").await?)?)
}

/// Whether a node can serve requests.
pub async fn is_ready(address: &str) -> bool {
    get(address, "/readyz").await.is_ok()
}
