//! What a process finds that was killed, or whose machine was, or whose disk
//! lost something.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::faulty::Operation;
use super::*;
use crate::format::FILE_HEADER_BYTES_MAX;

const HEADER: u64 = FILE_HEADER_BYTES_MAX as u64;

fn damage(path: &Path, position: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, position).unwrap();
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

async fn open(storage: &EmbeddedStorage) -> Result<PartitionStats, StorageError> {
    storage.stats(key(1), written()).await
}

/// The file that an error reports as corrupt, and the position.
async fn corrupt(storage: &EmbeddedStorage) -> (PathBuf, u64) {
    match open(storage).await {
        Err(StorageError::Corrupt { path, position, .. }) => (path, position),
        other => panic!("{other:?}"),
    }
}

/// The process is killed while it writes: the file ends at every byte of the last batch, or
/// is zero from there on.
#[tokio::test]
async fn a_torn_last_batch_is_dropped_at_every_byte() {
    for options in [written(), synced()] {
        let dir = Dir::new();
        let storage = dir.storage();
        append_with(&storage, options, 0, 3, 1).await;
        let path = dir.segments().remove(0);
        let whole_before = length(&path);
        let acknowledged = fs::read(dir.acknowledged()).unwrap();
        append_with(&storage, options, 3, 2, 2).await;
        let acknowledged_all = fs::read(dir.acknowledged()).unwrap();
        let content = fs::read(&path).unwrap();
        for end in whole_before as usize..content.len() {
            let mut zeroed = content.clone();
            zeroed[end..].fill(0);
            for torn in [&content[..end], &zeroed] {
                if torn == content {
                    continue;
                }
                fs::write(&path, torn).unwrap();
                fs::write(dir.acknowledged(), &acknowledged).unwrap();
                let storage = dir.storage();
                assert_eq!(read(&storage, ReadFrom::First, 10).await, all(3), "{end}");
                append_with(&storage, options, 3, 1, 3).await;
                assert_eq!(read(&storage, ReadFrom::First, 10).await, all(4));
            }
        }
        fs::write(&path, &content).unwrap();
        fs::write(dir.acknowledged(), &acknowledged_all).unwrap();
        assert_eq!(read(&dir.storage(), ReadFrom::First, 10).await, all(5));
    }
}

#[tokio::test]
async fn damage_anywhere_in_front_of_the_last_batch_is_refused_while_the_machine_runs() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 2, 1).await;
    let path = dir.segments().remove(0);
    let first_end = length(&path);
    append(&storage, 2, 2, 1).await;
    let content = fs::read(&path).unwrap();
    for at in HEADER..first_end {
        let byte = content[at as usize] ^ 0x10;
        damage(&path, at, &[byte]);
        assert_eq!(
            corrupt(&dir.storage()).await,
            (path.clone(), HEADER),
            "{at}"
        );
        assert_eq!(length(&path), content.len() as u64, "nothing is cut");
        fs::write(&path, &content).unwrap();
    }
    assert_eq!(read(&dir.storage(), ReadFrom::First, 10).await, all(4));
}

#[tokio::test]
async fn damage_in_front_of_synced_batches_is_refused_also_after_a_power_failure() {
    let dir = Dir::new();
    let storage = dir.storage();
    for number in 0..3 {
        append_with(&storage, synced(), number, 1, 1).await;
    }
    let path = dir.segments().remove(0);
    damage(&path, HEADER + 300, b"\xff");
    let storage = dir.storage_after_boot();
    assert_eq!(corrupt(&storage).await, (path, HEADER));
    let error = open(&storage).await.unwrap_err().to_string();
    assert!(error.contains("restore"), "what to do: {error}");
}

/// Without syncs, the machine may have written the later pages first. Nothing in
/// front of the hole was promised to survive, and consumers must not wait for
/// offsets that are given again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_that_a_power_failure_left_in_unsynced_batches_ends_the_log() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    // The background sync never gets anywhere.
    disk.block_syncs();
    append(&storage, 0, 5, 1).await;
    let hole = length(&dir.segments()[0]);
    for number in 5..100 {
        append(&storage, number, 1, 1).await;
    }
    let found = dir.copy();
    disk.release_syncs();
    storage.shutdown().await.unwrap();

    let segments = found.segments();
    assert!(segments.len() > 2);
    damage(&segments[0], hole, &[0; 256]);
    let position = corrupt(&found.storage()).await;
    assert_eq!(
        position,
        (segments[0].clone(), hole),
        "no power failure, no excuse"
    );
    let storage = found.storage_after_boot();
    assert_eq!(read(&storage, ReadFrom::First, 1000).await, all(5));
    append(&storage, 5, 3, 1).await;
    for storage in [storage, found.storage_after_boot()] {
        assert_eq!(read(&storage, ReadFrom::First, 1000).await, all(8));
    }
}

