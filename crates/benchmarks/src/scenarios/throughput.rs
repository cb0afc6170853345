//! Commands a second: by commands under way, by commands of a batch, by what becomes of
//! freed memory, and of the protocols alone.

use std::time::Duration;

use super::{BACKENDS, Bench, PointKey, Scenario, add, quiet};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::in_process::Bare;
use crate::options::Options;
use crate::peers::{self, Peer};
use crate::replica::{Durability, Memory};
use crate::results::{Point, Results, Run};

/// Under way while batches and memory are varied.
const MANY_IN_FLIGHT: usize = 2_048;
/// What a log holds at most, with what stays in front of a snapshot.
const GROWN_BYTES: u64 = 160 << 20;
const GROWN_BYTES_QUICK: u64 = 32 << 20;
/// Small batches need many of them under way to keep the replicas busy.
const BATCHED_PIPELINE: usize = 256;

pub(super) fn steps(options: &Options) -> usize {
    let of_flights = options.in_flights().len() * options.durabilities().len();
    (of_flights + options.batches().len() + Memory::ALL.len()) * options.rounds()
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
        clusters.push((backend.name(), Cluster::start(&setup, |_| {}).await?));
    }
    grow_up(bench, &mut clusters).await?;
    let mut peers = match bench.options.peers {
        true => peers::start(durability, bench.options.command_size, &mut results.missing).await?,
        false => Vec::new(),
    };
    for in_flight in bench.options.in_flights() {
        for round in 0..bench.options.rounds() {
            bench.says(
                Scenario::Throughput,
                &format!("{in_flight} under way, durability {name}"),
            );
            let key = |system| PointKey {
                system,
                durability: name,
                in_flight,
                ..PointKey::default()
            };
            for (system, cluster) in &mut clusters {
                let run = bench.measure(cluster, bench.load(in_flight), round).await?;
                add(&mut results.throughput, &key(system), run);
            }
            for peer in &mut peers {
                quiet::wait(bench.options.quick).await;
                let measured = match peer.measure(bench.load(in_flight)).await {
                    Ok(measured) => measured,
                    Err(error) => {
                        let why = format!("{in_flight} under way, durability {name}: {error}");
                        peers::note(&mut results.missing, peer.name(), &why);
                        continue;
                    }
                };
                let run = Run {
                    round,
                    per_second: measured.per_second(),
                    latency: (&measured.latency).into(),
                    cost: None,
                };
                add(&mut results.throughput, &key(peer.name()), run);
            }
            bench.step();
        }
    }
    Ok(())
}

/// Only the bound of a batch varies; nothing is synced, which would hide it.
async fn by_batch(bench: &Bench, points: &mut Vec<Point>) -> anyhow::Result<()> {
    for batch in bench.options.batches() {
        let mut clusters = Vec::new();
        for backend in BACKENDS {
            let setup = bench.setup(backend, Durability::None);
            let cluster = Cluster::start(&setup, |config| {
                config.cluster.consensus.batch_commands_max = batch;
                config.cluster.consensus.pipeline_max = BATCHED_PIPELINE;
            });
            clusters.push((backend.name(), cluster.await?));
        }
        let key = PointKey {
            parameter: batch as u64,
            ..PointKey::default()
        };
        let what = format!("batches of up to {batch} commands");
        rounds_of_many(bench, &what, clusters, &key, points).await?;
    }
    Ok(())
}

/// Only what becomes of freed memory varies.
async fn by_memory(bench: &Bench, points: &mut Vec<Point>) -> anyhow::Result<()> {
    for memory in Memory::ALL {
        let mut clusters = Vec::new();
        for backend in BACKENDS {
            let mut setup = bench.setup(backend, Durability::None);
            setup.memory = memory;
            clusters.push((backend.name(), Cluster::start(&setup, |_| {}).await?));
        }
        let key = PointKey {
            setting: memory.name(),
            ..PointKey::default()
        };
        let what = format!("freed memory: {}", memory.name());
        rounds_of_many(bench, &what, clusters, &key, points).await?;
    }
    Ok(())
}

/// A cluster that has just begun takes memory for its log as it grows, which is not to be
/// measured: carries out as many commands as fill it.
async fn grow_up(bench: &Bench, clusters: &mut [(&str, Cluster)]) -> anyhow::Result<()> {
    let bytes = if bench.options.quick {
        GROWN_BYTES_QUICK
    } else {
        GROWN_BYTES
    };
    let commands = bytes / bench.options.command_size as u64;
    for (_, cluster) in clusters {
        let leader = cluster.leader().await?;
        let address = cluster.address(leader);
        let mut client = Client::connect(&address, bench.options.command_size).await?;
        client.carry_out(commands, MANY_IN_FLIGHT).await?;
    }
    Ok(())
}

/// All rounds of one setting, with many commands under way and nothing synced.
async fn rounds_of_many(
    bench: &Bench,
    what: &str,
    mut clusters: Vec<(&str, Cluster)>,
    key: &PointKey<'_>,
    points: &mut Vec<Point>,
) -> anyhow::Result<()> {
    grow_up(bench, &mut clusters).await?;
    for round in 0..bench.options.rounds() {
        bench.says(Scenario::Throughput, what);
        for (system, cluster) in &mut clusters {
            let load = bench.load(MANY_IN_FLIGHT);
            let run = bench.measure(cluster, load, round).await?;
            let key = PointKey {
                system,
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
    let mut openraft = match bench.options.peers {
        true => Some(peers::Openraft::start(replicas, bytes).await?),
        false => None,
    };
    for in_flight in bench.options.in_flights() {
        for round in 0..bench.options.rounds() {
            bench.says(Scenario::InProcess, &format!("{in_flight} under way"));
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
            for (system, bare) in &mut bare {
                let measured = bench.options.measured().min(Duration::from_secs(5));
                let in_flight = in_flight as u64;
                // It would keep a thread of the runtime busy.
                let rate = tokio::task::block_in_place(|| bare.per_second(in_flight, measured))?;
                note(system, rate);
            }
            if let Some(openraft) = &mut openraft {
                let measured = openraft.measure(bench.load(in_flight)).await?;
                note(openraft.name(), measured.per_second());
            }
            bench.step();
        }
    }
    Ok(())
}
