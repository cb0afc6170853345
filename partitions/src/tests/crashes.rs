//! What a copy has beside its records when the process or the machine stops at any operation
//! of the disk, or when that fails.

use consensus::Index;

use super::copies::{table_writes, tables};
use super::crash_disk::{CrashDisk, Failure, Stop};
use super::operations::{at, records_of, run, stamp};
use super::*;
use crate::replication::{OffsetTable, Position, Sessions, Start, Trust};

/// What a copy has.
#[derive(Clone, Default)]
struct State {
    /// The log starts after this record, with these sessions.
    origin: Position,
    before: Sessions,
    /// The records after it, those that were removed among them.
    log: Vec<Record>,
    /// Up to here they may have been removed.
    trimmed: u64,
    /// How many writes of the table.
    tables: usize,
    /// What was committed, by the log that had it.
    marks: Vec<(u64, Vec<Record>)>,
}

impl State {
    fn end(&self) -> u64 {
        self.origin.index.0 + self.log.len() as u64
    }

    fn at(&self, index: u64) -> Option<&Record> {
        let number = index.checked_sub(self.origin.index.0 + 1)?;
        self.log.get(usize::try_from(number).unwrap())
    }

    /// The sessions after this record.
    fn sessions(&self, end: u64) -> Sessions {
        let mut sessions = self.before.clone();
        let log = self.log.iter();
        log.take_while(|it| it.position.index.0 <= end)
            .for_each(|it| sessions.apply(it));
        sessions
    }
}

struct Step {
    operation: Operation,
    /// What the copy has then.
    after: State,
}

/// Makes a history.
#[derive(Default)]
struct History {
    steps: Vec<Step>,
    state: State,
    /// At least so large is the offset of the next message.
    next_offset: u64,
}

impl History {
    fn step(&mut self, operation: Operation) {
        match &operation {
            Operation::Write(records) => self.state.log.extend(records.clone()),
            Operation::Truncate { end } => self.state.log.retain(|it| it.position.index <= *end),
            Operation::Reset { start, sessions } => {
                self.state = State {
                    origin: start.base,
                    before: Sessions::decode(sessions).unwrap(),
                    tables: self.state.tables,
                    ..State::default()
                };
            }
            Operation::Table(_) => self.state.tables += 1,
            Operation::Trim { start } => self.state.trimmed = start.base.index.0,
            Operation::Commit { through } => {
                let mark = (through.0, self.state.log.clone());
                self.state.marks.push(mark);
            }
            _ => {}
        }
        let after = self.state.clone();
        self.steps.push(Step { operation, after });
    }

    /// Writes a record of the next index, with a tag.
    fn write(&mut self, epoch: u64, flags: RecordFlags) {
        let index = self.state.end() + 1;
        let offset = self.next_offset.max(2 * index);
        let batch = ClientBatch::check(&numbered(offset, 2)).unwrap();
        let tag = Tag {
            client: 1,
            session: index % 3,
            request: 100 * epoch + index,
        };
        let stamp = Stamp {
            tag: Some(tag),
            ..stamp(at(epoch, index), offset, flags)
        };
        self.step(Operation::Write(vec![Record::stamp(batch, stamp)]));
    }

    fn start_segment(&mut self, epoch: u64) {
        let sessions = self.state.sessions(self.state.end()).encode();
        self.step(Operation::StartSegment { sessions });
        self.write(epoch, RecordFlags::STARTS_SEGMENT);
    }

    fn table(&mut self) {
        let write = table_writes().swap_remove(self.state.tables % table_writes().len());
        self.step(Operation::Table(write));
    }

    fn commit(&mut self, through: u64) {
        let through = Index(through);
        self.step(Operation::Commit { through });
    }

    fn trim(&mut self, through: u64) {
        let base = at(1, through);
        let first_offset = 2 * (through + 1);
        let start = Start { base, first_offset };
        self.step(Operation::Trim { start });
    }
}

fn start(base: Position, first_offset: u64) -> Start {
    Start { base, first_offset }
}

/// Segments, two leaders, trims and a start elsewhere, with changes of the table between.
fn history() -> Vec<Step> {
    let mut history = History::default();
    let plain = RecordFlags::NONE;
    history.write(1, plain);
    history.table();
    history.write(1, plain);
    history.step(Operation::Sync);
    history.commit(2);
    history.start_segment(1);
    history.write(1, plain);
    history.table();
    history.step(Operation::Sync);
    history.commit(4);
    history.start_segment(1);
    history.table();
    history.step(Operation::Truncate { end: Index(4) });
    // Without the write, the sessions belong to no segment.
    history.start_segment(2);
    history.step(Operation::Seal);
    history.start_segment(2);
    history.table();
    history.step(Operation::Sync);
    history.commit(5);
    history.trim(3);
    history.trim(4);
    history.step(Operation::Sync);
    history.step(Operation::Truncate { end: Index(5) });
    history.write(3, plain);
    history.commit(6);
    history.step(Operation::Sync);
    let sessions = history.state.sessions(5).encode();
    let start = start(at(3, 40), 82);
    history.step(Operation::Reset { start, sessions });
    history.table();
    history.write(4, plain);
    history.commit(41);
    history.start_segment(4);
    history.table();
    history.step(Operation::Sync);
    history.steps
}

