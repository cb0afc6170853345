//! `dev`: a cluster of child processes on this machine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use comfy_table::Table;
use tokio::process::{Child, Command};

use super::{DevArgs, asked_to_stop};
use iggy_cluster::admin::is_ready;
use iggy_cluster::config::{ClusterConfig, NodeSection, join_host_port};

/// The cluster must be ready within this time.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// A node that is asked to stop and does not is killed after this time.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Between a node's death and its restart.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

struct Node {
    section: NodeSection,
    child: Child,
    log: PathBuf,
    restart_at: Option<Instant>,
    dead: bool,
}

pub(super) async fn run(args: &DevArgs) -> anyhow::Result<()> {
    let temporary = match &args.data {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("iggy-cluster-").tempdir()?),
    };
    let data = match (&args.data, &temporary) {
        (Some(data), _) => data.clone(),
        (None, Some(temporary)) => temporary.path().to_path_buf(),
        (None, None) => unreachable!("one of them is there"),
    };
    std::fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
    let config = ClusterConfig::for_dev(args.nodes, args.backend, args.tcp_port, args.port_step);
    free_ports(&config)?;
    let file = data.join("cluster.toml");
    std::fs::write(&file, config.to_toml()?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    let mut nodes = Vec::new();
    for section in &config.cluster.nodes {
        nodes.push(start(section.clone(), &file, &data)?);
    }
    let mut out = std::io::stdout();
    print_nodes(&mut out, &nodes, &data)?;
    let result = tokio::select! {
        result = watch(&mut nodes, &file, &data, args.restart) => result,
        result = asked_to_stop() => result,
    };
    writeln!(out, "\nstopping {} nodes", nodes.len())?;
    stop(nodes).await;
    result
}

/// Fails early and clearly where a port is taken.
fn free_ports(config: &ClusterConfig) -> anyhow::Result<()> {
    for node in &config.cluster.nodes {
        for port in [node.ports.tcp, node.ports.tcp_replica, node.ports.admin] {
            let address = join_host_port(&node.ip, port);
            if let Err(error) = std::net::TcpListener::bind(&address) {
                bail!(
                    "{address} is not free ({error}); is another cluster running? Choose other ports with --tcp-port"
                );
            }
        }
    }
    Ok(())
}

fn start(section: NodeSection, file: &Path, data: &Path) -> anyhow::Result<Node> {
    let dir = data.join(&section.name);
    std::fs::create_dir_all(&dir)?;
    let log = dir.join("log");
    let output = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let child = Command::new(std::env::current_exe()?)
        .arg("serve")
        .arg("--config")
        .arg(file)
        .arg("--replica-id")
        .arg(section.replica_id.to_string())
        .env("IGGY_STORAGE_PATH", &dir)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // The terminal's Ctrl-C is for this process, which stops the others.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start a node")?;
    Ok(Node {
        section,
        child,
        log,
        restart_at: None,
        dead: false,
    })
}

fn admin_address(section: &NodeSection) -> String {
    join_host_port(&section.ip, section.ports.admin)
}

fn print_nodes(out: &mut impl Write, nodes: &[Node], data: &Path) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_header(["node", "pid", "clients", "nodes", "admin"]);
    for node in nodes {
        table.add_row([
            node.section.name.clone(),
            node.child
                .id()
                .map_or_else(|| "-".into(), |pid| pid.to_string()),
            node.section.client_address(),
            node.section.replica_address(),
            admin_address(&node.section),
        ]);
    }
    writeln!(out, "{table}")?;
    writeln!(out, "data and logs: {}", data.display())?;
    out.flush()?;
    Ok(())
}

/// Tells when the cluster is ready and when a node dies.
async fn watch(nodes: &mut [Node], file: &Path, data: &Path, restart: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let begun = Instant::now();
    let mut ready = false;
    loop {
        for node in nodes.iter_mut() {
            look_after(node, file, data, restart, ready)?;
        }
        if !ready && all_ready(nodes).await {
            ready = true;
            how_to_try(&mut out, nodes, begun.elapsed())?;
        }
        if !ready && begun.elapsed() > READY_TIMEOUT {
            bail!(
                "the cluster is not ready after {} s; look into the logs in {}",
                READY_TIMEOUT.as_secs(),
                data.display()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

fn look_after(
    node: &mut Node,
    file: &Path,
    data: &Path,
    restart: bool,
    ready: bool,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let name = node.section.name.clone();
    if let Some(at) = node.restart_at {
        if Instant::now() >= at {
            *node = start(node.section.clone(), file, data)?;
            let pid = node.child.id().unwrap_or(0);
            writeln!(out, "{name} runs again, pid {pid}")?;
        }
        return Ok(());
    }
    if node.dead {
        return Ok(());
    }
    let Some(status) = node.child.try_wait()? else {
        return Ok(());
    };
    if !ready {
        bail!("{name} {}:\n{}", died(status), last_lines(&node.log));
    }
    writeln!(out, "{name} {}; the others go on", died(status))?;
    match restart {
        true => node.restart_at = Some(Instant::now() + RESTART_PAUSE),
        false => node.dead = true,
    }
    Ok(())
}

fn died(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

async fn all_ready(nodes: &[Node]) -> bool {
    for node in nodes {
        if !is_ready(&admin_address(&node.section)).await {
            return false;
        }
    }
    true
}

fn how_to_try(out: &mut impl Write, nodes: &[Node], took: Duration) -> anyhow::Result<()> {
    writeln!(
        out,
        "ready after {:.1} s. User iggy, password iggy.",
        took.as_secs_f32()
    )?;
    if let Some(first) = nodes.first() {
        let admin = admin_address(&first.section);
        writeln!(
            out,
            "  cargo run --release --example hello     a stock client sends and polls"
        )?;
        writeln!(
            out,
            "  iggy-cluster status --address {admin}    what the nodes do"
        )?;
        writeln!(
            out,
            "  kill -9 PID                              the others go on"
        )?;
    }
    writeln!(out, "Ctrl-C stops the cluster.")?;
    out.flush()?;
    Ok(())
}

async fn stop(mut nodes: Vec<Node>) {
    for node in &nodes {
        if let Some(pid) = node.child.id().and_then(|pid| i32::try_from(pid).ok())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
    for node in &mut nodes {
        if tokio::time::timeout(STOP_TIMEOUT, node.child.wait())
            .await
            .is_err()
        {
            let _ = node.child.kill().await;
        }
    }
}
