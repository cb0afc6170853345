//! Partitions that are removed, purged and created again.

use super::*;

#[tokio::test]
async fn another_generation_of_the_same_ids_sees_nothing_of_the_one_before() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 10, 1).await;
    let stored = storage
        .store_offset(key(1), written(), consumer(1), 5)
        .await;
    stored.unwrap();
    let stats = storage.stats(key(2), written()).await.unwrap();
    assert_eq!(stats, PartitionStats::default());
    let offset = storage
        .offset(key(2), written(), consumer(1))
        .await
        .unwrap();
    assert_eq!(offset, None);
    assert_eq!(
        storage.list().await.unwrap(),
        [key(1)],
        "reading creates no files"
    );
    let appended = storage.append(key(2), written(), numbered(0, 1), 1).await;
    assert_eq!(appended.unwrap().base_offset, 0);
    let mut keys = storage.list().await.unwrap();
    keys.sort();
    assert_eq!(keys, [key(1), key(2)]);
    storage.remove(key(1)).await.unwrap();
    storage.remove(key(1)).await.unwrap();
    assert_eq!(storage.list().await.unwrap(), [key(2)]);
    storage.remove(key(2)).await.unwrap();
    assert_eq!(storage.list().await.unwrap(), []);
    let left: Vec<_> = fs::read_dir(dir.dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "empty directories are removed: {left:?}");
}

/// The caller was allowed to append when that was checked; the partition was removed
/// since. An acknowledgement would be of a message that no client can ever read.
#[tokio::test]
async fn an_append_that_comes_after_the_removal_does_not_create_the_partition_again() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 10, 1).await;
    storage.remove(key(1)).await.unwrap();
    // Was never there: removed before the first use.
    storage.remove(key(2)).await.unwrap();
    for generation in [0, 1, 2] {
        let late = storage.append(key(generation), written(), numbered(0, 1), 1);
        let refused = late.await;
        assert!(matches!(refused, Err(StorageError::Removed)), "{refused:?}");
        let refused = storage.stats(key(generation), written()).await;
        assert!(matches!(refused, Err(StorageError::Removed)), "{refused:?}");
    }
    assert_eq!(storage.list().await.unwrap(), []);
    assert!(!dir.dir.path().join("1").exists(), "no directory is left");
    let other_ids = PartitionKey {
        partition_id: 4,
        ..key(1)
    };
    for key in [key(3), other_ids] {
        let appended = storage.append(key, written(), numbered(0, 1), 1).await;
        assert_eq!(appended.unwrap().base_offset, 0);
    }
}

/// A generation contains the position of its command above the index of its entry.
#[tokio::test]
async fn a_partition_that_is_created_after_a_removal_is_served_whatever_its_position() {
    let at = |index: u64, position: u64| key(index | position << GENERATION_INDEX_BITS);
    let dir = Dir::new();
    let storage = dir.storage();
    storage.remove(at(7, 3)).await.unwrap();
    for removed in [at(7, 3), at(7, 2), at(6, 4)] {
        let refused = storage
            .append(removed, written(), numbered(0, 1), 1)
            .await
            .unwrap_err();
        assert!(matches!(refused, StorageError::Removed), "{refused:?}");
    }
    for created in [at(7, 4), at(8, 0)] {
        let appended = storage.append(created, written(), numbered(0, 1), 1).await;
        assert_eq!(appended.unwrap().base_offset, 0);
    }
}

#[tokio::test]
async fn a_purged_partition_starts_at_zero_and_has_no_offsets() {
    let dir = Dir::new();
    let storage = dir.storage();
    storage.purge(key(1)).await.unwrap();
    for round in 0..3 {
        for number in 0..30 {
            append(&storage, number * 10, 10, round * 100 + number).await;
        }
        let stored = storage
            .store_offset(key(1), written(), consumer(1), 7)
            .await;
        stored.unwrap();
        assert_eq!(read(&storage, ReadFrom::First, 1000).await, all(300));
        storage.purge(key(1)).await.unwrap();
        for storage in [&storage, &dir.storage()] {
            let stats = storage.stats(key(1), written()).await.unwrap();
            assert_eq!(stats, PartitionStats::default());
            let offset = storage.offset(key(1), written(), consumer(1)).await;
            assert_eq!(offset.unwrap(), None);
        }
    }
}

