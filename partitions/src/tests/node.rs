//! What a node may have lost at a start, and the epochs that it has adopted.

use std::path::Path;

use tokio::sync::oneshot;

use super::crash_disk::{CrashDisk, Stop};
use super::*;
use crate::replication::Epoch;

const STORAGE: u128 = 77;

fn start_on(
    disk: Arc<dyn Disk>,
    root: &Path,
    incarnation: u64,
    boot: u64,
) -> Result<(NodeStorage, LogState), StorageError> {
    NodeStorage::on(disk, root.to_owned(), (STORAGE, incarnation), boot)
}

fn start(root: &Path, incarnation: u64, boot: u64) -> (NodeStorage, LogState) {
    start_on(Arc::new(OsDisk), root, incarnation, boot).unwrap()
}

async fn adopt(node: &NodeStorage, key: PartitionKey, epoch: u64) -> Result<(), StorageError> {
    let (sender, receiver) = oneshot::channel();
    let done = move |result| drop(sender.send(result));
    node.adopt(key, Epoch(epoch), Box::new(done));
    receiver.await.unwrap()
}

#[tokio::test]
async fn only_a_stop_of_the_machine_loses_what_was_not_synced() {
    let dir = Dir::new();
    let root = dir.dir.path();
    let state = |incarnation, boot| start(root, incarnation, boot).1;
    assert_eq!(state(1, BOOT), LogState::Intact);
    assert_eq!(state(2, BOOT), LogState::Intact, "killed");
    assert_eq!(state(3, NEXT_BOOT), LogState::TailLost);
    assert_eq!(state(4, NEXT_BOOT), LogState::TailLost, "until it recovers");
    let (node, found) = start(root, 5, NEXT_BOOT);
    assert_eq!(found, LogState::TailLost);
    node.recovered().unwrap();
    let (node, found) = start(root, 6, NEXT_BOOT);
    assert_eq!(found, LogState::Intact);
    node.stopped().unwrap();
    assert_eq!(state(7, BOOT), LogState::Intact, "stopped in order");
    assert_eq!(
        state(8, NEXT_BOOT),
        LogState::TailLost,
        "the stop counts once"
    );
}

#[tokio::test]
async fn a_machine_whose_runs_are_unknown_may_have_been_stopped() {
    let dir = Dir::new();
    start(dir.dir.path(), 1, 0);
    assert_eq!(start(dir.dir.path(), 2, 0).1, LogState::TailLost);
}

#[tokio::test]
async fn another_storage_than_that_of_the_last_start_has_lost_everything() {
    let dir = Dir::new();
    let root = dir.dir.path();
    let (_, first) = start(root, 1, BOOT);
    assert_eq!(first, LogState::Intact);
    // An older state of the same directory.
    let (_, found) = start(root, 3, BOOT);
    assert_eq!(found, LogState::Lost);
    let empty = Dir::new();
    for incarnation in [4, 5] {
        let (_, other) = start(empty.dir.path(), incarnation, BOOT);
        assert_eq!(other, LogState::Lost, "until it recovers");
    }
    // The directory of another disk, though the number of the start fits.
    let moved = Dir::new();
    let on = |storage_id, incarnation| {
        let root = moved.dir.path().to_owned();
        let start = (storage_id, incarnation);
        NodeStorage::on(Arc::new(OsDisk), root, start, BOOT).unwrap()
    };
    assert_eq!(on(STORAGE, 1).1, LogState::Intact);
    assert_eq!(on(STORAGE + 1, 2).1, LogState::Lost);
    let (node, found) = on(STORAGE + 1, 3);
    assert_eq!(found, LogState::Lost, "until it recovers");
    node.recovered().unwrap();
    assert_eq!(on(STORAGE + 1, 4).1, LogState::Intact);
    // Partitions of a version without the file.
    let older = Dir::new();
    append(&older.storage(), 0, 1, 1).await;
    assert_eq!(start(older.dir.path(), 9, BOOT).1, LogState::Intact);
}

