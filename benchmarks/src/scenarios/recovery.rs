//! A follower is killed and restarts: from its log, and from its snapshot and the log
//! after it.

use std::path::Path;
use std::time::Instant;

use replicated_log::HumanSize;

use super::{BACKENDS, Bench, Scenario};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::options::Options;
use crate::replica::Durability;
use crate::results::{Recovery, Results};

const COMMANDS: [u64; 3] = [10_000, 100_000, 1_000_000];
const COMMANDS_QUICK: [u64; 1] = [100_000];
/// Where snapshots are taken, there is one for every so many bytes of log.
const SNAPSHOT_LOG_MIB: u64 = 16;
/// Small files, so that those before a snapshot can be removed.
const SEGMENT_MIB: u64 = 4;
const IN_FLIGHT: usize = 1_024;

fn sizes(options: &Options) -> &'static [u64] {
    match options.quick {
        true => &COMMANDS_QUICK,
        false => &COMMANDS,
    }
}

pub(super) fn steps(options: &Options) -> usize {
    BACKENDS.len() * 2 * sizes(options).len()
}

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    for commands in sizes(&bench.options) {
        for snapshots in [false, true] {
            for backend in BACKENDS {
                let how = if snapshots { "snapshot and log" } else { "log" };
                bench.report(
                    Scenario::Recovery,
                    &format!("{commands} commands, from {how}, {}", backend.name()),
                );
                let mut setup = bench.setup(backend, Durability::Fsync);
                let mib = if snapshots { SNAPSHOT_LOG_MIB } else { 1 << 20 };
                setup.settings.snapshot_entries = 1 << 40;
                setup.settings.wal_segment_size = HumanSize::from_mib(SEGMENT_MIB);
                setup.settings.snapshot_log_size = HumanSize::from_mib(mib);
                let mut cluster = Cluster::start(&setup).await?;
                let recovery = recover(bench, &mut cluster, *commands).await?;
                results.recovery.push(Recovery {
                    system: backend.name().into(),
                    snapshots,
                    ..recovery
                });
                bench.step();
            }
        }
    }
    Ok(())
}

async fn recover(bench: &Bench, cluster: &mut Cluster, commands: u64) -> anyhow::Result<Recovery> {
    let leader = cluster.leader().await?;
    let mut client = Client::connect(&cluster.address(leader), bench.options.command_size).await?;
    client.execute(commands, IN_FLIGHT).await?;
    cluster.caught_up().await?;
    let victim = (leader + 1) % bench.options.replicas;
    cluster.processes.kill(victim)?;
    let disk_bytes = size_of(&cluster.processes.data(victim))?;
    let started = Instant::now();
    cluster.processes.start(victim)?;
    cluster.caught_up().await?;
    let caught_up = started.elapsed();
    let report = cluster.report(victim).await?;
    Ok(Recovery {
        system: String::new(),
        commands,
        snapshots: false,
        entries: report.entries_at_start,
        open_millis: report.opened_micros as f64 / 1e3,
        current_millis: caught_up.as_secs_f64() * 1e3,
        disk_bytes,
    })
}

/// The size of the files below a directory.
fn size_of(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += match metadata.is_dir() {
            true => size_of(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(bytes)
}
