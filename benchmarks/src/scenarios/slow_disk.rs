//! One disk is slow: the leader's, then a follower's.

use super::{BACKENDS, Bench, Scenario, turns};
use crate::cluster::Cluster;
use crate::figures::in_words;
use crate::options::Options;
use crate::replica::Durability;
use crate::results::{Results, Run, SlowDisk};
use crate::wire::Control;

const IN_FLIGHT: usize = 256;
const DELAYS_MILLIS: [u64; 3] = [1, 10, 100];
const DELAYS_MILLIS_QUICK: [u64; 1] = [10];

fn delays(options: &Options) -> &'static [u64] {
    match options.quick {
        true => &DELAYS_MILLIS_QUICK,
        false => &DELAYS_MILLIS,
    }
}

/// At most this many rounds: each is long.
const ROUNDS_MAX: usize = 3;

fn rounds(options: &Options) -> usize {
    options.rounds().min(ROUNDS_MAX)
}

pub(super) fn steps(options: &Options) -> usize {
    let settings = 1 + 2 * delays(options).len();
    options.durabilities().len() * settings * rounds(options)
}

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    for durability in bench.options.durabilities() {
        of_durability(bench, results, durability).await?;
    }
    Ok(())
}

async fn of_durability(
    bench: &Bench,
    results: &mut Results,
    durability: Durability,
) -> anyhow::Result<()> {
    let mut clusters = Vec::new();
    for backend in BACKENDS {
        let setup = bench.setup(backend, durability);
        let mut cluster = Cluster::start(&setup).await?;
        bench.fill_log(&mut cluster).await?;
        clusters.push((backend.name(), cluster));
    }
    let mut settings = vec![("none", 0)];
    for whose in ["leader", "follower"] {
        settings.extend(delays(&bench.options).iter().map(|delay| (whose, *delay)));
    }
    // By backend and setting: a run for each round.
    let mut runs: Vec<_> = BACKENDS
        .iter()
        .map(|_| vec![Vec::new(); settings.len()])
        .collect();
    for round in 0..rounds(&bench.options) {
        for (setting, (whose, delay_millis)) in settings.iter().enumerate() {
            let what = format!(
                "{delay_millis} ms at {whose}, {}",
                in_words(durability.name())
            );
            bench.report(Scenario::SlowDisk, &what);
            for turn in turns(clusters.len(), round) {
                let cluster = &mut clusters[turn].1;
                let run = slowed(bench, cluster, whose, *delay_millis, round).await?;
                runs[turn][setting].push(run);
            }
            bench.step();
        }
    }
    for ((system, _), runs) in clusters.iter().zip(runs) {
        for ((whose, delay_millis), mut runs) in settings.iter().zip(runs) {
            runs.sort_by(|a: &Run, b| a.per_second.total_cmp(&b.per_second));
            let run = &runs[runs.len() / 2];
            results.slow_disk.push(SlowDisk {
                system: (*system).into(),
                durability: durability.name().into(),
                whose: (*whose).into(),
                delay_millis: *delay_millis,
                per_second: run.per_second,
                low_per_second: runs.first().map(|run| run.per_second),
                high_per_second: runs.last().map(|run| run.per_second),
                latency: run.latency,
            });
        }
    }
    Ok(())
}

/// A run while one disk is slower.
async fn slowed(
    bench: &Bench,
    cluster: &mut Cluster,
    whose: &str,
    delay_millis: u64,
    round: usize,
) -> anyhow::Result<Run> {
    let leader = cluster.leader().await?;
    let slow = match whose {
        "follower" => (leader + 1) % bench.options.replicas,
        _ => leader,
    };
    let delay = Control::DelayDisk(delay_millis * 1_000);
    cluster.control(slow, delay).await?;
    let run = bench.measure(cluster, bench.load(IN_FLIGHT), round).await?;
    cluster.control(slow, Control::DelayDisk(0)).await?;
    cluster.caught_up().await?;
    Ok(run)
}