/// A crash in the midst of a cut must not leave a later segment without an earlier one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_that_are_cut_off_go_one_after_the_other_the_last_one_first() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    disk.block_syncs();
    for number in 0..100 {
        append(&storage, number, 1, 1).await;
    }
    let found = dir.copy();
    disk.release_syncs();
    storage.shutdown().await.unwrap();
    let later = found.segments().len() - 1;
    assert!(later > 1);
    damage(&found.segments()[0], HEADER, &[0; 256]);
    let disk = Arc::new(FaultyDisk::default());
    let storage = found.storage_on(Arc::clone(&disk) as Arc<dyn Disk>, NEXT_BOOT);
    open(&storage).await.unwrap();
    let removals: Vec<_> = disk
        .operations()
        .into_iter()
        .filter(|(operation, file)| {
            *operation == Operation::Remove && file.ends_with("log")
                || *operation == Operation::SyncDir && file == "3-1"
        })
        .map(|(operation, _)| operation)
        .collect();
    let expected = [Operation::Remove, Operation::SyncDir].repeat(later);
    assert!(removals.starts_with(&expected), "{removals:?}");
}

/// The process that made the directories was killed before it synced their names. What
/// the next one acknowledges as durable must not depend on them.
#[tokio::test]
async fn directories_of_a_process_that_was_killed_are_synced_before_an_acknowledgement() {
    let dir = Dir::new();
    append(&dir.storage(), 0, 3, 1).await;
    let (disk, storage) = dir.faulty();
    append_with(&storage, synced(), 3, 1, 1).await;
    let root = dir.dir.path().file_name().unwrap();
    for name in [root.to_str().unwrap(), "1", "2", "3-1"] {
        let syncs = disk.count(Operation::SyncDir, name);
        assert!(syncs > 0, "{name} has a new name");
    }
}

#[tokio::test]
async fn consumers_go_back_to_the_end_of_a_log_that_lost_its_tail() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 5, 1).await;
    let path = dir.segments().remove(0);
    let end = length(&path);
    append(&storage, 5, 5, 1).await;
    for (id, offset) in [(1, 9), (2, 2)] {
        let stored = storage
            .store_offset(key(1), written(), consumer(id), offset)
            .await;
        stored.unwrap();
    }
    damage(&path, end, &[0; 256]);
    let storage = dir.storage_after_boot();
    for (id, offset) in [(1, 4), (2, 2)] {
        let stored = storage.offset(key(1), written(), consumer(id)).await;
        assert_eq!(stored.unwrap(), Some(offset));
    }
}

