//! Any history against a model of what is durable.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Append>),
    Reset { ahead: u64 },
    Sync,
    Compact { back: u64 },
    Prepare,
    Crash { seed: u64 },
    Restart,
    FailAfter { operations: u64 },
}

#[derive(Clone, Debug)]
struct Append {
    back: u64,
    count: u64,
    bytes: usize,
    hard_state: bool,
}

fn append() -> impl Strategy<Value = Append> {
    let count = prop_oneof![5 => 0..5_u64, 1 => 10..40_u64];
    (0..4_u64, count, 0..6_000_usize, any::<bool>()).prop_map(|(back, count, bytes, hard_state)| {
        Append {
            back,
            count,
            bytes,
            hard_state,
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(append(), 1..4).prop_map(Step::Append),
        1 => (1..10_u64).prop_map(|ahead| Step::Reset { ahead }),
        5 => Just(Step::Sync),
        1 => (0..6_u64).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Prepare),
        2 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => Just(Step::Restart),
        1 => (1..12_u64).prop_map(|operations| Step::FailAfter { operations }),
    ]
}

/// What the log must contain after some batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    entries: Vec<Entry>,
    last: u64,
    hard_state: Option<Bytes>,
}

impl Model {
    fn with(&self, batch: &PersistBatch) -> Self {
        let mut state = self.clone();
        if let Some((index, _)) = batch.reset_to {
            state.entries.clear();
            state.last = index.0;
        }
        for entry in &batch.entries {
            state.entries.retain(|kept| kept.index < entry.index);
            state.entries.push(entry.clone());
            state.last = entry.index.0;
        }
        if batch.hard_state.is_some() {
            state.hard_state.clone_from(&batch.hard_state);
        }
        state
    }

    /// Whether the log is this, less a prefix up to `compacted`.
    fn matches(&self, log: &RecoveredLog, compacted: u64) -> bool {
        let first = log.entries.first().map(|entry| entry.index.0);
        let expected: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| first.is_some_and(|first| entry.index.0 >= first))
            .collect();
        let dropped = self.entries.len() - expected.len();
        // An empty log knows where it ends, unless that was compacted away.
        let end = !log.entries.is_empty()
            || log.last().0 == self.last
            || (log.reset.is_none() && self.last <= compacted);
        end && log.hard_state == self.hard_state
            && expected.iter().copied().eq(&log.entries)
            && self.entries[..dropped]
                .iter()
                .all(|entry| entry.index.0 <= compacted)
    }
}

/// A log, and the states that it may be in after a crash.
struct Run {
    disk: MemoryDisk,
    wal: Wal,
    /// The state after each batch since the last that is certain.
    states: Vec<Model>,
    synced: usize,
    compacted: u64,
    term: u64,
}

impl Run {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        let (wal, _) = open(&disk).unwrap();
        Self {
            disk,
            wal,
            states: vec![Model::default()],
            synced: 0,
            compacted: 0,
            term: 1,
        }
    }

    fn newest(&self) -> &Model {
        self.states.last().unwrap()
    }

    fn batch(&mut self, append: &Append) -> PersistBatch {
        self.term += 1;
        let newest = self.newest();
        let lowest = newest
            .entries
            .first()
            .map_or(newest.last + 1, |e| e.index.0);
        let first = (newest.last + 1)
            .saturating_sub(append.back)
            .max(lowest)
            .max(self.compacted + 1);
        let entries = (first..first + append.count)
            .map(|index| entry(index, self.term, append.bytes))
            .collect();
        let state = format!("state {}", self.term);
        batch(entries, append.hard_state.then_some(state.as_str()))
    }

    fn append(&mut self, batches: &[PersistBatch]) -> Result<(), WalError> {
        self.wal.append(batches)
    }

    fn step(&mut self, step: &Step) -> Result<(), WalError> {
        match step {
            Step::Append(appends) => {
                let mut batches = Vec::new();
                for append in appends {
                    let batch = self.batch(append);
                    // It may be there even when the append fails.
                    self.states.push(self.newest().with(&batch));
                    batches.push(batch);
                }
                self.append(&batches)?;
            }
            Step::Reset { ahead } => {
                let batch = reset(self.newest().last + ahead, self.term);
                self.states.push(self.newest().with(&batch));
                self.append(&[batch])?;
            }
            Step::Sync => {
                self.wal.sync()?;
                self.synced = self.states.len() - 1;
            }
            Step::Compact { back } => {
                self.wal.sync()?;
                self.synced = self.states.len() - 1;
                let through = self.newest().last.saturating_sub(*back);
                self.compacted = self.compacted.max(through);
                self.wal.compact(Index(self.compacted))?;
            }
            Step::Prepare => {
                self.wal.prepare()?;
            }
            Step::Crash { seed } => {
                let mut draw = numbers(*seed);
                // Crashes that lose nearly all, nearly nothing, and anything.
                let odds = draw() % 3;
                self.disk.crash(&mut || match odds {
                    0 => u64::from(draw().is_multiple_of(16)),
                    1 => u64::from(!draw().is_multiple_of(16)),
                    _ => draw(),
                });
                self.reopen();
            }
            Step::Restart => self.reopen(),
            Step::FailAfter { operations } => self.disk.fail_after(Some(*operations)),
        }
        Ok(())
    }

    /// What is found is one of the states that are possible.
    fn reopen(&mut self) {
        self.disk.fail_after(None);
        let (wal, log) = open(&self.disk).unwrap();
        let found = (self.synced..self.states.len())
            .rev()
            .find(|at| self.states[*at].matches(&log, self.compacted));
        let Some(found) = found else {
            panic!(
                "recovered {:?} {:?} and expected one of {:?}",
                indexes(&log),
                log.hard_state,
                &self.states[self.synced..]
            );
        };
        self.states = vec![self.states[found].clone()];
        self.synced = 0;
        self.wal = wal;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_history_recovers_to_whole_batches_with_all_that_was_synced(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut run = Run::new();
        for step in &steps {
            if run.step(step).is_err() {
                run.reopen();
            }
        }
        run.reopen();
    }
}
