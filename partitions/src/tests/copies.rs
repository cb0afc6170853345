//! What a copy keeps beside its records: sessions, the table of offsets, what is committed.

use consensus::Index;

use super::operations::{at, opened, record, records_of, reset, run, stamp};
use super::*;
use crate::replication::{
    Epoch, OffsetTable, Sessions, Start, TableChange, TableVersion, TableWrite, Trust,
};

/// A record of a request.
pub(super) fn request(index: u64, flags: RecordFlags) -> Record {
    let batch = ClientBatch::check(&numbered(2 * index, 2)).unwrap();
    let tag = Tag {
        client: 1,
        session: index % 5,
        request: index,
    };
    let stamp = Stamp {
        tag: Some(tag),
        ..stamp(at(1, index), 2 * index, flags)
    };
    Record::stamp(batch, stamp)
}

/// Writes records as a copy does, those that are divisible by 4 into segments of their own.
pub(super) async fn write_requests(
    partition: &Arc<dyn StoredPartition>,
    indices: std::ops::RangeInclusive<u64>,
    sessions: &mut Sessions,
) {
    for index in indices {
        let mut flags = RecordFlags::NONE;
        if index % 4 == 0 {
            flags = RecordFlags::STARTS_SEGMENT;
            let sessions = sessions.encode();
            let start = Operation::StartSegment { sessions };
            run(partition, start).await.unwrap();
        }
        let record = request(index, flags);
        sessions.apply(&record);
        run(partition, Operation::Write(vec![record]))
            .await
            .unwrap();
    }
}

fn version(epoch: u64, version: u64) -> TableVersion {
    TableVersion {
        epoch: Epoch(epoch),
        version,
    }
}

fn start(base: (u64, u64), first_offset: u64) -> Start {
    Start {
        base: at(base.0, base.1),
        first_offset,
    }
}

/// Writes with which a table has been led to version 6.
pub(super) fn table_writes() -> Vec<TableWrite> {
    let tag = |request| Tag {
        client: 1 << 90,
        session: 2,
        request,
    };
    let store = |id, offset, request| TableChange::Consumer {
        consumer: ConsumerKey { group: id > 5, id },
        offset,
        tag: Some(tag(request)),
    };
    let change = |at, change| TableWrite::Change { at, change };
    let mut whole = OffsetTable::default();
    whole.apply(version(1, 1), store(1, Some(4), 1));
    whole.apply(version(1, 2), store(7, Some(1 << 40), 2));
    whole.at = version(2, 3);
    vec![
        TableWrite::Whole(whole),
        change(version(2, 4), store(1, None, 9)),
        change(version(2, 5), TableChange::Start(start((1, 3), 8))),
        change(version(2, 6), store(8, Some(0), 10)),
    ]
}

/// The table after the first of those writes, one for each.
pub(super) fn tables() -> Vec<OffsetTable> {
    let mut table = OffsetTable::default();
    let writes = table_writes().into_iter();
    let after = writes.map(|write| {
        write.apply_to(&mut table);
        table.clone()
    });
    after.collect()
}

fn same(a: &Sessions, b: &Sessions) -> bool {
    a.encode() == b.encode()
}

#[tokio::test]
async fn sessions_are_those_of_the_records_after_every_start() {
    let dir = Dir::new();
    let partition = opened(&dir.storage()).await;
    let mut sessions = Sessions::default();
    for last in 1..=14 {
        write_requests(&partition, last..=last, &mut sessions).await;
        for storage in [dir.storage(), dir.storage_after_boot()] {
            let recovered = opened(&storage).await.recovered().unwrap();
            assert!(same(&recovered.sessions, &sessions), "{last}");
        }
    }
    // A cut leaves the state before it.
    for end in (0..14).rev() {
        let end = Index(end);
        run(&partition, Operation::Truncate { end }).await.unwrap();
        let mut expected = Sessions::default();
        for index in 1..=end.0 {
            expected.apply(&request(index, RecordFlags::NONE));
        }
        for partition in [&partition, &opened(&dir.storage()).await] {
            let recovered = partition.recovered().unwrap();
            assert!(same(&recovered.sessions, &expected), "{end}");
        }
    }
}

/// Without the records before it.
#[tokio::test]
async fn a_log_that_starts_elsewhere_has_the_sessions_before_it() {
    let dir = Dir::new();
    let partition = opened(&dir.storage()).await;
    let mut sessions = Sessions::default();
    (1..=9).for_each(|index| sessions.apply(&request(index, RecordFlags::NONE)));
    let start = start((1, 9), 20);
    let reset = Operation::Reset {
        start,
        sessions: sessions.encode(),
    };
    run(&partition, reset).await.unwrap();
    for from in [10, 11] {
        let found = opened(&dir.storage()).await.recovered().unwrap();
        assert!(same(&found.sessions, &sessions));
        assert_eq!(found.chain.base(), start.base);
        assert_eq!(found.first_offset, 20);
        write_requests(&partition, from..=from, &mut sessions).await;
    }
}

