//! Removing the oldest segments.

use super::faulty::Operation;
use super::*;

const MANY: u32 = 100;

/// Five messages a batch, a batch a millisecond.
async fn filled(storage: &EmbeddedStorage, batches: u64) {
    for number in 0..batches {
        let appended = storage
            .append(
                key(1),
                written(),
                numbered(5 * number, 5),
                1_000 * (number + 1),
            )
            .await
            .unwrap();
        assert_eq!(appended.base_offset, 5 * number);
    }
}

fn storage_at(dir: &std::path::Path) -> EmbeddedStorage {
    EmbeddedStorage::new(dir, EmbeddedStorageConfig::default()).unwrap()
}

async fn trim(storage: &EmbeddedStorage, trim: Trim) -> u32 {
    let trimmed = storage.trim(key(1), written(), trim).await.unwrap();
    trimmed.segments
}

async fn stats(storage: &EmbeddedStorage) -> PartitionStats {
    storage.stats(key(1), written()).await.unwrap()
}

/// The oldest so many.
async fn oldest(storage: &EmbeddedStorage, count: u32) -> Trim {
    Trim {
        segments_max: MANY,
        through: storage.sealed_end(key(1), written(), count).await.unwrap(),
        ..Trim::default()
    }
}

async fn trim_oldest(storage: &EmbeddedStorage, count: u32) -> u32 {
    trim(storage, oldest(storage, count).await).await
}

#[tokio::test]
async fn the_oldest_go_and_the_last_stays() {
    let dir = tempfile::tempdir().unwrap();
    let storage = storage_at(dir.path());
    filled(&storage, 100).await;
    let before = stats(&storage).await;
    assert!(before.segments > 4, "{before:?}");
    assert_eq!(trim_oldest(&storage, 0).await, 0);
    assert_eq!(trim_oldest(&storage, 2).await, 2);
    let after = stats(&storage).await;
    assert_eq!(after.segments, before.segments - 2);
    assert_eq!(after.next_offset, before.next_offset);
    assert!(after.bytes < before.bytes);
    assert_eq!(after.messages, after.next_offset - after.first_offset);
    // What is gone is passed over.
    let offsets = read(&storage, ReadFrom::Offset(0), 3).await;
    assert_eq!(offsets[0], after.first_offset);
    assert_eq!(trim_oldest(&storage, MANY).await, after.segments - 1);
    let last = stats(&storage).await;
    assert_eq!(last.segments, 1);
    filled_on(&storage, last.next_offset).await;
}

/// Iggy's server seals a full segment with the batch that fills it, and not with the next.
#[tokio::test]
async fn the_segment_that_a_batch_filled_can_be_deleted_immediately() {
    let dir = tempfile::tempdir().unwrap();
    let storage = storage_at(dir.path());
    for durability in [written(), synced()] {
        let options = PartitionOptions {
            segment_bytes_max: 1,
            ..durability
        };
        let from = stats(&storage).await.next_offset;
        for number in from..from + 3 {
            append_with(&storage, options, number, 1, 1).await;
        }
        let end = storage.sealed_end(key(1), options, MANY).await.unwrap();
        assert_eq!(end, Some(from + 2), "all three are sealed");
        assert_eq!(trim_oldest(&storage, 2).await, 2);
        assert_eq!(trim_oldest(&storage, 1).await, 1);
        let left = stats(&storage).await;
        assert_eq!((left.segments, left.messages), (1, 0));
        assert_eq!((left.first_offset, left.next_offset), (from + 3, from + 3));
    }
    storage.shutdown().await.unwrap();
    let storage = storage_at(dir.path());
    filled_on(&storage, 6).await;
}

async fn filled_on(storage: &EmbeddedStorage, next: u64) {
    let appended = storage
        .append(key(1), written(), numbered(next, 1), 1_000_000)
        .await
        .unwrap();
    assert_eq!(appended.base_offset, next, "offsets are not given again");
}

#[tokio::test]
async fn what_is_left_is_found_again_and_offsets_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let storage = storage_at(dir.path());
        filled(&storage, 100).await;
        trim_oldest(&storage, 3).await;
        let stats = stats(&storage).await;
        storage.shutdown().await.unwrap();
        stats
    };
    let storage = storage_at(dir.path());
    assert_eq!(stats(&storage).await, before);
    filled_on(&storage, before.next_offset).await;
}

#[tokio::test]
async fn a_segment_that_a_consumer_has_not_read_stays() {
    let dir = tempfile::tempdir().unwrap();
    let storage = storage_at(dir.path());
    filled(&storage, 100).await;
    trim_oldest(&storage, 1).await;
    let first = stats(&storage).await.first_offset;
    let one = oldest(&storage, 1).await;
    let reader = ConsumerKey {
        group: false,
        id: 7,
    };
    let read_to = async |offset| {
        let stored = storage.store_offset(key(1), written(), reader, offset);
        stored.await.unwrap();
    };
    read_to(first).await;
    assert_eq!(trim(&storage, one).await, 0);
    let next_segment = {
        let copy = tempfile::tempdir().unwrap();
        let other = storage_at(copy.path());
        filled(&other, 100).await;
        trim_oldest(&other, 2).await;
        stats(&other).await.first_offset
    };
    read_to(next_segment - 2).await;
    // Another one has read more, and a group less than the segment: the lowest is named.
    let other = ConsumerKey {
        group: false,
        id: 1,
    };
    let group = ConsumerKey { group: true, id: 0 };
    for (consumer, offset) in [(other, next_segment), (group, next_segment - 3)] {
        let stored = storage.store_offset(key(1), written(), consumer, offset);
        stored.await.unwrap();
    }
    let kept = |consumer, offset| Trimmed {
        segments: 0,
        kept_for: Some((consumer, offset)),
    };
    let trimmed = async || storage.trim(key(1), written(), one).await.unwrap();
    assert_eq!(trimmed().await, kept(group, next_segment - 3));
    let deleted = storage.delete_offset(key(1), written(), group);
    deleted.await.unwrap();
    assert_eq!(trimmed().await, kept(reader, next_segment - 2));
    read_to(next_segment - 1).await;
    let removed = Trimmed {
        segments: 1,
        kept_for: None,
    };
    assert_eq!(trimmed().await, removed);
    // There is no reason to remove the next one, so it is not kept for a consumer.
    assert_eq!(trimmed().await, Trimmed::default());
}

