//! One disk is slow: the leader's, then a follower's.

use super::{BACKENDS, Bench, Scenario};
use crate::cluster::Cluster;
use crate::options::Options;
use crate::results::{Results, SlowDisk};
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

pub(super) fn steps(options: &Options) -> usize {
    BACKENDS.len() * options.durabilities().len() * (1 + 2 * delays(options).len())
}

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    for durability in bench.options.durabilities() {
        for backend in BACKENDS {
            let setup = bench.setup(backend, durability);
            let mut cluster = Cluster::start(&setup, |_| {}).await?;
            let mut settings = vec![("none", 0)];
            for whose in ["leader", "follower"] {
                settings.extend(delays(&bench.options).iter().map(|delay| (whose, *delay)));
            }
            for (whose, delay_millis) in settings {
                bench.says(
                    Scenario::SlowDisk,
                    &format!("{} ms at the {whose}, {}", delay_millis, backend.name()),
                );
                let leader = cluster.leader().await?;
                let slow = match whose {
                    "follower" => (leader + 1) % bench.options.replicas,
                    _ => leader,
                };
                let delay = Control::DelayDisk(delay_millis * 1_000);
                cluster.control(slow, delay).await?;
                let run = bench
                    .measure(&mut cluster, bench.load(IN_FLIGHT), 0)
                    .await?;
                cluster.control(slow, Control::DelayDisk(0)).await?;
                cluster.current().await?;
                results.slow_disk.push(SlowDisk {
                    system: backend.name().into(),
                    durability: durability.name().into(),
                    whose: whose.into(),
                    delay_millis,
                    per_second: run.per_second,
                    latency: run.latency,
                });
                bench.step();
            }
        }
    }
    Ok(())
}
