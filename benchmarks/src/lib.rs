//! Raft and VR head to head, and relative to their alternatives.
//!
//! Both backends run in the same processes, on the same log, links and batches;
//! only the core differs. Runs alternate, ratios are medians of pairs, and the report
//! also has figures that do not depend on the machine (messages, bytes, fsyncs for each
//! command).
//!
//! `scenarios` measures, one file each; `replica` is a process under measurement,
//! `nodes` whole nodes, `peers` the alternatives, `in_process` the protocols without
//! network and disk. [`results`] is what was measured; `claims` judges what an article
//! claims, `advice` recommends a backend, and `report` writes and prints all of it.

mod advice;
pub mod advise;
mod calibrate;
mod claims;
mod client;
mod cluster;
mod figures;
mod iggy;
mod in_process;
mod load;
mod nodes;
mod options;
mod peers;
mod replica;
mod report;
pub mod results;
mod scenarios;
mod terminal;
mod wire;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

pub use advise::AdviseArgs;
use options::Options;
use replica::{Memory, ReplicaArgs};
use results::{FORMAT, Missing, Results};
use scenarios::{Bench, Scenario};

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every scenario runs both backends in turns, three replicas as processes on\nloopback, and writes results.json and report.html:\n  iggy-cluster bench compare --quick          everything, in under a minute\n  iggy-cluster bench compare --peers          with etcd, ZooKeeper and openraft\n  iggy-cluster bench throughput --in-process  the protocols alone"
)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

impl BenchArgs {
    /// Whether the memory of this process may consist of huge pages. It does not, as in a
    /// node, except in a replica that measures their effect.
    #[must_use]
    pub fn huge_pages(&self) -> bool {
        match &self.command {
            Command::Replica(args) => args.memory == Memory::HugePages,
            _ => false,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All scenarios
    Compare(Options),
    /// Commands per second, by in-flight commands and by batch
    Throughput(Options),
    /// Latency at a rate that the clients keep
    Latency(Options),
    /// The leader is killed repeatedly
    Failover(Options),
    /// Elections on a busy machine
    Saturation(Options),
    /// How often a sequence of three leaders repeats
    Repro(Options),
    /// One disk is slow: the leader's, then a follower's
    SlowDisk(Options),
    /// A replica is killed and restarts
    Recovery(Options),
    /// 10,000 partitions move among 1,000 nodes
    Rebalance(Options),
    /// How much of the latency of Iggy's clients is consensus
    Share(Options),
    /// Memory of the metadata, and under commands that do not commit
    Memory(Options),
    /// Write and print the report of an existing results.json
    Report {
        /// The file
        #[arg(default_value = "iggy-cluster-bench/results.json")]
        results: PathBuf,
    },
    /// One process of a benchmark's cluster
    #[command(hide = true)]
    Replica(ReplicaArgs),
}

/// Runs a benchmark.
///
/// # Errors
/// When a scenario cannot be measured, or the report cannot be written.
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let (scenarios, options) = match args.command {
        Command::Replica(args) => return replica::run(&args).await,
        Command::Report { results } => return report_again(&results),
        Command::Compare(options) if options.in_process => {
            (vec![Scenario::InProcess, Scenario::Repro], options)
        }
        Command::Compare(options) => (Scenario::ALL.to_vec(), options),
        Command::Throughput(options) if options.in_process => (vec![Scenario::InProcess], options),
        Command::Throughput(options) => (vec![Scenario::Throughput], options),
        Command::Latency(options) => (vec![Scenario::Latency], options),
        Command::Failover(options) => (vec![Scenario::Failover], options),
        Command::Saturation(options) => (vec![Scenario::Saturation], options),
        Command::Repro(options) => (vec![Scenario::Repro], options),
        Command::SlowDisk(options) => (vec![Scenario::SlowDisk], options),
        Command::Recovery(options) => (vec![Scenario::Recovery], options),
        Command::Rebalance(options) => (vec![Scenario::Rebalance], options),
        Command::Share(options) => (vec![Scenario::Share], options),
        Command::Memory(options) => (vec![Scenario::Memory], options),
    };
    let (results, failed) = measure(&scenarios, options.clone()).await?;
    report::write(&results, &options.out)?;
    report::print(&results)?;
    writeln!(
        std::io::stdout(),
        "\n{:.0} s. The report: {}",
        results.seconds,
        options.out.join("report.html").display()
    )?;
    let names: Vec<_> = failed.iter().map(|scenario| scenario.name()).collect();
    anyhow::ensure!(
        names.is_empty(),
        "could not measure: {}; see \"Not measured\" above and in the report",
        names.join(", ")
    );
    Ok(())
}

fn report_again(path: &std::path::Path) -> anyhow::Result<()> {
    let results = results::read(path)?;
    if let Some(dir) = path.parent() {
        report::write(&results, dir)?;
    }
    report::print(&results)
}

/// Runs the scenarios; returns also which of them could not be measured.
async fn measure(
    scenarios: &[Scenario],
    options: Options,
) -> anyhow::Result<(Results, Vec<Scenario>)> {
    let started = Instant::now();
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let steps: usize = scenarios.iter().map(|one| one.steps(&options)).sum();
    let progress = progress(steps as u64)?;
    let mut results = Results {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").into(),
        started_unix_seconds: since.unwrap_or_default().as_secs(),
        command: command_line(),
        replicas: options.replicas,
        machine: calibrate::machine(),
        ..Results::default()
    };
    progress.set_message("calibration");
    results.calibration = tokio::task::block_in_place(calibrate::calibrate)?;
    let bench = Bench {
        binary: std::env::current_exe()?,
        options,
        progress,
    };
    let mut failed = Vec::new();
    for scenario in scenarios {
        // A scenario that fails does not discard what the others have measured.
        if let Err(error) = scenario.run(&bench, &mut results).await {
            let why = format!("{error:#}");
            let line = format!("{}: {why}", scenario.name());
            bench.progress.println(line);
            failed.push(*scenario);
            results.missing.push(Missing {
                what: scenario.name().into(),
                why,
            });
        }
    }
    bench.progress.finish_and_clear();
    results.seconds = started.elapsed().as_secs_f64();
    Ok((results, failed))
}

fn progress(steps: u64) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{elapsed:>5} {bar:30} {pos}/{len} {wide_msg}")?;
    let progress = ProgressBar::new(steps).with_style(style.progress_chars("━╸ "));
    progress.enable_steady_tick(Duration::from_millis(500));
    Ok(progress)
}

