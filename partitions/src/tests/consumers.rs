//! Consumer offsets.

use super::*;

async fn store(storage: &EmbeddedStorage, id: u32, offset: u64) -> Result<(), StorageError> {
    let options = written();
    storage
        .store_offset(key(1), options, consumer(id), offset)
        .await
}

async fn stored(storage: &EmbeddedStorage, id: u32) -> Option<u64> {
    storage
        .offset(key(1), written(), consumer(id))
        .await
        .unwrap()
}

#[tokio::test]
async fn consumer_offsets_survive_and_stay_within_the_log() {
    let dir = Dir::new();
    let group = ConsumerKey { group: true, id: 1 };
    let storage = dir.storage();
    assert!(matches!(
        store(&storage, 1, 0).await,
        Err(StorageError::InvalidOffset {
            offset: 0,
            current: 0
        })
    ));
    append(&storage, 0, 10, 1).await;
    store(&storage, 1, 4).await.unwrap();
    storage
        .store_offset(key(1), written(), group, 9)
        .await
        .unwrap();
    store(&storage, 2, 5).await.unwrap();
    storage
        .delete_offset(key(1), written(), consumer(2))
        .await
        .unwrap();
    assert!(matches!(
        store(&storage, 1, 10).await,
        Err(StorageError::InvalidOffset { current: 9, .. })
    ));
    for storage in [storage, dir.storage()] {
        assert_eq!(stored(&storage, 1).await, Some(4));
        assert_eq!(stored(&storage, 2).await, None);
        let of_group = storage.offset(key(1), written(), group).await.unwrap();
        assert_eq!(of_group, Some(9));
        let missing = storage.delete_offset(key(1), written(), consumer(2)).await;
        assert!(matches!(missing, Err(StorageError::OffsetNotFound)));
    }
}

/// The log loses its tail, an offset is set back to the end, the log grows past it, and
/// the node starts again: the consumer must not skip what was appended.
#[tokio::test]
async fn an_offset_that_was_set_back_stays_there_when_the_log_has_grown_again() {
    for kept in [0_u64, 5] {
        let dir = Dir::new();
        let storage = dir.storage();
        append(&storage, 0, 5, 1).await;
        let path = dir.segments().remove(0);
        let cut = if kept == 0 {
            crate::format::FILE_HEADER_BYTES_MAX as u64
        } else {
            fs::metadata(&path).unwrap().len()
        };
        append(&storage, 5, 5, 1).await;
        store(&storage, 1, 9).await.unwrap();
        store(&storage, 2, 3).await.unwrap();
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(cut)
            .unwrap();
        let set_back = kept.checked_sub(1);
        let before = (set_back, set_back.map(|last| last.min(3)));
        let storage = dir.storage_after_boot();
        assert_eq!(
            (stored(&storage, 1).await, stored(&storage, 2).await),
            before
        );
        append(&storage, kept, 20, 2).await;
        for storage in [storage, dir.storage_after_boot()] {
            let after = (stored(&storage, 1).await, stored(&storage, 2).await);
            assert_eq!(after, before, "with {kept} messages kept");
        }
    }
}

