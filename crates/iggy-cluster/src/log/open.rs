//! From a data directory to a replica that is ready to run.

use std::path::Path;
use std::sync::Arc;

use consensus::{Consensus, CoreConfig, RecoverError, Recovered, ReplicaId, StateMachine};
use replica::disk::{Disk, DiskError, RealDisk};
use replica::driver::ReplicaConfig;
use replica::open::{OpenConfig, OpenError, Opened};
use replica::superblock::{self, Superblock, SuperblockError};
use replica::wal::WalConfig;
use tracing::{info, warn};

use crate::config::{Backend, ClusterConfig};

/// Opens the log on a disk that was begun, with the state machine that it feeds.
pub(crate) fn open(
    config: &ClusterConfig,
    me: ReplicaId,
    disk: &Arc<dyn Disk>,
    machine: Box<dyn StateMachine>,
) -> Result<Opened, OpenError> {
    let group = config.group_id();
    let open = OpenConfig {
        identity: identity(config, me),
        wal: wal_config(config, group),
        replica: replica_config(config, me),
    };
    let build = |incarnation, recovered| build_core(config, me, group, incarnation, recovered);
    let opened = replica::open::open(disk, open, machine, build)?;
    if opened.torn_tail {
        warn!("dropped a write to the log that a crash cut off before it was acknowledged");
    }
    for error in &opened.damaged {
        warn!(%error, "starting from the snapshot before a damaged one");
    }
    info!(
        incarnation = opened.incarnation,
        snapshot = opened.replica.status().snapshot.map(|index| index.0),
        entries = opened.entries,
        "opened the data directory"
    );
    Ok(opened)
}

/// Whether nobody has begun this directory. One that holds messages and no
/// superblock is not empty but damaged.
pub(crate) fn is_empty(data: &Path) -> Result<bool, SuperblockError> {
    let disk = RealDisk::new(data)?;
    if superblock::exists(&disk)? {
        return Ok(false);
    }
    let holds_some = superblock::has_data(&disk)? || holds_messages(data)?;
    match holds_some {
        true => Err(SuperblockError::Corrupt),
        false => Ok(true),
    }
}

fn holds_messages(data: &Path) -> Result<bool, SuperblockError> {
    let path = data.join("partitions");
    let unreadable = |source| {
        SuperblockError::Disk(DiskError {
            operation: "list",
            path: path.display().to_string(),
            source,
        })
    };
    let entries = match std::fs::read_dir(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(unreadable)?,
    };
    for entry in entries {
        // The storage makes hidden ones before there is any partition.
        let name = entry.map_err(unreadable)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Begins the data directory of a node that has never run.
pub(crate) fn format(
    config: &ClusterConfig,
    me: ReplicaId,
    data: &Path,
) -> Result<(), SuperblockError> {
    superblock::format(&RealDisk::new(data)?, &identity(config, me))
}

pub(super) fn identity(config: &ClusterConfig, me: ReplicaId) -> Superblock {
    Superblock {
        group: config.group_id(),
        cluster: config.cluster.name.clone(),
        replica: me,
        incarnation: 0,
        backend: config.cluster.consensus.backend.name().to_owned(),
    }
}

fn build_core(
    config: &ClusterConfig,
    me: ReplicaId,
    group: u128,
    incarnation: u64,
    recovered: Recovered,
) -> Result<Box<dyn Consensus>, RecoverError> {
    let core = CoreConfig {
        id: me,
        group,
        membership: config
            .membership()
            .map_err(|error| RecoverError::Config(error.to_string()))?,
        heartbeat_ticks: config.cluster.consensus.heartbeat_ticks(),
        election_ticks: config.cluster.consensus.election_ticks(),
        // Differs between nodes and between lives of a node.
        seed: (group as u64) ^ me.0.rotate_left(48) ^ incarnation.rotate_left(24),
        limits: config.cluster.consensus.limits(),
    };
    match config.cluster.consensus.backend {
        Backend::Raft => Ok(Box::new(consensus_raft::RaftCore::new(&core, recovered)?)),
        Backend::Vr => Ok(Box::new(consensus_vr::VrCore::new(&core, recovered)?)),
    }
}

fn wal_config(config: &ClusterConfig, group: u128) -> WalConfig {
    WalConfig {
        segment_bytes: config.cluster.consensus.wal_segment_size.bytes(),
        ..WalConfig::new(group)
    }
}

fn replica_config(config: &ClusterConfig, me: ReplicaId) -> ReplicaConfig {
    let consensus = &config.cluster.consensus;
    ReplicaConfig {
        batch_bytes_max: consensus.batch_size_max.bytes() as usize,
        batch_commands_max: consensus.batch_commands_max,
        pipeline_max: consensus.pipeline_max,
        waiting_bytes_max: consensus.uncommitted_size_max.bytes() as usize,
        snapshot_entries: consensus.snapshot_entries,
        snapshot_log_bytes: consensus.snapshot_log_size.bytes(),
        ..ReplicaConfig::new(me)
    }
}
