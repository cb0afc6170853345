//! Runs seeds, replays and shrinks them, and runs the mutants.

#![expect(clippy::print_stdout, reason = "a command whose output is its result")]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use simulator::mutants::{self, Mutant, Verdict};
use simulator::shrink::shrink;
use simulator::{Backend, Delivered, Failure, Fault, Outcome, Plan, simulate};

/// A quarter of a run is allocating.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        /// After the faults the disk of the leader hangs, in every run
        #[arg(long)]
        hung_disk: bool,
    },
    /// Run one seed again and say what happens
    Replay {
        #[command(flatten)]
        run: OneRun,
        /// Of its faults only these, by number
        #[arg(long, value_delimiter = ',', value_name = "N,N,...")]
        faults: Option<Vec<usize>>,
        /// Without loss, duplicates, reordering, and clocks that run wrong
        #[arg(long)]
        quiet: bool,
        /// Delays, and all that is not planned, drawn in another way
        #[arg(long, default_value_t = 0, value_name = "N")]
        variation: u64,
        /// After the faults the disk of the leader hangs
        #[arg(long)]
        hung_disk: bool,
        /// Write the trace here instead of showing its end
        #[arg(long)]
        trace: Option<PathBuf>,
    },
    /// Look for the fewest faults with which a seed still fails
    Shrink {
        #[command(flatten)]
        run: OneRun,
    },
    /// Break one rule after the other, and count the seeds until that is seen
    Mutants {
        /// Which protocol
        #[arg(long, default_value = "both")]
        backend: Which,
        /// Only those whose name contains this
        #[arg(long)]
        name: Option<String>,
        /// Seeds that a mutant may survive before it counts as not caught
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// The first seed
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Seeds that run at the same time
        #[arg(long, default_value_t = 2)]
        jobs: u64,
        /// Write the table into this document instead of printing it
        #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "first"])]
        write: Option<PathBuf>,
    },
}

/// A run and the code that it runs on.
#[derive(clap::Args)]
struct OneRun {
    /// Which protocol
    #[arg(long)]
    backend: Which,
    /// The seed
    #[arg(long)]
    seed: u64,
    /// Break this rule
    #[arg(long, value_parser = mutant)]
    mutant: Option<Mutant>,
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
    range
        .filter(|range| !range.is_empty())
        .ok_or_else(|| "write for instance 0..1000".into())
}

fn mutant(name: &str) -> Result<Mutant, String> {
    Mutant::named(name).ok_or_else(|| "no such mutant; `simulator mutants` lists them".into())
}

fn main() -> anyhow::Result<ExitCode> {
    // What a run asserts is shown with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let passed = match Args::parse().command {
        Command::Run {
            backend,
            seeds,
            jobs,
            hung_disk,
        } => run(backend.backends(), &seeds, jobs, hung_disk),
        Command::Replay {
            run,
            faults,
            quiet,
            variation,
            hung_disk,
            trace,
        } => {
            let change = |mut plan: Plan| {
                if quiet {
                    plan = plan.quiet();
                }
                if hung_disk {
                    plan = plan.with_hung_disk();
                }
                if let Some(faults) = &faults {
                    plan = plan.only(faults);
                }
                plan.varied(variation)
            };
            replay(&run, change, trace.as_deref())?
        }
        Command::Shrink { run } => shrink_seed(&run),
        Command::Mutants {
            backend,
            name,
            seeds,
            first,
            jobs,
            write,
        } => {
            let table = hunt(
                backend.backends(),
                name.as_deref(),
                &(first..first + seeds),
                jobs,
            );
            if let Some(file) = write {
                std::fs::write(file, format!("{MUTANTS_HEAD}{}", table.rows))?;
            }
            println!("{} caught, {} survived", table.caught, table.survived);
            table.survived == 0
        }
    };
    Ok(match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Sums over runs.
#[derive(Default)]
struct Sums {
    passed: u64,
    failed: u64,
    micros: u64,
    entries: u64,
    operations: u64,
    reads: u64,
    terms: u64,
    planned: usize,
    faults: Delivered,
}

impl Sums {
    fn add(&mut self, plan: &Plan, outcome: &Outcome) {
        self.passed += 1;
        self.planned += plan.faults();
        self.micros += outcome.micros;
        self.entries += outcome.entries;
        self.operations += outcome.operations;
        self.reads += outcome.reads;
        self.terms += outcome.terms as u64;
        self.faults.add(&outcome.faults);
    }

    fn print(&self, backend: Backend, seconds: f64) {
        let runs = self.passed.max(1) as f64;
        println!(
            "{}: a run has {:.1} simulated seconds, {:.0} entries, {:.0} writes and {:.0} reads of clients, {:.1} leaderships, {:.0} faults, with {:.0} effects",
            backend.name(),
            self.micros as f64 / 1e6 / runs,
            self.entries as f64 / runs,
            self.operations as f64 / runs,
            self.reads as f64 / runs,
            self.terms as f64 / runs,
            self.planned as f64 / runs,
            self.faults.total() as f64 / runs,
        );
        let kinds = Fault::ALL.map(|fault| format!("{} {}", fault.name(), self.faults.of(fault)));
        println!("  {}", kinds.join(", "));
        println!(
            "  {:.0} runs/s, {:.0} simulated seconds/s",
            (self.passed + self.failed) as f64 / seconds,
            self.micros as f64 / 1e6 / seconds
        );
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures how long the machine took; no run sees it"
)]
fn run(backends: &[Backend], seeds: &Range<u64>, jobs: u64, hung_disk: bool) -> bool {
    let (mut passed, mut failed) = (0, 0);
    for backend in backends {
        let started = Instant::now();
        let next = AtomicU64::new(seeds.start);
        let sums = Mutex::new(Sums::default());
        let worker = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return;
                }
                let mut plan = Plan::new(*backend, seed);
                if hung_disk {
                    plan = plan.with_hung_disk();
                }
                let result = simulate(&plan, false);
                let mut sums = sums.lock().unwrap_or_else(|it| it.into_inner());
                match result {
                    Ok(outcome) => sums.add(&plan, &outcome),
                    Err(failure) => {
                        sums.failed += 1;
                        print_failure(*backend, seed, &failure);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(worker);
            }
        });
        let sums = sums.into_inner().unwrap_or_else(|it| it.into_inner());
        sums.print(*backend, started.elapsed().as_secs_f64());
        passed += sums.passed;
        failed += sums.failed;
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}

