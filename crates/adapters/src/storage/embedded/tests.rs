use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use bytes::BytesMut;
use iggy_binary_protocol::requests::messages::{RawMessage, SendMessagesEncoder};
use iggy_binary_protocol::responses::messages::poll_messages::PolledBatchesIterator;
use iggy_binary_protocol::{WireIdentifier, WirePartitioning};
use proptest::prelude::*;

use super::*;
use crate::storage::{BatchError, Durability};

fn options() -> PartitionOptions {
    PartitionOptions {
        segment_bytes_max: 8 << 10,
        durability: Durability::Written,
        offset_durability: Durability::Written,
    }
}

fn key(created_at: u64) -> PartitionKey {
    PartitionKey {
        stream_id: 1,
        topic_id: 2,
        partition_id: 3,
        created_at,
    }
}

/// A batch as the client's own encoder makes it.
fn batch(payloads: &[Vec<u8>]) -> Bytes {
    let messages: Vec<_> = payloads
        .iter()
        .enumerate()
        .map(|(number, payload)| RawMessage {
            id: number as u128 + 1,
            origin_timestamp: 1_000 + number as u64,
            headers: None,
            payload,
        })
        .collect();
    let (stream, partitioning) = (WireIdentifier::Numeric(1), WirePartitioning::PartitionId(3));
    let mut out = BytesMut::new();
    SendMessagesEncoder::encode(&mut out, &stream, &stream, &partitioning, &messages).unwrap();
    let metadata = u32::from_le_bytes(out[..4].try_into().unwrap()) as usize;
    out.freeze().slice(4 + metadata..)
}

fn numbered(from: u64, count: u64) -> Bytes {
    let payloads: Vec<_> = (from..from + count)
        .map(|n| format!("message {n}").into_bytes())
        .collect();
    batch(&payloads)
}

/// Offsets and payloads, as the client's own decoder reads them.
fn decoded(polled: &PolledBatches) -> Vec<(u64, String)> {
    let joined = polled.batches.concat();
    let messages: Vec<_> = PolledBatchesIterator::new(&joined)
        .map(|message| {
            let message = message.unwrap();
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            (message.offset, payload)
        })
        .collect();
    assert_eq!(messages.len(), polled.messages as usize);
    assert_eq!(messages.last().map(|last| last.0), polled.last_offset);
    messages
}

async fn read(storage: &EmbeddedStorage, from: ReadFrom, count: u32) -> Vec<u64> {
    let polled = storage
        .read(key(1), options(), from, count, 1 << 20)
        .await
        .unwrap();
    decoded(&polled)
        .into_iter()
        .map(|(offset, payload)| {
            assert_eq!(payload, format!("message {offset}"));
            offset
        })
        .collect()
}

struct Dir {
    dir: tempfile::TempDir,
}

impl Dir {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn storage(&self) -> EmbeddedStorage {
        EmbeddedStorage::new(self.dir.path()).unwrap()
    }

    fn segments(&self, key: PartitionKey) -> Vec<PathBuf> {
        let mut paths: Vec<_> = fs::read_dir(self.storage().dir(&key))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "log"))
            .collect();
        paths.sort();
        paths
    }
}

async fn append(storage: &EmbeddedStorage, from: u64, count: u64, now: u64) {
    let appended = storage
        .append(key(1), options(), numbered(from, count), now)
        .await
        .unwrap();
    assert_eq!(
        (appended.base_offset, u64::from(appended.messages)),
        (from, count)
    );
}

#[tokio::test]
async fn messages_come_back_in_order_also_after_a_restart() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    for storage in [storage, dir.storage()] {
        assert!(dir.segments(key(1)).len() > 2, "several segments");
        assert_eq!(
            read(&storage, ReadFrom::First, 1000).await,
            (0..350).collect::<Vec<_>>()
        );
        assert_eq!(
            read(&storage, ReadFrom::Last, 10).await,
            (340..350).collect::<Vec<_>>()
        );
        assert_eq!(read(&storage, ReadFrom::Offset(350), 10).await, [0; 0]);
        let stats = storage.stats(key(1), options()).await.unwrap();
        assert_eq!(
            (stats.messages, stats.next_offset, stats.current_offset()),
            (350, 350, 349)
        );
    }
}

#[tokio::test]
async fn a_read_may_begin_and_end_inside_a_batch() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..5 {
        append(&storage, batch * 10, 10, batch).await;
    }
    for from in 0..50 {
        for count in 1..25 {
            let expected: Vec<_> = (from..50.min(from + count)).collect();
            let got = read(&storage, ReadFrom::Offset(from), count as u32).await;
            assert_eq!(got, expected, "{count} from {from}");
        }
    }
}

