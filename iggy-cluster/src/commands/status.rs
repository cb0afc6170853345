//! `status`: the state of all nodes, each as it reports itself.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use adapters::Printable;
use anyhow::{Context, bail};
use comfy_table::{ContentArrangement, Table};
use local_cluster::GetError;

use super::text::{COLUMNS, wrapped};
use super::{StatusArgs, stop_signal};
use crate::admin::{ClusterReport, NodeReport, ReportError, cluster_report};

/// Between two reports of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Clears a terminal and returns to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) async fn run(args: &StatusArgs) -> anyhow::Result<()> {
    if args.watch {
        return tokio::select! {
            result = watch(args) => result,
            result = stop_signal() => result,
        };
    }
    let report = request(args).await?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{}", text(&report, args.wide))?;
    }
    out.flush()?;
    match report.problems.len() {
        0 => Ok(()),
        1 => bail!("the cluster has a problem"),
        count => bail!("the cluster has {count} problems"),
    }
}

async fn watch(args: &StatusArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let clear = if out.is_terminal() { CLEAR } else { "" };
    loop {
        let shown = match request(args).await {
            Ok(report) => text(&report, args.wide),
            Err(error) => wrapped("", &super::in_full(&error)),
        };
        write!(out, "{clear}{shown}")?;
        out.flush()?;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

async fn request(args: &StatusArgs) -> anyhow::Result<ClusterReport> {
    let address = &args.address;
    match cluster_report(address).await {
        Ok(report) => Ok(report),
        Err(ReportError::Get(GetError::Status(reason))) => {
            bail!("the node at {address} cannot report: {}", Printable(&reason))
        }
        Err(error) => Err(error).with_context(|| {
            format!(
                "no node reports at {address}; name the admin endpoint of a running node with --address"
            )
        }),
    }
}

fn text(report: &ClusterReport, wide: bool) -> String {
    let backend = report
        .nodes
        .first()
        .map_or("", |node| node.backend.as_str());
    let backend = Printable(backend);
    let name = |id: u8| {
        let node = report.nodes.iter().find(|node| node.replica_id == id);
        node.map_or_else(String::new, |node| format!(" ({})", Printable(&node.name)))
    };
    let leader = match report.leader {
        Some(id) => format!("leader: replica_id {id}{}", name(id)),
        None => "leader: none".to_owned(),
    };
    let cluster = &report.cluster;
    let mut text = wrapped("", &format!("cluster {cluster:?} on {backend}"));
    text.push_str(&wrapped("", &leader));
    text.push_str(&table(report, wide).to_string());
    text.push('\n');
    for (title, lines) in [
        ("problems", &report.problems),
        ("warnings", &report.warnings),
    ] {
        if !lines.is_empty() {
            text.push_str(title);
            text.push_str(":\n");
        }
        for line in lines {
            text.push_str(&wrapped("  - ", line));
        }
    }
    text
}

fn table(report: &ClusterReport, wide: bool) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY);
    let mut header = vec![
        "replica_id",
        "node",
        "role",
        "term",
        "commit",
        "lag",
        "healthy",
    ];
    if wide {
        header.extend(["applied", "pid", "clients", "admin"]);
    } else {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(COLUMNS);
    }
    table.set_header(header);
    for node in &report.nodes {
        table.add_row(row(node, wide));
    }
    table
}

fn row(node: &NodeReport, wide: bool) -> Vec<String> {
    let number = |value: u64| match node.replied() {
        true => value.to_string(),
        false => "-".into(),
    };
    let mut row = vec![
        node.replica_id.to_string(),
        Printable(&node.name).to_string(),
        Printable(&node.role).to_string(),
        number(node.term),
        number(node.commit),
        number(node.lag),
        if node.healthy { "yes" } else { "no" }.into(),
    ];
    if wide {
        row.extend([
            number(node.applied),
            node.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
            Printable(&node.tcp).to_string(),
            Printable(&node.admin).to_string(),
        ]);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ClusterReport {
        let node = |replica_id: u8, role: &str| NodeReport {
            replica_id,
            name: format!("iggy-{replica_id}.eu-central.example.com"),
            role: role.into(),
            term: 12_345,
            commit: 1_234_567_890,
            applied: 1_234_567_890,
            lag: 123_456,
            backend: "raft".into(),
            tcp: format!("iggy-{replica_id}.eu-central.example.com:8090"),
            admin: format!("10.0.0.{replica_id}:3300"),
            healthy: role != "unreachable",
            ..NodeReport::default()
        };
        ClusterReport {
            cluster: "production".into(),
            leader: Some(1),
            problems: vec![
                "iggy-0.eu-central.example.com (replica_id 0): does not reply on the link between the nodes".into(),
            ],
            warnings: Vec::new(),
            nodes: vec![
                node(0, "unreachable"),
                node(1, "leader"),
                node(254, "unknown (older version)"),
            ],
        }
    }

    #[test]
    fn long_names_and_large_numbers_fit_80_columns() {
        let text = text(&report(), false);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{text}");
        assert!(text.contains("leader: replica_id 1 (iggy-1."), "{text}");
        assert!(text.contains("problems:\n  - iggy-0.eu-central.example.com (replica_id 0): does not reply on the link\n    between the nodes\n"), "{text}");
    }

    /// The report may come from something else than a node.
    #[test]
    fn control_characters_of_a_report_do_not_reach_the_terminal() {
        let mut report = report();
        report.cluster = "a\u{1b}[2J".into();
        report.problems.push("d\u{1b}[2J".into());
        report.warnings.push("e\u{1b}[2J".into());
        for node in &mut report.nodes {
            for field in [
                &mut node.name,
                &mut node.role,
                &mut node.backend,
                &mut node.tcp,
                &mut node.admin,
            ] {
                *field = "b\u{1b}]0;c\u{7}\r".into();
            }
        }
        for wide in [false, true] {
            let text = text(&report, wide);
            let raw = text.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(raw, None, "{text:?}");
        }
    }

    #[test]
    fn the_wide_table_has_addresses() {
        let text = text(&report(), true);
        assert!(text.contains("10.0.0.254:3300"), "{text}");
        assert!(text.contains("iggy-254.eu-central.example.com:8090"));
    }
}
