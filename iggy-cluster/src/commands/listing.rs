//! `partitions list` and `groups list`: what a node's metadata has.

use std::io::Write;

use adapters::Printable;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table};
use local_cluster::GetError;

use super::text::COLUMNS;
use crate::admin::{
    GroupsReport, Listing, PartitionReport, PartitionsReport, ReportError, groups_report,
    partitions_report,
};

/// Which entries, and how.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The admin endpoint of any node
    #[arg(long, default_value = "127.0.0.1:3300", value_name = "HOST:PORT")]
    address: String,
    /// Only of the stream with this name or id
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Only of the topic with this name or id
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only with a copy, or a member, on the node with this replica_id
    #[arg(long, value_name = "N")]
    node: Option<u8>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    limit: u16,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `partitions list`.
#[derive(Debug, Args)]
#[command(
    after_help = "The node at ADDRESS answers from its metadata, which may lag behind the leader's.\nSTATE: ok; degraded: a copy is not in sync, or its node is down; refusing: too few copies\nfor sends; offline: no leader; problem: all but ok."
)]
pub(super) struct PartitionsArgs {
    #[command(flatten)]
    list: ListArgs,
    /// Only in this state
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<PartitionState>,
}

/// Arguments of `groups list`.
#[derive(Debug, Args)]
#[command(
    after_help = "The node at ADDRESS answers from its metadata, which may lag behind the leader's.\nSTATE: stable; rebalancing: a partition waits for the member that gives it up; empty: no\nmembers; problem: all but stable."
)]
pub(super) struct GroupsArgs {
    #[command(flatten)]
    list: ListArgs,
    /// Only in this state
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<GroupState>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PartitionState {
    Ok,
    Degraded,
    Refusing,
    Offline,
    Problem,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GroupState {
    Stable,
    Rebalancing,
    Empty,
    Problem,
}

impl ListArgs {
    fn listing(&self, state: Option<impl ValueEnum>) -> Listing {
        let state = state.and_then(|state| Some(state.to_possible_value()?.get_name().to_owned()));
        Listing {
            stream: self.stream.clone(),
            topic: self.topic.clone(),
            node: self.node,
            state,
            limit: Some(usize::from(self.limit)),
        }
    }

    fn print(&self, json: &impl serde::Serialize, text: &str) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", serde_json::to_string_pretty(json)?)?,
            false => write!(out, "{text}")?,
        }
        out.flush()?;
        Ok(())
    }
}

pub(super) async fn partitions(args: &PartitionsArgs) -> anyhow::Result<()> {
    let listing = args.list.listing(args.state);
    let reply = partitions_report(&args.list.address, &listing).await;
    let report = explained(reply, &args.list.address)?;
    args.list.print(&report, &partitions_text(&report))
}

pub(super) async fn groups(args: &GroupsArgs) -> anyhow::Result<()> {
    let listing = args.list.listing(args.state);
    let reply = groups_report(&args.list.address, &listing).await;
    let report = explained(reply, &args.list.address)?;
    args.list.print(&report, &groups_text(&report))
}

fn explained<T>(reply: Result<T, ReportError>, address: &str) -> anyhow::Result<T> {
    match reply {
        Err(ReportError::Get(GetError::Status(reason))) => {
            bail!("the node at {address} has no list: {}", Printable(&reason))
        }
        reply => reply.with_context(|| {
            format!(
                "no node answers at {address}; name the admin endpoint of a running node with --address"
            )
        }),
    }
}

fn partitions_text(report: &PartitionsReport) -> String {
    let header = [
        "stream", "topic", "id", "leader", "copies", "in sync", "epoch", "state",
    ];
    let rows = report.partitions.iter().map(partition_row);
    let listed = report.partitions.len() as u64;
    table(&header, rows) + &summary(listed, report.matched, "partition")
}

fn partition_row(it: &PartitionReport) -> Vec<String> {
    let state = match it.recovered_epoch {
        Some(epoch) => format!("{}, recovered in epoch {epoch}", it.state),
        None => it.state.clone(),
    };
    vec![
        Printable(&it.stream).to_string(),
        Printable(&it.topic).to_string(),
        it.partition.to_string(),
        it.leader.map_or_else(|| "none".into(), |id| id.to_string()),
        list(&it.replicas),
        list(&it.in_sync),
        it.epoch.to_string(),
        Printable(&state).to_string(),
    ]
}

fn groups_text(report: &GroupsReport) -> String {
    let header = [
        "stream",
        "topic",
        "group",
        "members",
        "partitions",
        "moving",
        "state",
    ];
    let rows = report.groups.iter().map(|it| {
        vec![
            Printable(&it.stream).to_string(),
            Printable(&it.topic).to_string(),
            Printable(&it.group).to_string(),
            it.members.len().to_string(),
            it.partitions.to_string(),
            it.revoking.to_string(),
            Printable(&it.state).to_string(),
        ]
    });
    table(&header, rows) + &summary(report.groups.len() as u64, report.matched, "group")
}

fn list(ids: &[u8]) -> String {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    ids.join(" ")
}

fn summary(listed: u64, matched: u64, what: &str) -> String {
    match matched {
        1 => format!("1 {what}\n"),
        _ if listed < matched => {
            format!("{listed} of {matched} {what}s; filter them, or raise --limit\n")
        }
        _ => format!("{matched} {what}s\n"),
    }
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(COLUMNS);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    table.to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{GroupReport, MemberReport};

    fn partition() -> PartitionReport {
        PartitionReport {
            stream: "payments.of.the.european.union".into(),
            topic: "card.authorizations.and.reversals".into(),
            partition: 999_999,
            leader: Some(254),
            epoch: 4_000_000_000,
            replicas: vec![254, 253, 252, 251, 250, 249, 248],
            in_sync: vec![254, 253, 252, 251, 250, 249, 248],
            recovered_epoch: Some(3_999_999_999),
            state: "degraded".into(),
            ..PartitionReport::default()
        }
    }

    fn fits(text: &str) {
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{text}");
        let raw = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(raw, None, "{text:?}");
    }

    #[test]
    fn long_lists_fit_80_columns_and_say_what_is_left_out() {
        let mut report = PartitionsReport {
            matched: 1_000_000,
            partitions: vec![partition(); 2],
            ..PartitionsReport::default()
        };
        report.partitions[1].leader = None;
        report.partitions[1].topic = "a\u{1b}[2J".into();
        let text = partitions_text(&report);
        fits(&text);
        assert!(text.contains("none"), "{text}");
        assert!(text.ends_with("2 of 1000000 partitions; filter them, or raise --limit\n"));

        let group = GroupReport {
            stream: "b\u{1b}]0;c\u{7}\r".into(),
            topic: "card.authorizations.and.reversals".into(),
            group: "billing.and.invoices.of.last.year".into(),
            partitions: 1_000_000,
            revoking: 100_000,
            members: vec![MemberReport::default(); 1_000],
            state: "rebalancing".into(),
            ..GroupReport::default()
        };
        let report = GroupsReport {
            matched: 1,
            groups: vec![group],
            ..GroupsReport::default()
        };
        let text = groups_text(&report);
        fits(&text);
        assert!(text.ends_with("1 group\n"), "{text}");
    }
}
