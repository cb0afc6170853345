//! The operations on a log, and what a stop in the midst of them leaves.

use consensus::Index;
use tokio::sync::oneshot;

use super::crash_disk::{CrashDisk, Stop};
use super::faulty::Operation as DiskOperation;
use super::*;
use crate::replication::{Epoch, Position, Sessions, Start, Trust};

pub(super) fn repairable() -> PartitionOptions {
    PartitionOptions {
        repairable: true,
        ..written()
    }
}

pub(super) fn at(epoch: u64, index: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

pub(super) fn stamp(position: Position, offset: u64, flags: RecordFlags) -> Stamp {
    Stamp {
        partition_id: 3,
        position,
        first_offset: offset,
        timestamp: 1_000 + position.index.0,
        flags,
        tag: None,
    }
}

/// A record of two messages.
pub(super) fn record(position: Position, offset: u64, flags: RecordFlags) -> Record {
    let batch = ClientBatch::check(&numbered(offset, 2)).unwrap();
    Record::stamp(batch, stamp(position, offset, flags))
}

/// The first record of an epoch, and `count` others; those whose index is divisible by 4
/// start segments.
pub(super) fn epoch(first: Position, mut offset: u64, count: u64) -> Vec<Record> {
    let mut records = vec![Record::epoch_start(stamp(first, offset, RecordFlags::NONE))];
    for index in first.index.0 + 1..=first.index.0 + count {
        let flags = match index % 4 {
            0 => RecordFlags::STARTS_SEGMENT,
            _ => RecordFlags::NONE,
        };
        let position = at(first.epoch.0, index);
        records.push(record(position, offset, flags));
        offset += 2;
    }
    records
}

pub(super) fn submit(
    partition: &Arc<dyn StoredPartition>,
    operation: Operation,
) -> oneshot::Receiver<Result<(), StorageError>> {
    let (sender, receiver) = oneshot::channel();
    let done = move |result| drop(sender.send(result));
    partition.submit(operation, Box::new(done));
    receiver
}

pub(super) async fn run(
    partition: &Arc<dyn StoredPartition>,
    operation: Operation,
) -> Result<(), StorageError> {
    submit(partition, operation).await.unwrap()
}

pub(super) async fn opened(storage: &EmbeddedStorage) -> Arc<dyn StoredPartition> {
    storage.open(key(1), repairable()).await.unwrap()
}

/// All records, each of which is whole.
pub(super) fn records_of(partition: &Arc<dyn StoredPartition>) -> Vec<Record> {
    let recovered = partition.recovered().unwrap();
    let (base, last) = (recovered.chain.base(), recovered.chain.last());
    let found = partition.records(base.index, Index(u64::MAX), usize::MAX);
    let found = found.unwrap();
    assert_eq!(found.last().map_or(base, |it| it.position), last);
    let next = found.last().map(Record::next_offset);
    assert!(next.is_none_or(|next| next == recovered.next_offset));
    found
}

pub(super) async fn messages_of(partition: &Arc<dyn StoredPartition>, end: u64) -> Vec<u64> {
    let polled = partition.read(ReadFrom::First, 1_000, 1 << 20, end).await;
    let messages = decoded(&polled.unwrap());
    for (offset, payload) in &messages {
        assert_eq!(*payload, format!("message {offset}"));
    }
    messages.into_iter().map(|(offset, _)| offset).collect()
}

#[tokio::test]
async fn records_are_read_as_they_were_written_by_every_copy_and_start() {
    let dir = Dir::new();
    let partition = opened(&dir.storage()).await;
    let written = epoch(at(1, 1), 0, 10);
    for part in written.chunks(3) {
        let write = Operation::Write(part.to_vec());
        run(&partition, write).await.unwrap();
    }
    assert_eq!(dir.segments().len(), 3, "records 4 and 8 start segments");
    for partition in [partition, opened(&dir.storage()).await] {
        assert_eq!(records_of(&partition), written);
        for after in 0..11 {
            for through in after..12 {
                for bytes in [0, 1_000, 1 << 20] {
                    let found = partition.records(Index(after), Index(through), bytes);
                    let found = found.unwrap();
                    let from = usize::try_from(after).unwrap();
                    assert_eq!(found[..], written[from..from + found.len()]);
                    assert_eq!(found.is_empty(), after == through.min(11));
                    let size: usize = found.iter().map(Record::bytes).sum();
                    assert!(size <= bytes || found.len() == 1);
                    let all = found.len() as u64 == through.min(11) - after;
                    assert!(all || bytes < 1 << 20);
                }
            }
        }
        assert_eq!(messages_of(&partition, u64::MAX).await, all(20));
        assert_eq!(messages_of(&partition, 7).await, all(7));
        assert_eq!(partition.stats().messages, 20);
        assert_eq!(partition.recovered().unwrap().trust, Trust::Trusted);
    }
}

/// Other copies get the records of a batch that a client sent to a partition of its own, too.
#[tokio::test]
async fn what_was_appended_are_records_of_the_first_epoch() {
    let dir = Dir::new();
    let storage = dir.storage();
    for batch in 0..30 {
        append(&storage, batch * 7, 7, batch).await;
    }
    let records = records_of(&opened(&storage).await);
    let positions: Vec<_> = records.iter().map(|it| it.position).collect();
    let expected: Vec<_> = (1..=30).map(|index| at(1, index)).collect();
    assert_eq!(positions, expected);
    let starts = records.iter();
    let starts = starts.filter(|it| it.flags.contains(RecordFlags::STARTS_SEGMENT));
    let filled = dir.segments().into_iter();
    let filled = filled.filter(|path| fs::metadata(path).unwrap().len() > 128);
    assert_eq!(starts.count(), filled.count());
}

#[tokio::test]
async fn a_truncated_log_continues_with_other_records() {
    for end in 0..=11 {
        let dir = Dir::new();
        let partition = opened(&dir.storage()).await;
        let first = epoch(at(1, 1), 0, 10);
        run(&partition, Operation::Write(first.clone()))
            .await
            .unwrap();
        run(&partition, Operation::Sync).await.unwrap();
        let truncate = Operation::Truncate { end: Index(end) };
        run(&partition, truncate).await.unwrap();
        let kept = usize::try_from(end).unwrap();
        let mut expected = first[..kept].to_vec();
        for partition in [&partition, &opened(&dir.storage()).await] {
            assert_eq!(records_of(partition), expected, "after {end}");
            let messages = expected.iter().map(|it| u64::from(it.messages)).sum();
            assert_eq!(partition.stats().messages, messages);
        }
        let next = expected.last().map_or(0, Record::next_offset);
        let second = epoch(at(2, end + 1), next, 5);
        expected.extend(second.clone());
        run(&partition, Operation::Write(second)).await.unwrap();
        for storage in [dir.storage(), dir.storage_after_boot()] {
            let partition = opened(&storage).await;
            assert_eq!(records_of(&partition), expected, "after {end}");
            assert_eq!(partition.recovered().unwrap().trust, Trust::Trusted);
        }
    }
}

#[tokio::test]
async fn records_that_do_not_follow_are_refused_and_change_nothing() {
    let dir = Dir::new();
    let partition = opened(&dir.storage()).await;
    let mut expected = epoch(at(2, 1), 0, 3);
    run(&partition, Operation::Write(expected.clone()))
        .await
        .unwrap();
    for (position, offset) in [(at(2, 6), 6), (at(1, 5), 6), (at(2, 5), 5)] {
        let write = Operation::Write(vec![record(position, offset, RecordFlags::NONE)]);
        let refused = run(&partition, write).await;
        assert!(
            matches!(refused, Err(StorageError::NotNext { .. })),
            "{position}: {refused:?}"
        );
    }
    // A repetition has no effect, and what follows it is written.
    let mut again = expected[2..].to_vec();
    again.push(record(at(2, 5), 6, RecordFlags::NONE));
    expected.push(again[2].clone());
    run(&partition, Operation::Write(again)).await.unwrap();
    assert_eq!(records_of(&partition), expected);
}

/// Offsets that may have been visible are left out after a recovery.
#[tokio::test]
async fn messages_after_a_gap_of_offsets_are_found() {
    let dir = Dir::new();
    let partition = opened(&dir.storage()).await;
    run(&partition, Operation::Write(epoch(at(1, 1), 0, 2)))
        .await
        .unwrap();
    let gap = 1 << 40;
    let mut second = epoch(at(2, 4), gap, 0);
    second.push(record(at(2, 5), gap, RecordFlags::STARTS_SEGMENT));
    run(&partition, Operation::Write(second)).await.unwrap();
    for partition in [partition, opened(&dir.storage()).await] {
        let expected = [0, 1, 2, 3, gap, gap + 1];
        for (from, skipped) in [(0, 0), (3, 3), (4, 4), (5_000, 4), (gap + 1, 5)] {
            for count in [1, 2, 100] {
                let polled = partition
                    .read(ReadFrom::Offset(from), count, 1 << 20, u64::MAX)
                    .await;
                let found: Vec<_> = decoded(&polled.unwrap()).iter().map(|it| it.0).collect();
                assert!(!found.is_empty(), "{from}");
                assert_eq!(found[..], expected[skipped..skipped + found.len()]);
            }
        }
        assert_eq!(partition.stats().messages, 6);
    }
}

/// A write that waits for a sync would wait for other partitions' disks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_delays_no_write() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    let partition = opened(&storage).await;
    let records = epoch(at(1, 1), 0, 2);
    run(&partition, Operation::Write(records[..1].to_vec()))
        .await
        .unwrap();
    disk.block_syncs();
    let sync = submit(&partition, Operation::Sync);
    let waiting = Arc::clone(&disk);
    tokio::task::spawn_blocking(move || waiting.wait_for_blocked_sync())
        .await
        .unwrap();
    run(&partition, Operation::Write(records[1..].to_vec()))
        .await
        .unwrap();
    assert_eq!(partition.recovered().unwrap().chain.last(), at(1, 3));
    assert_eq!(partition.recovered().unwrap().synced, Index(0));
    disk.release_syncs();
    sync.await.unwrap().unwrap();
    assert!(partition.recovered().unwrap().synced >= Index(1));
}

