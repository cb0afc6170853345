//! The commands of the binary.

mod config_check;
mod dev;
mod format;
mod serve;
mod status;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use iggy_cluster::config::Backend;

/// A cluster of Apache Iggy nodes
#[derive(Debug, Parser)]
#[command(name = "iggy-cluster", version, about, long_about = None)]
#[command(
    after_help = "Try it:\n  iggy-cluster dev                     a cluster of three nodes on this machine\n  iggy-cluster status                  what its nodes do\n  iggy-cluster serve --help            a node of a real cluster"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node of a cluster
    Serve(NodeArgs),
    /// Begin the data directory of a node that has never run, without asking the others
    Format(NodeArgs),
    /// Run a whole cluster on this machine, for development
    Dev(DevArgs),
    /// Show what the nodes of a running cluster do
    Status(StatusArgs),
    /// Measure both backends on this machine, and what people would pick instead
    #[cfg(feature = "bench")]
    Bench(benchmarks::BenchArgs),
    /// Raft or VR: what the figures of a cluster, or of a benchmark, speak for
    #[cfg(feature = "bench")]
    Advise(benchmarks::AdviseArgs),
    /// Work with configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Arguments of `format` and `serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every node of a cluster has the same file and its own number:\n  iggy-cluster serve --config cluster.toml --replica-id 0\n\nA node whose directory is empty asks the others whether it has run before. In a new\ncluster it waits until all that vote are there; `format` begins it without them.\n\nIGGY_<SECTION>_<KEY> overrides a key of the file, IGGY_ROOT_USERNAME and\nIGGY_ROOT_PASSWORD name the root user of a new cluster."
)]
pub(crate) struct NodeArgs {
    /// The configuration file [default: $IGGY_CONFIG_PATH]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which of the [[cluster.nodes]] this is
    #[arg(long, value_name = "N")]
    replica_id: u8,
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
#[command(
    after_help = "The nodes listen on 127.0.0.1: clients on 8090, 8190, 8290, the admin endpoint on\n3300, 3400, 3500. The user is iggy, the password iggy. Ctrl-C stops all of them."
)]
pub(crate) struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Who orders the metadata
    #[arg(long, default_value = "raft")]
    backend: Backend,
    /// Keep the data here [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The first node's port for clients
    #[arg(long, default_value_t = 8090, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=50_000))]
    tcp_port: u16,
    /// From one node's ports to the next node's
    #[arg(long, default_value_t = 100, value_name = "STEP", value_parser = clap::value_parser!(u16).range(1..=500))]
    port_step: u16,
    /// Start a node again when it dies
    #[arg(long)]
    restart: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The admin endpoint of any node
    #[arg(long, default_value = "127.0.0.1:3300", value_name = "HOST:PORT")]
    address: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Whether memory is to be of huge pages; `None` where it does not matter.
    fn huge_pages(&self) -> Option<bool> {
        match self {
            Self::Serve(_) => Some(false),
            #[cfg(feature = "bench")]
            Self::Bench(args) => Some(args.huge_pages()),
            _ => None,
        }
    }
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration file and say all that is wrong with it
    Check {
        /// The file
        file: PathBuf,
    },
}

/// Runs the command line.
///
/// # Errors
/// What to print before exiting with 1.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    stop_on_panic();
    if let Some(wanted) = cli.command.huge_pages() {
        huge_pages(wanted);
    }
    match cli.command {
        Command::Format(args) => format::run(&args),
        Command::Serve(args) => runtime()?.block_on(serve::run(&args)),
        Command::Dev(args) => runtime()?.block_on(dev::run(&args)),
        #[cfg(feature = "bench")]
        Command::Bench(args) => runtime()?.block_on(async {
            // Whoever is asked to stop ends the processes that it has started.
            tokio::select! {
                result = benchmarks::run(args) => result,
                asked = asked_to_stop() => asked.and(Err(anyhow::anyhow!("stopped before the end"))),
            }
        }),
        #[cfg(feature = "bench")]
        Command::Advise(args) => runtime()?.block_on(benchmarks::advise::run(args)),
        Command::Status(args) => runtime()?.block_on(status::run(&args)),
        Command::Config(ConfigCommand::Check { file }) => config_check::run(&file),
    }
}

/// A broken invariant in any thread ends the process: half a node must not go on
/// acknowledging.
fn stop_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Batches come and go by the megabyte. Where the allocator's memory is of huge pages,
/// the kernel clears and joins two megabytes at a time for them, which was seen to take
/// half of a node's speed. Where the kernel knows no huge pages there are none to miss.
fn huge_pages(wanted: bool) {
    let _ = rustix::thread::disable_transparent_huge_pages(!wanted);
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

/// Resolves when the process is asked to stop.
async fn asked_to_stop() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
