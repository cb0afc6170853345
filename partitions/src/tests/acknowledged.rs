//! What was acknowledged is there, or the partition refuses.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::faulty::Operation;
use super::*;

const SLOT: usize = 84;
const SECOND_SLOT: usize = 512;

async fn open(storage: &EmbeddedStorage) -> Result<PartitionStats, StorageError> {
    storage.stats(key(1), written()).await
}

/// Where the log ends, and where it has to, by the error of a partition that refuses.
async fn lost(storage: &EmbeddedStorage) -> (u64, u64) {
    match open(storage).await {
        Err(StorageError::Lost {
            end, acknowledged, ..
        }) => (end, acknowledged),
        other => panic!("{other:?}"),
    }
}

/// A batch of three messages and one of two, and the process is killed.
async fn killed(options: PartitionOptions) -> (Dir, PathBuf, usize) {
    let dir = Dir::new();
    let storage = dir.storage();
    append_with(&storage, options, 0, 3, 1).await;
    let path = dir.segments().remove(0);
    let first = fs::metadata(&path).unwrap().len() as usize;
    append_with(&storage, options, 3, 2, 2).await;
    (dir, path, first)
}

#[tokio::test]
async fn damage_in_the_newest_batch_is_refused_at_every_byte_after_a_kill() {
    for options in [written(), synced()] {
        let (dir, path, first) = killed(options).await;
        let content = fs::read(&path).unwrap();
        for at in first..content.len() {
            let mut flipped = content.clone();
            flipped[at] ^= 0x10;
            for damaged in [&flipped[..], &content[..at]] {
                fs::write(&path, damaged).unwrap();
                assert_eq!(lost(&dir.storage()).await, (3, 5), "{at}");
                assert_eq!(fs::read(&path).unwrap(), damaged, "nothing is cut");
            }
        }
        fs::write(&path, &content).unwrap();
        assert_eq!(read(&dir.storage(), ReadFrom::First, 10).await, all(5));
    }
}

/// A partition that refuses is reported until it does not, also if it cannot be opened.
#[tokio::test]
async fn a_partition_that_lost_messages_is_reported_until_the_loss_is_accepted() {
    let (dir, path, first) = killed(written()).await;
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(first as u64 + 1).unwrap();
    let storage = dir.storage();
    assert!(storage.refusing().is_empty(), "not used yet");
    assert_eq!(lost(&storage).await, (3, 5));
    let refusing = storage.refusing();
    assert!(
        matches!(&refusing[..], [(found, StorageError::Lost { .. })] if *found == key(1)),
        "{refusing:?}"
    );
    fs::remove_file(dir.acknowledged()).unwrap();
    append(&storage, 3, 1, 1).await;
    assert!(storage.refusing().is_empty());

    let (disk, storage) = dir.faulty();
    disk.fail(Operation::Write, ".log");
    let refused = storage.append(key(1), written(), numbered(4, 1), 1).await;
    assert!(refused.is_err());
    disk.heal();
    let refusing = storage.refusing();
    assert!(
        matches!(&refusing[..], [(_, StorageError::Failed { .. })]),
        "{refusing:?}"
    );
    storage.remove(key(1)).await.unwrap();
    assert!(storage.refusing().is_empty());
}

#[tokio::test]
async fn segments_that_are_missing_at_the_end_are_noticed() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    storage.shutdown().await.unwrap();
    for path in dir.segments().into_iter().rev() {
        let is_empty =
            fs::metadata(&path).unwrap().len() == crate::format::FILE_HEADER_BYTES_MAX as u64;
        fs::remove_file(&path).unwrap();
        if is_empty {
            continue;
        }
        let (end, acknowledged) = lost(&dir.storage()).await;
        assert!(end < 350, "{end}");
        assert_eq!(acknowledged, 350);
    }
    assert_eq!(lost(&dir.storage()).await, (0, 350));
}

#[tokio::test]
async fn a_loss_is_accepted_by_deleting_the_record_while_the_node_runs() {
    let (dir, path, first) = killed(written()).await;
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(first as u64 + 1).unwrap();
    let storage = dir.storage();
    for from in 3..6 {
        let refused = storage.append(key(1), written(), numbered(from, 1), 1);
        let error = refused.await.unwrap_err().to_string();
        let record = dir.acknowledged();
        assert!(
            error.contains(&format!("delete the file {}", record.display())),
            "{error}"
        );
    }
    fs::remove_file(dir.acknowledged()).unwrap();
    append(&storage, 3, 4, 1).await;
    assert_eq!(read(&dir.storage(), ReadFrom::First, 10).await, all(7));
}

/// What was not on the disk may be lost with the machine, and is lost once: the record must
/// not count for messages that get the same offsets.
#[tokio::test]
async fn after_a_stop_of_the_machine_only_what_was_synced_has_to_be_there() {
    let (dir, path, first) = killed(written()).await;
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(first as u64).unwrap();
    assert_eq!(lost(&dir.storage()).await, (3, 5));
    let storage = dir.storage_after_boot();
    assert_eq!(open(&storage).await.unwrap().next_offset, 3);
    for storage in [dir.storage(), dir.storage_after_boot()] {
        assert_eq!(open(&storage).await.unwrap().next_offset, 3);
    }
    append(&storage, 3, 1, 1).await;
    file.set_len(first as u64).unwrap();
    assert_eq!(lost(&dir.storage_after_boot()).await, (3, 4));

    let (dir, path, first) = killed(synced()).await;
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(first as u64).unwrap();
    assert_eq!(lost(&dir.storage_after_boot()).await, (3, 5));
}

