//! Disks without room: a state that ends by itself.

use super::faulty::Operation;
use super::*;

async fn refused(storage: &EmbeddedStorage, options: PartitionOptions, from: u64) {
    let refused = storage.append(key(1), options, numbered(from, 1), 1).await;
    assert!(
        matches!(refused, Err(StorageError::Full { .. })),
        "{refused:?}"
    );
    let refusing = storage.refusing();
    assert!(
        matches!(&refusing[..], [(found, StorageError::Full { .. })] if *found == key(1)),
        "{refusing:?}"
    );
}

async fn store(storage: &EmbeddedStorage, id: u32, offset: u64) -> Result<(), StorageError> {
    storage
        .store_offset(key(1), written(), consumer(id), offset)
        .await
}

async fn stored(storage: &EmbeddedStorage, id: u32) -> Option<u64> {
    let stored = storage.offset(key(1), written(), consumer(id)).await;
    stored.unwrap()
}

/// However much of it fits: nothing of the write is left, and the next one tries again.
#[tokio::test]
async fn a_partition_on_a_full_disk_accepts_writes_again_when_there_is_room() {
    for options in [written(), synced()] {
        for bytes in [0, 1, 100, 256, 300] {
            let dir = Dir::new();
            let (disk, storage) = dir.faulty();
            append_with(&storage, options, 0, 3, 1).await;
            disk.fill("", bytes);
            for _ in 0..3 {
                refused(&storage, options, 3).await;
                assert_eq!(read(&storage, ReadFrom::First, 10).await, all(3));
            }
            let killed = dir.copy();
            assert_eq!(read(&killed.storage(), ReadFrom::First, 10).await, all(3));
            disk.heal();
            append_with(&storage, options, 3, 1, 1).await;
            assert!(storage.refusing().is_empty());
            for storage in [storage, dir.storage(), dir.storage_after_boot()] {
                assert_eq!(read(&storage, ReadFrom::First, 10).await, all(4), "{bytes}");
            }
        }
    }
}

#[tokio::test]
async fn no_first_segment_and_no_record_fit_on_a_full_disk() {
    for (file, bytes) in [
        ("", 0),
        (".log", 10),
        ("acknowledged", 0),
        ("acknowledged", 10),
    ] {
        let dir = Dir::new();
        let (disk, storage) = dir.faulty();
        disk.fill(file, bytes);
        for _ in 0..2 {
            refused(&storage, written(), 0).await;
        }
        disk.heal();
        append(&storage, 0, 3, 1).await;
        assert_eq!(read(&dir.storage(), ReadFrom::First, 10).await, all(3));
    }
}

/// Nothing is written to show it, because there may be no producer any more.
#[tokio::test]
async fn a_full_disk_is_reported_only_as_long_as_it_is_full() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    append(&storage, 0, 3, 1).await;
    disk.fill("", 0);
    refused(&storage, written(), 3).await;
    disk.heal();
    assert!(storage.refusing().is_empty());
}

/// What is left of the write could come back.
#[tokio::test]
async fn a_write_that_cannot_be_taken_back_fails_the_partition() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    append(&storage, 0, 3, 1).await;
    disk.fill(".log", 300);
    disk.fail(Operation::Truncate, ".log");
    for _ in 0..2 {
        let refused = storage.append(key(1), written(), numbered(3, 1), 1).await;
        assert!(
            matches!(refused, Err(StorageError::Failed { .. })),
            "{refused:?}"
        );
        disk.heal();
    }
}

/// A consumer has to make progress, or retention could not remove what it has read.
#[tokio::test]
async fn consumers_with_an_offset_make_progress_on_a_full_disk() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    append(&storage, 0, 10, 1).await;
    for (id, offset) in [(1, 1), (2, 2), (3, 3), (1, 4)] {
        store(&storage, id, offset).await.unwrap();
    }
    disk.fill("", 5);
    store(&storage, 1, 7).await.unwrap();
    store(&storage, 1, 8).await.unwrap();
    let deleted = storage.delete_offset(key(1), written(), consumer(3)).await;
    deleted.unwrap();
    let refused = store(&storage, 4, 1).await;
    assert!(
        matches!(refused, Err(StorageError::Full { .. })),
        "{refused:?}"
    );
    let killed = dir.copy();
    for storage in [&storage, &killed.storage()] {
        let mut found = Vec::new();
        for id in 1..5 {
            found.push(stored(storage, id).await);
        }
        assert_eq!(found, [Some(8), Some(2), None, None]);
    }
    disk.heal();
    store(&storage, 4, 1).await.unwrap();
    store(&storage, 3, 9).await.unwrap();
    let reopened = dir.storage();
    assert_eq!(stored(&reopened, 3).await, Some(9));
    assert_eq!(stored(&reopened, 4).await, Some(1));
}

/// Offsets beyond the end of a log that lost its tail are set back before anything else.
#[tokio::test]
async fn a_partition_whose_log_lost_its_tail_opens_on_a_full_disk() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 5, 1).await;
    let path = dir.segments().remove(0);
    let end = fs::metadata(&path).unwrap().len();
    append(&storage, 5, 5, 1).await;
    store(&storage, 1, 9).await.unwrap();
    store(&storage, 2, 3).await.unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(end).unwrap();
    let disk = Arc::new(FaultyDisk::default());
    disk.fill("", 0);
    let storage = dir.storage_on(Arc::clone(&disk) as Arc<dyn Disk>, NEXT_BOOT);
    for storage in [storage, dir.storage_after_boot()] {
        assert_eq!(stored(&storage, 1).await, Some(4));
        assert_eq!(stored(&storage, 2).await, Some(3));
    }
}

#[tokio::test]
async fn retention_removes_segments_on_a_full_disk() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    disk.fill("", 0);
    refused(&storage, written(), 350).await;
    let before = dir.segments().len();
    let trim = Trim {
        segments_max: 2,
        sealed_bytes_max: Some(0),
        ..Trim::default()
    };
    assert_eq!(
        storage
            .trim(key(1), written(), trim)
            .await
            .unwrap()
            .segments,
        2
    );
    assert_eq!(dir.segments().len(), before - 2);
}

/// Moving it away first needs a new name.
#[tokio::test]
async fn a_partition_is_deleted_on_a_full_disk() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    append(&storage, 0, 3, 1).await;
    disk.fill("", 0);
    refused(&storage, written(), 3).await;
    let path = dir.partition(key(1));
    assert!(path.exists());
    storage.remove(key(1)).await.unwrap();
    assert!(!path.exists());
    assert!(storage.refusing().is_empty());
}

/// On a full disk it could not be created again.
#[tokio::test]
async fn the_directory_of_removed_partitions_is_emptied_and_stays() {
    use std::os::unix::fs::MetadataExt;
    let dir = Dir::new();
    drop(dir.storage());
    let removed = dir.dir.path().join(".removed");
    let before = fs::File::open(&removed).unwrap();
    fs::create_dir_all(removed.join("7/below")).unwrap();
    fs::write(removed.join("7/below/file"), b"x").unwrap();
    drop(dir.storage());
    assert_eq!(fs::read_dir(&removed).unwrap().count(), 0);
    let links = before.metadata().unwrap().nlink();
    assert!(links > 0, "a deleted directory has no links");
}
