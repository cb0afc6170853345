//! Whether to run Raft or VR: the article's five criteria, on measured figures.
//!
//! The figures are a running cluster's (its status and metrics) or those of a
//! `results.json`; what neither can tell (whether runs have to be repeatable) is asked
//! on the command line.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use iggy_cluster::admin;

use crate::report::plots::figure;
use crate::results::{Results, Share, ratios};

/// Consensus matters from this share of a request's latency on.
const SHARE_MIN: f64 = 0.05;
/// And from so many commands a second on.
const RATE_MIN: f64 = 100_000.0;
/// A larger state takes long to send to a replica that comes back.
const STATE_BYTES_MAX: f64 = (1_u64 << 30) as f64;
/// Above it VR is faster for sure, whatever the runs of a benchmark spread over.
const RATIO_MIN: f64 = 1.2;

/// Arguments of `advise`.
#[derive(Debug, Args)]
#[command(
    after_help = "  iggy-cluster advise                                       a running cluster\n  iggy-cluster advise --results iggy-cluster-bench/results.json   a benchmark\n\nFigures of a cluster are of all the time since its nodes started: ask when it has\nserved its usual load for a while."
)]
pub struct AdviseArgs {
    /// The admin endpoint of any node of a running cluster
    #[arg(long, default_value = "127.0.0.1:3300", value_name = "HOST:PORT")]
    address: String,
    /// What a benchmark measured, instead of a running cluster
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// The same failures must lead to the same leaders, as for debugging
    #[arg(long)]
    deterministic: bool,
}

/// What is known.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    /// Consensus' part of the latency of requests, from 0 to 1.
    share: Option<f64>,
    /// Commands of the replicated log a second.
    commands_per_second: Option<f64>,
    /// VR's throughput in times of Raft's, at its lowest.
    ratio: Option<f64>,
    /// Size of a snapshot.
    state_bytes: Option<f64>,
    deterministic: bool,
}

/// One criterion.
struct Criterion {
    question: &'static str,
    figure: String,
    /// Whether it speaks for VR; `None` when it is not known.
    for_vr: Option<bool>,
    reason: &'static str,
}

/// Says what to run, and why.
///
/// # Errors
/// When the cluster does not answer, or the file cannot be read.
pub async fn run(args: AdviseArgs) -> anyhow::Result<()> {
    let mut figures = match &args.results {
        Some(path) => of_results(&crate::report::read(path)?),
        None => of_cluster(&args.address).await?,
    };
    figures.deterministic = args.deterministic;
    print(&weigh(figures))
}

fn of_results(results: &Results) -> Figures {
    let metadata = results
        .share
        .iter()
        .filter(|share| share.commands_per_second > 1.0)
        .map(Share::of_latency);
    let lowest = ratios(&results.throughput, "vr", "raft");
    let lowest = lowest
        .iter()
        .filter(|(point, _)| point.durability == "fsync");
    Figures {
        share: metadata.reduce(f64::max),
        // What a benchmark offered says nothing of what a cluster is asked for.
        commands_per_second: None,
        ratio: lowest.map(|(_, ratio)| ratio.low).reduce(f64::min),
        state_bytes: None,
        deterministic: false,
    }
}

async fn of_cluster(address: &str) -> anyhow::Result<Figures> {
    let report = admin::gather(address).await.with_context(|| {
        format!("no cluster answers at {address}; start one, or give --results")
    })?;
    let mut figures = Figures::default();
    let (mut commit_seconds, mut request_seconds, mut commands, mut uptime) =
        (0.0, 0.0, 0.0, 0.0_f64);
    for node in report.nodes.iter().filter(|node| node.healthy) {
        let metrics = String::from_utf8(admin::fetch(&node.admin, "/metrics").await?)?;
        let of = |name: &str| metric(&metrics, name).unwrap_or(0.0);
        commit_seconds += of("iggy_cluster_commit_seconds_sum");
        commands += of("iggy_cluster_commit_seconds_count");
        request_seconds += of("iggy_cluster_request_seconds_sum");
        uptime = uptime.max(of("iggy_cluster_uptime_seconds"));
        let state = of("iggy_cluster_snapshot_bytes");
        figures.state_bytes = Some(figures.state_bytes.unwrap_or(0.0).max(state));
    }
    if request_seconds > 0.0 {
        figures.share = Some((commit_seconds / request_seconds).min(1.0));
    }
    if uptime > 0.0 {
        figures.commands_per_second = Some(commands / uptime);
    }
    Ok(figures)
}

