//! A cluster of replica processes on loopback.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iggy_cluster::config::{Backend, ClusterConfig};
use local_cluster::{Processes, Program};

use crate::client::Client;
use crate::replica::{Durability, Machine, Memory};
use crate::wire::{Control, ReplicaReport};

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// This program.
    pub(crate) binary: PathBuf,
    pub(crate) backend: Backend,
    pub(crate) durability: Durability,
    pub(crate) replicas: u8,
    pub(crate) machine: Machine,
    pub(crate) memory: Memory,
}

pub(crate) struct Cluster {
    pub(crate) processes: Processes,
    replicas: u8,
}

/// What all replicas of a cluster have spent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    /// Commands that the state machines have in common.
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
}

impl Cluster {
    /// Starts the replicas and waits for a leader that all know.
    pub(crate) async fn start(
        setup: &Setup,
        change: impl FnOnce(&mut ClusterConfig),
    ) -> anyhow::Result<Self> {
        let program = Program {
            binary: setup.binary.clone(),
            arguments: vec![
                "bench".into(),
                "replica".into(),
                "--durability".into(),
                setup.durability.name().into(),
                "--machine".into(),
                setup.machine.name().into(),
                "--memory".into(),
                setup.memory.name().into(),
            ],
            environment: setup.memory.environment(),
        };
        let mut processes = Processes::prepare(program, setup.backend, setup.replicas, change)?;
        for replica in 0..setup.replicas {
            processes.run(replica)?;
        }
        let mut cluster = Self {
            processes,
            replicas: setup.replicas,
        };
        cluster.leader().await?;
        Ok(cluster)
    }

    pub(crate) fn address(&self, replica: u8) -> String {
        self.processes.section(replica).client_address()
    }

    /// Where clients may look for a leader.
    pub(crate) fn addresses(&self) -> Vec<String> {
        (0..self.replicas).map(|n| self.address(n)).collect()
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

    /// The leader that all running replicas agree on, waited for.
    pub(crate) async fn leader(&mut self) -> anyhow::Result<u8> {
        let begun = Instant::now();
        loop {
            if let Some(leader) = self.agreed().await {
                return Ok(leader);
            }
            for replica in self.processes.running().collect::<Vec<_>>() {
                if !self.processes.runs(replica) {
                    let last = self.processes.last_lines(replica);
                    bail!("replica {replica} has ended:\n{last}");
                }
            }
            if begun.elapsed() > PATIENCE {
                bail!("the replicas find no leader");
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
    pub(crate) async fn current(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let leader = self.leader().await?;
        let wanted = self.report(leader).await?.applied;
        for replica in self.processes.running().collect::<Vec<_>>() {
            loop {
                let report = self.report(replica).await;
                if report.is_ok_and(|report| report.applied >= wanted) {
                    break;
                }
                if begun.elapsed() > PATIENCE {
                    let last = self.processes.last_lines(replica);
                    bail!("replica {replica} does not come up to the leader:\n{last}");
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// What the replicas have spent so far.
    pub(crate) async fn spent(&self) -> anyhow::Result<Spent> {
        let mut spent = Spent::default();
        for replica in self.processes.running() {
            let report = self.report(replica).await.context("asking a replica")?;
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
