//! Damage in what a copy has beside its records, and files of other versions.

use std::path::Path;

use super::copies::{request, table_writes, tables, write_requests};
use super::operations::{at, opened, records_of, repairable, run};
use super::*;
use crate::replication::{OffsetTable, Sessions, Trust};

const HEADER: usize = 16;
const RECORD: usize = 76;

/// All writes of a table, each of them fsynced.
async fn write_table(dir: &Dir) -> PathBuf {
    let options = PartitionOptions {
        repairable: true,
        ..synced()
    };
    let partition = dir.storage_unsynced(BOOT).open(key(1), options).await;
    let partition = partition.unwrap();
    for write in table_writes() {
        run(&partition, Operation::Table(write)).await.unwrap();
    }
    dir.partition(key(1)).join("offsets")
}

async fn table_of(storage: &EmbeddedStorage) -> (OffsetTable, Trust) {
    let found = opened(storage).await.recovered().unwrap();
    (found.table, found.table_trust)
}

/// The first table has three records, each change one.
#[tokio::test]
async fn a_damaged_table_ends_before_the_damage_and_is_untrusted_until_that_is_completed() {
    let dir = Dir::new();
    let path = write_table(&dir).await;
    let content = fs::read(&path).unwrap();
    assert_eq!(content.len(), HEADER + 6 * RECORD);
    let [first, second, third, _] = &tables()[..] else {
        panic!("four tables");
    };
    let none = OffsetTable::default();
    for at in 0..content.len() {
        let mut changed = content.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let storage = dir.storage_unsynced(NEXT_BOOT);
        if (8..10).contains(&at) {
            assert!(storage.open(key(1), repairable()).await.is_err());
            continue;
        }
        let number = at.saturating_sub(HEADER) / RECORD;
        let (expected, trust) = match number {
            0..3 => (&none, Trust::Lost),
            3 => (first, Trust::TailLost),
            4 => (second, Trust::TailLost),
            // A crash may have interrupted its write.
            _ => (third, Trust::Trusted),
        };
        let found = table_of(&storage).await;
        assert_eq!((&found.0, found.1), (expected, trust), "at {at}");
        assert_eq!(fs::read(&path).unwrap(), changed, "a start changes nothing");
        let damaged = u64::from(trust != Trust::Trusted);
        assert_eq!(storage.damaged_offsets(), damaged, "at {at}");
    }
    // What is written next does not make it whole.
    for (at, trust) in [
        (HEADER, Trust::Lost),
        (HEADER + 3 * RECORD, Trust::TailLost),
    ] {
        let mut changed = content.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let storage = dir.storage_unsynced(BOOT);
        let partition = opened(&storage).await;
        for write in table_writes() {
            run(&partition, Operation::Table(write)).await.unwrap();
        }
        let whole = tables().pop().unwrap();
        let found = || async { table_of(&dir.storage_unsynced(BOOT)).await };
        assert_eq!(found().await, (whole.clone(), trust));
        run(&partition, Operation::Trust).await.unwrap();
        assert_eq!(found().await, (whole, Trust::Trusted));
    }
}

#[tokio::test]
async fn a_table_that_a_crash_has_cut_is_the_one_before_the_write() {
    let dir = Dir::new();
    let path = write_table(&dir).await;
    let content = fs::read(&path).unwrap();
    for end in HEADER + 3 * RECORD..content.len() {
        // With bytes that the file system has not filled, too.
        for length in [end, content.len()] {
            let mut cut = content[..end].to_vec();
            cut.resize(length, 0);
            fs::write(&path, &cut).unwrap();
            let storage = dir.storage_unsynced(BOOT);
            let partition = opened(&storage).await;
            let writes = (end - HEADER) / RECORD - 3;
            let found = partition.recovered().unwrap();
            assert_eq!(found.table, tables()[writes], "{end}");
            assert_eq!(found.table_trust, Trust::Trusted);
            for write in &table_writes()[writes + 1..] {
                let write = Operation::Table(write.clone());
                run(&partition, write).await.unwrap();
            }
            let whole = (tables().pop().unwrap(), Trust::Trusted);
            assert_eq!(table_of(&dir.storage_unsynced(BOOT)).await, whole, "{end}");
        }
    }
}

