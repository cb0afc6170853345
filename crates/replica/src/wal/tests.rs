use std::sync::Arc;

use bytes::Bytes;
use consensus::{Entry, EntryKind, Index, PersistBatch, PersistId, Term};
use proptest::prelude::*;

use super::{RecoveredLog, Wal, WalConfig, WalError};
use crate::disk::{Disk, MemoryDisk};

const DIR: &str = "wal";

fn config() -> WalConfig {
    WalConfig {
        group: 7,
        segment_bytes: 16 << 12,
        spares_max: 2,
    }
}

fn open(disk: &MemoryDisk) -> Result<(Wal, RecoveredLog), WalError> {
    Wal::open(Arc::new(disk.clone()), DIR, config())
}

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry {
        term: Term(term),
        index: Index(index),
        kind: EntryKind::Command,
        payload: Bytes::from(vec![(index % 251) as u8; bytes]),
    }
}

fn batch(entries: Vec<Entry>, hard_state: Option<&str>) -> PersistBatch {
    PersistBatch {
        id: PersistId(0),
        reset_to: None,
        entries,
        hard_state: hard_state.map(|state| Bytes::copy_from_slice(state.as_bytes())),
    }
}

fn durable(wal: &mut Wal, batch: PersistBatch) {
    wal.append(&[batch]).unwrap();
    wal.sync().unwrap();
}

fn indexes(log: &RecoveredLog) -> Vec<u64> {
    log.entries.iter().map(|entry| entry.index.0).collect()
}

#[test]
fn what_was_written_is_read_back() {
    let disk = MemoryDisk::new();
    let (mut wal, log) = open(&disk).unwrap();
    assert_eq!(log, RecoveredLog::default());
    durable(
        &mut wal,
        batch(vec![entry(1, 1, 10), entry(2, 1, 0)], Some("a")),
    );
    durable(&mut wal, batch(vec![entry(3, 2, 20_000)], Some("b")));
    drop(wal);
    let (_, log) = open(&disk).unwrap();
    assert_eq!(
        log.entries,
        [entry(1, 1, 10), entry(2, 1, 0), entry(3, 2, 20_000)]
    );
    assert_eq!(log.hard_state.as_deref(), Some(&b"b"[..]));
    assert!(!log.torn_tail);
}

#[test]
fn an_entry_at_an_index_replaces_the_suffix() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(
        &mut wal,
        batch((1..=9).map(|i| entry(i, 1, 9)).collect(), None),
    );
    durable(&mut wal, batch(vec![entry(4, 2, 9)], None));
    let (_, log) = open(&disk).unwrap();
    assert_eq!(indexes(&log), [1, 2, 3, 4]);
    assert_eq!(log.entries[3].term, Term(2));
}

#[test]
fn a_reset_forgets_the_log_and_says_what_follows() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(
        &mut wal,
        batch((1..=9).map(|i| entry(i, 1, 9)).collect(), Some("a")),
    );
    let mut reset = batch(vec![], None);
    reset.reset_to = Some((Index(100), Term(4)));
    durable(&mut wal, reset);
    let (mut wal, log) = open(&disk).unwrap();
    assert_eq!((log.last(), log.entries.len()), (Index(100), 0));
    assert_eq!(log.hard_state.as_deref(), Some(&b"a"[..]));
    durable(&mut wal, batch(vec![entry(101, 4, 9)], None));
    let (_, log) = open(&disk).unwrap();
    assert_eq!(indexes(&log), [101]);
}

/// One write and one sync for everything that is handed over at once.
#[test]
fn batches_that_wait_share_one_write_and_one_sync() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let before = disk.writes_and_syncs();
    let batches: Vec<_> = (1..=20)
        .map(|i| batch(vec![entry(i, 1, 100)], Some("s")))
        .collect();
    wal.append(&batches).unwrap();
    wal.sync().unwrap();
    let after = disk.writes_and_syncs();
    assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1));
}