fn print_failure(backend: Backend, seed: u64, failure: &Failure) {
    let name = backend.name();
    println!(
        "{name} seed {seed} {}\n  cargo run --release -p simulator -- replay --backend {name} --seed {seed}",
        described(failure)
    );
}

fn described(failure: &Failure) -> String {
    format!(
        "failed after {:.3} s: {}",
        failure.micros as f64 / 1e6,
        failure.what
    )
}

fn replay(
    run: &OneRun,
    change: impl Fn(Plan) -> Plan,
    file: Option<&Path>,
) -> anyhow::Result<bool> {
    const SHOWN: usize = 200;
    let mut passed = true;
    for backend in run.backend.backends() {
        let plan = change(Plan::new(*backend, run.seed));
        let (trace, verdict) = match mutants::simulate(&plan, run.mutant.as_ref(), true) {
            Ok(outcome) => {
                let verdict = format!("passed, trace {:016x}", outcome.hash);
                (outcome.trace, verdict)
            }
            Err(failure) => {
                passed = false;
                let verdict = described(&failure);
                (failure.trace, verdict)
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
        println!("{} seed {}: {verdict}", backend.name(), run.seed);
    }
    Ok(passed)
}

/// The first characters, on one line.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 100;
    let line = text.lines().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

/// Whether every seed passes, so that there is nothing to shrink.
fn shrink_seed(run: &OneRun) -> bool {
    let mut passed = true;
    for backend in run.backend.backends() {
        let (name, seed) = (backend.name(), run.seed);
        let plan = Plan::new(*backend, seed);
        let Some(shrunk) = shrink(&plan, run.mutant.as_ref()) else {
            println!("{name} seed {seed} passes");
            continue;
        };
        passed = false;
        println!(
            "{name} seed {seed}: of {} faults {} are needed{}, found in {} runs",
            plan.faults(),
            shrunk.faults.len(),
            if shrunk.quiet {
                ", on a quiet network"
            } else {
                ""
            },
            shrunk.runs
        );
        for line in shrunk.plan.describe() {
            println!("{line}");
        }
        println!("{}", described(&shrunk.failure));
        let numbers: Vec<_> = shrunk.faults.iter().map(usize::to_string).collect();
        let mut options = format!(" --faults={}", numbers.join(","));
        if shrunk.quiet {
            options += " --quiet";
        }
        if shrunk.plan.variation() > 0 {
            options += &format!(" --variation {}", shrunk.plan.variation());
        }
        if let Some(mutant) = &run.mutant {
            options += &format!(" --mutant {}", mutant.rule.name);
        }
        println!(
            "  cargo run --release -p simulator -- replay --backend {name} --seed {seed}{options}"
        );
    }
    passed
}

/// The document that the table of mutants is in, above its rows.
const MUTANTS_HEAD: &str = "\
# Mutants

Each row is the code without one of the rules that it names (`rule!`), and the first seed, counted
from one, at which a check of the simulator or an assertion of the code reports it. Runs that fail
because an index is out of bounds, or because a fault had no effect, do not count. Generated by
`cargo run --release -p simulator -- mutants --write docs/design/mutants.md`; a test runs
the seed of every row again.

| rule | backend | seeds | crate | without it | what a run reported |
| --- | --- | --- | --- | --- | --- |
";

/// What came of the mutants.
#[derive(Default)]
struct Mutants {
    rows: String,
    caught: usize,
    survived: usize,
}

fn hunt(backends: &[Backend], name: Option<&str>, seeds: &Range<u64>, jobs: u64) -> Mutants {
    let mut table = Mutants::default();
    for mutant in mutants::all() {
        if name.is_some_and(|part| !mutant.rule.name.contains(part)) {
            continue;
        }
        for backend in backends.iter().filter(|backend| mutant.concerns(**backend)) {
            let count = seeds.end - seeds.start;
            let (seeds, what) = match mutants::hunt(*backend, &mutant, seeds.start, count, jobs) {
                Verdict::Caught { seeds, what, .. } => {
                    table.caught += 1;
                    (seeds.to_string(), shortened(&what))
                }
                Verdict::Survived { broken_in } => {
                    table.survived += 1;
                    let what = format!("the rule was left out in {broken_in} runs");
                    (format!("not in {count}"), what)
                }
            };
            let row = format!(
                "| `{}` | {} | {seeds} | `{}` | {} | {what} |\n",
                mutant.rule.name,
                backend.name(),
                mutant.rule.kept_in,
                mutant.rule.without,
            );
            print!("{row}");
            table.rows += &row;
        }
    }
    table
}
