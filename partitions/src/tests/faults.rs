//! Disks that fail, and writers that wait.

use std::time::Duration;

use super::faulty::Operation;
use super::*;

async fn fails(storage: &EmbeddedStorage, options: PartitionOptions, from: u64) {
    let refused = storage.append(key(1), options, numbered(from, 1), 1).await;
    assert!(
        matches!(refused, Err(StorageError::Failed { .. })),
        "{refused:?}"
    );
}

async fn blocked_sync(disk: &Arc<FaultyDisk>) {
    let disk = Arc::clone(disk);
    let blocked = tokio::task::spawn_blocking(move || disk.wait_for_blocked_sync());
    blocked.await.unwrap();
}

fn spawn_append(
    storage: &Arc<EmbeddedStorage>,
    number: u64,
) -> tokio::task::JoinHandle<Result<Appended, StorageError>> {
    let storage = Arc::clone(storage);
    tokio::spawn(async move {
        storage
            .append(key(1), synced(), numbered(number, 1), 1)
            .await
    })
}

/// However much of it was written: nothing of a failed write is visible, and
/// no write is accepted after it, until the partition is opened again.
#[tokio::test]
async fn a_failed_write_stops_the_partition_and_shows_nothing() {
    for bytes in [0, 1, 100, 256, 300, 10_000] {
        let dir = Dir::new();
        let (disk, storage) = dir.faulty();
        append(&storage, 0, 3, 1).await;
        disk.fail_after(Operation::Write, ".log", bytes);
        fails(&storage, written(), 3).await;
        disk.heal();
        fails(&storage, written(), 3).await;
        assert_eq!(read(&storage, ReadFrom::First, 10).await, all(3), "{bytes}");
        storage.close(key(1)).await.unwrap();
        append(&storage, 3, 1, 1).await;
        for storage in [storage, dir.storage()] {
            assert_eq!(read(&storage, ReadFrom::First, 10).await, all(4));
        }
    }
}

#[tokio::test]
async fn a_failed_sync_is_not_acknowledged_and_is_named_in_the_error() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    append_with(&storage, synced(), 0, 3, 1).await;
    disk.fail(Operation::Sync, ".log");
    let error = storage.append(key(1), synced(), numbered(3, 1), 1).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("sync") && error.contains("injected"),
        "{error}"
    );
    disk.heal();
    fails(&storage, synced(), 3).await;
    assert_eq!(read(&storage, ReadFrom::First, 10).await, all(3));
    for storage in [dir.storage(), dir.storage_after_boot()] {
        assert_eq!(read(&storage, ReadFrom::First, 10).await, all(3));
    }
}

/// The kernel reports a lost write once. The next sync succeeds, which proves nothing.
#[tokio::test]
async fn after_a_failed_sync_nothing_vouches_for_what_it_should_have_saved() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    let options = PartitionOptions {
        segment_bytes_max: 64 << 20,
        ..written()
    };
    let large = batch(&vec![vec![b'x'; 1_000]; 2_000]);
    storage.append(key(1), options, large, 1).await.unwrap();
    disk.fail(Operation::Sync, ".log");
    let refused = storage.sync(key(1), options).await;
    assert!(
        matches!(refused, Err(StorageError::Io { .. })),
        "{refused:?}"
    );
    disk.heal();
    let again = storage.sync(key(1), options).await;
    assert!(
        matches!(again, Err(StorageError::Failed { .. })),
        "{again:?}"
    );
    fails(&storage, options, 2_000).await;
    storage.close(key(1)).await.unwrap();
    assert!(dir.files(key(1), "idx").is_empty());
}

#[tokio::test]
async fn a_background_sync_that_fails_stops_the_partition() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    disk.fail(Operation::SyncDir, "3-1");
    let mut next = 0;
    // The second segment starts a background sync, for which the append does not wait.
    let stopped = loop {
        let result = storage
            .append(key(1), written(), numbered(next, 50), 1)
            .await;
        match result {
            Ok(_) => next += 50,
            Err(error) => break error,
        }
        tokio::task::yield_now().await;
    };
    assert!(
        matches!(stopped, StorageError::Failed { .. }),
        "{stopped:?}"
    );
    let stats = storage.stats(key(1), written()).await.unwrap();
    assert_eq!(
        stats.next_offset, next,
        "all that was acknowledged is there"
    );
    let last: Vec<_> = (next - 10..next).collect();
    assert_eq!(read(&storage, ReadFrom::Last, 10).await, last);
}