/// The last frame is on disk up to every byte, and with every single sector of
/// it missing.
#[test]
fn a_torn_last_frame_is_dropped_whole_at_every_byte() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, batch(vec![entry(1, 1, 100)], Some("a")));
    let before = disk.copy();
    durable(
        &mut wal,
        batch(vec![entry(2, 1, 5_000), entry(3, 1, 100)], Some("b")),
    );
    let path = super::segment::path(DIR, 1);
    let at = 2 * super::BLOCK_BYTES as u64;
    let mut frame = vec![0; 2 * super::BLOCK_BYTES];
    disk.open(&path).unwrap().read_at(at, &mut frame).unwrap();
    let content = frame.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let recover_with = |bytes: &[u8]| {
        let torn = before.copy();
        let file = torn.open(&path).unwrap();
        file.write_at(at, bytes).unwrap();
        file.sync().unwrap();
        let (mut wal, log) = open(&torn).unwrap();
        // What is written next must not bring the torn frame back.
        durable(&mut wal, batch(vec![entry(2, 9, 10)], None));
        let (_, again) = open(&torn).unwrap();
        assert_eq!(again.entries.last().unwrap().term, Term(9));
        log
    };
    for length in 0..content {
        let log = recover_with(&frame[..length]);
        assert_eq!(indexes(&log), [1], "{length} bytes of the frame");
        assert_eq!(log.hard_state.as_deref(), Some(&b"a"[..]));
    }
    for missing in 0..content.div_ceil(512) {
        let mut holed = frame.clone();
        holed[missing * 512..(missing + 1) * 512].fill(0);
        let log = recover_with(&holed);
        assert_eq!(indexes(&log), [1], "sector {missing} missing");
    }
    let whole = {
        let copy = disk.copy();
        open(&copy).unwrap().1
    };
    assert_eq!(indexes(&whole), [1, 2, 3]);
}

/// Of several unsynced frames any may be missing: the log ends before the first
/// that is.
#[test]
fn unsynced_frames_with_a_hole_are_a_torn_tail() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, batch(vec![entry(1, 1, 10)], None));
    for index in 2..=5 {
        wal.append(&[batch(vec![entry(index, 1, 10)], None)])
            .unwrap();
    }
    let mut sectors = 0;
    let mut lose_the_second_frame = || {
        sectors += 1;
        // Each frame is eight sectors.
        u64::from(!(9..=16).contains(&sectors))
    };
    disk.crash(&mut lose_the_second_frame);
    let (_, log) = open(&disk).unwrap();
    assert_eq!(indexes(&log), [1, 2]);
    assert!(!log.torn_tail || log.entries.len() == 2);
}

#[test]
fn damage_to_any_byte_of_what_was_acknowledged_is_refused() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for index in 1..=6 {
        durable(&mut wal, batch(vec![entry(index, 1, 300)], Some("s")));
    }
    let frame_bytes = 400;
    for frame in 0..5 {
        for byte in (0..frame_bytes).step_by(3) {
            let damaged = disk.copy();
            let at = (1 + frame) * super::BLOCK_BYTES + byte;
            damaged.flip(&super::segment::path(DIR, 1), at, 0x10);
            match open(&damaged) {
                Err(WalError::Corrupt { path, offset, .. }) => {
                    assert!(path.ends_with(".wal"));
                    assert_eq!(offset, ((1 + frame) * super::BLOCK_BYTES) as u64);
                }
                Err(other) => panic!("{other}"),
                // Bytes behind the records are padding.
                Ok((_, log)) => assert_eq!(log.entries.len(), 6, "frame {frame} byte {byte}"),
            }
        }
    }
}

#[test]
fn damage_in_a_sealed_segment_is_refused_also_in_its_last_frame() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for index in 1..=40 {
        durable(&mut wal, batch(vec![entry(index, 1, 3_000)], None));
    }
    assert!(wal.size().segments > 2);
    let last_frame_of_first = 15 * super::BLOCK_BYTES;
    disk.flip(&super::segment::path(DIR, 1), last_frame_of_first + 100, 1);
    assert!(matches!(open(&disk), Err(WalError::Corrupt { .. })));
}

