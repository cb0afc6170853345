//! Reports of nodes, requested from their admin endpoints.

use std::time::Duration;

use local_cluster::{GetError, get, get_within};
use thiserror::Error;

use super::{ClusterReport, GroupsReport, Listing, PartitionsReport};

/// The node itself waits up to two seconds for the reports of the others.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(4);

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

/// The reports of all nodes, as the node at `address` receives them from the others over the
/// links between nodes. A node of version 0.1 reports only itself.
///
/// # Errors
/// When the node at `address` does not reply.
pub async fn cluster_report(address: &str) -> Result<ClusterReport, ReportError> {
    let reply = get_within(CLUSTER_TIMEOUT, address, "/status?nodes=all").await?;
    let report: ClusterReport = serde_json::from_slice(&reply)?;
    Ok(report.completed())
}

/// Partitions, as the metadata of the node at `address` has them.
///
/// # Errors
/// When it does not reply.
pub async fn partitions_report(
    address: &str,
    listing: &Listing,
) -> Result<PartitionsReport, ReportError> {
    let path = format!("/partitions?{}", listing.to_query());
    let reply = get_within(CLUSTER_TIMEOUT, address, &path).await?;
    Ok(serde_json::from_slice(&reply)?)
}

/// Consumer groups, as the metadata of the node at `address` has them.
///
/// # Errors
/// When it does not reply.
pub async fn groups_report(address: &str, listing: &Listing) -> Result<GroupsReport, ReportError> {
    let path = format!("/groups?{}", listing.to_query());
    let reply = get_within(CLUSTER_TIMEOUT, address, &path).await?;
    Ok(serde_json::from_slice(&reply)?)
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