/// As found in directories of the version before it.
#[tokio::test]
async fn a_partition_without_a_record_gets_one_with_its_next_append() {
    let (dir, path, first) = killed(written()).await;
    fs::remove_file(dir.acknowledged()).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(first as u64 + 10).unwrap();
    let storage = dir.storage();
    append(&storage, 3, 1, 1).await;
    file.set_len(first as u64).unwrap();
    assert_eq!(lost(&dir.storage()).await, (3, 4));
}

#[tokio::test]
async fn of_a_damaged_record_the_other_slot_counts() {
    let (dir, path, _) = killed(written()).await;
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    let record = fs::read(dir.acknowledged()).unwrap();
    let slots = OpenOptions::new()
        .write(true)
        .open(dir.acknowledged())
        .unwrap();
    for damaged in [vec![0], vec![SECOND_SLOT], vec![0, SECOND_SLOT]] {
        for at in &damaged {
            for byte in [0, 33, SLOT - 1] {
                let flipped = record[at + byte] ^ 1;
                slots.write_all_at(&[flipped], (at + byte) as u64).unwrap();
            }
        }
        assert_eq!(open(&dir.storage()).await.unwrap().next_offset, 5);
        // Before both batches, which both slots have seen.
        file.set_len(crate::format::FILE_HEADER_BYTES_MAX as u64)
            .unwrap();
        let refused = open(&dir.storage()).await.is_err();
        assert_eq!(refused, damaged.len() == 1, "{damaged:?}");
        fs::write(&path, &whole).unwrap();
        fs::write(dir.acknowledged(), &record).unwrap();
    }
}

#[tokio::test]
async fn a_record_of_another_partition_or_version_is_refused() {
    let (dir, ..) = killed(written()).await;
    let record = fs::read(dir.acknowledged()).unwrap();
    let storage = dir.storage();
    let other = storage.append(key(2), written(), numbered(0, 1), 1);
    other.await.unwrap();
    let foreign = dir.partition(key(2)).join("acknowledged");
    fs::copy(&foreign, dir.acknowledged()).unwrap();
    let refused = open(&dir.storage()).await;
    assert!(
        matches!(refused, Err(StorageError::Corrupt { .. })),
        "{refused:?}"
    );
    let mut newer = record;
    for at in [0, SECOND_SLOT] {
        newer[at + 8] = 9;
        let crc = crc32c::crc32c(&newer[at..at + SLOT - 4]).to_le_bytes();
        newer[at + SLOT - 4..at + SLOT].copy_from_slice(&crc);
    }
    fs::write(dir.acknowledged(), newer).unwrap();
    let refused = open(&dir.storage()).await;
    assert!(
        matches!(refused, Err(StorageError::Version { found: 9, .. })),
        "{refused:?}"
    );
}

/// Otherwise it proves nothing.
#[tokio::test]
async fn nothing_is_acknowledged_that_is_not_recorded() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    append(&storage, 0, 3, 1).await;
    disk.fail(Operation::Write, "acknowledged");
    let refused = storage.append(key(1), written(), numbered(3, 1), 1).await;
    assert!(
        matches!(refused, Err(StorageError::Failed { .. })),
        "{refused:?}"
    );
    disk.heal();
    assert_eq!(read(&storage, ReadFrom::First, 10).await, all(3));
    storage.close(key(1)).await.unwrap();
    // Whether it was recorded is unknown, so it stays.
    assert_eq!(read(&storage, ReadFrom::First, 10).await, all(4));
}

/// Appends that share a write share the record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_appends_is_recorded_with_one_write_and_no_sync() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    let storage = Arc::new(storage);
    append_with(&storage, synced(), 0, 1, 1).await;
    let count = |disk: &FaultyDisk| {
        (
            disk.count(Operation::Write, ".log"),
            // It keeps the name under which it was created.
            disk.count(Operation::Write, "acknowledged.tmp"),
            disk.count(Operation::Sync, "acknowledged.tmp"),
        )
    };
    let before = count(&disk);
    disk.block_syncs();
    let spawn = |number| {
        let storage = Arc::clone(&storage);
        tokio::spawn(async move {
            storage
                .append(key(1), synced(), numbered(number, 1), 1)
                .await
        })
    };
    let mut appends = vec![spawn(1)];
    let blocked = Arc::clone(&disk);
    let blocked = tokio::task::spawn_blocking(move || blocked.wait_for_blocked_sync());
    blocked.await.unwrap();
    for waiting in 1..=20 {
        appends.push(spawn(waiting + 1));
        while storage.waiting(key(1)).await < waiting as usize {
            tokio::task::yield_now().await;
        }
    }
    disk.release_syncs();
    for append in appends {
        append.await.unwrap().unwrap();
    }
    let after = count(&disk);
    let writes = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
    assert_eq!(writes, (2, 2, 0));
}