#[tokio::test]
async fn an_operation_on_a_failed_or_closed_partition_is_answered() {
    let dir = Dir::new();
    let (disk, storage) = dir.faulty();
    let partition = opened(&storage).await;
    let records = epoch(at(1, 1), 0, 2);
    run(&partition, Operation::Write(records.clone()))
        .await
        .unwrap();
    disk.fail(DiskOperation::Truncate, ".log");
    for _ in 0..2 {
        let refused = run(&partition, Operation::Truncate { end: Index(1) }).await;
        assert!(
            matches!(refused, Err(StorageError::Failed { .. })),
            "{refused:?}"
        );
    }
    disk.heal();
    storage.close(key(1)).await.unwrap();
    let refused = run(&partition, Operation::Sync).await;
    assert!(refused.is_err());
    assert_eq!(records_of(&opened(&dir.storage()).await), records);
}

/// One step of the history below, and the log after it.
struct Step {
    operation: Operation,
    log: Vec<Record>,
    base: Position,
    /// Whether everything is then on the disk.
    durable: bool,
}

pub(super) fn reset(base: Position, first_offset: u64) -> Operation {
    Operation::Reset {
        start: Start { base, first_offset },
        sessions: Sessions::default().encode(),
    }
}

/// Two changes of the leader that cut the log, and a start elsewhere.
fn history() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut log: Vec<Record> = Vec::new();
    let mut base = at(0, 0);
    let mut step = |operation: Operation| {
        let mut durable = true;
        match &operation {
            Operation::Write(records) => {
                log.extend(records.clone());
                durable = false;
            }
            Operation::Truncate { end } => log.retain(|it| it.position.index <= *end),
            Operation::Reset { start, .. } => {
                log.clear();
                base = start.base;
            }
            _ => {}
        }
        let log = log.clone();
        steps.push(Step {
            operation,
            log,
            base,
            durable,
        });
    };
    let end = |index| Operation::Truncate { end: Index(index) };
    step(Operation::Write(epoch(at(1, 1), 0, 5)));
    step(Operation::Sync);
    step(Operation::Write(vec![record(
        at(1, 7),
        10,
        RecordFlags::NONE,
    )]));
    let flag = RecordFlags::STARTS_SEGMENT;
    step(Operation::Write(vec![record(at(1, 8), 12, flag)]));
    step(end(5));
    step(Operation::Write(epoch(at(2, 6), 8, 3)));
    step(Operation::Sync);
    step(Operation::Write(vec![record(
        at(2, 10),
        14,
        RecordFlags::NONE,
    )]));
    step(end(3));
    step(Operation::Write(epoch(at(4, 4), 4, 6)));
    step(reset(at(5, 40), 70));
    step(Operation::Write(epoch(at(6, 41), 70, 2)));
    step(Operation::Sync);
    step(reset(at(6, 30), 90));
    step(Operation::Write(epoch(at(7, 31), 90, 2)));
    step(Operation::Sync);
    steps
}

