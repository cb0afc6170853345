//! `status`: every node asked, and put together.

use std::io::Write;

use anyhow::Context;
use comfy_table::Table;

use super::StatusArgs;
use iggy_cluster::admin::{ClusterReport, NodeReport, gather};

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