/// The state of the table after so many writes.
fn table_after(writes: usize) -> OffsetTable {
    let tables = tables();
    match writes.checked_sub(1) {
        Some(last) => tables[last % tables.len()].clone(),
        None => OffsetTable::default(),
    }
}

/// What a stop may have left, while a step was in flight.
struct Left<'a> {
    done: &'a [Step],
    next: Option<&'a Step>,
    stop: Stop,
    offsets: Durability,
}

impl Left<'_> {
    fn before(&self) -> State {
        self.done
            .last()
            .map_or(State::default(), |it| it.after.clone())
    }

    fn last_durable(&self, counts: impl Fn(&Operation) -> bool) -> usize {
        let done = self.done.iter().rposition(|it| counts(&it.operation));
        done.map_or(0, |at| at + 1)
    }

    /// The state that is found is a part of this one.
    fn longest(&self, base: Position) -> State {
        let before = self.before();
        match self.next {
            Some(Step {
                operation: Operation::Write(_) | Operation::Commit { .. },
                after,
            }) => after.clone(),
            Some(Step {
                operation: Operation::Reset { .. },
                after,
            }) if after.origin == base => after.clone(),
            Some(Step {
                operation: Operation::Trim { .. },
                after,
            }) => after.clone(),
            _ => before,
        }
    }

    /// The log has to reach this record.
    fn least(&self, longest: &State) -> u64 {
        let durable = match self.stop {
            Stop::Kill => self.done.len(),
            _ => self.last_durable(|it| {
                matches!(
                    it,
                    Operation::Sync | Operation::Truncate { .. } | Operation::Reset { .. }
                )
            }),
        };
        let since = self.done[durable.saturating_sub(1)..].iter();
        let ends = since.filter(|it| it.after.origin == longest.origin);
        let ends = ends.map(|it| it.after.end());
        let least = match durable {
            0 => 0,
            _ => ends.min().unwrap_or(0),
        };
        match self.next {
            Some(Step {
                operation: Operation::Truncate { end },
                ..
            }) => least.min(end.0),
            Some(Step {
                operation: Operation::Reset { .. },
                after,
            }) if after.origin != longest.origin => 0,
            _ => least,
        }
    }

    fn check(&self, partition: &Arc<dyn StoredPartition>) -> State {
        let found = partition.recovered().unwrap();
        assert!(found.damage.is_none(), "{:?}", found.damage);
        let base = found.chain.base();
        let mut state = self.longest(base);
        let records = records_of(partition);
        let end = found.chain.last().index.0;
        let least = self.least(&state);
        assert!(end >= least, "{end} of {least}");
        for record in &records {
            assert_eq!(Some(record), state.at(record.position.index.0));
        }
        let removed = base.index.0;
        let removable = state.trimmed.max(state.origin.index.0);
        // A process may stop in the midst of removing the log before a new start.
        let removing = matches!(
            self.next,
            Some(Step {
                operation: Operation::Reset { .. },
                ..
            })
        );
        assert!(removed <= removable || removing, "{removed} of {removable}");
        let sessions = state.sessions(end).encode();
        assert_eq!(found.sessions.encode(), sessions, "of {records:?}");
        self.check_mark(&state, found.commit.0, base, end);
        let writes = self.check_table(&found.table);
        assert_eq!(found.table_trust, Trust::Trusted);
        let kept = usize::try_from(end.saturating_sub(state.origin.index.0)).unwrap();
        state.log.truncate(kept);
        state.tables = writes;
        state
    }

    /// The mark is of a record that was committed.
    fn check_mark(&self, state: &State, commit: u64, base: Position, end: u64) {
        assert!(commit <= end);
        let marks = state.marks.iter().map(|(through, log)| {
            let of = State {
                log: log.clone(),
                ..state.clone()
            };
            *through >= commit && of.at(commit) == state.at(commit)
        });
        let marked = marks.into_iter().any(|it| it);
        assert!(commit == base.index.0 || marked, "{commit}");
    }

    /// The table is that after one of the writes: how many there were.
    fn check_table(&self, table: &OffsetTable) -> usize {
        let before = self.before().tables;
        let next = self.next.map_or(before, |it| it.after.tables);
        let durable = self.last_durable(|it| matches!(it, Operation::Sync));
        let least = match (self.stop, self.offsets) {
            (Stop::Kill, _) | (_, Durability::Synced) => before,
            _ => durable
                .checked_sub(1)
                .map_or(0, |at| self.done[at].after.tables),
        };
        let found = (least..=next).rev().find(|it| table_after(*it) == *table);
        assert!(found.is_some(), "{table:?} after {least}..={next}");
        found.unwrap()
    }
}

fn options(offsets: Durability) -> PartitionOptions {
    PartitionOptions {
        repairable: true,
        offset_durability: offsets,
        ..written()
    }
}