fn is_prefix(prefix: &[Record], of: &[Record]) -> bool {
    of.len() >= prefix.len() && of[..prefix.len()] == *prefix
}

/// What may be found after a stop while `next` was in flight.
fn check_left(stop: Stop, before: &[Step], next: &Step, found: &[Record], base: Position) {
    let empty = (Vec::new(), at(0, 0));
    let (acknowledged, its_base) = before
        .last()
        .map_or(empty, |last| (last.log.clone(), last.base));
    if base == next.base && next.base != its_base {
        assert_eq!(found, next.log, "a started log is empty");
        return;
    }
    let longest = match next.operation {
        Operation::Write(_) => &next.log,
        _ => &acknowledged,
    };
    assert!(is_prefix(found, longest), "{found:?} of {longest:?}");
    // What has to be there was durable, and was not removed since.
    let mut least = acknowledged.clone();
    if stop != Stop::Kill {
        let since = before.iter().rposition(|step| step.durable);
        least = since.map_or(Vec::new(), |at| before[at].log.clone());
        for step in &before[since.unwrap_or(0)..] {
            least.truncate(step.log.len());
        }
    }
    match next.operation {
        Operation::Truncate { .. } => least.truncate(next.log.len()),
        Operation::Reset { .. } => least.clear(),
        _ => {}
    }
    assert!(is_prefix(&least, found), "{least:?} in {found:?}");
}

