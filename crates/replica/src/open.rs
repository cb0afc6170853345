//! From a disk to a replica that is ready to run.

use std::sync::Arc;

use bytes::Bytes;
use consensus::{
    Consensus, PersistBatch, RecoverError, Recovered, RestoreError, SnapshotMeta, StateMachine,
};
use thiserror::Error;

use crate::disk::{Disk, DiskError};
use crate::driver::{Replica, ReplicaConfig};
use crate::snapshots::{FileWorker, SnapshotError, SnapshotStore};
use crate::superblock::{self, Superblock, SuperblockError};
use crate::wal::{Wal, WalConfig, WalError};

/// Why a disk cannot be opened.
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
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

/// Whose disk it is, and how it is used.
pub struct OpenConfig {
    /// Who this replica is; its incarnation is counted up.
    pub identity: Superblock,
    /// The log.
    pub wal: WalConfig,
    /// The loop around the core.
    pub replica: ReplicaConfig,
}

/// A replica and what it writes to.
pub struct Opened {
    /// The replica, which runs on what is below.
    pub replica: Replica,
    /// The write-ahead log.
    pub wal: Wal,
    /// The snapshot files.
    pub files: FileWorker,
    /// How often this replica has been started.
    pub incarnation: u64,
    /// Entries that the log held.
    pub entries: usize,
    /// A write that was never acknowledged was dropped from the log's end.
    pub torn_tail: bool,
    /// Newer snapshots that are damaged; the one before them serves.
    pub damaged: Vec<SnapshotError>,
    /// Size of the snapshot that it starts from.
    pub snapshot_bytes: u64,
}

/// Opens a disk that was formatted: counts the incarnation up, reads log and snapshot,
/// restores the state machine, and has the core built from what is durable.
///
/// # Errors
/// When the disk fails, belongs to somebody else, or has lost what it held.
pub fn open(
    disk: &Arc<dyn Disk>,
    config: OpenConfig,
    mut machine: Box<dyn StateMachine>,
    build: impl FnOnce(u64, Recovered) -> Result<Box<dyn Consensus>, RecoverError>,
) -> Result<Opened, OpenError> {
    superblock::check(disk.as_ref(), &config.identity)?;
    let (mut wal, log) = Wal::open(Arc::clone(disk), "wal", config.wal)?;
    let block = superblock::begin_incarnation(disk.as_ref(), &config.identity)?;
    let store = SnapshotStore::open(Arc::clone(disk))?;
    let base = store.base(&log)?;
    if let Some((_, state)) = &base.snapshot {
        machine.restore(state)?;
    }
    let (log_end, torn_tail) = (log.end(), log.torn_tail);
    let recovered = Recovered {
        hard_state: log.hard_state,
        snapshot: base.snapshot.as_ref().map(|(meta, _)| meta.clone()),
        entries: log.entries,
    }
    .checked()?;
    if recovered.log_is_void(log_end) {
        reset_log(&mut wal, recovered.snapshot.as_ref())?;
    }
    let meta = recovered.snapshot.clone();
    let entries = recovered.entries.len();
    let core = build(block.incarnation, recovered)?;
    Ok(Opened {
        replica: Replica::new(config.replica, core, machine, meta.as_ref()),
        wal,
        files: FileWorker::new(store),
        incarnation: block.incarnation,
        entries,
        torn_tail,
        damaged: base.damaged,
        snapshot_bytes: base
            .snapshot
            .map_or(0, |(_, state): (_, Bytes)| state.len() as u64),
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
