//! `dev`: a cluster of child processes on this machine.

use std::io::Write;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::bail;
use comfy_table::Table;
use local_cluster::{Ports, Processes, Program};

use super::{DevArgs, stop_signal};
use crate::admin::is_ready;
use crate::config::{ClusterConfig, PortsSection};

/// The cluster must be ready within this time.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// A node that runs for longer after SIGTERM is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Between the end of a node and its restart.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(args: &DevArgs) -> anyhow::Result<()> {
    let mut supervisor = Supervisor::start(args)?;
    supervisor.print_nodes()?;
    let result = tokio::select! {
        result = supervisor.watch() => result,
        result = stop_signal() => result,
    };
    let processes = &mut supervisor.processes;
    writeln!(
        std::io::stdout(),
        "\nstopping {} nodes",
        processes.nodes().len()
    )?;
    tokio::task::block_in_place(|| processes.stop(STOP_TIMEOUT));
    result
}

/// Watches the processes of a cluster, and restarts them with `--restart`.
struct Supervisor {
    processes: Processes,
    nodes: Vec<Watched>,
    restart: bool,
    ready: bool,
}

/// What is known of one node's process.
enum Watched {
    Running,
    RestartAt(Instant),
    Ended,
}

impl Supervisor {
    /// Starts the processes of all nodes.
    fn start(args: &DevArgs) -> anyhow::Result<Self> {
        let ports =
            (0..args.nodes).map(|node| PortsSection::for_dev(node, args.tcp_port, args.port_step));
        let config = ClusterConfig::on_this_machine(args.backend, ports);
        let ports = config.cluster.nodes.iter().map(|node| Ports {
            client: node.ports.tcp,
            replica: node.ports.tcp_replica,
            admin: node.ports.admin,
        });
        let ports: Vec<_> = ports.collect();
        check_ports(&ports)?;
        remove_abandoned()?;
        let program = Program {
            // The terminal's Ctrl-C is for this process, which stops the others.
            own_process_group: true,
            // After a kill -9 of this process they stop themselves.
            ends_with_input: true,
            ..Program::new(std::env::current_exe()?, ["serve", "--stop-with-input"])
        };
        let text = config.to_toml()?;
        let mut processes = match &args.data {
            Some(directory) => Processes::in_directory(program, ports, &text, directory)?,
            None => Processes::new(program, ports, &text)?,
        };
        processes.start_all()?;
        Ok(Self {
            nodes: processes.nodes().map(|_| Watched::Running).collect(),
            processes,
            restart: args.restart,
            ready: false,
        })
    }

    fn print_nodes(&self) -> anyhow::Result<()> {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY);
        table.set_header(["replica_id", "pid", "clients", "nodes", "admin"]);
        for node in self.processes.nodes() {
            let ports = self.processes.ports(node);
            let pid = self.processes.pid(node);
            table.add_row([
                node.to_string(),
                pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
                ports.client_address(),
                ports.replica_address(),
                ports.admin_address(),
            ]);
        }
        let mut out = std::io::stdout();
        writeln!(out, "{table}")?;
        let directory = self.processes.directory();
        writeln!(out, "data and logs: {}", directory.display())?;
        out.flush()?;
        Ok(())
    }

    /// Reports when the cluster is ready and when a node ends.
    async fn watch(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            for node in self.processes.nodes() {
                self.watch_node(node)?;
            }
            if !self.ready && self.all_ready().await {
                self.ready = true;
                self.print_next_steps(started.elapsed())?;
            }
            if !self.ready && started.elapsed() > READY_TIMEOUT {
                bail!(
                    "the cluster is not ready after {} s; read the logs in {}",
                    READY_TIMEOUT.as_secs(),
                    self.processes.directory().display()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn watch_node(&mut self, node: u8) -> anyhow::Result<()> {
        let mut out = std::io::stdout();
        match self.nodes[usize::from(node)] {
            Watched::Running => {}
            Watched::RestartAt(at) => {
                if Instant::now() >= at {
                    self.processes.start(node)?;
                    self.nodes[usize::from(node)] = Watched::Running;
                    let pid = self.processes.pid(node).unwrap_or(0);
                    writeln!(out, "node-{node} is restarted, pid {pid}")?;
                }
                return Ok(());
            }
            Watched::Ended => return Ok(()),
        }
        let Some(status) = self.processes.exit_status(node) else {
            return Ok(());
        };
        let how = how_it_ended(status);
        if !self.ready {
            bail!("node-{node} {how}:\n{}", self.processes.last_lines(node));
        }
        self.processes.forget(node);
        let state = match self.restart {
            true => Watched::RestartAt(Instant::now() + RESTART_PAUSE),
            false => Watched::Ended,
        };
        self.nodes[usize::from(node)] = state;
        writeln!(out, "node-{node} {how}; the other nodes continue")?;
        Ok(())
    }

    async fn all_ready(&self) -> bool {
        for node in self.processes.nodes() {
            if !is_ready(&self.processes.ports(node).admin_address()).await {
                return false;
            }
        }
        true
    }

    fn print_next_steps(&self, took: Duration) -> anyhow::Result<()> {
        let mut out = std::io::stdout();
        out.write_all(next_steps(self.processes.ports(0), took).as_bytes())?;
        out.flush()?;
        Ok(())
    }
}

/// What to try next, with the addresses of this cluster: another one may listen on the
/// default ports.
fn next_steps(first: Ports, took: Duration) -> String {
    format!(
        "ready after {:.1} s. User iggy, password iggy.\n\
         \n\
         \x20 cargo run --release --example hello -- {}\n\
         \x20     a stock client sends and polls messages\n\
         \x20 iggy-cluster status --address {}\n\
         \x20     the state of the nodes\n\
         \x20 kill -9 PID\n\
         \x20     the other nodes continue\n\
         \n\
         Ctrl-C stops the cluster.\n",
        took.as_secs_f32(),
        first.client_address(),
        first.admin_address(),
    )
}

/// Removes the directories of clusters whose `dev` was killed.
fn remove_abandoned() -> anyhow::Result<()> {
    for directory in local_cluster::remove_abandoned() {
        writeln!(
            std::io::stdout(),
            "removed {}, which a killed cluster had left",
            directory.display()
        )?;
    }
    Ok(())
}

/// Fails before anything is started when a port is in use.
fn check_ports(nodes: &[Ports]) -> anyhow::Result<()> {
    for ports in nodes {
        for address in [
            ports.client_address(),
            ports.replica_address(),
            ports.admin_address(),
        ] {
            if let Err(error) = std::net::TcpListener::bind(&address) {
                bail!(
                    "{address} is not free ({error}); is another cluster running? Choose other ports with --tcp-port"
                );
            }
        }
    }
    Ok(())
}

fn how_it_ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another cluster may listen on the default ports, and would receive what the example
    /// sends.
    #[test]
    fn the_next_steps_name_the_addresses_of_this_cluster() {
        let ports = Ports {
            client: 26_090,
            replica: 27_090,
            admin: 21_300,
        };
        let text = next_steps(ports, Duration::from_secs(1));
        assert!(
            text.contains("--example hello -- 127.0.0.1:26090\n"),
            "{text}"
        );
        assert!(
            text.contains("status --address 127.0.0.1:21300\n"),
            "{text}"
        );
    }
}
