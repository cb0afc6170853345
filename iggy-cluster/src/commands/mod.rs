//! The commands of the `iggy-cluster` binary.

mod config_check;
mod dev;
mod format;
mod listing;
mod logging;
mod serve;
mod status;
mod text;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Backend;

/// The command line of `iggy-cluster`.
#[derive(Debug, Parser)]
#[command(
    name = "iggy-cluster",
    version,
    about = "A cluster of Apache Iggy nodes",
    long_about = None
)]
#[command(
    after_help = "Try it:\n  iggy-cluster dev             a cluster of three nodes on this machine\n  iggy-cluster status          the state of its nodes\n  iggy-cluster serve --help    one node of a real cluster"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node of a cluster
    Serve(ServeArgs),
    /// Initialize the data directory of a node that has never run, without waiting for the
    /// other nodes
    Format(FormatArgs),
    /// Run a whole cluster on this machine, for development
    Dev(DevArgs),
    /// Show the state of the nodes of a running cluster
    Status(StatusArgs),
    /// Show partitions: where their copies are, and who leads them
    #[command(subcommand)]
    Partitions(PartitionsCommand),
    /// Show consumer groups and their members
    #[command(subcommand)]
    Groups(GroupsCommand),
    /// Measure both backends on this machine, and alternatives to this project
    #[cfg(feature = "bench")]
    Bench(benchmarks::BenchArgs),
    /// Recommend Raft or VR from the figures of a cluster or of a benchmark
    #[cfg(feature = "bench")]
    Advise(benchmarks::AdviseArgs),
    /// Work with configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Arguments of `format`.
#[derive(Debug, Args)]
struct FormatArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Do not ask the other nodes whether this one has run: you know that it has not, and
    /// what answers at their addresses is not this cluster
    #[arg(long)]
    skip_peer_check: bool,
}

/// Arguments of `format` and `serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every node of a cluster has the same file and its own replica_id:\n  iggy-cluster serve --config cluster.toml --replica-id 0\n\nA node with an empty data directory asks the other nodes whether it has run before.\nIn a new cluster it waits until all voters are reachable; `format` initializes the\ndirectory with those that it reaches.\n\nIGGY_<SECTION>_<KEY> overrides a key of the file. IGGY_ROOT_USERNAME and\nIGGY_ROOT_PASSWORD are the root user of a new cluster."
)]
struct NodeArgs {
    /// The configuration file [default: $IGGY_CONFIG_PATH]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The replica_id of this node in [[cluster.nodes]]
    #[arg(long, value_name = "N")]
    replica_id: u8,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// How log lines are written
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: logging::LogFormat,
    /// Stop when the standard input ends, as it does when the process that started this one
    /// ends; for `dev`
    #[arg(long, hide = true)]
    stop_with_input: bool,
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
#[command(
    after_help = "The nodes listen on 127.0.0.1: for clients on 8090, 8190, 8290, and with their admin\nendpoints on 3300, 3400, 3500. The user is iggy, the password iggy. Ctrl-C stops all\nnodes."
)]
struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// The consensus backend
    #[arg(long, default_value = "raft")]
    backend: Backend,
    /// The directory for data and logs [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The first node's port for clients
    #[arg(long, default_value_t = 8090, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=50_000))]
    tcp_port: u16,
    /// The distance between the ports of two nodes
    #[arg(long, default_value_t = 100, value_name = "STEP", value_parser = clap::value_parser!(u16).range(1..=500))]
    port_step: u16,
    /// Restart a node whose process ends
    #[arg(long)]
    restart: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(
    after_help = "The node at ADDRESS requests the reports of the others over the links between nodes.\nThe exit code is 1 when the cluster or one of its nodes cannot serve; the reasons are\nbelow the table."
)]
struct StatusArgs {
    /// The admin endpoint of any node
    #[arg(long, default_value = "127.0.0.1:3300", value_name = "HOST:PORT")]
    address: String,
    /// Add process ids, applied entries and addresses; wider than 80 columns
    #[arg(long)]
    wide: bool,
    /// Print everything as JSON
    #[arg(long, conflicts_with = "wide")]
    json: bool,
    /// Show it again every two seconds, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

#[derive(Debug, Subcommand)]
enum PartitionsCommand {
    /// List partitions with leader, copies and in-sync copies
    List(listing::PartitionsArgs),
}

#[derive(Debug, Subcommand)]
enum GroupsCommand {
    /// List consumer groups with their numbers of members and partitions
    List(listing::GroupsArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration file and print everything that is wrong with it
    Check {
        /// The file
        file: PathBuf,
    },
}

impl Command {
    /// Whether the allocator may use huge pages; `None` where it makes no difference.
    fn huge_pages(&self) -> Option<bool> {
        match self {
            Self::Serve(_) => Some(false),
            #[cfg(feature = "bench")]
            Self::Bench(args) => Some(args.huge_pages()),
            _ => None,
        }
    }
}

/// Runs the command line.
///
/// # Errors
/// What to print before exiting with 1.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    abort_on_panic();
    if let Some(allowed) = cli.command.huge_pages() {
        allow_huge_pages(allowed);
    }
    match cli.command {
        Command::Format(args) => run_and_leave(format::run(&args)),
        Command::Serve(args) => run_and_leave(serve::run(&args)),
        Command::Dev(args) => run_and_leave(dev::run(&args)),
        #[cfg(feature = "bench")]
        Command::Bench(args) => runtime()?.block_on(async {
            // A signal drops the benchmarks, which kills the processes they have started.
            tokio::select! {
                result = benchmarks::run(args) => result,
                signal = stop_signal() => signal.and(Err(anyhow::anyhow!("stopped before the end"))),
            }
        }),
        #[cfg(feature = "bench")]
        Command::Advise(args) => runtime()?.block_on(benchmarks::advise::run(args)),
        Command::Status(args) => run_and_leave(status::run(&args)),
        Command::Partitions(PartitionsCommand::List(args)) => {
            run_and_leave(listing::partitions(&args))
        }
        Command::Groups(GroupsCommand::List(args)) => run_and_leave(listing::groups(&args)),
        Command::Config(ConfigCommand::Check { file }) => config_check::run(&file),
    }
}

/// The text of an error and of its causes, without repeating a cause that an error
/// contains already.
#[must_use]
pub fn in_full(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.ends_with(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text = text + separator + &cause;
        }
    }
    text
}

