//! Commands per second: by in-flight commands, by commands of a batch, by what happens to
//! freed memory, and of the protocols alone.

use std::time::Duration;

use super::{BACKENDS, Bench, PointKey, Scenario, add, quiet, turns};
use crate::cluster::Cluster;
use crate::figures::{count, in_words};
use crate::in_process::Bare;
use crate::load::Load;
use crate::options::Options;
use crate::peers::{self, Peer};
use crate::replica::{Durability, Memory};
use crate::results::{Point, Results, Run};

/// In-flight commands while batches and memory are varied.
const MANY_IN_FLIGHT: usize = 2_048;
/// The load on peers before they are measured.
const PEERS_WARM_IN_FLIGHT: usize = 256;
const PEERS_WARM: Duration = Duration::from_secs(8);
const PEERS_WARM_QUICK: Duration = Duration::from_millis(500);
/// Small batches need many of them in flight to keep the replicas busy.
const BATCHED_PIPELINE: usize = 256;

pub(super) fn steps(options: &Options) -> usize {
    let of_flights = options.in_flights().len() * options.durabilities().len();
    (of_flights + options.batches().len() + 1) * options.rounds()
}

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    for durability in bench.options.durabilities() {
        by_in_flight(bench, results, durability).await?;
    }
    by_batch(bench, &mut results.batches).await?;
    by_memory(bench, &mut results.memory_settings).await
}

async fn by_in_flight(
    bench: &Bench,
    results: &mut Results,
    durability: Durability,
) -> anyhow::Result<()> {
    let name = durability.name();
    let mut clusters = Vec::new();
    for backend in BACKENDS {
        let setup = bench.setup(backend, durability);
        clusters.push((backend.name(), Cluster::start(&setup).await?));
    }
    for (_, cluster) in &mut clusters {
        bench.fill_log(cluster).await?;
    }
    let mut peers = match bench.options.peers {
        true => peers::start(durability, bench.options.command_size, &mut results.missing).await?,
        false => Vec::new(),
    };
    warm(bench, &mut peers, results).await;
    for in_flight in bench.options.in_flights() {
        for round in 0..bench.options.rounds() {
            bench.report(
                Scenario::Throughput,
                &format!("{in_flight} in flight, {}", in_words(name)),
            );
            let key = |system| PointKey {
                system,
                durability: name,
                in_flight,
                ..PointKey::default()
            };
            let load = bench.load(in_flight);
            for turn in turns(clusters.len() + peers.len(), round) {
                if let Some((system, cluster)) = clusters.get_mut(turn) {
                    let run = bench.measure(cluster, load, round).await?;
                    add(&mut results.throughput, &key(system), run);
                    continue;
                }
                let peer = &mut peers[turn - clusters.len()];
                quiet::wait(bench.options.quick).await;
                match peer.measure(load).await {
                    Ok(measured) => {
                        let run = Run {
                            round,
                            per_second: measured.per_second(),
                            latency: (&measured.latency).into(),
                            cost: None,
                        };
                        add(&mut results.throughput, &key(peer.name()), run);
                    }
                    Err(error) => {
                        let why = format!(
                            "{} in flight, {}: {error}",
                            count(in_flight as u64),
                            in_words(name)
                        );
                        peers::note(&mut results.missing, peer.name(), &why);
                    }
                }
            }
            bench.step();
        }
    }
    Ok(())
}

/// Runs peers until their virtual machines have compiled the hot paths.
async fn warm(bench: &Bench, peers: &mut [Box<dyn Peer>], results: &mut Results) {
    let load = Load {
        measured: if bench.options.quick {
            PEERS_WARM_QUICK
        } else {
            PEERS_WARM
        },
        ..bench.load(PEERS_WARM_IN_FLIGHT)
    };
    for peer in peers {
        bench.report(Scenario::Throughput, &format!("{}: warm-up", peer.name()));
        if let Err(error) = peer.measure(load).await {
            let why = format!("during the warm-up: {error}");
            peers::note(&mut results.missing, peer.name(), &why);
        }
    }
}