#[tokio::test]
async fn a_read_stays_within_its_bytes_and_makes_progress() {
    let dir = Dir::new();
    let storage = dir.storage();
    let large = batch(&[vec![b'x'; 5_000], vec![b'y'; 5_000], vec![b'z'; 5_000]]);
    for _ in 0..3 {
        storage
            .append(key(1), options(), large.clone(), 1)
            .await
            .unwrap();
    }
    let mut offset = 0;
    let mut seen = Vec::new();
    while offset < 9 {
        let polled = storage
            .read(key(1), options(), ReadFrom::Offset(offset), 100, 6_000)
            .await
            .unwrap();
        let bytes: usize = polled.batches.iter().map(Bytes::len).sum();
        assert!(bytes <= 6_000, "{bytes}");
        seen.extend(decoded(&polled).into_iter().map(|(offset, _)| offset));
        offset = polled.last_offset.unwrap() + 1;
    }
    assert_eq!(seen, (0..9).collect::<Vec<_>>());
    let tiny = storage
        .read(key(1), options(), ReadFrom::First, 100, 1)
        .await
        .unwrap();
    assert_eq!(tiny.messages, 1, "one message at least");
}

#[tokio::test]
async fn a_timestamp_finds_the_first_batch_that_is_late_enough() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..200 {
        append(&storage, batch * 3, 3, 1_000 + batch * 10).await;
    }
    // The clock goes back: time in the log does not.
    append(&storage, 600, 3, 5).await;
    for storage in [storage, dir.storage()] {
        for (timestamp, first) in [(0, 0), (1_000, 0), (1_001, 3), (2_000, 300), (2_990, 597)] {
            let got = read(&storage, ReadFrom::Timestamp(timestamp), 1).await;
            assert_eq!(got, [first], "at {timestamp}");
        }
        assert_eq!(read(&storage, ReadFrom::Timestamp(2_991), 1).await, [0; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_get_offsets_without_gaps() {
    let dir = Dir::new();
    let storage = Arc::new(dir.storage());
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move {
                let mut ranges = Vec::new();
                for number in 0..50 {
                    let payload = format!("{writer}/{number}").into_bytes();
                    let batch = batch(&vec![payload; 1 + writer % 3]);
                    let appended = storage.append(key(1), options(), batch, 1).await.unwrap();
                    ranges.push((appended.base_offset, appended.messages));
                }
                ranges
            })
        })
        .collect();
    let mut all = Vec::new();
    for writer in writers {
        let ranges = writer.await.unwrap();
        assert!(ranges.is_sorted(), "one writer's batches stay in order");
        all.extend(ranges);
    }
    all.sort_unstable();
    let mut next = 0;
    for (base, messages) in all {
        assert_eq!(base, next);
        next += u64::from(messages);
    }
    let polled = storage
        .read(key(1), options(), ReadFrom::First, 10_000, 1 << 24)
        .await
        .unwrap();
    assert_eq!(decoded(&polled).len() as u64, next);
}

/// The file ends at every byte of the last batch.
#[tokio::test]
async fn a_torn_last_batch_is_dropped_at_every_byte() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 3, 1).await;
    let path = dir.segments(key(1)).remove(0);
    let whole_before = fs::metadata(&path).unwrap().len();
    append(&storage, 3, 2, 2).await;
    let content = fs::read(&path).unwrap();
    for length in whole_before..content.len() as u64 {
        fs::write(&path, &content[..length as usize]).unwrap();
        let storage = dir.storage();
        assert_eq!(
            read(&storage, ReadFrom::First, 10).await,
            [0, 1, 2],
            "{length}"
        );
        append(&storage, 3, 1, 3).await;
        assert_eq!(read(&storage, ReadFrom::First, 10).await, [0, 1, 2, 3]);
    }
    fs::write(&path, &content).unwrap();
    assert_eq!(
        read(&dir.storage(), ReadFrom::First, 10).await,
        [0, 1, 2, 3, 4]
    );
}

