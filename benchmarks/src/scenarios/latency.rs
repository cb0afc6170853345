//! Latency at a rate that the clients keep whether replies arrive or not: measured from
//! when a command was due, so that a stall counts for all commands that were due in it.

use super::{BACKENDS, Bench, PointKey, Scenario, add, quiet, turns};
use crate::cluster::Cluster;
use crate::figures::in_words;
use crate::options::Options;
use crate::results::{Results, Run};

/// Commands per second.
const RATES: [u64; 4] = [1_000, 10_000, 50_000, 100_000];
const RATES_QUICK: [u64; 2] = [1_000, 50_000];

fn rates(options: &Options) -> &'static [u64] {
    if options.quick { &RATES_QUICK } else { &RATES }
}

pub(super) fn steps(options: &Options) -> usize {
    rates(options).len() * options.durabilities().len() * options.rounds()
}

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    for durability in bench.options.durabilities() {
        let mut clusters = Vec::new();
        for backend in BACKENDS {
            let setup = bench.setup(backend, durability);
            clusters.push((backend.name(), Cluster::start(&setup).await?));
        }
        for (_, cluster) in &mut clusters {
            bench.fill_log(cluster).await?;
        }
        for rate in rates(&bench.options) {
            for round in 0..bench.options.rounds() {
                let name = durability.name();
                bench.report(
                    Scenario::Latency,
                    &format!("{rate} commands/s, {}", in_words(name)),
                );
                for turn in turns(clusters.len(), round) {
                    let (system, cluster) = &mut clusters[turn];
                    let leader = cluster.leader().await?;
                    let load = bench.load(0);
                    quiet::wait(bench.options.quick).await;
                    let measured = load.open(&cluster.address(leader), *rate).await?;
                    let run = Run {
                        round,
                        per_second: measured.per_second(),
                        latency: (&measured.latency).into(),
                        cost: None,
                    };
                    let key = PointKey {
                        system,
                        durability: name,
                        in_flight: 0,
                        parameter: *rate,
                        ..PointKey::default()
                    };
                    add(&mut results.latency, &key, run);
                }
                bench.step();
            }
        }
    }
    Ok(())
}