#[tokio::test]
async fn a_segment_that_cannot_be_made_stops_the_partition() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    for operation in [Operation::Create, Operation::Write] {
        disk.fail_after(operation, ".log", 10);
        fails(&storage, written(), 0).await;
        disk.heal();
        storage.close(key(1)).await.unwrap();
    }
    append(&storage, 0, 3, 1).await;
    assert_eq!(read(&dir.storage(), ReadFrom::First, 10).await, all(3));
}

#[tokio::test]
async fn an_offset_that_could_not_be_written_is_not_there() {
    for (operation, file) in [
        (Operation::Write, "offsets"),
        (Operation::Sync, "offsets"),
        (Operation::Rename, "offsets"),
    ] {
        let dir = Dir::new();
        let (disk, storage) = dir.faulty();
        append(&storage, 0, 10, 1).await;
        let fresh = operation == Operation::Rename;
        if !fresh {
            let stored = storage.store_offset(key(1), synced(), consumer(1), 3).await;
            stored.unwrap();
        }
        disk.fail_after(operation, file, 5);
        let refused = storage.store_offset(key(1), synced(), consumer(1), 7).await;
        assert!(
            matches!(refused, Err(StorageError::Failed { .. })),
            "{refused:?}"
        );
        disk.heal();
        let offset = storage.offset(key(1), synced(), consumer(1)).await.unwrap();
        assert_eq!(offset, (!fresh).then_some(3));
        fails(&storage, synced(), 10).await;
        storage.close(key(1)).await.unwrap();
        let stored = storage.store_offset(key(1), synced(), consumer(1), 8).await;
        stored.unwrap();
        let offset = dir.storage().offset(key(1), synced(), consumer(1)).await;
        assert_eq!(offset.unwrap(), Some(8));
    }
}

#[tokio::test]
async fn hints_that_cannot_be_written_are_done_without() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    disk.fail(Operation::Rename, ".idx");
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    storage.shutdown().await.unwrap();
    assert!(dir.files(key(1), "idx").is_empty());
    assert_eq!(read(&dir.storage(), ReadFrom::First, 1000).await, all(350));
}

#[tokio::test]
async fn an_unsynced_partition_waits_for_no_sync() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    disk.block_syncs();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    assert_eq!(read(&storage, ReadFrom::First, 1000).await, all(350));
    disk.release_syncs();
}

