//! What is measured: one file for each scenario, which fills its part of the results.

mod failover;
mod latency;
mod memory;
mod quiet;
mod rebalance;
mod recovery;
mod repro;
pub(crate) mod saturation;
mod share;
mod slow_disk;
mod throughput;

use std::path::PathBuf;

use indicatif::ProgressBar;
use replicated_log::Backend;

use crate::client::Client;
use crate::cluster::{Cluster, Setup};
use crate::load::Load;
use crate::options::Options;
use crate::replica::Durability;
use crate::results::{Point, Results, Run};

pub(crate) const BACKENDS: [Backend; 2] = [Backend::Raft, Backend::Vr];

/// The largest size of a log, with the entries before a snapshot.
const LOG_BYTES: u64 = 160 << 20;
const LOG_BYTES_QUICK: u64 = 24 << 20;
/// Bytes of in-flight commands until a log has its size.
const FILLING_BYTES: usize = 512 << 10;

/// The order of the systems in a round: every other round backwards, so that no system
/// always follows the same one.
fn turns(systems: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..systems).map(move |turn| match round % 2 {
        0 => turn,
        _ => systems - 1 - turn,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Throughput,
    InProcess,
    Latency,
    Failover,
    Saturation,
    Repro,
    SlowDisk,
    Recovery,
    Rebalance,
    Share,
    Memory,
}

impl Scenario {
    pub(crate) const ALL: [Self; 11] = [
        Self::Throughput,
        Self::InProcess,
        Self::Latency,
        Self::Failover,
        Self::Saturation,
        Self::Repro,
        Self::SlowDisk,
        Self::Recovery,
        Self::Rebalance,
        Self::Share,
        Self::Memory,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::InProcess => "throughput of the protocols alone",
            Self::Latency => "latency",
            Self::Failover => "failover",
            Self::Saturation => "elections under saturation",
            Self::Repro => "repeated failures",
            Self::SlowDisk => "slow disk",
            Self::Recovery => "recovery",
            Self::Rebalance => "rebalance storm",
            Self::Share => "share of latency",
            Self::Memory => "memory",
        }
    }

    /// Steps that are reported while it runs.
    pub(crate) fn steps(self, options: &Options) -> usize {
        match self {
            Self::Throughput => throughput::steps(options),
            Self::InProcess => throughput::in_process_steps(options),
            Self::Latency => latency::steps(options),
            Self::Failover => failover::steps(options),
            Self::Saturation => 1,
            Self::Repro => repro::steps(),
            Self::SlowDisk => slow_disk::steps(options),
            Self::Recovery => recovery::steps(options),
            Self::Rebalance => rebalance::steps(options),
            Self::Share => share::steps(),
            Self::Memory => memory::steps(),
        }
    }

    pub(crate) async fn run(self, bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
        match self {
            Self::Throughput => throughput::run(bench, results).await,
            Self::InProcess => throughput::run_in_process(bench, results).await,
            Self::Latency => latency::run(bench, results).await,
            Self::Failover => failover::run(bench, results).await,
            Self::Saturation => saturation::run(bench, results).await,
            Self::Repro => repro::run(bench, results),
            Self::SlowDisk => slow_disk::run(bench, results).await,
            Self::Recovery => recovery::run(bench, results).await,
            Self::Rebalance => rebalance::run(bench, results).await,
            Self::Share => share::run(bench, results).await,
            Self::Memory => memory::run(bench, results).await,
        }
    }
}

/// What every scenario needs.
pub(crate) struct Bench {
    /// This program, which the replicas run.
    pub(crate) binary: PathBuf,
    pub(crate) options: Options,
    pub(crate) progress: ProgressBar,
}

impl Bench {
    fn setup(&self, backend: Backend, durability: Durability) -> Setup {
        let replicas = self.options.replicas;
        Setup::new(self.binary.clone(), backend, durability, replicas)
    }

    fn load(&self, in_flight: usize) -> Load {
        Load {
            command_bytes: self.options.command_size,
            in_flight,
            connections: self.options.connections,
            warm_up: self.options.warm_up(),
            measured: self.options.measured(),
        }
    }

    /// Shows what is being measured.
    fn report(&self, scenario: Scenario, what: &str) {
        let name = scenario.name();
        self.progress.set_message(format!("{name}: {what}"));
    }

    fn step(&self) {
        self.progress.inc(1);
    }

    /// Executes as many commands as fill the log. A new cluster allocates memory for its
    /// log as it grows, which must not be measured.
    async fn fill_log(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let total = if self.options.quick {
            LOG_BYTES_QUICK
        } else {
            LOG_BYTES
        };
        let bytes = self.options.command_size;
        let commands = total / bytes as u64;
        let in_flight = (FILLING_BYTES / bytes).max(1);
        let leader = cluster.leader().await?;
        let mut client = Client::connect(&cluster.address(leader), bytes).await?;
        client.execute(commands, in_flight).await
    }

    /// One closed-loop measurement on an idle machine, with its cost.
    async fn measure(
        &self,
        cluster: &mut Cluster,
        load: Load,
        round: usize,
    ) -> anyhow::Result<Run> {
        quiet::wait(self.options.quick).await;
        let leader = cluster.leader().await?;
        let before = cluster.spent().await?;
        let measured = load.closed(&cluster.address(leader)).await?;
        let spent = cluster.spent().await?.since(before);
        Ok(Run {
            round,
            per_second: measured.per_second(),
            latency: (&measured.latency).into(),
            cost: Some(spent.cost()),
        })
    }
}

/// Adds a run to the point of its setting.
fn add(points: &mut Vec<Point>, key: &PointKey<'_>, run: Run) {
    let found = points.iter_mut().find(|point| {
        point.system == key.system
            && point.durability == key.durability
            && point.in_flight == key.in_flight
            && point.parameter == key.parameter
            && point.setting == key.setting
    });
    match found {
        Some(point) => point.runs.push(run),
        None => points.push(Point {
            system: key.system.to_owned(),
            durability: key.durability.to_owned(),
            in_flight: key.in_flight,
            parameter: key.parameter,
            setting: key.setting.to_owned(),
            runs: vec![run],
        }),
    }
}

/// What distinguishes a point from the others of its scenario.
#[derive(Default)]
struct PointKey<'a> {
    system: &'a str,
    durability: &'a str,
    in_flight: usize,
    parameter: u64,
    setting: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_has_a_turn_and_the_order_changes() {
        assert!(turns(3, 0).eq([0, 1, 2]));
        assert!(turns(3, 1).eq([2, 1, 0]));
        assert!(turns(3, 2).eq([0, 1, 2]));
        assert_eq!(turns(0, 1).count(), 0);
    }
}
