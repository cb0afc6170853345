//! `status`: every node asked, and put together.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use comfy_table::Table;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::StatusArgs;
use crate::admin::{ClusterReport, NodeReport};

/// A node that does not answer within this time counts as unreachable.
const TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_BYTES_MAX: u64 = 1 << 20;

pub(super) async fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let report = gather(&args.address).await.with_context(|| {
        format!(
            "no node answers at {}; give the admin address of one that runs with --address",
            args.address
        )
    })?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        writeln!(out, "{}", table(&report))?;
    }
    Ok(())
}

/// The report of the node at `address`, completed by what the others say.
pub(super) async fn gather(address: &str) -> anyhow::Result<ClusterReport> {
    let mut cluster = ask(address).await?;
    let asked = cluster.nodes.iter().map(|node| node.admin.clone());
    let answers: Vec<_> = asked
        .map(|admin| tokio::spawn(async move { ask(&admin).await }))
        .collect();
    for (node, answer) in cluster.nodes.iter_mut().zip(answers) {
        let own = match answer.await? {
            Ok(answer) => answer
                .nodes
                .into_iter()
                .find(|own| own.replica_id == node.replica_id),
            Err(_) => None,
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
async fn ask(address: &str) -> anyhow::Result<ClusterReport> {
    let body = tokio::time::timeout(TIMEOUT, get(address, "/status")).await??;
    Ok(serde_json::from_slice(&body)?)
}

/// Whether a node can serve.
pub(super) async fn is_ready(address: &str) -> bool {
    let answer = tokio::time::timeout(TIMEOUT, get(address, "/readyz")).await;
    matches!(answer, Ok(Ok(_)))
}

/// The body of a successful `GET`. The endpoint is ours: HTTP/1.1, and the
/// connection is closed at the end.
async fn get(address: &str, path: &str) -> anyhow::Result<Vec<u8>> {
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
        .context("not an HTTP answer")?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        bail!("{}", String::from_utf8_lossy(&answer[split + 4..]).trim());
    }
    Ok(answer.split_off(split + 4))
}

fn table(report: &ClusterReport) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_header([
        "node", "id", "pid", "role", "term", "commit", "applied", "lag", "clients", "admin",
        "healthy",
    ]);
    for node in &report.nodes {
        table.add_row(row(node));
    }
    let backend = report
        .nodes
        .first()
        .map_or("", |node| node.backend.as_str());
    let leader = match report.leader {
        Some(leader) => format!("node {leader} leads"),
        None => "no leader".to_owned(),
    };
    format!(
        "cluster {:?} on {backend}: {leader}\n{table}",
        report.cluster
    )
}

fn row(node: &NodeReport) -> Vec<String> {
    let known = node.role != "unreachable";
    let number = |value: u64| match known {
        true => value.to_string(),
        false => "-".into(),
    };
    vec![
        node.name.clone(),
        node.replica_id.to_string(),
        node.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
        node.role.clone(),
        number(node.term),
        number(node.commit),
        number(node.applied),
        number(node.lag),
        node.tcp.clone(),
        node.admin.clone(),
        if node.healthy { "yes" } else { "no" }.into(),
    ]
}
