//! The leader is killed repeatedly, while clients send commands one by one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{BACKENDS, Bench, Scenario};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::options::Options;
use crate::replica::Durability;
use crate::results::{Failover, Results};
use crate::wire;

/// Clients that search for the leader.
const PROBES: usize = 4;
/// After this time without an outcome, a client tries the next replica.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two attempts at replicas that do not lead.
const PROBE_PAUSE: Duration = Duration::from_millis(1);
/// Commands succeed for this time before a kill.
const STEADY: Duration = Duration::from_millis(300);
/// Without an outcome after this time, a failover has failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn steps(options: &Options) -> usize {
    BACKENDS.len() * options.trials()
}

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    let mut clusters = Vec::new();
    for backend in BACKENDS {
        let setup = bench.setup(backend, Durability::Fsync);
        let cluster = Cluster::start(&setup).await?;
        let probes = Probes::start(&cluster, bench.options.command_size);
        let timeout = &setup.settings.election_timeout;
        let failover = Failover {
            system: backend.name().into(),
            election_timeout_millis: u64::try_from(timeout.duration().as_millis())?,
            gaps_micros: Vec::new(),
            winners: vec![0; usize::from(bench.options.replicas)],
            skipped: 0,
        };
        clusters.push((cluster, probes, failover));
    }
    for trial in 1..=bench.options.trials() {
        for (cluster, probes, failover) in &mut clusters {
            bench.report(
                Scenario::Failover,
                &format!("{}, kill {trial}", failover.system),
            );
            kill_leader(cluster, probes, failover).await?;
            bench.step();
        }
    }
    results
        .failover
        .extend(clusters.into_iter().map(|(_, _, failover)| failover));
    Ok(())
}

async fn kill_leader(
    cluster: &mut Cluster,
    probes: &mut Probes,
    failover: &mut Failover,
) -> anyhow::Result<()> {
    let leader = cluster.leader().await?;
    cluster.caught_up().await?;
    probes.steady_for(STEADY).await?;
    let before = cluster.report(leader).await?;
    let leads = before.leader == Some(leader);
    anyhow::ensure!(leads, "leadership moved without a failure");
    let term = before.term;
    let killed = Instant::now();
    cluster.processes.kill(leader)?;
    let replied = probes.next_of_another(leader, killed).await?;
    let gap = replied.duration_since(killed);
    failover.gaps_micros.push(u64::try_from(gap.as_micros())?);
    let next = cluster.leader().await?;
    let replicas = failover.winners.len();
    let distance = (usize::from(next) + replicas - usize::from(leader)) % replicas;
    // The killed replica is the last in order.
    failover.winners[(distance + replicas - 1) % replicas] += 1;
    let reached = cluster.report(next).await?.term;
    failover.skipped += reached.saturating_sub(term + 1);
    cluster.processes.start(leader)?;
    Ok(())
}

/// Clients that send one command after the other, and search for the leader.
struct Probes {
    /// When a command succeeded, and at which replica.
    successes: mpsc::UnboundedReceiver<(Instant, usize)>,
    _tasks: JoinSet<()>,
}

impl Probes {
    fn start(cluster: &Cluster, command_bytes: usize) -> Self {
        let addresses = Arc::new(cluster.addresses());
        let (succeeded, successes) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for number in 0..PROBES {
            let (addresses, succeeded) = (Arc::clone(&addresses), succeeded.clone());
            tasks.spawn(async move {
                for at in (number..).map(|at| at % addresses.len()) {
                    let report = || succeeded.send((Instant::now(), at)).is_ok();
                    let _ = probe(&addresses[at], command_bytes, report).await;
                    tokio::time::sleep(PROBE_PAUSE).await;
                }
            });
        }
        Self {
            successes,
            _tasks: tasks,
        }
    }

    /// The first success after a moment at another replica: outcomes of this one may
    /// still arrive.
    async fn next_of_another(&mut self, replica: u8, moment: Instant) -> anyhow::Result<Instant> {
        self.next_success(|at, by| at > moment && by != usize::from(replica))
            .await
    }

    async fn next_success(
        &mut self,
        matches: impl Fn(Instant, usize) -> bool,
    ) -> anyhow::Result<Instant> {
        loop {
            match tokio::time::timeout(PATIENCE, self.successes.recv()).await {
                Ok(Some((at, by))) if matches(at, by) => return Ok(at),
                Ok(Some(_)) => {}
                _ => anyhow::bail!("no command succeeds any more"),
            }
        }
    }

    async fn steady_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        self.next_success(|at, _| at > end).await.map(drop)
    }
}

/// Sends commands to one replica until one does not succeed.
async fn probe(
    address: &str,
    command_bytes: usize,
    report: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let mut client = Client::connect(address, command_bytes).await?;
    loop {
        client.send(1).await?;
        let outcomes = tokio::time::timeout(PROBE_TIMEOUT, client.outcomes()).await??;
        let refused = outcomes.into_iter().any(|(_, code)| code != wire::DONE);
        if refused || !report() {
            return Ok(());
        }
    }
}
