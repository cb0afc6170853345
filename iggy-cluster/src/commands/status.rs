//! `status`: the state of all nodes, each as it reports itself.

use std::io::Write;

use adapters::Printable;
use anyhow::Context;
use comfy_table::{ContentArrangement, Table};

use super::StatusArgs;
use crate::admin::{ClusterReport, NodeReport, PARTITIONS_REFUSING, cluster_report};

/// The width of the table without `--wide`.
const COLUMNS: u16 = 80;

pub(super) async fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let report = cluster_report(&args.address).await.with_context(|| {
        format!(
            "no node replies at {}; name the admin endpoint of a running node with --address",
            args.address
        )
    })?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{}", text(&report, args.wide))?;
    }
    Ok(())
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
    let refusals: String = report
        .nodes
        .iter()
        .filter_map(|node| {
            let refused = node.refuses_leader.as_ref()?;
            let id = node.replica_id;
            Some(format!("replica_id {id} refuses its leader: {refused}\n"))
        })
        .collect();
    format!(
        "cluster {cluster:?} on {backend}\n{leader}\n{}\n{refusals}{}",
        table(report, wide),
        refusing(report)
    )
}

/// A line for each node with partitions that refuse.
fn refusing(report: &ClusterReport) -> String {
    let lines = report.nodes.iter().filter_map(|node| {
        let reason = node.detail.get(PARTITIONS_REFUSING)?;
        Some(format!(
            "partitions of replica_id {} refuse: {reason}\n",
            node.replica_id
        ))
    });
    lines.collect()
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
    let reachable = node.role != "unreachable";
    let number = |value: u64| match reachable {
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
            nodes: vec![
                node(0, "unreachable"),
                node(1, "leader"),
                node(254, "follower"),
            ],
        }
    }

    #[test]
    fn long_names_and_large_numbers_fit_80_columns() {
        let text = text(&report(), false);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{text}");
        assert!(text.contains("leader: replica_id 1 (iggy-1."), "{text}");
    }

    /// The report may come from something else than a node.
    #[test]
    fn control_characters_of_a_report_do_not_reach_the_terminal() {
        let mut report = report();
        report.cluster = "a\u{1b}[2J".into();
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
    fn a_node_that_refuses_its_leader_is_named_with_the_reason() {
        let mut report = report();
        report.nodes[2].refuses_leader = Some("AppendEntries of replica 1: it differs".into());
        let text = text(&report, false);
        let last = text.lines().next_back();
        assert_eq!(
            last,
            Some("replica_id 254 refuses its leader: AppendEntries of replica 1: it differs")
        );
    }

    #[test]
    fn partitions_that_refuse_are_named_after_the_table() {
        let mut report = report();
        assert!(!text(&report, false).contains("refuse"));
        report.nodes[2]
            .detail
            .insert(PARTITIONS_REFUSING.into(), "1 damaged; stream 1".into());
        let text = text(&report, false);
        let line = "partitions of replica_id 254 refuse: 1 damaged; stream 1\n";
        assert!(text.ends_with(line), "{text}");
    }

    #[test]
    fn the_wide_table_has_addresses() {
        let text = text(&report(), true);
        assert!(text.contains("10.0.0.254:3300"), "{text}");
        assert!(text.contains("iggy-254.eu-central.example.com:8090"));
    }
}
