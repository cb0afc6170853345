//! What goes in comes out.

use iggy_binary_protocol::batch::{BATCH_HEADER_SIZE, BatchHeader, calculate_batch_checksum};
use twox_hash::XxHash3_64;

use super::*;

#[tokio::test]
async fn messages_come_back_in_order_also_after_a_restart() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    for storage in [storage, dir.storage()] {
        assert!(dir.segments().len() > 2, "several segments");
        assert_eq!(read(&storage, ReadFrom::First, 1000).await, all(350));
        let last: Vec<_> = (340..350).collect();
        assert_eq!(read(&storage, ReadFrom::Last, 10).await, last);
        assert_eq!(read(&storage, ReadFrom::Last, 1000).await, all(350));
        let stats = storage.stats(key(1), written()).await.unwrap();
        assert_eq!(
            (stats.messages, stats.first_offset, stats.next_offset),
            (350, 0, 350)
        );
        assert_eq!(stats.current_offset(), 349);
    }
}

/// Messages are for those who may read them from the node.
#[tokio::test]
async fn other_users_of_the_machine_have_no_access_to_what_is_stored() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 3, 1).await;
    let stored = storage.store_offset(key(1), written(), consumer(1), 2);
    stored.await.unwrap();
    storage.shutdown().await.unwrap();
    let in_dir = |path: PathBuf| {
        let entries = fs::read_dir(path).unwrap();
        entries.map(|it| it.unwrap().path()).collect::<Vec<_>>()
    };
    let mut found = in_dir(dir.dir.path().to_owned());
    let mut files = 0;
    while let Some(path) = found.pop() {
        let metadata = fs::metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            found.extend(in_dir(path));
        } else {
            assert_eq!(mode, 0o600, "{}", path.display());
            files += 1;
        }
    }
    assert!(files > 1);
}

#[tokio::test]
async fn beyond_the_end_there_is_nothing_and_no_error() {
    let dir = Dir::new();
    let storage = dir.storage();
    for from in [
        ReadFrom::First,
        ReadFrom::Last,
        ReadFrom::Offset(0),
        ReadFrom::Timestamp(0),
    ] {
        let polled = poll(&storage, from, 10).await;
        assert_eq!((polled.messages, polled.current_offset), (0, 0));
    }
    append(&storage, 0, 10, 5).await;
    for from in [
        ReadFrom::Offset(10),
        ReadFrom::Offset(u64::MAX),
        ReadFrom::Timestamp(6),
    ] {
        let polled = poll(&storage, from, u32::MAX).await;
        assert_eq!((polled.messages, polled.current_offset), (0, 9), "{from:?}");
        assert_eq!(polled.last_offset, None);
    }
    assert_eq!(read(&storage, ReadFrom::First, 0).await, [0; 0]);
}

#[tokio::test]
async fn a_read_may_start_and_end_inside_a_batch() {
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
async fn messages_keep_all_that_the_client_gave_them() {
    let dir = Dir::new();
    let storage = dir.storage();
    let headers = Bytes::from_static(b"any bytes");
    let messages: Vec<_> = (0..4_u128)
        .map(|number| RawMessage {
            id: number << 70 | 1,
            origin_timestamp: 5_000 + number as u64,
            headers: (number % 2 == 0).then_some(&headers[..]),
            payload: b"payload",
        })
        .collect();
    let sent = batch_of(&messages);
    let appended = storage.append(key(1), written(), sent, 77).await.unwrap();
    assert_eq!(appended.base_timestamp, 77);
    let polled = poll(&storage, ReadFrom::Offset(1), 2).await;
    let joined = polled.batches.concat();
    let got: Vec<_> = PolledBatchesIterator::new(&joined)
        .map(Result::unwrap)
        .collect();
    for (got, (offset, sent)) in got.iter().zip((1..).zip(&messages[1..3])) {
        assert_eq!((got.offset, got.timestamp), (offset, 77));
        assert_eq!(
            (got.id, got.origin_timestamp),
            (sent.id, sent.origin_timestamp)
        );
        assert_eq!(got.user_headers, sent.headers.unwrap_or_default());
        assert_eq!(got.payload, sent.payload);
    }
    assert_eq!(got.len(), 2);
}

#[tokio::test]
async fn a_read_stays_within_its_bytes_and_makes_progress() {
    let dir = Dir::new();
    let storage = dir.storage();
    let large = batch(&[vec![b'x'; 5_000], vec![b'y'; 5_000], vec![b'z'; 5_000]]);
    for _ in 0..3 {
        let appended = storage.append(key(1), written(), large.clone(), 1).await;
        appended.unwrap();
    }
    let mut offset = 0;
    let mut seen = Vec::new();
    while offset < 9 {
        let polled = storage
            .read(key(1), written(), ReadFrom::Offset(offset), 100, 6_000)
            .await
            .unwrap();
        let bytes: usize = polled.batches.iter().map(Bytes::len).sum();
        assert!(bytes <= 6_000, "{bytes}");
        seen.extend(decoded(&polled).into_iter().map(|(offset, _)| offset));
        offset = polled.last_offset.unwrap() + 1;
    }
    assert_eq!(seen, all(9));
    for from in [ReadFrom::First, ReadFrom::Offset(4)] {
        let tiny = storage.read(key(1), written(), from, 100, 1).await.unwrap();
        assert_eq!(tiny.messages, 1, "one message at least");
    }
}

#[tokio::test]
async fn batches_in_a_row_come_in_one_piece_without_copies_of_each() {
    let dir = Dir::new();
    let storage = dir.storage();
    for number in 0..20 {
        append(&storage, number, 1, 1).await;
    }
    let polled = poll(&storage, ReadFrom::Offset(0), 20).await;
    assert_eq!((polled.messages, polled.batches.len()), (20, 1));
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
            let got = read(&storage, ReadFrom::Timestamp(timestamp), 7).await;
            let expected: Vec<_> = (first..603.min(first + 7)).collect();
            assert_eq!(got, expected, "at {timestamp}");
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
                    let appended = storage.append(key(1), written(), batch, 1).await.unwrap();
                    ranges.push((appended.base_offset, writer, number));
                }
                ranges
            })
        })
        .collect();
    let mut at_offset = Vec::new();
    for writer in writers {
        let ranges = writer.await.unwrap();
        assert!(ranges.is_sorted(), "one writer's batches stay in order");
        at_offset.extend(ranges);
    }
    at_offset.sort_unstable();
    let mut expected = Vec::new();
    for (base, writer, number) in at_offset {
        assert_eq!(base, expected.len() as u64, "no gap, nothing twice");
        for _ in 0..1 + writer % 3 {
            expected.push((expected.len() as u64, format!("{writer}/{number}")));
        }
    }
    for storage in [&*storage, &dir.storage()] {
        let polled = storage
            .read(key(1), written(), ReadFrom::First, 10_000, 1 << 24)
            .await
            .unwrap();
        assert_eq!(decoded(&polled), expected);
    }
}

