//! From a disk to a replica that is ready to run.

use std::sync::Arc;

use consensus::{Consensus, CoreConfig, RecoverError, Recovered, StateMachine};
use replica::disk::Disk;
use replica::driver::ReplicaConfig;
use replica::open::{OpenConfig, OpenError, Opened};
use replica::superblock::{self, Superblock, SuperblockError};
use replica::wal::WalConfig;
use tracing::{info, warn};

use crate::config::{Backend, LogConfig};

/// Opens the log on a formatted disk, and restores the state machine from it.
///
/// # Errors
/// When the disk holds no replica, another one, or a damaged one.
pub(crate) fn open(
    config: &LogConfig,
    disk: &Arc<dyn Disk>,
    machine: Box<dyn StateMachine>,
) -> Result<Opened, OpenError> {
    let group = config.group_id();
    let open = OpenConfig {
        identity: identity(config),
        wal: wal_config(config, group),
        replica: replica_config(config),
    };
    let build = |incarnation, recovered| build_core(config, group, incarnation, recovered);
    let opened = replica::open::open(disk, open, machine, build)?;
    if opened.torn_tail {
        warn!("dropped a write to the log that a crash interrupted before it was acknowledged");
    }
    for error in &opened.damaged {
        warn!(%error, "a snapshot is damaged: starting from the one before it");
    }
    info!(
        incarnation = opened.incarnation,
        storage_id = format!("{:032x}", opened.storage_id),
        snapshot = opened.replica.status().snapshot.map(|index| index.0),
        entries = opened.entries,
        "opened the data directory"
    );
    Ok(opened)
}

/// Whether a disk has never been formatted. A disk that holds a log or snapshots and no
/// superblock is damaged rather than empty.
///
/// # Errors
/// When it is damaged, or cannot be read.
pub fn is_empty(disk: &dyn Disk) -> Result<bool, SuperblockError> {
    match superblock::exists(disk)? {
        true => Ok(false),
        false if superblock::has_data(disk)? => Err(SuperblockError::Corrupt),
        false => Ok(true),
    }
}

/// Formats the disk of a replica that has never run.
///
/// # Errors
/// When it holds a replica already, or cannot be written.
pub(crate) fn format(config: &LogConfig, disk: &dyn Disk) -> Result<(), SuperblockError> {
    superblock::format(disk, &identity(config))
}

fn identity(config: &LogConfig) -> Superblock {
    Superblock {
        group: config.group_id(),
        cluster: config.cluster.clone(),
        replica: config.me,
        incarnation: 0,
        storage_id: random_id(),
        backend: config.settings.backend.name().to_owned(),
        membership: Some(config.membership.clone()),
    }
}

/// Names a disk; zero when the operating system has no randomness.
fn random_id() -> u128 {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u128::from_le_bytes(bytes),
        Err(_) => 0,
    }
}

fn build_core(
    config: &LogConfig,
    group: u128,
    incarnation: u64,
    recovered: Recovered,
) -> Result<Box<dyn Consensus>, RecoverError> {
    let core = CoreConfig {
        id: config.me,
        group,
        membership: config.membership.clone(),
        heartbeat_ticks: config.settings.heartbeat_ticks(),
        election_ticks: config.settings.election_ticks(),
        // Differs between replicas, and between incarnations of a replica.
        seed: (group as u64) ^ config.me.0.rotate_left(48) ^ incarnation.rotate_left(24),
        limits: config.settings.limits(),
    };
    match config.settings.backend {
        Backend::Raft => Ok(Box::new(consensus_raft::RaftCore::new(&core, recovered)?)),
        Backend::Vr => Ok(Box::new(consensus_vr::VrCore::new(&core, recovered)?)),
    }
}

fn wal_config(config: &LogConfig, group: u128) -> WalConfig {
    WalConfig {
        segment_bytes: config.settings.wal_segment_size.bytes(),
        ..WalConfig::new(group)
    }
}

fn replica_config(config: &LogConfig) -> ReplicaConfig {
    let settings = &config.settings;
    ReplicaConfig {
        tick_micros: u64::try_from(settings.tick().as_micros()).unwrap_or(u64::MAX),
        batch_bytes_max: settings.batch_size_max.bytes() as usize,
        batch_commands_max: settings.batch_commands_max,
        pipeline_max: settings.pipeline_max,
        waiting_bytes_max: settings.uncommitted_size_max.bytes() as usize,
        snapshot_entries: settings.snapshot_entries,
        snapshot_log_bytes: settings.snapshot_log_size.bytes(),
        ..ReplicaConfig::new(config.me)
    }
}