#[test]
fn a_missing_segment_is_refused() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for index in 1..=50 {
        durable(&mut wal, batch(vec![entry(index, 1, 3_000)], None));
    }
    disk.remove(&super::segment::path(DIR, 2)).unwrap();
    assert!(matches!(open(&disk), Err(WalError::Corrupt { .. })));
}

#[test]
fn compaction_recycles_segments_and_keeps_the_hard_state() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, batch(vec![], Some("vote")));
    for index in 1..=100 {
        durable(&mut wal, batch(vec![entry(index, 1, 3_000)], None));
    }
    wal.compact(Index(95)).unwrap();
    let size = wal.size();
    assert!(size.segments <= 2, "{size:?}");
    assert_eq!(size.spares, 2);
    let (_, log) = open(&disk).unwrap();
    assert_eq!(log.hard_state.as_deref(), Some(&b"vote"[..]));
    assert_eq!(log.last(), Index(100));
    assert!(log.entries[0].index <= Index(96));
}

/// The old frames of a recycled file are whole, and must not be taken for new.
#[test]
fn what_a_recycled_segment_held_before_never_returns() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let mut index = 0;
    for round in 0..10 {
        for _ in 0..40 {
            index += 1;
            durable(&mut wal, batch(vec![entry(index, round, 3_000)], Some("s")));
        }
        wal.compact(Index(index - 1)).unwrap();
        let (reopened, log) = open(&disk).unwrap();
        assert_eq!(log.last(), Index(index), "round {round}");
        wal = reopened;
    }
}

#[test]
fn starts_that_write_nothing_do_not_pile_up() {
    let disk = MemoryDisk::new();
    for _ in 0..50 {
        let (wal, _) = open(&disk).unwrap();
        assert!(wal.size().segments + wal.size().spares <= 4);
    }
}

#[test]
fn another_group_or_version_is_refused_by_name() {
    let disk = MemoryDisk::new();
    drop(open(&disk).unwrap());
    let other = WalConfig {
        group: 8,
        ..config()
    };
    let refused = Wal::open(Arc::new(disk.clone()), DIR, other).err();
    assert!(matches!(refused, Some(WalError::WrongGroup { .. })));
    disk.flip(&super::segment::path(DIR, 1), 8, 0x40);
    let refused = open(&disk).err();
    assert!(matches!(refused, Some(WalError::Version { found: 65, .. })));
}

#[test]
fn a_record_that_fits_no_segment_is_refused_and_harms_nothing() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let refused = wal.append(&[batch(vec![entry(1, 1, 16 << 12)], None)]);
    assert!(matches!(refused, Err(WalError::TooLarge { .. })));
    durable(&mut wal, batch(vec![entry(1, 1, 10)], None));
}

/// Every operation fails once; what was acknowledged before is there afterwards,
/// and the log refuses to go on.
#[test]
fn a_failed_operation_poisons_the_log_and_loses_nothing_acknowledged() {
    for fail_at in 1.. {
        let disk = MemoryDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        disk.fail_after(Some(fail_at));
        let mut acknowledged = 0;
        let mut failed = false;
        for index in 1..=40 {
            let written = wal
                .append(&[batch(vec![entry(index, 1, 3_000)], Some("s"))])
                .and_then(|()| wal.sync())
                .and_then(|()| {
                    if index % 15 == 0 {
                        wal.compact(Index(index - 2))
                    } else {
                        Ok(())
                    }
                });
            if written.is_err() {
                failed = true;
                break;
            }
            acknowledged = index;
        }
        if !failed {
            assert!(fail_at > 80, "too few operations failed");
            return;
        }
        assert!(matches!(wal.sync(), Err(WalError::Poisoned)));
        assert!(matches!(wal.append(&[]), Err(WalError::Poisoned)));
        let mut seed = fail_at;
        disk.crash(&mut || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        });
        let (_, log) = open(&disk).unwrap();
        assert!(log.last() >= Index(acknowledged), "operation {fail_at}");
        assert!(log.last() <= Index(acknowledged + 1));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        back: u64,
        count: u64,
        bytes: usize,
        hard_state: bool,
    },
    Reset {
        ahead: u64,
    },
    Sync,
    Compact {
        back: u64,
    },
    Crash {
        seed: u64,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u64, 1..5_u64, 0..6_000_usize, any::<bool>()).prop_map(
            |(back, count, bytes, hard_state)| Step::Append { back, count, bytes, hard_state }
        ),
        1 => (1..10_u64).prop_map(|ahead| Step::Reset { ahead }),
        5 => Just(Step::Sync),
        1 => (0..6_u64).prop_map(|back| Step::Compact { back }),
        2 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => Just(Step::Reopen),
    ]
}

