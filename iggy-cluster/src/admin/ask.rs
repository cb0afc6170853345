//! Asking the admin endpoints of nodes.

use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ClusterReport;

/// A node that does not answer within this time counts as unreachable.
const TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Why a node has no report.
#[derive(Debug, Error)]
pub enum AskError {
    /// It cannot be reached.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It takes too long.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// It answers something else.
    #[error("{0}")]
    Answer(String),
}

/// The report of the node at `address`, completed by what the others say.
///
/// # Errors
/// When that node does not answer. Others that do not are reported so.
pub async fn gather(address: &str) -> Result<ClusterReport, AskError> {
    let mut cluster = ask(address).await?;
    let asked = cluster.nodes.iter().map(|node| node.admin.clone());
    let answers: Vec<_> = asked
        .map(|admin| tokio::spawn(async move { ask(&admin).await }))
        .collect();
    for (node, answer) in cluster.nodes.iter_mut().zip(answers) {
        let own = match answer.await {
            Ok(Ok(answer)) => answer
                .nodes
                .into_iter()
                .find(|own| own.replica_id == node.replica_id),
            _ => None,
        };
        match own {
            Some(own) => *node = own,
            None => {
                node.role = "unreachable".into();
                node.healthy = false;
            }
        }
    }
    // Of several who say that they lead, the one of the highest term does.
    let leader = cluster
        .nodes
        .iter()
        .filter(|node| node.role == "leader")
        .max_by_key(|node| node.term);
    cluster.leader = leader.map(|node| node.replica_id);
    let most = cluster
        .nodes
        .iter()
        .map(|node| node.commit)
        .max()
        .unwrap_or(0);
    for node in &mut cluster.nodes {
        node.lag = match node.role.as_str() {
            "unreachable" => 0,
            _ => most.saturating_sub(node.applied),
        };
    }
    Ok(cluster)
}

/// One node's own report.
///
/// # Errors
/// When it does not answer, or not as a node does.
pub async fn ask(address: &str) -> Result<ClusterReport, AskError> {
    let body = fetch(address, "/status").await?;
    serde_json::from_slice(&body).map_err(|error| AskError::Answer(error.to_string()))
}

/// Whether a node can serve.
pub async fn is_ready(address: &str) -> bool {
    fetch(address, "/readyz").await.is_ok()
}

/// The body of a successful `GET`, in time.
/// What the node's admin endpoint answers to a `GET` of this path.
///
/// # Errors
/// When it does not answer in time, or with an error.
pub async fn fetch(address: &str, path: &str) -> Result<Vec<u8>, AskError> {
    match tokio::time::timeout(TIMEOUT, exchange(address, path)).await {
        Ok(result) => result,
        Err(_) => Err(AskError::Timeout),
    }
}

/// The endpoint is ours: it closes the connection at the end.
async fn exchange(address: &str, path: &str) -> Result<Vec<u8>, AskError> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    let split = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(|| AskError::Answer("not an HTTP answer".into()))?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        let text = String::from_utf8_lossy(&answer[split + 4..]);
        return Err(AskError::Answer(text.trim().to_owned()));
    }
    Ok(answer.split_off(split + 4))
}