#[tokio::test]
async fn damage_in_front_of_synced_batches_is_refused() {
    let synced = PartitionOptions {
        durability: Durability::Synced,
        ..options()
    };
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..3 {
        let appended = storage.append(key(1), synced, numbered(batch, 1), 1).await;
        appended.unwrap();
    }
    let path = dir.segments(key(1)).remove(0);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"\xff", 64 + 300).unwrap();
    let refused = dir.storage().stats(key(1), synced).await;
    assert!(
        matches!(refused, Err(StorageError::Corrupt { position: 64, .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn damage_in_a_sealed_segment_is_refused() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    let path = dir.segments(key(1)).remove(0);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"\xff\xff\xff", 64 + 32).unwrap();
    let refused = dir.storage().stats(key(1), options()).await;
    assert!(
        matches!(refused, Err(StorageError::Corrupt { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn batches_that_are_not_well_formed_are_refused_and_leave_no_trace() {
    let dir = Dir::new();
    let storage = dir.storage();
    let whole = numbered(0, 3);
    append(&storage, 0, 3, 1).await;
    for length in 0..whole.len() {
        let refused = storage
            .append(key(1), options(), whole.slice(..length), 1)
            .await;
        assert!(matches!(refused, Err(StorageError::Batch(_))), "{length}");
    }
    let mut changed = whole.to_vec();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let refused = storage.append(key(1), options(), changed.into(), 1).await;
    assert!(matches!(
        refused,
        Err(StorageError::Batch(BatchError::Checksum))
    ));
    append(&storage, 3, 1, 1).await;
}

#[tokio::test]
async fn consumer_offsets_survive_and_stay_within_the_log() {
    let dir = Dir::new();
    let consumer = |id| ConsumerKey { group: false, id };
    let group = ConsumerKey { group: true, id: 1 };
    let storage = dir.storage();
    append(&storage, 0, 10, 1).await;
    storage
        .store_offset(key(1), options(), consumer(1), 4)
        .await
        .unwrap();
    storage
        .store_offset(key(1), options(), group, 9)
        .await
        .unwrap();
    storage
        .store_offset(key(1), options(), consumer(2), 5)
        .await
        .unwrap();
    storage
        .delete_offset(key(1), options(), consumer(2))
        .await
        .unwrap();
    let beyond = storage
        .store_offset(key(1), options(), consumer(1), 10)
        .await;
    assert!(matches!(
        beyond,
        Err(StorageError::InvalidOffset { current: 9, .. })
    ));
    for storage in [storage, dir.storage()] {
        let offset = async |consumer| storage.offset(key(1), options(), consumer).await.unwrap();
        assert_eq!(offset(consumer(1)).await, Some(4));
        assert_eq!(offset(group).await, Some(9));
        assert_eq!(offset(consumer(2)).await, None);
        let missing = storage.delete_offset(key(1), options(), consumer(2)).await;
        assert!(matches!(missing, Err(StorageError::OffsetNotFound)));
    }
}

#[tokio::test]
async fn a_file_of_offsets_does_not_grow_for_ever() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 10, 1).await;
    let consumer = ConsumerKey {
        group: false,
        id: 1,
    };
    for round in 0..20_000 {
        storage
            .store_offset(key(1), options(), consumer, round % 10)
            .await
            .unwrap();
    }
    let bytes = fs::metadata(storage.dir(&key(1)).join("offsets"))
        .unwrap()
        .len();
    assert!(bytes < 100_000, "{bytes}");
    let offset = dir
        .storage()
        .offset(key(1), options(), consumer)
        .await
        .unwrap();
    assert_eq!(offset, Some(9));
}

#[tokio::test]
async fn another_life_of_the_same_ids_sees_nothing_of_the_former() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 10, 1).await;
    assert_eq!(
        storage.stats(key(2), options()).await.unwrap(),
        PartitionStats::default()
    );
    let appended = storage
        .append(key(2), options(), numbered(0, 1), 1)
        .await
        .unwrap();
    assert_eq!(appended.base_offset, 0);
    let mut keys = storage.list().await.unwrap();
    keys.sort();
    assert_eq!(keys, [key(1), key(2)]);
    storage.remove(key(1)).await.unwrap();
    storage.remove(key(1)).await.unwrap();
    assert_eq!(storage.list().await.unwrap(), [key(2)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_history_reads_like_a_list(
        steps in prop::collection::vec((0..10_u8, 1..6_u64, any::<prop::sample::Index>(), 1..40_u32), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = Dir::new();
            let mut storage = dir.storage();
            let mut next = 0;
            for (step, count, at, limit) in steps {
                match step {
                    0..=5 => {
                        append(&storage, next, count, next).await;
                        next += count;
                    }
                    6 => storage = dir.storage(),
                    _ => {
                        let from = at.index(next as usize + 1) as u64;
                        let expected: Vec<_> = (from..next.min(from + u64::from(limit))).collect();
                        let got = read(&storage, ReadFrom::Offset(from), limit).await;
                        assert_eq!(got, expected);
                    }
                }
            }
        });
    }
}