/// With its batch checksum made right again.
fn resealed(batch: &[u8], change: impl FnOnce(&mut BatchHeader, &mut Vec<u8>)) -> Bytes {
    let mut header = BatchHeader::decode(batch).unwrap();
    let mut blob = batch[BATCH_HEADER_SIZE..].to_vec();
    change(&mut header, &mut blob);
    header.batch_checksum = calculate_batch_checksum(&header, &blob);
    let mut out = vec![0; BATCH_HEADER_SIZE];
    header.encode_into(&mut out);
    out.extend_from_slice(&blob);
    out.into()
}

fn reseal_message(blob: &mut [u8]) {
    let checksum = XxHash3_64::oneshot(&blob[8..]);
    blob[..8].copy_from_slice(&checksum.to_le_bytes());
}

#[tokio::test]
async fn batches_that_are_not_well_formed_are_refused_and_leave_no_trace() {
    let dir = Dir::new();
    let storage = dir.storage();
    let whole = numbered(0, 3);
    append(&storage, 0, 3, 1).await;
    let refused = async |batch: Bytes| match storage.append(key(1), written(), batch, 1).await {
        Err(StorageError::Batch(error)) => error,
        other => panic!("{other:?}"),
    };
    for length in 0..whole.len() {
        refused(whole.slice(..length)).await;
    }
    for at in 0..whole.len() {
        let mut changed = whole.to_vec();
        changed[at] ^= 1;
        refused(changed.into()).await;
    }
    let mut longer = whole.to_vec();
    longer.push(0);
    assert_eq!(refused(longer.into()).await, BatchError::Malformed);
    let too_large = Bytes::from(vec![0; BATCH_BYTES_MAX + 1]);
    let error = refused(too_large).await;
    assert!(matches!(error, BatchError::TooLarge { .. }), "{error:?}");
    let empty = resealed(&whole, |header, blob| {
        blob.clear();
        header.batch_length = BATCH_HEADER_SIZE as u64;
        header.message_count = 0;
    });
    assert_eq!(refused(empty).await, BatchError::Empty);
    let one = numbered(0, 1);
    let misnumbered = resealed(&one, |_, blob| {
        blob[24] = 1;
        reseal_message(blob);
    });
    assert_eq!(refused(misnumbered).await, BatchError::Numbering);
    let out_of_time = resealed(&one, |header, blob| {
        header.origin_timestamp = u64::MAX;
        blob[28] = 1;
        reseal_message(blob);
    });
    assert_eq!(refused(out_of_time).await, BatchError::Time);
    let no_payload = resealed(&one, |header, blob| {
        blob.truncate(48);
        blob[36..40].fill(0);
        reseal_message(blob);
        header.batch_length = (BATCH_HEADER_SIZE + 48) as u64;
    });
    assert_eq!(refused(no_payload).await, BatchError::EmptyPayload);
    append(&storage, 3, 1, 1).await;
    assert_eq!(read(&storage, ReadFrom::First, 10).await, all(4));
}

/// The options of a topic may change while its partitions are in use.
#[tokio::test]
async fn changed_options_hold_from_the_next_call_on() {
    let dir = Dir::new();
    let storage = dir.storage();
    let options = |segment_bytes_max| PartitionOptions {
        segment_bytes_max,
        ..written()
    };
    for number in 0..10 {
        append_with(&storage, options(1 << 20), number, 1, 1).await;
    }
    assert_eq!(dir.segments().len(), 1);
    for number in 10..15 {
        append_with(&storage, options(1), number, 1, 1).await;
    }
    assert_eq!(
        dir.segments().len(),
        1 + 5 + 1,
        "each batch has its own segment, and an empty one follows"
    );
    assert_eq!(read(&storage, ReadFrom::First, 100).await, all(15));
}