/// Every client that may poll can make up consumers. They must not take the groups' places, and
/// an administrator finds and removes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_consumers_are_refused_at_the_bound_and_can_be_listed_and_removed() {
    let dir = Dir::new();
    let storage = Arc::new(dir.storage());
    append(&storage, 0, 10, 1).await;
    let max = CONSUMERS_MAX as u32;
    let stores: Vec<_> = (0..max + 500)
        .map(|id| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move { store(&storage, id, 1).await })
        })
        .collect();
    let mut refused = 0;
    for stored in stores {
        match stored.await.unwrap() {
            Ok(()) => {}
            Err(StorageError::TooManyConsumers { max }) => {
                assert_eq!(max, CONSUMERS_MAX);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(refused, 500);
    let group = ConsumerKey { group: true, id: 1 };
    let stored = storage.store_offset(key(1), written(), group, 2).await;
    stored.unwrap();
    let storage = dir.storage();
    let all = storage.offsets(key(1), written()).await.unwrap();
    assert_eq!(all.len(), CONSUMERS_MAX + 1);
    let ids: Vec<_> = all.iter().filter(|(consumer, _)| !consumer.group).collect();
    let (known, _) = *ids[7];
    let stranger = max + 1_000;
    assert!(store(&storage, stranger, 1).await.is_err(), "after a start");
    store(&storage, known.id, 5).await.unwrap();
    let deleted = storage.delete_offset(key(1), written(), known).await;
    deleted.unwrap();
    store(&storage, stranger, 1).await.unwrap();
    assert!(store(&storage, known.id, 5).await.is_err());
}

#[tokio::test]
async fn an_offset_may_go_back() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 10, 1).await;
    store(&storage, 1, 9).await.unwrap();
    store(&storage, 1, 3).await.unwrap();
    for storage in [storage, dir.storage()] {
        assert_eq!(stored(&storage, 1).await, Some(3));
    }
}

#[tokio::test]
async fn a_file_of_offsets_does_not_grow_for_ever() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 10, 1).await;
    for round in 0..20_000 {
        store(&storage, 1, round % 10).await.unwrap();
    }
    let bytes = fs::metadata(dir.partition(key(1)).join("offsets"))
        .unwrap()
        .len();
    assert!(bytes < 100_000, "{bytes}");
    assert_eq!(stored(&dir.storage(), 1).await, Some(9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_consumers_store_concurrently() {
    let dir = Dir::new();
    let storage = Arc::new(dir.storage());
    append(&storage, 0, 100, 1).await;
    let consumers: Vec<_> = (0..64)
        .map(|id| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move {
                for offset in 0..=u64::from(id) {
                    store(&storage, id, offset).await.unwrap();
                }
            })
        })
        .collect();
    for consumer in consumers {
        consumer.await.unwrap();
    }
    for storage in [&*storage, &dir.storage()] {
        for id in 0..64 {
            assert_eq!(stored(storage, id).await, Some(u64::from(id)));
        }
    }
}

/// Each consumer continues from its last offset that can be read; none is ahead of
/// where it was, and all others lose nothing.
#[tokio::test]
async fn a_damaged_record_takes_one_consumer_back_at_most() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 10, 1).await;
    for (id, offset) in [(1, 1), (2, 2), (1, 5), (3, 3)] {
        store(&storage, id, offset).await.unwrap();
    }
    let path = dir.partition(key(1)).join("offsets");
    let content = fs::read(&path).unwrap();
    let before = [Some(5), Some(2), Some(3)];
    for at in 16..content.len() {
        let mut changed = content.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let storage = dir.storage();
        let mut differ = 0;
        for (id, before) in (1..).zip(before) {
            let after = stored(&storage, id).await;
            assert!(after <= before, "{at}: {after:?}");
            differ += usize::from(after != before);
        }
        assert!(differ <= 1, "{at}");
        assert_eq!(storage.damaged_offsets(), 1, "{at}");
    }
    for end in 16..content.len() {
        fs::write(&path, &content[..end]).unwrap();
        let storage = dir.storage();
        // Cut off by a crash, at most.
        assert_eq!(storage.damaged_offsets(), 0);
        assert!(stored(&storage, 1).await <= Some(5));
        store(&storage, 3, 7).await.unwrap();
        assert_eq!(stored(&dir.storage(), 3).await, Some(7), "{end}");
    }
}

#[tokio::test]
async fn a_file_of_offsets_that_is_none_is_refused() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 10, 1).await;
    store(&storage, 1, 1).await.unwrap();
    let path = dir.partition(key(1)).join("offsets");
    let content = fs::read(&path).unwrap();
    for at in 0..16 {
        let mut changed = content.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let refused = dir.storage().stats(key(1), written()).await;
        assert!(
            matches!(
                refused,
                Err(StorageError::Corrupt { .. } | StorageError::Version { .. })
            ),
            "{at}: {refused:?}"
        );
    }
}
