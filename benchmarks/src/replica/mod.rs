//! One process of a benchmark's cluster: a replica of the log, with a state machine
//! that keeps values by key, and a port for the load generator.

mod config;
mod connection;
mod disk;
mod machine;
mod ownership;
mod settings;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use replica::disk::{Disk, RealDisk};
use replicated_log::{EmptyDisk, LogNode, ReplicatedLog};
use tokio::net::TcpListener;

pub(crate) use config::ReplicaConfig;
use connection::Shared;
use disk::{DiskControl, MeasuredDisk};
pub(crate) use machine::{KEY_BYTES, KeyValues};
pub(crate) use ownership::{COMMAND_BYTES, OwnershipCommand};
pub(crate) use settings::{Durability, Machine, Memory};

/// Arguments of a benchmark's replica.
#[derive(Debug, Args)]
pub(crate) struct ReplicaArgs {
    #[arg(long)]
    config: PathBuf,
    #[arg(long)]
    replica_id: u8,
    #[arg(long)]
    durability: Durability,
    #[arg(long)]
    machine: Machine,
    #[arg(long, default_value = "kept")]
    pub(crate) memory: Memory,
    /// Stop at the end of the standard input: a benchmark that is killed leaves no replicas
    #[arg(long)]
    stop_with_input: bool,
}

/// Runs a replica until it is killed, or its standard input ends.
///
/// # Errors
/// When it cannot start, or must stop.
pub(crate) async fn run(args: &ReplicaArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let config = ReplicaConfig::read(&args.config)?;
    let log = config.log(args.replica_id)?;
    let control = Arc::new(DiskControl::default());
    let skip = args.durability == Durability::None;
    control.skip_syncs.store(skip, Ordering::Relaxed);
    let disk: Arc<dyn Disk> = Arc::new(MeasuredDisk {
        inner: RealDisk::new(&log.data)?,
        control: Arc::clone(&control),
    });
    let node = LogNode::builder(log, args.machine.build())
        .disk(disk)
        .empty_disk(EmptyDisk::Format);
    let mut node = node.start().await?;
    let status = node.log().status().await;
    let status = status.context("the replica has stopped")?;
    let shared = Arc::new(Shared {
        log: node.log().clone(),
        links: Arc::clone(node.links().counters()),
        disk: control,
        opened_micros: u64::try_from(started.elapsed().as_micros())?,
        entries_at_start: status.core.last.0 + 1 - status.core.first.0.max(status.applied.0 + 1),
    });
    let listener = TcpListener::bind(&config.addresses(args.replica_id)?.client).await?;
    let serving = async {
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(Arc::clone(&shared).serve(stream));
        }
    };
    let input = async {
        match args.stop_with_input {
            true => local_cluster::end_of_input().await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        result = serving => result,
        () = input => Ok(()),
        stopped = node.stopped() => stopped.map_err(anyhow::Error::from),
    }
}