/// The history until the machine stops, what is left then, and that it can be continued.
async fn stopped_after(operations: usize, stop: Stop) -> bool {
    let dir = Dir::new();
    let path = dir.partition(key(1));
    let disk = CrashDisk::new(operations);
    let storage = dir.storage_on(Arc::new(disk.clone()), BOOT);
    let steps = history();
    let Ok(partition) = storage.open(key(1), repairable()).await else {
        return false;
    };
    let mut done = 0;
    for step in &steps {
        if run(&partition, step.operation.clone()).await.is_err() {
            break;
        }
        done += 1;
    }
    if done == steps.len() {
        return true;
    }
    assert!(disk.is_stopped());
    let left = Dir::new();
    disk.leave(stop, &path, &left.partition(key(1)));
    let storage = match stop {
        Stop::Kill => left.storage(),
        Stop::Power | Stop::PowerBut(_) => left.storage_after_boot(),
    };
    let partition = opened(&storage).await;
    let recovered = partition.recovered().unwrap();
    assert!(recovered.damage.is_none(), "{operations}: {recovered:?}");
    let mut found = records_of(&partition);
    let base = recovered.chain.base();
    check_left(stop, &steps[..done], &steps[done], &found, base);
    let position = at(9, recovered.chain.last().index.0 + 1);
    let more = record(position, recovered.next_offset, RecordFlags::NONE);
    found.push(more.clone());
    run(&partition, Operation::Write(vec![more])).await.unwrap();
    for storage in [left.storage(), left.storage_after_boot()] {
        let partition = opened(&storage).await;
        assert_eq!(records_of(&partition), found, "{operations}");
        assert_eq!(partition.recovered().unwrap().trust, Trust::Trusted);
    }
    false
}

#[tokio::test]
async fn a_stop_at_any_operation_resurrects_nothing_and_loses_nothing() {
    for stop in [Stop::Kill, Stop::Power, Stop::PowerBut(".log")] {
        let mut operations = 1;
        while !stopped_after(operations, stop).await {
            operations += 1;
        }
        assert!(operations > 60, "{operations}");
    }
}

/// Other copies complete it.
#[tokio::test]
async fn a_damaged_copy_ends_before_the_damage_and_lacks_its_promise_until_it_is_trusted() {
    let dir = Dir::new();
    let partition = opened(&dir.storage()).await;
    let records = epoch(at(1, 1), 0, 10);
    run(&partition, Operation::Write(records.clone()))
        .await
        .unwrap();
    run(&partition, Operation::Sync).await.unwrap();
    drop(partition);
    let path = dir.segments().remove(1);
    let mut content = fs::read(&path).unwrap();
    let last = content.len() - 1;
    content[last] ^= 1;
    fs::write(&path, &content).unwrap();
    fs::remove_file(path.with_extension("idx")).unwrap();
    let files = || -> Vec<_> {
        dir.segments()
            .iter()
            .map(|it| fs::read(it).unwrap())
            .collect()
    };
    let before = files();
    for _ in 0..2 {
        let storage = dir.storage();
        let partition = opened(&storage).await;
        let recovered = partition.recovered().unwrap();
        assert_eq!(recovered.trust, Trust::TailLost);
        assert!(recovered.damage.is_some());
        assert_eq!(records_of(&partition), records[..6]);
        assert_eq!(storage.refusing().len(), 1);
        assert_eq!(files(), before, "a start changes nothing");
    }
    // A copy that would count with less than it acknowledged.
    let partition = opened(&dir.storage()).await;
    run(&partition, Operation::Write(records[6..8].to_vec()))
        .await
        .unwrap();
    let partition = opened(&dir.storage()).await;
    assert_eq!(records_of(&partition), records[..8]);
    assert_eq!(partition.recovered().unwrap().trust, Trust::TailLost);
    run(&partition, Operation::Write(records[8..].to_vec()))
        .await
        .unwrap();
    run(&partition, Operation::Trust).await.unwrap();
    assert!(partition.recovered().unwrap().damage.is_none());
    let partition = opened(&dir.storage()).await;
    assert_eq!(records_of(&partition), records);
    assert_eq!(partition.recovered().unwrap().trust, Trust::Trusted);
}