/// Every append is either removed by the purge, or has an offset after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purges_in_the_midst_of_appends_and_reads_leave_a_whole_log() {
    let dir = Dir::new();
    let storage = Arc::new(dir.storage());
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move {
                for _ in 0..100 {
                    let batch = numbered(0, 3);
                    storage.append(key(1), written(), batch, 1).await.unwrap();
                    let polled = storage.read(key(1), written(), ReadFrom::Last, 5, 1 << 20);
                    decoded(&polled.await.unwrap());
                }
            })
        })
        .collect();
    for _ in 0..20 {
        storage.purge(key(1)).await.unwrap();
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let last = storage
        .append(key(1), written(), numbered(0, 1), 1)
        .await
        .unwrap();
    for storage in [&*storage, &dir.storage()] {
        let polled = storage
            .read(key(1), written(), ReadFrom::First, u32::MAX, 1 << 24)
            .await
            .unwrap();
        let offsets: Vec<_> = decoded(&polled)
            .into_iter()
            .map(|(offset, _)| offset)
            .collect();
        assert_eq!(offsets, all(last.base_offset + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_waits_for_the_write_in_flight_and_refuses_the_rest() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    let storage = Arc::new(storage);
    append_with(&storage, synced(), 0, 1, 1).await;
    disk.block_syncs();
    let shared = Arc::clone(&storage);
    let first =
        tokio::spawn(async move { shared.append(key(1), synced(), numbered(1, 1), 1).await });
    let blocked = Arc::clone(&disk);
    tokio::task::spawn_blocking(move || blocked.wait_for_blocked_sync())
        .await
        .unwrap();
    let shared = Arc::clone(&storage);
    let second =
        tokio::spawn(async move { shared.append(key(1), synced(), numbered(2, 1), 1).await });
    while storage.waiting(key(1)).await < 1 {
        tokio::task::yield_now().await;
    }
    let shared = Arc::clone(&storage);
    let removal = tokio::spawn(async move { shared.remove(key(1)).await });
    let refused = second.await.unwrap();
    assert!(matches!(refused, Err(StorageError::Removed)), "{refused:?}");
    assert!(!removal.is_finished() && !first.is_finished());
    assert!(dir.partition(key(1)).exists());
    disk.release_syncs();
    assert_eq!(first.await.unwrap().unwrap().base_offset, 1);
    removal.await.unwrap().unwrap();
    assert_eq!(storage.list().await.unwrap(), []);
}

/// A purge that has started is completed, even when its caller drops the future.
#[tokio::test]
async fn an_abandoned_purge_leaves_the_partition_usable() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 3, 1).await;
    {
        let purge = storage.purge(key(1));
        tokio::pin!(purge);
        let polled = std::future::poll_fn(|context| {
            let pending = purge.as_mut().poll(context).is_pending();
            std::task::Poll::Ready(pending)
        });
        assert!(polled.await, "it has only started");
    }
    // The purge locks the partition until it is done, or has not started.
    storage.purge(key(1)).await.unwrap();
    append(&storage, 0, 3, 1).await;
    assert_eq!(read(&storage, ReadFrom::First, 10).await, all(3));
}

#[tokio::test]
async fn what_a_crash_left_of_a_removal_is_deleted_at_the_next_start() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 3, 1).await;
    let left = dir.dir.path().join(".removed").join("0");
    fs::rename(storage.dir(&key(1)), &left).unwrap();
    let storage = dir.storage();
    assert!(!left.exists());
    assert_eq!(storage.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_storage_that_was_shut_down_refuses_writes_and_has_everything() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 10, 1).await;
    storage.shutdown().await.unwrap();
    let refused = storage.append(key(1), written(), numbered(10, 1), 1).await;
    assert!(matches!(refused, Err(StorageError::Closed)), "{refused:?}");
    let storage = dir.storage_after_boot();
    assert_eq!(read(&storage, ReadFrom::First, 100).await, all(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_open_one_partition_concurrently() {
    let dir = Dir::new();
    append(&dir.storage(), 0, 10, 1).await;
    let storage = Arc::new(dir.storage());
    let users: Vec<_> = (0..16)
        .map(|_| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move {
                let appended = storage.append(key(1), written(), numbered(0, 1), 1).await;
                appended.unwrap().base_offset
            })
        })
        .collect();
    let mut offsets = Vec::new();
    for user in users {
        offsets.push(user.await.unwrap());
    }
    offsets.sort_unstable();
    assert_eq!(offsets, (10..26).collect::<Vec<_>>());
}