/// Continues a log that was found, and reads it again.
async fn continue_after(dir: &Dir, stop: Stop, left: &Left<'_>) {
    let options = options(left.offsets);
    let boot = match stop {
        Stop::Kill => BOOT,
        Stop::Power | Stop::PowerBut(_) => NEXT_BOOT,
    };
    let partition = dir
        .storage_unsynced(boot)
        .open(key(1), options)
        .await
        .unwrap();
    let state = left.check(&partition);
    let mut history = History {
        state,
        next_offset: partition.recovered().unwrap().next_offset,
        ..History::default()
    };
    history.start_segment(9);
    history.table();
    history.step(Operation::Sync);
    history.commit(history.state.end());
    history.step(Operation::Sync);
    for step in &history.steps {
        run(&partition, step.operation.clone()).await.unwrap();
    }
    for boot in [boot, NEXT_BOOT] {
        let partition = dir
            .storage_unsynced(boot)
            .open(key(1), options)
            .await
            .unwrap();
        let left = Left {
            done: &history.steps,
            next: None,
            stop: Stop::Kill,
            ..*left
        };
        left.check(&partition);
        assert_eq!(partition.recovered().unwrap().commit.0, history.state.end());
        assert_eq!(partition.recovered().unwrap().trust, Trust::Trusted);
    }
}

/// Runs the history until the machine stops; whether it did not.
async fn stopped_at(operation: usize, stop: Stop, offsets: Durability) -> bool {
    let dir = Dir::new();
    let path = dir.partition(key(1));
    let disk = CrashDisk::new(operation);
    let storage = dir.storage_on(Arc::new(disk.clone()), BOOT);
    let steps = history();
    let Ok(partition) = storage.open(key(1), options(offsets)).await else {
        return false;
    };
    let mut done = 0;
    for step in &steps {
        if run(&partition, step.operation.clone()).await.is_err() {
            break;
        }
        done += 1;
    }
    if done == steps.len() && !disk.is_stopped() {
        return true;
    }
    let dir = Dir::new();
    disk.leave(stop, &path, &dir.partition(key(1)));
    let left = Left {
        done: &steps[..done],
        next: steps.get(done),
        stop,
        offsets,
    };
    continue_after(&dir, stop, &left).await;
    false
}

#[tokio::test]
async fn a_stop_at_any_operation_leaves_sessions_table_and_mark_of_what_is_there() {
    let (fast, safe) = (Durability::Written, Durability::Synced);
    for (stop, offsets) in [
        (Stop::Kill, fast),
        (Stop::Kill, safe),
        (Stop::Power, fast),
        (Stop::Power, safe),
        (Stop::PowerBut("acknowledged"), safe),
        (Stop::PowerBut("offsets"), fast),
        (Stop::PowerBut(".log"), safe),
    ] {
        let mut operation = 1;
        while !stopped_at(operation, stop, offsets).await {
            operation += 1;
        }
        assert!(operation > 80, "{operation}");
    }
}

/// The shell repeats what met a full disk.
#[tokio::test]
async fn an_operation_that_met_a_full_disk_succeeds_when_there_is_room() {
    let steps = history();
    let (mut operation, mut met) = (1, 0);
    loop {
        let dir = Dir::new();
        dir.partition(key(1));
        let disk = CrashDisk::failing(operation, Failure::Full);
        let storage = dir.storage_on(Arc::new(disk.clone()), BOOT);
        let options = options(Durability::Synced);
        let partition = storage.open(key(1), options).await.unwrap();
        for step in &steps {
            match run(&partition, step.operation.clone()).await {
                Err(StorageError::Full { .. }) => {
                    met += 1;
                    run(&partition, step.operation.clone()).await.unwrap();
                }
                done => done.unwrap(),
            }
        }
        let left = Left {
            done: &steps,
            next: None,
            stop: Stop::Kill,
            offsets: Durability::Synced,
        };
        left.check(&partition);
        left.check(&dir.storage().open(key(1), options).await.unwrap());
        if !disk.is_stopped() {
            break;
        }
        operation += 1;
    }
    assert!(met > 20, "{met}");
}

/// The process opens the copy again.
#[tokio::test]
async fn after_an_operation_that_failed_the_copy_has_what_was_done() {
    let steps = history();
    let (mut operation, mut met) = (1, 0);
    loop {
        let dir = Dir::new();
        dir.partition(key(1));
        let disk = CrashDisk::failing(operation, Failure::Error);
        let storage = dir.storage_on(Arc::new(disk.clone()), BOOT);
        let options = options(Durability::Synced);
        let mut done = 0;
        if let Ok(partition) = storage.open(key(1), options).await {
            for step in &steps {
                if run(&partition, step.operation.clone()).await.is_err() {
                    break;
                }
                done += 1;
            }
            if !disk.is_stopped() {
                break;
            }
            met += usize::from(done < steps.len());
            let _ = storage.close(key(1)).await;
        }
        let left = Left {
            done: &steps[..done],
            next: steps.get(done),
            stop: Stop::Kill,
            offsets: Durability::Synced,
        };
        continue_after(&dir, Stop::Kill, &left).await;
        operation += 1;
    }
    assert!(met > 80, "{met}");
}
