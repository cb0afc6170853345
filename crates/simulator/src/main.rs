//! Runs seeds, and replays them.

#![expect(clippy::print_stdout, reason = "a command whose output is its result")]

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use simulator::{Backend, Plan, simulate};

/// A cluster in one process with virtual time, from one seed
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds
    Run {
        /// Which protocol
        #[arg(long, default_value = "both")]
        backend: Which,
        /// The seeds, the last one excluded
        #[arg(long, default_value = "0..100", value_parser = seeds)]
        seeds: Range<u64>,
        /// Seeds that run at the same time
        #[arg(long, default_value_t = 2)]
        jobs: u64,
    },
    /// Run one seed again and say what happens
    Replay {
        /// Which protocol
        #[arg(long)]
        backend: Which,
        /// The seed
        #[arg(long)]
        seed: u64,
        /// Write the trace here instead of showing its end
        #[arg(long)]
        trace: Option<std::path::PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Raft,
    Vr,
    Both,
}

impl Which {
    fn backends(self) -> &'static [Backend] {
        match self {
            Self::Raft => &[Backend::Raft],
            Self::Vr => &[Backend::Vr],
            Self::Both => &[Backend::Raft, Backend::Vr],
        }
    }
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let range = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.ok_or_else(|| "write for instance 0..1000".into())
}

fn main() -> anyhow::Result<ExitCode> {
    // What a run asserts is shown with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    match Args::parse().command {
        Command::Run {
            backend,
            seeds,
            jobs,
        } => Ok(run(backend.backends(), seeds, jobs)),
        Command::Replay {
            backend,
            seed,
            trace,
        } => replay(backend.backends(), seed, trace.as_deref()),
    }
}

fn run(backends: &[Backend], seeds: Range<u64>, jobs: u64) -> ExitCode {
    let mut failed = 0;
    for backend in backends {
        let next = AtomicU64::new(seeds.start);
        let sums = Mutex::new([0_u64; 6]);
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end {
                            return;
                        }
                        let result = simulate(&Plan::new(*backend, seed), false);
                        let mut sums = sums.lock().unwrap_or_else(|it| it.into_inner());
                        match result {
                            Ok(outcome) => {
                                sums[0] += 1;
                                sums[2] += outcome.micros;
                                sums[3] += outcome.operations + outcome.reads;
                                sums[4] += outcome.faults;
                                sums[5] += outcome.terms as u64;
                            }
                            Err(failure) => {
                                sums[1] += 1;
                                println!(
                                    "{} seed {seed} after {:.3} s: {}\n  simulator replay --backend {} --seed {seed}",
                                    backend.name(),
                                    failure.micros as f64 / 1e6,
                                    failure.what,
                                    backend.name()
                                );
                            }
                        }
                    }
                });
            }
        });
        let [passed, wrong, micros, operations, faults, terms] =
            *sums.lock().unwrap_or_else(|it| it.into_inner());
        failed += wrong;
        println!(
            "{}: {passed} runs of {:.1} simulated seconds, {operations} operations, {faults} faults, {terms} leaderships",
            backend.name(),
            micros as f64 / 1e6 / passed.max(1) as f64
        );
        println!("{passed} passed, {wrong} failed");
    }
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn replay(
    backends: &[Backend],
    seed: u64,
    file: Option<&std::path::Path>,
) -> anyhow::Result<ExitCode> {
    const SHOWN: usize = 200;
    let mut code = ExitCode::SUCCESS;
    for backend in backends {
        let (trace, verdict) = match simulate(&Plan::new(*backend, seed), true) {
            Ok(outcome) => (
                outcome.trace,
                format!("passed, trace {:016x}", outcome.hash),
            ),
            Err(failure) => {
                code = ExitCode::FAILURE;
                (
                    failure.trace,
                    format!(
                        "failed after {:.3} s: {}",
                        failure.micros as f64 / 1e6,
                        failure.what
                    ),
                )
            }
        };
        match file {
            Some(file) => std::fs::write(file, trace.join("\n") + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?,
            None => {
                for line in &trace[trace.len().saturating_sub(SHOWN)..] {
                    println!("{line}");
                }
            }
        }
        println!("{} seed {seed}: {verdict}", backend.name());
    }
    Ok(code)
}
