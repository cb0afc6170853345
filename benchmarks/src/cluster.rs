//! A cluster of replica processes on loopback.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use local_cluster::{Processes, Program, free_node_ports};
use replicated_log::{Backend, ConsensusSettings};

use crate::client::Client;
use crate::replica::{Durability, Machine, Memory, ReplicaConfig};
use crate::results::Cost;
use crate::wire::{Control, ReplicaReport};

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// This program.
    pub(crate) binary: PathBuf,
    /// With the backend.
    pub(crate) settings: ConsensusSettings,
    pub(crate) durability: Durability,
    pub(crate) replicas: u8,
    pub(crate) machine: Machine,
    pub(crate) memory: Memory,
}

impl Setup {
    /// Values by key, under the default settings of this backend.
    pub(crate) fn new(
        binary: PathBuf,
        backend: Backend,
        durability: Durability,
        replicas: u8,
    ) -> Self {
        Self {
            binary,
            settings: ConsensusSettings {
                backend,
                ..ConsensusSettings::default()
            },
            durability,
            replicas,
            machine: Machine::Values,
            memory: Memory::default(),
        }
    }

    fn program(&self) -> Program {
        let arguments = [
            "bench",
            "replica",
            "--durability",
            self.durability.name(),
            "--machine",
            self.machine.name(),
            "--memory",
            self.memory.name(),
            "--stop-with-input",
        ];
        Program {
            ends_with_input: true,
            environment: self.memory.environment(),
            ..Program::new(&self.binary, arguments)
        }
    }
}

pub(crate) struct Cluster {
    pub(crate) processes: Processes,
}

/// What all replicas of a cluster have spent together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    /// Commands applied by the most advanced replica.
    pub(crate) commands: u64,
    pub(crate) batches: u64,
    pub(crate) messages: u64,
    pub(crate) message_bytes: u64,
    pub(crate) syncs: u64,
    pub(crate) written_bytes: u64,
    pub(crate) cpu: Duration,
}

impl Spent {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            commands: self.commands - before.commands,
            batches: self.batches - before.batches,
            messages: self.messages - before.messages,
            message_bytes: self.message_bytes - before.message_bytes,
            syncs: self.syncs - before.syncs,
            written_bytes: self.written_bytes - before.written_bytes,
            cpu: self.cpu.saturating_sub(before.cpu),
        }
    }

    /// For each command.
    pub(crate) fn cost(self) -> Cost {
        let each = |amount: f64| amount / self.commands.max(1) as f64;
        Cost {
            commands_per_batch: self.commands as f64 / self.batches.max(1) as f64,
            messages: each(self.messages as f64),
            message_bytes: each(self.message_bytes as f64),
            syncs: each(self.syncs as f64),
            written_bytes: each(self.written_bytes as f64),
            cpu_micros: each(self.cpu.as_secs_f64() * 1e6),
        }
    }
}

impl Cluster {
    /// Starts the replicas and waits until all know the same leader.
    pub(crate) async fn start(setup: &Setup) -> anyhow::Result<Self> {
        let ports = free_node_ports(setup.replicas)?;
        let config = ReplicaConfig::new(setup.settings.clone(), &ports);
        let mut processes = Processes::new(setup.program(), ports, &config.to_json()?)?;
        processes.start_all()?;
        let mut cluster = Self { processes };
        cluster.leader().await?;
        Ok(cluster)
    }

    pub(crate) fn address(&self, replica: u8) -> String {
        self.processes.ports(replica).client_address()
    }

    /// Where clients may look for a leader, by replica id.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.processes.nodes().map(|n| self.address(n)).collect()
    }

    pub(crate) async fn control(
        &self,
        replica: u8,
        control: Control,
    ) -> anyhow::Result<ReplicaReport> {
        let mut client = Client::connect(&self.address(replica), 0).await?;
        client.control(control).await
    }

    pub(crate) async fn report(&self, replica: u8) -> anyhow::Result<ReplicaReport> {
        self.control(replica, Control::Report).await
    }

    /// Waits until all running replicas agree on a leader, and returns it.
    pub(crate) async fn leader(&mut self) -> anyhow::Result<u8> {
        let started = Instant::now();
        loop {
            if let Some(leader) = self.agreed().await {
                return Ok(leader);
            }
            for replica in self.processes.running().collect::<Vec<_>>() {
                if !self.processes.is_running(replica) {
                    let last = self.processes.last_lines(replica);
                    bail!("replica {replica} has ended:\n{last}");
                }
            }
            if started.elapsed() > PATIENCE {
                bail!("the replicas have no leader after {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn agreed(&self) -> Option<u8> {
        let mut agreed = None;
        for replica in self.processes.running() {
            let leader = self.report(replica).await.ok()?.leader?;
            if agreed.is_some_and(|other| other != leader) {
                return None;
            }
            agreed = Some(leader);
        }
        agreed.filter(|leader| self.processes.running().any(|running| running == *leader))
    }

    /// Waits until all running replicas have applied what the leader has.
    pub(crate) async fn caught_up(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let leader = self.leader().await?;
        let target = self.report(leader).await?.applied;
        for replica in self.processes.running().collect::<Vec<_>>() {
            loop {
                let report = self.report(replica).await;
                if report.is_ok_and(|report| report.applied >= target) {
                    break;
                }
                if started.elapsed() > PATIENCE {
                    let last = self.processes.last_lines(replica);
                    bail!(
                        "replica {replica} has not caught up after {} s:\n{last}",
                        PATIENCE.as_secs()
                    );
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// What the running replicas have spent so far.
    pub(crate) async fn spent(&self) -> anyhow::Result<Spent> {
        let mut spent = Spent::default();
        for replica in self.processes.running() {
            let report = self.report(replica).await;
            let report = report.with_context(|| format!("replica {replica} does not reply"))?;
            spent.commands = spent.commands.max(report.commands);
            spent.batches += report.batches;
            spent.messages += report.messages;
            spent.message_bytes += report.message_bytes;
            spent.syncs += report.syncs;
            spent.written_bytes += report.written_bytes;
            spent.cpu += self.processes.cpu_time(replica);
        }
        Ok(spent)
    }
}