/// A value among a node's metrics.
pub(crate) fn metric(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(' ')?;
        value.parse().ok()
    })
}

fn weigh(figures: Figures) -> Vec<Criterion> {
    let percent = |share: f64| format!("{}%", figure(share * 100.0));
    vec![
        Criterion {
            question: "Is consensus over 5% of the latency of requests?",
            figure: figures.share.map_or("not known".into(), percent),
            for_vr: figures.share.map(|share| share > SHARE_MIN),
            reason: "below it, no protocol can be felt by a client",
        },
        Criterion {
            question: "Are there over 100,000 commands a second?",
            figure: figures
                .commands_per_second
                .map_or("not known".into(), |rate| format!("{}/s", figure(rate))),
            for_vr: figures.commands_per_second.map(|rate| rate > RATE_MIN),
            reason: "both backends carry out far more than that",
        },
        Criterion {
            question: "Is VR faster at the least favourable setting measured?",
            figure: figures.ratio.map_or("not known".into(), |ratio| {
                format!("{} times Raft", figure(ratio))
            }),
            for_vr: figures.ratio.map(|ratio| ratio > RATIO_MIN),
            reason: "measured on the same log, links and batches: iggy-cluster bench throughput",
        },
        Criterion {
            question: "Is the state small enough to be sent whole?",
            figure: figures.state_bytes.map_or("not known".into(), |bytes| {
                format!("{} MB", figure(bytes / 1e6))
            }),
            for_vr: figures.state_bytes.map(|bytes| bytes < STATE_BYTES_MAX),
            reason: "a replica that was away for long gets a snapshot",
        },
        Criterion {
            question: "Must the same failures lead to the same leaders?",
            figure: (if figures.deterministic {
                "yes"
            } else {
                "not asked for"
            })
            .into(),
            for_vr: Some(figures.deterministic),
            reason: "VR's next primary follows from the view; Raft's is drawn (--deterministic)",
        },
    ]
}

/// VR needs a reason: speed that can be felt, or determinism that is asked for.
fn verdict(criteria: &[Criterion]) -> &'static str {
    let speaks = |at: usize| criteria.get(at).and_then(|criterion| criterion.for_vr);
    let felt = [0, 1, 2].into_iter().all(|at| speaks(at) == Some(true));
    let small = speaks(3) != Some(false);
    match (felt && small, speaks(4) == Some(true)) {
        (true, _) => {
            "Run VR: consensus is a part of your latency that counts, and VR is faster here."
        }
        (false, true) => "Run VR for its determinism; its speed is no reason here.",
        (false, false) => "Run Raft: nothing measured here is a reason for VR.",
    }
}

fn print(criteria: &[Criterion]) -> anyhow::Result<()> {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["criterion", "measured", "for", "because"]);
    for criterion in criteria {
        let side = match criterion.for_vr {
            Some(true) => "VR",
            Some(false) => "Raft",
            None => "-",
        };
        table.add_row([
            criterion.question,
            &criterion.figure,
            side,
            criterion.reason,
        ]);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n\n{table}", verdict(criteria))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_for_vr() -> Figures {
        Figures {
            share: Some(0.4),
            commands_per_second: Some(150_000.0),
            ratio: Some(1.5),
            state_bytes: Some(1e6),
            deterministic: false,
        }
    }

    #[test]
    fn each_missing_reason_speaks_for_raft() {
        assert!(verdict(&weigh(all_for_vr())).starts_with("Run VR: consensus"));
        for figures in [
            Figures {
                share: Some(0.01),
                ..all_for_vr()
            },
            Figures {
                share: None,
                ..all_for_vr()
            },
            Figures {
                commands_per_second: Some(500.0),
                ..all_for_vr()
            },
            Figures {
                ratio: Some(1.01),
                ..all_for_vr()
            },
            Figures {
                ratio: None,
                ..all_for_vr()
            },
            Figures {
                state_bytes: Some(1e12),
                ..all_for_vr()
            },
        ] {
            assert!(
                verdict(&weigh(figures)).starts_with("Run Raft"),
                "{figures:?}"
            );
            let deterministic = Figures {
                deterministic: true,
                ..figures
            };
            assert!(verdict(&weigh(deterministic)).starts_with("Run VR for its determinism"));
        }
    }

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let metrics = "a_count_total 1\na_count 2.5\n# EOF\n";
        assert_eq!(metric(metrics, "a_count"), Some(2.5));
        assert_eq!(metric(metrics, "a"), None);
    }
}