/// The command line, without the path of the program.
fn command_line() -> String {
    let arguments = std::env::args().skip(1);
    let words = std::iter::once("iggy-cluster".to_owned()).chain(arguments);
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document that describes the benchmarks.
    fn document() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md");
        let text = std::fs::read_to_string(path).expect("the document is in the repository");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_document_has_a_row_for_every_scenario() {
        let command = BenchArgs::augment_args(clap::Command::new("bench"));
        let document = document();
        let mut rows = 0;
        for scenario in command.get_subcommands().map(clap::Command::get_name) {
            if !["compare", "report", "replica"].contains(&scenario) {
                assert!(
                    document.contains(&format!("| `{scenario}` |")),
                    "{scenario}"
                );
                rows += 1;
            }
        }
        // One of the scenarios is an option of another.
        assert!(document.contains("| `throughput --in-process` |"));
        assert_eq!(rows + 1, Scenario::ALL.len());
    }

    #[test]
    fn the_document_counts_the_claims() {
        let measured: Vec<u8> = claims::measured().collect();
        let all = claims::article::CLAIMS.len();
        let document = document();
        for count in [
            format!("This project counts {all} claims in it"),
            format!("{} of them are measured:", measured.len()),
            format!(
                "the other {} are listed as not measured",
                all - measured.len()
            ),
        ] {
            assert!(document.contains(&count), "{count}");
        }
        let (_, list) = document
            .split_once("of them are measured: ")
            .expect("a list");
        let (list, _) = list.split_once('.').expect("a sentence");
        let listed = list.split(", ").flat_map(|range| {
            let (first, last) = range.split_once(" to ").unwrap_or((range, range));
            let number = |text: &str| text.parse::<u8>().expect("a number");
            number(first)..=number(last)
        });
        assert_eq!(listed.collect::<Vec<_>>(), measured);
    }
}
