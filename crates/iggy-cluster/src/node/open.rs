//! From a data directory to a replica that is ready to run.

use std::path::Path;
use std::sync::Arc;

use adapters::metadata::{MetadataMachine, MetadataReader, Observer};
use bytes::Bytes;
use consensus::{
    Consensus, CoreConfig, PersistBatch, RecoverError, Recovered, ReplicaId, RestoreError,
    SnapshotMeta, StateMachine,
};
use replica::disk::{Disk, DiskError, RealDisk};
use replica::driver::{Replica, ReplicaConfig};
use replica::snapshots::{FileWorker, SnapshotError, SnapshotStore};
use replica::superblock::{self, Superblock, SuperblockError};
use replica::wal::{Wal, WalConfig, WalError};
use thiserror::Error;
use tracing::{info, warn};

use crate::config::{Backend, ClusterConfig};

/// Why a data directory cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The directory is another node's.
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    /// The log cannot be read.
    #[error("write-ahead log: {0}")]
    Wal(#[from] WalError),
    /// A snapshot cannot be read.
    #[error("snapshot: {0}")]
    Snapshot(#[from] SnapshotError),
    /// A snapshot is not understood.
    #[error("snapshot: {0}")]
    Restore(#[from] RestoreError),
    /// The log contradicts itself.
    #[error("{0}")]
    Recover(#[from] RecoverError),
}

/// A replica and the files that go with it.
pub(super) struct Opened {
    pub(super) replica: Replica,
    pub(super) reader: MetadataReader,
    pub(super) wal: Wal,
    pub(super) files: FileWorker,
    pub(super) incarnation: u64,
    pub(super) snapshot_bytes: u64,
}

pub(super) fn open(
    config: &ClusterConfig,
    me: ReplicaId,
    data: &Path,
    observer: Observer,
) -> Result<Opened, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(data)?);
    let group = config.group_id();
    let block = superblock::begin_incarnation(
        disk.as_ref(),
        &Superblock {
            group,
            cluster: config.cluster.name.clone(),
            replica: me,
            incarnation: 0,
            backend: config.cluster.consensus.backend.name().to_owned(),
        },
    )?;
    let (mut wal, log) = Wal::open(Arc::clone(&disk), "wal", wal_config(config, group))?;
    if log.torn_tail {
        warn!("dropped a write to the log that a crash cut off before it was acknowledged");
    }
    let store = SnapshotStore::open(Arc::clone(&disk))?;
    let base = store.base(&log)?;
    for error in &base.damaged {
        warn!(%error, "starting from the snapshot before a damaged one");
    }
    let snapshot = base.snapshot;
    let (mut machine, reader) = MetadataMachine::new(observer);
    if let Some((_, state)) = &snapshot {
        machine.restore(state)?;
    }
    let log_last = log.last();
    let recovered = Recovered {
        hard_state: log.hard_state,
        snapshot: snapshot.as_ref().map(|(meta, _)| meta.clone()),
        entries: log.entries,
    }
    .checked()?;
    if recovered.log_is_void(log_last) {
        reset_log(&mut wal, recovered.snapshot.as_ref())?;
    }
    info!(
        incarnation = block.incarnation,
        snapshot = recovered.snapshot.as_ref().map(|meta| meta.index.0),
        entries = recovered.entries.len(),
        "opened the data directory"
    );
    let meta = recovered.snapshot.clone();
    let core = build_core(config, me, group, block.incarnation, recovered)?;
    let replica = Replica::new(
        replica_config(config, me),
        core,
        Box::new(machine),
        meta.as_ref(),
    );
    Ok(Opened {
        replica,
        reader,
        wal,
        files: FileWorker::new(store),
        incarnation: block.incarnation,
        snapshot_bytes: snapshot.map_or(0, |(_, state): (_, Bytes)| state.len() as u64),
    })
}

/// The snapshot has overtaken the log: the log goes on behind it.
fn reset_log(wal: &mut Wal, snapshot: Option<&SnapshotMeta>) -> Result<(), WalError> {
    let Some(meta) = snapshot else {
        return Ok(());
    };
    wal.append(&[PersistBatch {
        reset_to: Some((meta.index, meta.term)),
        ..PersistBatch::default()
    }])?;
    wal.sync()
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