/// Batches that shared a sync may each be on the disk or not: none of them was
/// acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_in_a_group_that_was_never_synced_is_no_corruption() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    let storage = Arc::new(storage);
    append_with(&storage, synced(), 0, 1, 1).await;
    let path = dir.segments().remove(0);
    disk.block_syncs();
    let mut appends = Vec::new();
    for number in 1..6 {
        let shared = Arc::clone(&storage);
        let batch = numbered(number, 1);
        appends.push(tokio::spawn(async move {
            shared.append(key(1), synced(), batch, 1).await.unwrap()
        }));
        if number == 1 {
            let disk = Arc::clone(&disk);
            let blocked = tokio::task::spawn_blocking(move || disk.wait_for_blocked_sync());
            blocked.await.unwrap();
        } else {
            while storage.waiting(key(1)).await < number as usize - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
    let first_group = length(&path);
    let acknowledged = fs::read(dir.acknowledged()).unwrap();
    disk.release_syncs();
    for append in appends {
        append.await.unwrap();
    }
    assert_eq!(disk.count(Operation::Sync, ".log"), 3, "one for each group");
    damage(&path, first_group, &[0; 256]);
    fs::write(dir.acknowledged(), acknowledged).unwrap();
    let storage = dir.storage_after_boot();
    assert_eq!(read(&storage, ReadFrom::First, 10).await, all(2));
}

#[tokio::test]
async fn damage_that_a_hint_hides_is_found_when_it_is_read() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    storage.shutdown().await.unwrap();
    let path = dir.segments().remove(0);
    let content = fs::read(&path).unwrap();
    // In the header of the first batch, in one of its messages, and in the last
    // payload.
    for at in [HEADER + 32, HEADER + 256 + 30, HEADER + 650] {
        damage(&path, at, &[content[at as usize] ^ 1]);
        let storage = dir.storage();
        assert_eq!(open(&storage).await.unwrap().messages, 350);
        for from in [ReadFrom::First, ReadFrom::Offset(3)] {
            let refused = storage.read(key(1), written(), from, 1, 1 << 20).await;
            assert!(
                matches!(
                    refused,
                    Err(StorageError::Corrupt {
                        position: HEADER,
                        ..
                    })
                ),
                "{at}: {refused:?}"
            );
        }
        // Damage after a valid header does not affect other batches.
        if at > HEADER + 256 {
            assert_eq!(read(&storage, ReadFrom::Offset(7), 1).await, [7]);
        }
        fs::write(&path, &content).unwrap();
    }
    damage(&path, HEADER + 32, b"\xff");
    for path in dir.files(key(1), "idx") {
        fs::remove_file(path).unwrap();
    }
    assert_eq!(corrupt(&dir.storage()).await, (path, HEADER));
}

#[tokio::test]
async fn a_segment_that_is_missing_in_the_middle_is_noticed() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    storage.shutdown().await.unwrap();
    let segments = dir.segments();
    fs::remove_file(&segments[1]).unwrap();
    for storage in [dir.storage(), dir.storage_after_boot()] {
        assert_eq!(corrupt(&storage).await, (segments[2].clone(), 0));
    }
}

/// Old segments may be removed, and the log starts with the first that is left.
#[tokio::test]
async fn a_log_may_start_at_any_segment() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    storage.shutdown().await.unwrap();
    let segments = dir.segments();
    for path in &segments[..2] {
        fs::remove_file(path).unwrap();
        fs::remove_file(path.with_extension("idx")).unwrap();
    }
    let storage = dir.storage();
    let first = open(&storage).await.unwrap().first_offset;
    assert!(first > 0);
    let left: Vec<_> = (first..350).collect();
    for from in [ReadFrom::First, ReadFrom::Offset(0), ReadFrom::Timestamp(0)] {
        assert_eq!(read(&storage, from, 1000).await, left);
    }
    assert_eq!(read(&storage, ReadFrom::Last, 1000).await, left);
}

#[tokio::test]
async fn a_segment_whose_header_was_not_finished_is_created_again() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    let unfinished = dir.partition(key(1)).join(format!("{:020}.log", 350));
    for bytes in [0, 1, HEADER as usize - 1, HEADER as usize] {
        fs::write(&unfinished, vec![0; bytes]).unwrap();
        let storage = dir.storage();
        assert_eq!(
            read(&storage, ReadFrom::First, 1000).await,
            all(350),
            "{bytes}"
        );
    }
    let storage = dir.storage();
    append(&storage, 350, 7, 1).await;
    assert_eq!(read(&dir.storage(), ReadFrom::First, 1000).await, all(357));
}

#[tokio::test]
async fn offsets_go_on_where_they_were_when_the_only_segment_has_no_header() {
    let dir = Dir::new();
    let partition = dir.partition(key(1));
    fs::create_dir_all(&partition).unwrap();
    fs::write(partition.join(format!("{:020}.log", 40)), b"").unwrap();
    let storage = dir.storage();
    append(&storage, 40, 2, 1).await;
    assert_eq!(read(&dir.storage(), ReadFrom::First, 10).await, [40, 41]);
}

/// A client must not be able to make a crash look like damage by its messages.
#[tokio::test]
async fn stored_bytes_inside_a_payload_prove_nothing() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 1, 1).await;
    let path = dir.segments().remove(0);
    let stored = fs::read(&path).unwrap();
    let torn_at = length(&path);
    let acknowledged = fs::read(dir.acknowledged()).unwrap();
    let payload = stored[HEADER as usize..].repeat(3);
    let sent = storage
        .append(key(1), written(), batch(&[payload]), 1)
        .await;
    sent.unwrap();
    damage(&path, torn_at, &[0; 64]);
    fs::write(dir.acknowledged(), acknowledged).unwrap();
    assert_eq!(read(&dir.storage(), ReadFrom::First, 10).await, [0]);
}

