//! Whether to run Raft or VR: a recommendation on the figures of a running cluster (its
//! metrics) or of a `results.json`.
//!
//! What neither knows, whether failures have to be repeatable, is an argument.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::advice::{self, Advice, Criterion, Known};
use crate::nodes::{Metrics, status};
use crate::{results, terminal};

/// Arguments of `advise`.
#[derive(Debug, Args)]
#[command(
    after_help = "  iggy-cluster advise                    a running cluster\n  iggy-cluster advise --results FILE     a benchmark's results.json\n\nThe figures of a cluster cover the time since its nodes started: run advise when\nit has served its usual load for a while."
)]
pub struct AdviseArgs {
    /// Admin endpoint of any node
    #[arg(long, default_value = "127.0.0.1:3300", value_name = "HOST:PORT")]
    address: String,
    /// A benchmark's results.json, instead of a cluster
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// The same failures must lead to the same leaders
    #[arg(long)]
    deterministic: bool,
}

/// Prints which backend to run, and why.
///
/// # Errors
/// When the cluster does not reply, or the file cannot be read.
pub async fn run(args: AdviseArgs) -> anyhow::Result<()> {
    let (mut known, missing) = match &args.results {
        Some(path) => (Known::of_results(&results::read(path)?), Vec::new()),
        None => of_cluster(&args.address).await?,
    };
    known.deterministic = args.deterministic;
    let advice = match args.results {
        Some(_) => advice::of_benchmark(&known)
            .context("the file has none of the figures: run iggy-cluster bench compare")?,
        None => advice::of_cluster(&known),
    };
    print(&advice, &advice::determinism(&known), &missing)
}

/// The figures of a cluster, and the admin endpoints that did not reply.
async fn of_cluster(address: &str) -> anyhow::Result<(Known, Vec<String>)> {
    let cluster = status(address).await.with_context(|| {
        format!("no cluster replies at {address}; start one, or pass --results")
    })?;
    let mut known = Known::default();
    let (mut commit_seconds, mut request_seconds, mut commands, mut uptime) =
        (0.0, 0.0, 0.0, 0.0_f64);
    let mut missing = Vec::new();
    for node in cluster.nodes {
        // It may be down, or its endpoint may listen on loopback only, as by default.
        let Ok(metrics) = Metrics::of(&node.admin).await else {
            missing.push(node.admin);
            continue;
        };
        let of = |name: &str| metrics.value(name).unwrap_or(0.0);
        commit_seconds += of("iggy_cluster_commit_seconds_sum");
        commands += of("iggy_cluster_commit_seconds_count");
        request_seconds += of("iggy_cluster_request_seconds_sum");
        uptime = uptime.max(of("iggy_cluster_uptime_seconds"));
        let state = of("iggy_cluster_snapshot_bytes");
        known.state_bytes = Some(known.state_bytes.unwrap_or(0.0).max(state));
    }
    if request_seconds > 0.0 {
        known.share = Some((commit_seconds / request_seconds).min(1.0));
    }
    if uptime > 0.0 {
        known.commands_per_second = Some(commands / uptime);
    }
    Ok((known, missing))
}

fn print(advice: &Advice, determinism: &Criterion, missing: &[String]) -> anyhow::Result<()> {
    let columns = terminal::columns();
    let rows: Vec<_> = advice
        .figures
        .iter()
        .chain([determinism])
        .map(|criterion| {
            vec![
                criterion.name.to_owned(),
                criterion.side.name().to_owned(),
                criterion.reason.to_owned(),
            ]
        })
        .collect();
    let head = ["criterion", "for", "because"].map(str::to_owned);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", terminal::table(&head, &rows, columns))?;
    writeln!(out, "{}", terminal::boxed(advice, columns))?;
    if !missing.is_empty() {
        writeln!(
            out,
            "without the figures of the nodes whose admin endpoint does not reply:\n  {}\n\
             set admin.ip to an address that is reachable from here",
            missing.join("\n  ")
        )?;
    }
    Ok(())
}