/// What the log must hold after a prefix of the batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    entries: Vec<Entry>,
    last: u64,
    hard_state: Option<Bytes>,
}

impl Model {
    /// The states that a batch passes through, record by record: a batch that is
    /// cut at the end of a segment may survive in part.
    fn states_of(&self, batch: &PersistBatch) -> Vec<Self> {
        let mut states = Vec::new();
        let mut state = self.clone();
        if let Some((index, _)) = batch.reset_to {
            state.entries.clear();
            state.last = index.0;
            states.push(state.clone());
        }
        for entry in &batch.entries {
            state.entries.retain(|held| held.index < entry.index);
            state.entries.push(entry.clone());
            state.last = entry.index.0;
            states.push(state.clone());
        }
        if batch.hard_state.is_some() {
            state.hard_state.clone_from(&batch.hard_state);
            states.push(state);
        }
        states
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
        log.hard_state == self.hard_state
            && expected.iter().copied().eq(&log.entries)
            && self.entries[..dropped]
                .iter()
                .all(|entry| entry.index.0 <= compacted)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_history_recovers_to_a_prefix_that_holds_all_that_was_synced(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let disk = MemoryDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        // The states after each append since the last that is certain.
        let mut states = vec![Model::default()];
        let mut synced = 0;
        let mut compacted = 0;
        let mut term = 1;
        for step in steps {
            let newest = states.last().unwrap().clone();
            match step {
                Step::Append { back, count, bytes, hard_state } => {
                    term += 1;
                    let lowest = newest.entries.first().map_or(newest.last + 1, |e| e.index.0);
                    let first = (newest.last + 1).saturating_sub(back).max(lowest).max(compacted + 1);
                    let entries = (first..first + count).map(|i| entry(i, term, bytes)).collect();
                    let state = format!("state {term}");
                    let batch = batch(entries, hard_state.then_some(state.as_str()));
                    wal.append(std::slice::from_ref(&batch)).unwrap();
                    states.extend(newest.states_of(&batch));
                }
                Step::Reset { ahead } => {
                    let mut batch = batch(vec![], None);
                    batch.reset_to = Some((Index(newest.last + ahead), Term(term)));
                    wal.append(std::slice::from_ref(&batch)).unwrap();
                    states.extend(newest.states_of(&batch));
                }
                Step::Sync => {
                    wal.sync().unwrap();
                    synced = states.len() - 1;
                }
                Step::Compact { back } => {
                    wal.sync().unwrap();
                    synced = states.len() - 1;
                    compacted = compacted.max(newest.last.saturating_sub(back));
                    wal.compact(Index(compacted)).unwrap();
                }
                Step::Crash { mut seed } => {
                    disk.crash(&mut || {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        seed >> 33
                    });
                    let (reopened, log) = open(&disk).unwrap();
                    let found = (synced..states.len()).rev().find(|at| states[*at].matches(&log, compacted));
                    prop_assert!(found.is_some(), "recovered {:?} {:?}", indexes(&log), log.hard_state);
                    let state = states[found.unwrap()].clone();
                    states = vec![state];
                    synced = 0;
                    wal = reopened;
                }
                Step::Reopen => {
                    let (reopened, log) = open(&disk).unwrap();
                    prop_assert!(states.last().unwrap().matches(&log, compacted));
                    states = vec![newest];
                    synced = 0;
                    wal = reopened;
                }
            }
        }
    }
}