#[tokio::test]
async fn a_segment_that_was_closed_is_not_read_again_to_open_it() {
    let dir = Dir::new();
    let options = PartitionOptions {
        segment_bytes_max: 4 << 20,
        ..written()
    };
    let storage = dir.storage();
    for _ in 0..5 {
        let large = batch(&vec![vec![b'x'; 1_000]; 2_000]);
        let appended = storage.append(key(1), options, large, 1).await;
        appended.unwrap();
    }
    storage.shutdown().await.unwrap();
    let bytes: u64 = dir.segments().iter().map(|path| length(path)).sum();
    assert!(bytes > 10_000_000);
    let (disk, storage) = dir.faulty();
    assert_eq!(open(&storage).await.unwrap().messages, 10_000);
    assert!(disk.read_bytes() < 10_000, "{}", disk.read_bytes());
    for from in [0, 3_999, 4_000, 9_999] {
        let polled = poll(&storage, ReadFrom::Offset(from), 1).await;
        assert_eq!(polled.last_offset, Some(from));
    }
    let refused = storage.read(key(1), options, ReadFrom::First, 1, 1).await;
    assert_eq!(refused.unwrap().messages, 1);
}

/// A hint is believed only when it is whole and of this segment.
#[tokio::test]
async fn a_hint_that_is_not_sound_costs_time_and_nothing_else() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    storage.shutdown().await.unwrap();
    let hints = dir.files(key(1), "idx");
    let content = fs::read(&hints[0]).unwrap();
    for at in 0..content.len() {
        let mut changed = content.clone();
        changed[at] ^= 1;
        fs::write(&hints[0], &changed).unwrap();
        assert_eq!(open(&dir.storage()).await.unwrap().messages, 350);
        fs::write(&hints[0], &content[..at]).unwrap();
        assert_eq!(open(&dir.storage()).await.unwrap().messages, 350);
    }
    fs::write(&hints[0], fs::read(&hints[1]).unwrap()).unwrap();
    assert_eq!(read(&dir.storage(), ReadFrom::First, 1000).await, all(350));
}

#[tokio::test]
async fn a_file_that_lost_what_was_synced_is_refused() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..50 {
        append(&storage, batch * 7, 7, batch).await;
    }
    storage.shutdown().await.unwrap();
    let path = dir.segments().remove(0);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let short = length(&path) - 1;
    file.set_len(short).unwrap();
    assert_eq!(corrupt(&dir.storage_after_boot()).await, (path, short));
}

#[tokio::test]
async fn an_unknown_version_is_refused_by_number() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 1, 1).await;
    damage(&dir.segments()[0], 8, &[9, 0]);
    match open(&dir.storage()).await {
        Err(StorageError::Version {
            found: 9, known: 2, ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_of_another_partition_is_refused() {
    let dir = Dir::new();
    let storage = dir.storage();
    append(&storage, 0, 1, 1).await;
    fs::rename(dir.partition(key(1)), dir.partition(key(2))).unwrap();
    let refused = dir.storage().stats(key(2), written()).await;
    assert!(
        matches!(refused, Err(StorageError::Corrupt { position: 0, .. })),
        "{refused:?}"
    );
}

/// The layout of version 1, byte for byte: what was written once is read for
/// ever.
#[tokio::test]
async fn files_of_version_1_are_read() {
    let dir = Dir::new();
    let partition = dir.partition(key(1));
    fs::create_dir_all(&partition).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/storage-v1");
    for name in [
        "00000000000000000000.log",
        "00000000000000000003.log",
        "offsets",
    ] {
        fs::copy(fixtures.join(name), partition.join(name)).unwrap();
    }
    let storage = dir.storage();
    assert_eq!(read(&storage, ReadFrom::First, 100).await, all(5));
    assert_eq!(
        read(&storage, ReadFrom::Timestamp(2_000), 100).await,
        [3, 4]
    );
    let offset = async |consumer| storage.offset(key(1), written(), consumer).await.unwrap();
    assert_eq!(offset(consumer(1)).await, Some(4));
    assert_eq!(offset(consumer(2)).await, None);
    assert_eq!(offset(ConsumerKey { group: true, id: 1 }).await, Some(2));
}