/// Varies only the bound of a batch, without fsync, whose cost would hide it.
async fn by_batch(bench: &Bench, points: &mut Vec<Point>) -> anyhow::Result<()> {
    for batch in bench.options.batches() {
        let mut clusters = Vec::new();
        for backend in BACKENDS {
            let mut setup = bench.setup(backend, Durability::None);
            setup.settings.batch_commands_max = batch;
            setup.settings.pipeline_max = BATCHED_PIPELINE;
            let key = PointKey {
                system: backend.name(),
                parameter: batch as u64,
                ..PointKey::default()
            };
            clusters.push((key, Cluster::start(&setup).await?));
        }
        let what = format!("batches of up to {batch} commands");
        rounds_of_many(bench, &what, clusters, points).await?;
    }
    Ok(())
}

/// Varies only what happens to freed memory.
async fn by_memory(bench: &Bench, points: &mut Vec<Point>) -> anyhow::Result<()> {
    let mut clusters = Vec::new();
    for memory in Memory::ALL {
        for backend in BACKENDS {
            let mut setup = bench.setup(backend, Durability::None);
            setup.memory = memory;
            let key = PointKey {
                system: backend.name(),
                setting: memory.name(),
                ..PointKey::default()
            };
            clusters.push((key, Cluster::start(&setup).await?));
        }
    }
    rounds_of_many(bench, "freed memory", clusters, points).await
}

/// All rounds of some settings, with many commands in flight and without fsync.
async fn rounds_of_many(
    bench: &Bench,
    what: &str,
    mut clusters: Vec<(PointKey<'_>, Cluster)>,
    points: &mut Vec<Point>,
) -> anyhow::Result<()> {
    for (_, cluster) in &mut clusters {
        bench.fill_log(cluster).await?;
    }
    for round in 0..bench.options.rounds() {
        bench.report(Scenario::Throughput, what);
        for turn in turns(clusters.len(), round) {
            let (key, cluster) = &mut clusters[turn];
            let load = bench.load(MANY_IN_FLIGHT);
            let run = bench.measure(cluster, load, round).await?;
            let key = PointKey {
                durability: Durability::None.name(),
                in_flight: MANY_IN_FLIGHT,
                ..*key
            };
            add(points, &key, run);
        }
        bench.step();
    }
    Ok(())
}

pub(super) fn in_process_steps(options: &Options) -> usize {
    options.in_flights().len() * options.rounds()
}

pub(super) async fn run_in_process(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    let replicas = u64::from(bench.options.replicas);
    let bytes = bench.options.command_size;
    let mut bare = Vec::new();
    for backend in BACKENDS {
        bare.push((backend.name(), Bare::new(backend, replicas, bytes, |_| {})?));
    }
    let mut openraft = None;
    if bench.options.peers {
        match peers::Openraft::start(replicas, bytes).await {
            Ok(started) => openraft = Some(started),
            Err(error) => {
                let why = format!("it does not start: {error:#}");
                peers::note(&mut results.missing, "openraft", &why);
            }
        }
    }
    for in_flight in bench.options.in_flights() {
        for round in 0..bench.options.rounds() {
            bench.report(Scenario::InProcess, &format!("{in_flight} in flight"));
            let mut note = |system: &str, per_second: f64| {
                let key = PointKey {
                    system,
                    durability: "in process",
                    in_flight,
                    ..PointKey::default()
                };
                let run = Run {
                    round,
                    per_second,
                    ..Run::default()
                };
                add(&mut results.in_process, &key, run);
            };
            for turn in turns(bare.len() + usize::from(openraft.is_some()), round) {
                quiet::wait(bench.options.quick).await;
                if let Some((system, bare)) = bare.get_mut(turn) {
                    let measured = bench.options.measured().min(Duration::from_secs(5));
                    let in_flight = in_flight as u64;
                    // It would block a thread of the runtime.
                    let rate = || bare.per_second(in_flight, measured);
                    note(system, tokio::task::block_in_place(rate)?);
                } else if let Some(openraft) = &mut openraft {
                    let measured = openraft.measure(bench.load(in_flight)).await?;
                    note(openraft.name(), measured.per_second());
                }
            }
            bench.step();
        }
    }
    Ok(())
}