#[tokio::test]
async fn a_table_is_the_same_after_every_start() {
    for options in [written(), synced()] {
        let dir = Dir::new();
        let options = PartitionOptions {
            repairable: true,
            ..options
        };
        let partition = dir.storage().open(key(1), options).await.unwrap();
        for (write, table) in table_writes().into_iter().zip(tables()) {
            run(&partition, Operation::Table(write)).await.unwrap();
            for storage in [dir.storage(), dir.storage_after_boot()] {
                let again = storage.open(key(1), options).await.unwrap();
                for partition in [&partition, &again] {
                    let found = partition.recovered().unwrap();
                    assert_eq!(found.table, table);
                    assert_eq!(found.table_trust, Trust::Trusted);
                }
                for (consumer, entry) in &table.entries {
                    assert_eq!(again.offset(*consumer), entry.offset);
                }
            }
        }
        let listed = partition.offsets();
        let group = |id| ConsumerKey { group: true, id };
        assert_eq!(listed, [(group(7), 1 << 40), (group(8), 0)]);
    }
}

#[tokio::test]
async fn segments_before_a_start_are_removed_but_for_the_last_one() {
    let dir = Dir::new();
    let partition = opened(&dir.storage()).await;
    let mut sessions = Sessions::default();
    write_requests(&partition, 1..=14, &mut sessions).await;
    for (through, base) in [(2, 0), (3, 3), (7, 7), (10, 7), (14, 11)] {
        let start = start((1, through), 0);
        run(&partition, Operation::Trim { start }).await.unwrap();
        for partition in [&partition, &opened(&dir.storage()).await] {
            let found = partition.recovered().unwrap();
            assert_eq!(found.chain.base().index, Index(base), "{through}");
            assert_eq!(found.first_offset, 2 * (base + u64::from(base > 0)));
            assert!(same(&found.sessions, &sessions));
        }
    }
    assert_eq!(records_of(&partition)[0].position, at(1, 12));
}

#[tokio::test]
async fn a_mark_of_what_is_committed_follows_it_and_the_cuts() {
    let dir = Dir::new();
    let storage = dir.storage();
    let partition = opened(&storage).await;
    let commit = |through| Operation::Commit {
        through: Index(through),
    };
    let mut sessions = Sessions::default();
    write_requests(&partition, 1..=5, &mut sessions).await;
    run(&partition, commit(4)).await.unwrap();
    assert_eq!(partition.recovered().unwrap().commit, Index(4));
    let found = || async { opened(&dir.storage()).await.recovered().unwrap().commit };
    assert_eq!(
        found().await,
        Index(0),
        "nothing is known to be on the disk"
    );
    run(&partition, Operation::Sync).await.unwrap();
    assert_eq!(found().await, Index(4));
    write_requests(&partition, 6..=7, &mut sessions).await;
    run(&partition, commit(90)).await.unwrap();
    assert_eq!(found().await, Index(4));
    storage.close(key(1)).await.unwrap();
    assert_eq!(found().await, Index(7), "at most what the log has");
    let partition = opened(&storage).await;
    let end = Index(5);
    run(&partition, Operation::Truncate { end }).await.unwrap();
    run(
        &partition,
        Operation::Write(vec![record(at(2, 6), 12, RecordFlags::NONE)]),
    )
    .await
    .unwrap();
    for _ in 0..2 {
        assert_eq!(found().await, Index(5), "another record is there");
        run(&partition, Operation::Sync).await.unwrap();
    }
    run(&partition, reset(at(3, 80), 200)).await.unwrap();
    assert_eq!(
        found().await,
        Index(80),
        "what is before the log is committed"
    );
}

#[tokio::test]
async fn a_copy_is_trusted_as_far_as_its_node_and_its_promises_allow() {
    let dir = Dir::new();
    let partition = opened(&dir.storage()).await;
    let mut sessions = Sessions::default();
    write_requests(&partition, 1..=3, &mut sessions).await;
    let trust = |node, durability, offset_durability| {
        let found = partition.recovered().unwrap();
        let found = found.for_copy(Epoch(7), node, durability, offset_durability);
        assert_eq!(found.adopted, Epoch(7));
        (found.trust, found.table_trust)
    };
    let (fast, safe) = (Durability::Written, Durability::Synced);
    let (whole, tail, lost) = (Trust::Trusted, Trust::TailLost, Trust::Lost);
    assert_eq!(trust(LogState::Intact, fast, fast), (whole, whole));
    assert_eq!(trust(LogState::TailLost, fast, safe), (tail, whole));
    assert_eq!(trust(LogState::TailLost, safe, fast), (whole, tail));
    assert_eq!(trust(LogState::Lost, safe, safe), (lost, lost));
}