/// A broken invariant in any thread ends the process: a node with only some of its
/// threads must not acknowledge anything.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Batches are allocated and freed by the megabyte. With transparent huge pages the kernel
/// clears and compacts two megabytes at a time for them, which has cost half of a node's
/// throughput. Kernels without huge pages refuse the call, and need none.
fn allow_huge_pages(allowed: bool) {
    let _ = rustix::thread::disable_transparent_huge_pages(!allowed);
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

/// Runs a command that has stopped everything it started when it returns. What is left in
/// the runtime's blocking threads is abandoned: a lookup of a host name that nothing answers
/// would delay the end of the process by seconds.
fn run_and_leave<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime()?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

/// Resolves on SIGINT (Ctrl-C), SIGTERM, and SIGHUP (the terminal is closed), unless this
/// process was started so that it survives the terminal, with `nohup` for instance.
async fn stop_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let hangup = async {
        if hangup_is_ignored() {
            std::future::pending::<()>().await;
        }
        let mut hangup = signal(SignalKind::hangup())?;
        hangup.recv().await;
        Ok::<_, std::io::Error>(())
    };
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
        result = hangup => result?,
    }
    Ok(())
}

/// A handler would replace what `nohup` has set.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores(&status, rustix::process::Signal::HUP.as_raw())
}

/// Whether a signal is in the mask `SigIgn` of a process's status.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Such as the lookup of a name whose server does not answer.
    #[test]
    fn a_command_ends_although_a_blocking_call_does_not() {
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let started = run_and_leave(async move {
            let (started, starts) = tokio::sync::oneshot::channel();
            tokio::task::spawn_blocking(move || {
                let _ = started.send(());
                let _ = blocked.recv();
            });
            Ok(starts.await)
        });
        // Without the end of the command, this is never reached.
        assert!(started.unwrap().is_ok());
        drop(release);
    }

    #[test]
    fn a_hangup_that_nohup_ignores_stays_ignored() {
        let status = "Name:\tnode\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(ignores(status, 1));
        assert!(!ignores(status, 2));
        assert!(!ignores("SigIgn:\t0000000000001000\n", 1));
        assert!(!ignores("", 1));
    }
}