/// A write whose sync runs is neither read nor acknowledged, and everything that
/// arrives meanwhile shares the next sync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_come_during_a_sync_share_the_next_one() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    let storage = Arc::new(storage);
    append_with(&storage, synced(), 0, 1, 1).await;
    let (writes, syncs) = (
        disk.count(Operation::Write, ".log"),
        disk.count(Operation::Sync, ".log"),
    );
    disk.block_syncs();
    let mut appends = vec![spawn_append(&storage, 1)];
    blocked_sync(&disk).await;
    for waiting in 1..=20 {
        appends.push(spawn_append(&storage, waiting + 1));
        while storage.waiting(key(1)).await < waiting as usize {
            tokio::task::yield_now().await;
        }
    }
    assert!(appends.iter().all(|append| !append.is_finished()));
    assert_eq!(read(&storage, ReadFrom::First, 100).await, [0]);
    disk.release_syncs();
    for (offset, append) in (1..).zip(appends) {
        assert_eq!(append.await.unwrap().unwrap().base_offset, offset);
    }
    assert_eq!(disk.count(Operation::Write, ".log") - writes, 2);
    assert_eq!(disk.count(Operation::Sync, ".log") - syncs, 2);
    assert_eq!(read(&storage, ReadFrom::First, 100).await, all(22));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_group_is_refused_as_a_whole() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    let storage = Arc::new(storage);
    append_with(&storage, synced(), 0, 1, 1).await;
    disk.block_syncs();
    let mut appends = vec![spawn_append(&storage, 1)];
    blocked_sync(&disk).await;
    appends.extend((2..10).map(|number| spawn_append(&storage, number)));
    disk.fail(Operation::Sync, ".log");
    disk.release_syncs();
    for append in appends {
        let refused = append.await.unwrap();
        assert!(
            matches!(refused, Err(StorageError::Failed { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(read(&storage, ReadFrom::First, 100).await, [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_append_happens_as_a_whole_or_not_at_all() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    let storage = Arc::new(storage);
    append_with(&storage, synced(), 0, 1, 1).await;
    disk.block_syncs();
    let first = spawn_append(&storage, 1);
    blocked_sync(&disk).await;
    let dropped = spawn_append(&storage, 2);
    while storage.waiting(key(1)).await < 1 {
        tokio::task::yield_now().await;
    }
    first.abort();
    dropped.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert!(dropped.await.unwrap_err().is_cancelled());
    disk.release_syncs();
    append_with(&storage, synced(), 3, 1, 1).await;
    for storage in [&*storage, &dir.storage()] {
        assert_eq!(read(storage, ReadFrom::First, 100).await, all(4));
    }
}

/// More than may wait is not queued.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_appenders_wait() {
    let dir = Dir::new();
    let disk = Arc::new(FaultyDisk::default());
    let one = numbered(0, 1).len();
    let config = EmbeddedStorageConfig {
        queue_bytes_max: 3 * one + one / 2,
        ..EmbeddedStorageConfig::default()
    };
    let root = dir.dir.path().to_owned();
    let on = Arc::clone(&disk) as Arc<dyn Disk>;
    let storage = Arc::new(EmbeddedStorage::on(on, root, config, BOOT).unwrap());
    append_with(&storage, synced(), 0, 1, 1).await;
    disk.block_syncs();
    let mut appends = vec![spawn_append(&storage, 1)];
    blocked_sync(&disk).await;
    for number in 2..10 {
        appends.push(spawn_append(&storage, number));
    }
    while storage.waiting(key(1)).await < 2 {
        tokio::task::yield_now().await;
    }
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
        assert_eq!(storage.waiting(key(1)).await, 2, "one is written, two fit");
    }
    disk.release_syncs();
    let mut offsets = Vec::new();
    for append in appends {
        offsets.push(append.await.unwrap().unwrap().base_offset);
    }
    offsets.sort_unstable();
    assert_eq!(offsets, (1..10).collect::<Vec<_>>());
    // A batch that is larger than the queue still goes through.
    let large = batch(&vec![vec![b'x'; 1_000]; 10]);
    let appended = storage.append(key(1), synced(), large, 1);
    let appended = tokio::time::timeout(Duration::from_secs(30), appended).await;
    assert_eq!(appended.unwrap().unwrap().base_offset, 10);
}

#[tokio::test]
async fn few_files_stay_open_however_many_partitions_there_are() {
    let dir = Dir::new();
    let disk = Arc::new(FaultyDisk::default());
    let config = EmbeddedStorageConfig {
        open_files_max: 4,
        ..EmbeddedStorageConfig::default()
    };
    let root = dir.dir.path().to_owned();
    let on = Arc::clone(&disk) as Arc<dyn Disk>;
    let storage = EmbeddedStorage::on(on, root, config, BOOT).unwrap();
    for round in 0..3 {
        for partition in 0..20 {
            let appended = storage
                .append(key(partition), written(), numbered(round, 1), 1)
                .await
                .unwrap();
            assert_eq!(appended.base_offset, round);
            let stored = storage.store_offset(key(partition), written(), consumer(1), round);
            stored.await.unwrap();
            assert!(storage.files().open_count() <= 4);
        }
    }
    // Closing a file with unsynced writes syncs it first.
    assert!(disk.count(Operation::Sync, ".log") >= 20);
    // What was acknowledged is recorded without a sync, and stays so.
    for name in ["acknowledged", "acknowledged.tmp"] {
        assert_eq!(disk.count(Operation::Sync, name), 0, "{name}");
    }
    for partition in 0..20 {
        let polled = storage
            .read(key(partition), written(), ReadFrom::First, 10, 1 << 20)
            .await
            .unwrap();
        assert_eq!(polled.messages, 3);
    }
}

/// The process has fewer file descriptors than the storage may keep files open, because
/// connections have them. Idle files are closed for those that are needed.
#[tokio::test]
async fn a_partition_continues_when_the_process_has_no_descriptor_left() {
    let dir = Dir::new();
    let disk = Arc::new(FaultyDisk::with_descriptors(3));
    let root = dir.dir.path().to_owned();
    let on = Arc::clone(&disk) as Arc<dyn Disk>;
    let config = EmbeddedStorageConfig::default();
    let storage = EmbeddedStorage::on(on, root, config, BOOT).unwrap();
    for round in 0..3 {
        for partition in 0..10 {
            let append = storage.append(key(partition), written(), numbered(round, 1), 1);
            assert_eq!(append.await.unwrap().base_offset, round);
            let stored = storage.store_offset(key(partition), written(), consumer(1), round);
            stored.await.unwrap();
        }
    }
    for partition in 0..10 {
        let from = ReadFrom::First;
        let read = storage.read(key(partition), written(), from, 10, 1 << 20);
        assert_eq!(read.await.unwrap().messages, 3);
    }
}