/// Its consumers must not all go back with the one whose offset is damaged.
#[tokio::test]
async fn a_table_without_other_copies_loses_only_what_is_damaged() {
    let dir = Dir::new();
    let storage = dir.storage_unsynced(BOOT);
    append(&storage, 0, 10, 1).await;
    let partition = opened(&storage).await;
    let mut table = OffsetTable::default();
    table.at.version = 1;
    let whole = Operation::Table(crate::replication::TableWrite::Whole(table));
    run(&partition, whole).await.unwrap();
    for (id, offset) in [(1, 1), (2, 2), (1, 5), (3, 3)] {
        let stored = partition.store_offset(consumer(id), offset);
        stored.await.unwrap();
        partition.sync().await.unwrap();
    }
    let path = dir.partition(key(1)).join("offsets");
    let content = fs::read(&path).unwrap();
    assert_eq!(content.len(), HEADER + 5 * RECORD);
    for at in HEADER + RECORD..content.len() {
        let mut changed = content.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let storage = dir.storage_unsynced(BOOT);
        let partition = storage.open(key(1), written()).await.unwrap();
        let found: Vec<_> = (1..4).map(|id| partition.offset(consumer(id))).collect();
        let expected = match (at - HEADER) / RECORD {
            1 => [Some(5), Some(2), Some(3)],
            2 => [Some(5), None, Some(3)],
            3 => [Some(1), Some(2), Some(3)],
            _ => [Some(5), Some(2), None],
        };
        assert_eq!(found[..], expected, "at {at}");
    }
}

#[tokio::test]
async fn damaged_sessions_end_the_log_before_their_segment() {
    let dir = Dir::new();
    let partition = opened(&dir.storage()).await;
    let mut sessions = Sessions::default();
    write_requests(&partition, 1..=9, &mut sessions).await;
    run(&partition, Operation::Sync).await.unwrap();
    let path = dir.segments().pop().unwrap();
    let content = fs::read(&path).unwrap();
    let mut before = Sessions::default();
    (1..8).for_each(|index| before.apply(&request(index, RecordFlags::NONE)));
    let kept = 128..128 + before.encode().len();
    assert_eq!(content[kept.clone()], before.encode()[..]);
    for at in kept {
        let mut changed = content.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let storage = dir.storage_unsynced(NEXT_BOOT);
        let found = opened(&storage).await;
        assert_eq!(records_of(&found).len(), 7);
        let found = found.recovered().unwrap();
        assert_eq!(found.trust, Trust::TailLost, "at {at}");
        assert!(found.damage.is_some());
        assert_eq!(found.sessions.encode(), before.encode());
        let storage = dir.storage_unsynced(NEXT_BOOT);
        let refused = storage.open(key(1), written()).await;
        assert!(matches!(refused, Err(StorageError::Lost { .. })), "at {at}");
    }
    // Those of an earlier segment are not needed.
    fs::write(&path, &content).unwrap();
    let earlier = dir.segments().remove(1);
    let mut content = fs::read(&earlier).unwrap();
    content[130] ^= 1;
    fs::write(&earlier, &content).unwrap();
    let found = opened(&dir.storage()).await.recovered().unwrap();
    assert_eq!(found.trust, Trust::Trusted);
    assert_eq!(found.sessions.encode(), sessions.encode());
}

/// A log whose only segment has lost its sessions continues nowhere: another copy does not
/// take its end for one of its own.
#[tokio::test]
async fn a_log_without_the_sessions_that_it_starts_with_has_no_place() {
    let dir = Dir::new();
    let partition = opened(&dir.storage()).await;
    let sessions = Sessions::default().encode();
    let start = crate::replication::Start {
        base: at(3, 40),
        first_offset: 80,
    };
    run(&partition, Operation::Reset { start, sessions })
        .await
        .unwrap();
    let path = dir.segments().remove(0);
    let mut content = fs::read(&path).unwrap();
    content[130] ^= 1;
    fs::write(&path, &content).unwrap();
    let found = opened(&dir.storage()).await.recovered().unwrap();
    assert_eq!(found.chain.last(), at(0, 40));
}

/// What version 0.2.0 has written: a log of two segments, the second with sessions, a table,
/// and a mark of what is committed.
#[tokio::test]
async fn a_copy_of_storage_version_2_opens() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/storage-v2");
    let dir = Dir::new();
    let partition = dir.partition(key(1));
    fs::create_dir_all(&partition).unwrap();
    for entry in fs::read_dir(fixtures).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), partition.join(entry.file_name())).unwrap();
    }
    let partition = opened(&dir.storage()).await;
    let mut sessions = Sessions::default();
    let mut expected = Vec::new();
    for index in 1..=6 {
        let flags = match index {
            4 => RecordFlags::STARTS_SEGMENT,
            _ => RecordFlags::NONE,
        };
        expected.push(request(index, flags));
        sessions.apply(&expected[expected.len() - 1]);
    }
    assert_eq!(records_of(&partition), expected);
    let found = partition.recovered().unwrap();
    assert_eq!(found.sessions.encode(), sessions.encode());
    assert_eq!(found.commit.0, 5);
    assert_eq!(Some(found.table), tables().pop());
    assert_eq!(found.table_trust, Trust::Trusted);
    assert_eq!(found.trust, Trust::Trusted);
    run(&partition, Operation::Sync).await.unwrap();
}
