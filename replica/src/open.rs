//! From a disk to a replica that is ready to run.

use std::sync::Arc;

use bytes::Bytes;
use consensus::rule;
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
    /// The directory is not this replica's.
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    /// The log cannot be opened.
    #[error("write-ahead log: {0}")]
    Wal(#[from] WalError),
    /// A snapshot cannot be read.
    #[error("snapshot: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The state machine cannot restore a snapshot.
    #[error("snapshot: {0}")]
    Restore(#[from] RestoreError),
    /// The log contradicts itself.
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

/// The identity of a disk's replica, and how the disk is used.
pub struct OpenConfig {
    /// The identity of this replica; its incarnation is ignored, and its storage id is for a
    /// disk that has none.
    pub identity: Superblock,
    /// How the log is kept.
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
    /// Starts of this replica so far, this one included.
    pub incarnation: u64,
    /// Names the disk, for as long as it exists.
    pub storage_id: u128,
    /// Entries recovered from the log.
    pub entries: usize,
    /// A write that was never acknowledged was dropped from the end of the log.
    pub torn_tail: bool,
    /// Newer snapshots that are damaged; the replica starts from the one before them.
    pub damaged: Vec<SnapshotError>,
    /// Size of the snapshot that it starts from, in bytes; 0 without one.
    pub snapshot_bytes: u64,
}

/// Opens a formatted disk: starts the next incarnation, reads log and snapshot, restores
/// the state machine, and calls `build` with the incarnation and what is durable.
///
/// # Errors
/// When the disk fails, belongs to another replica, or has lost data.
pub fn open(
    disk: &Arc<dyn Disk>,
    config: OpenConfig,
    mut machine: Box<dyn StateMachine>,
    build: impl FnOnce(u64, Recovered) -> Result<Box<dyn Consensus>, RecoverError>,
) -> Result<Opened, OpenError> {
    let known = superblock::check(disk.as_ref(), &config.identity)?;
    let (mut wal, log) = Wal::open(Arc::clone(disk), "wal", config.wal)?;
    if known.membership.is_none() {
        // The configuration is adopted, unless a snapshot contradicts it.
        let base = SnapshotStore::open(Arc::clone(disk))?.base(&log)?;
        let recorded = base.snapshot.as_ref().map(|(meta, _)| &meta.membership);
        superblock::check_members(recorded, &config.identity)?;
    }
    let block = superblock::start_incarnation(disk.as_ref(), &config.identity)?;
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
    if recovered.log_is_void(log_end) && rule!(OvertakenLogReset) {
        reset_log(&mut wal, recovered.snapshot.as_ref())?;
    }
    let meta = recovered.snapshot.clone();
    let entries = recovered.entries.len();
    let core = build(block.incarnation, recovered)?;
    Ok(Opened {
        replica: Replica::new(&config.replica, core, machine, meta.as_ref()),
        wal,
        files: FileWorker::new(store),
        incarnation: block.incarnation,
        storage_id: block.storage_id,
        entries,
        torn_tail,
        damaged: base.damaged,
        snapshot_bytes: base
            .snapshot
            .map_or(0, |(_, state): (_, Bytes)| state.len() as u64),
    })
}

/// The snapshot has overtaken the log: the log continues after it.
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

#[cfg(test)]
mod tests {
    use consensus::{
        ApplyContext, Entry, EntryKind, FrozenState, Index, Membership, ReplicaId, Term,
        UnknownCommand,
    };

    use super::*;
    use crate::disk::MemoryDisk;

    struct Nothing;

    impl StateMachine for Nothing {
        fn apply(&mut self, _: ApplyContext, _: &[u8]) -> Result<Bytes, UnknownCommand> {
            Ok(Bytes::new())
        }

        fn freeze(&self) -> Box<dyn FrozenState> {
            unreachable!("nothing is applied")
        }

        fn restore(&mut self, _encoded: &[u8]) -> Result<(), RestoreError> {
            Ok(())
        }
    }

    const GROUP: u128 = 7;

    fn identity() -> Superblock {
        Superblock {
            group: GROUP,
            cluster: "c".into(),
            replica: ReplicaId(1),
            incarnation: 0,
            storage_id: 5,
            backend: "vr".into(),
            membership: None,
        }
    }

    /// What a start recovers.
    fn found(disk: &Arc<dyn Disk>) -> Recovered {
        let config = OpenConfig {
            identity: identity(),
            wal: WalConfig::new(GROUP),
            replica: ReplicaConfig::new(ReplicaId(1)),
        };
        let mut found = None;
        let opened = open(disk, config, Box::new(Nothing), |_, recovered| {
            found = Some(recovered);
            Err(RecoverError::Config("that is all".into()))
        });
        assert!(opened.is_err());
        found.expect("a disk that can be read")
    }

    fn append(disk: &Arc<dyn Disk>, entries: &[(u64, u64)]) {
        let (mut wal, _) = Wal::open(Arc::clone(disk), "wal", WalConfig::new(GROUP)).unwrap();
        let entry = |(index, term): &(u64, u64)| Entry {
            term: Term(*term),
            index: Index(*index),
            kind: EntryKind::Command,
            payload: Bytes::new(),
        };
        wal.append(&[PersistBatch {
            entries: entries.iter().map(entry).collect(),
            ..PersistBatch::default()
        }])
        .unwrap();
        wal.sync().unwrap();
    }

    /// At entry 3 of term 2.
    fn save_snapshot(disk: &Arc<dyn Disk>) {
        let meta = SnapshotMeta {
            index: Index(3),
            term: Term(2),
            membership: Membership::new(1, [ReplicaId(1)], []).unwrap(),
        };
        let store = SnapshotStore::open(Arc::clone(disk)).unwrap();
        store.save(&meta, b"state").unwrap();
    }

    /// A snapshot may overtake a log that ends before it, at its index with another
    /// entry, or after it with another entry at its index. What is appended then is found
    /// again, by every start.
    #[test]
    fn what_follows_a_snapshot_that_has_overtaken_the_log_is_found_again() {
        for ends_at in [2, 3, 4] {
            let memory = MemoryDisk::new();
            superblock::format(&memory, &identity()).unwrap();
            let disk: Arc<dyn Disk> = Arc::new(memory);
            let old: Vec<_> = (1..=ends_at).map(|index| (index, 1)).collect();
            append(&disk, &old);
            save_snapshot(&disk);
            assert_eq!(found(&disk).entries, []);
            append(&disk, &[(4, 2), (5, 2)]);
            for _ in 0..2 {
                let indexes = found(&disk).entries.into_iter().map(|entry| entry.index.0);
                assert_eq!(indexes.collect::<Vec<_>>(), [4, 5], "ended at {ends_at}");
            }
        }
    }

    /// Version 0.1 could drop the front of a log before it wrote that a snapshot replaces
    /// all of it: power that failed between left entries that follow nothing.
    #[test]
    fn a_log_whose_front_was_dropped_before_the_snapshot_replaced_it_opens() {
        let memory = MemoryDisk::new();
        superblock::format(&memory, &identity()).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(memory);
        append(&disk, &[(4, 1), (5, 1)]);
        save_snapshot(&disk);
        assert_eq!(found(&disk).entries, []);
        append(&disk, &[(4, 2)]);
        let indexes = found(&disk).entries.into_iter().map(|entry| entry.index.0);
        assert_eq!(indexes.collect::<Vec<_>>(), [4]);
    }

    /// The disk of version 0.1 records its replicas in snapshots only.
    #[test]
    fn a_snapshot_vouches_for_the_replicas_of_a_disk_without_a_list() {
        let memory = MemoryDisk::new();
        superblock::format(&memory, &identity()).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(memory);
        let members = |voters| Membership::new(1, (1..=voters).map(ReplicaId), []).unwrap();
        append(&disk, &[(1, 1)]);
        let meta = SnapshotMeta {
            index: Index(1),
            term: Term(1),
            membership: members(3),
        };
        let store = SnapshotStore::open(Arc::clone(&disk)).unwrap();
        store.save(&meta, b"state").unwrap();
        let start = |voters| {
            let config = OpenConfig {
                identity: Superblock {
                    membership: Some(members(voters)),
                    ..identity()
                },
                wal: WalConfig::new(GROUP),
                replica: ReplicaConfig::new(ReplicaId(1)),
            };
            let build = |_, _| Err(RecoverError::Config("that is all".into()));
            open(&disk, config, Box::new(Nothing), build).err()
        };
        let refused = start(1);
        assert!(
            matches!(
                refused,
                Some(OpenError::Superblock(SuperblockError::Members { .. }))
            ),
            "{refused:?}"
        );
        // Nothing was adopted.
        assert!(matches!(start(3), Some(OpenError::Recover(_))));
    }
}
