//! Whether a busy machine makes followers depose a leader that is alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{BACKENDS, Bench, Scenario};
use crate::cluster::Cluster;
use crate::load::Load;
use crate::replica::Durability;
use crate::results::{Results, Saturation};

const IN_FLIGHT: usize = 2_048;

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    bench.report(Scenario::Saturation, "both clusters concurrently");
    let mut clusters = Vec::new();
    for backend in BACKENDS {
        let setup = bench.setup(backend, Durability::Fsync);
        let mut cluster = Cluster::start(&setup).await?;
        let leader = cluster.leader().await?;
        let term = cluster.report(leader).await?.term;
        let address = cluster.address(leader);
        clusters.push((backend.name(), cluster, address, term));
    }
    let busy = Busy::start();
    let load = Load {
        measured: bench.options.saturation(),
        ..bench.load(IN_FLIGHT)
    };
    let (raft, vr) = (clusters[0].2.clone(), clusters[1].2.clone());
    let (raft, vr) = tokio::join!(load.closed(&raft), load.closed(&vr));
    drop(busy);
    for ((system, cluster, _, term), measured) in clusters.iter_mut().zip([raft, vr]) {
        let leader = cluster.leader().await?;
        let reached = cluster.report(leader).await?.term;
        results.saturation.push(Saturation {
            system: (*system).into(),
            seconds: load.measured.as_secs_f64(),
            // The load ends when its leader is deposed.
            per_second: measured.map_or(0.0, |measured| measured.per_second()),
            elections: reached - *term,
        });
    }
    bench.step();
    Ok(())
}

/// A busy loop on every core.
struct Busy {
    stop: Arc<AtomicBool>,
    loops: Vec<std::thread::JoinHandle<()>>,
}

impl Busy {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let busy = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let loops = (0..cores).map(busy).collect();
        Self { stop, loops }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for busy in self.loops.drain(..) {
            let _ = busy.join();
        }
    }
}

/// The default duration.
pub(crate) const SECONDS: Duration = Duration::from_secs(20);
pub(crate) const SECONDS_QUICK: Duration = Duration::from_secs(1);