#[tokio::test]
async fn a_damaged_state_is_a_lost_storage() {
    let dir = Dir::new();
    let root = dir.dir.path();
    start(root, 1, BOOT);
    let path = root.join("node");
    let content = fs::read(&path).unwrap();
    for at in (0..content.len()).filter(|at| !(8..10).contains(at)) {
        let mut damaged = content.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert_eq!(start(root, 2, BOOT).1, LogState::Lost, "{at}");
    }
    let mut newer = content;
    newer[8] = 9;
    fs::write(&path, newer).unwrap();
    let refused = start_on(Arc::new(OsDisk), root, 2, BOOT).err();
    assert!(
        matches!(refused, Some(StorageError::Version { found: 9, .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn adopted_epochs_are_there_after_a_start() {
    let dir = Dir::new();
    let root = dir.dir.path();
    let (node, _) = start(root, 1, BOOT);
    assert_eq!(node.adopted(&key(1)), Epoch(0));
    for (generation, epoch) in [(1, 4), (2, 7), (1, 6), (1, 5)] {
        adopt(&node, key(generation), epoch).await.unwrap();
    }
    for node in [node, start(root, 2, BOOT).0] {
        assert_eq!(node.adopted(&key(1)), Epoch(6));
        assert_eq!(node.adopted(&key(2)), Epoch(7));
    }
    let (node, _) = start(root, 3, BOOT);
    for epoch in 0..10_000 {
        node.adopt(key(3), Epoch(epoch), Box::new(|result| result.unwrap()));
    }
    node.retain(|it| *it != key(2));
    adopt(&node, key(3), 10_001).await.unwrap();
    for _ in 0..2 {
        adopt(&node, key(1), 8).await.unwrap();
    }
    let bytes = fs::metadata(root.join("adopted")).unwrap().len();
    assert!(bytes < 1_000_000, "{bytes}");
    let (node, found) = start(root, 4, BOOT);
    assert_eq!(found, LogState::Intact);
    assert_eq!(node.adopted(&key(3)), Epoch(10_001));
}

/// A copy would be taken for one of a former epoch.
#[tokio::test]
async fn a_journal_that_is_damaged_before_its_end_makes_the_node_lost() {
    let dir = Dir::new();
    let root = dir.dir.path();
    let (node, _) = start(root, 1, BOOT);
    for epoch in 1..5 {
        adopt(&node, key(epoch), epoch).await.unwrap();
    }
    let path = root.join("adopted");
    let content = fs::read(&path).unwrap();
    let last = content.len() - 32;
    for at in (0..content.len()).filter(|at| !(8..10).contains(at)) {
        let other = Dir::new();
        let root = other.dir.path();
        start(root, 1, BOOT);
        let mut damaged = content.clone();
        damaged[at] ^= 1;
        fs::write(root.join("adopted"), damaged).unwrap();
        let (node, found) = start(root, 2, BOOT);
        let expected = match at < last {
            true => LogState::Lost,
            false => LogState::Intact,
        };
        assert_eq!(found, expected, "{at}");
        if at >= last {
            assert_eq!(node.adopted(&key(3)), Epoch(3));
            adopt(&node, key(5), 5).await.unwrap();
            let (node, _) = start(root, 3, BOOT);
            assert_eq!(
                (node.adopted(&key(3)), node.adopted(&key(5))),
                (Epoch(3), Epoch(5))
            );
        }
    }
}

#[tokio::test]
async fn what_was_adopted_survives_a_stop_at_any_operation() {
    for stop in [Stop::Kill, Stop::Power] {
        for operations in 1.. {
            let dir = Dir::new();
            let disk = CrashDisk::new(operations);
            let root = dir.dir.path();
            let mut adopted = 0;
            if let Ok((node, _)) = start_on(Arc::new(disk.clone()), root, 1, BOOT) {
                for epoch in 1..6 {
                    if adopt(&node, key(1), epoch).await.is_err() {
                        break;
                    }
                    adopted = epoch;
                }
            }
            let left = Dir::new();
            disk.leave(stop, root, left.dir.path());
            let (node, found) = start(left.dir.path(), 2, NEXT_BOOT);
            let epoch = node.adopted(&key(1)).0;
            assert!(
                (adopted..=adopted + 1).contains(&epoch),
                "{epoch}, {adopted}"
            );
            if adopted > 0 {
                assert_eq!(found, LogState::TailLost, "{operations}");
            }
            if !disk.is_stopped() {
                break;
            }
        }
    }
}

/// A disk whose syncs fail has not stored anything.
#[tokio::test]
async fn an_adoption_that_is_not_synced_is_not_reported() {
    let dir = Dir::new();
    let disk = Arc::new(FaultyDisk::default());
    let (node, _) = start_on(Arc::clone(&disk) as Arc<dyn Disk>, dir.dir.path(), 1, BOOT).unwrap();
    adopt(&node, key(1), 1).await.unwrap();
    disk.fail(super::faulty::Operation::Sync, "adopted");
    assert!(adopt(&node, key(1), 2).await.is_err());
    disk.heal();
    assert!(
        adopt(&node, key(1), 3).await.is_err(),
        "until the next start"
    );
}
