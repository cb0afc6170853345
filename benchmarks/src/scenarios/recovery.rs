//! A follower is killed and comes back: by its log, and by its snapshot and what is
//! behind it.

use std::path::Path;
use std::time::Instant;

use iggy_cluster::config::HumanSize;

use super::{BACKENDS, Bench, Scenario};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::options::Options;
use crate::replica::Durability;
use crate::results::{Recovery, Results};

const COMMANDS: [u64; 3] = [10_000, 100_000, 1_000_000];
const COMMANDS_QUICK: [u64; 1] = [100_000];
/// Where snapshots are taken, one comes after so many bytes of log.
const SNAPSHOT_LOG_MIB: u64 = 16;
/// Small files, so that what is no longer needed can go.
const SEGMENT_MIB: u64 = 4;
/// Commands sent at once.
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
                let how = if snapshots { "snapshots" } else { "log" };
                bench.says(
                    Scenario::Recovery,
                    &format!("{commands} commands, by {how}, {}", backend.name()),
                );
                let setup = bench.setup(backend, Durability::Fsync);
                let mut cluster = Cluster::start(&setup, |config| {
                    let consensus = &mut config.cluster.consensus;
                    consensus.snapshot_entries = 1 << 40;
                    consensus.wal_segment_size = HumanSize::from_mib(SEGMENT_MIB);
                    let mib = if snapshots { SNAPSHOT_LOG_MIB } else { 1 << 20 };
                    consensus.snapshot_log_size = HumanSize::from_mib(mib);
                })
                .await?;
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
    client.carry_out(commands, IN_FLIGHT).await?;
    cluster.current().await?;
    let victim = (leader + 1) % bench.options.replicas;
    cluster.processes.kill(victim)?;
    let disk_bytes = size_of(&cluster.processes.data(victim))?;
    let begun = Instant::now();
    cluster.processes.run(victim)?;
    cluster.current().await?;
    let current = begun.elapsed();
    let report = cluster.report(victim).await?;
    Ok(Recovery {
        system: String::new(),
        commands,
        snapshots: false,
        entries: report.entries_at_start,
        open_millis: report.opened_micros as f64 / 1e3,
        current_millis: current.as_secs_f64() * 1e3,
        disk_bytes,
    })
}

/// What the files below a directory hold.
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