#[tokio::test]
async fn sizes_and_times_are_reasons_and_the_bound_holds() {
    let dir = tempfile::tempdir().unwrap();
    let storage = storage_at(dir.path());
    filled(&storage, 100).await;
    let old = Trim {
        segments_max: MANY,
        not_after: Some(0),
        ..Trim::default()
    };
    assert_eq!(trim(&storage, old).await, 0);
    let all_old = Trim {
        segments_max: 1,
        not_after: Some(1_000_000),
        ..old
    };
    assert_eq!(trim(&storage, all_old).await, 1);
    let first = stats(&storage).await.first_offset;
    // The first batch of the next segment is old enough, its last is not.
    let partly = Trim {
        not_after: Some(1_000 * (first / 5 + 1)),
        ..old
    };
    assert_eq!(trim(&storage, partly).await, 0);

    let segments = stats(&storage).await.segments;
    let large = |max| Trim {
        segments_max: MANY,
        sealed_bytes_max: Some(max),
        ..Trim::default()
    };
    assert_eq!(trim(&storage, large(u64::MAX)).await, 0);
    let removed = trim(&storage, large(2 * (8 << 10))).await;
    assert!(removed > 0 && removed < segments - 1, "{removed}");
    assert_eq!(trim(&storage, large(2 * (8 << 10))).await, 0);
    assert_eq!(trim(&storage, large(0)).await, segments - 1 - removed);
}

/// Each removal is on the disk before the next one starts.
#[tokio::test]
async fn removals_cannot_overtake_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let storage = faulty(&disk, dir.path(), BOOT);
    filled(&storage, 100).await;
    trim_oldest(&storage, 3).await;
    let removals: Vec<_> = disk
        .operations()
        .into_iter()
        .filter(|(operation, file)| {
            *operation == Operation::Remove && file.ends_with("log")
                || *operation == Operation::SyncDir
        })
        .map(|(operation, _)| operation)
        .collect();
    let one = [Operation::Remove, Operation::SyncDir];
    assert!(removals.ends_with(&[one, one, one].concat()));
}

#[tokio::test]
async fn a_failure_anywhere_leaves_what_follows_some_offset() {
    for (operation, file) in [
        (Operation::Remove, "log"),
        (Operation::SyncDir, ""),
        (Operation::Remove, "idx"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::default());
        let storage = faulty(&disk, dir.path(), BOOT);
        filled(&storage, 100).await;
        let before = stats(&storage).await;
        let three = oldest(&storage, 3).await;
        disk.fail(operation, file);
        let trimmed = storage.trim(key(1), written(), three).await;
        disk.heal();
        assert_eq!(trimmed.is_ok(), file == "idx", "hints are no loss");
        let more = oldest(&storage, 3).await;
        let again = storage.trim(key(1), written(), more).await;
        assert_eq!(again.is_ok(), file == "idx", "a hole is not made larger");
        let storage = faulty(&disk, dir.path(), NEXT_BOOT);
        let after = stats(&storage).await;
        assert_eq!(after.next_offset, before.next_offset);
        let removed_at_most = if file == "idx" { 6 } else { 3 };
        assert!(after.segments + removed_at_most >= before.segments);
        let offsets = read(&storage, ReadFrom::First, 1_000).await;
        let expected: Vec<u64> = (after.first_offset..after.next_offset).collect();
        assert_eq!(offsets, expected);
    }
}

fn faulty(disk: &Arc<FaultyDisk>, dir: &std::path::Path, boot: u64) -> EmbeddedStorage {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    EmbeddedStorage::on(disk, dir.to_owned(), EmbeddedStorageConfig::default(), boot).unwrap()
}

/// A reader may have planned to read what is then removed.
#[tokio::test]
async fn a_read_of_a_segment_that_is_removed_meanwhile_continues_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedStorageConfig {
        // Every read opens the file it needs.
        open_files_max: 1,
        ..EmbeddedStorageConfig::default()
    };
    let storage = Arc::new(EmbeddedStorage::new(dir.path(), config).unwrap());
    filled(&storage, 800).await;
    let reader = {
        let storage = Arc::clone(&storage);
        tokio::spawn(async move {
            for _ in 0..300 {
                let polled = poll(&storage, ReadFrom::First, 3).await;
                assert!(polled.last_offset.is_some());
            }
        })
    };
    while trim_oldest(&storage, 1).await > 0 {
        tokio::task::yield_now().await;
    }
    reader.await.unwrap();
}
