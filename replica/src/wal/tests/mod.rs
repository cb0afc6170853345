//! What the log does when nothing goes wrong; the rest is in the modules below.

mod crash;
mod damage;
mod full;
mod model;

use std::sync::Arc;

use bytes::Bytes;
use consensus::{Entry, EntryKind, Index, PersistBatch, PersistId, Term};

use super::segment::{self, BLOCK_BYTES};
use super::{RecoveredLog, Wal, WalConfig, WalError};
use crate::disk::{Disk, MemoryDisk};

const DIR: &str = "wal";
const BLOCKS_PER_SEGMENT: usize = 16;

fn config() -> WalConfig {
    WalConfig {
        group: 7,
        segment_bytes: (BLOCKS_PER_SEGMENT * BLOCK_BYTES) as u64,
        spares_max: 2,
        ..WalConfig::new(7)
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

fn reset(index: u64, term: u64) -> PersistBatch {
    PersistBatch {
        reset_to: Some((Index(index), Term(term))),
        ..PersistBatch::default()
    }
}

fn durable(wal: &mut Wal, batch: PersistBatch) {
    wal.append(&[batch]).unwrap();
    wal.sync().unwrap();
}

fn indexes(log: &RecoveredLog) -> Vec<u64> {
    log.entries.iter().map(|entry| entry.index.0).collect()
}

/// The paths of the segments, oldest first.
fn segments(disk: &MemoryDisk) -> Vec<String> {
    let names = disk.list(DIR).unwrap();
    names
        .iter()
        .filter(|name| segment::number_of(name).is_some())
        .map(|name| format!("{DIR}/{name}"))
        .collect()
}

/// Numbers that look random and repeat.
fn numbers(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    }
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
fn a_reset_forgets_the_log_and_records_what_follows() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(
        &mut wal,
        batch((1..=9).map(|i| entry(i, 1, 9)).collect(), Some("a")),
    );
    durable(&mut wal, reset(100, 4));
    let (mut wal, log) = open(&disk).unwrap();
    assert_eq!((log.last(), log.entries.len()), (Index(100), 0));
    assert_eq!(log.hard_state.as_deref(), Some(&b"a"[..]));
    durable(&mut wal, batch(vec![entry(101, 4, 9)], None));
    let (_, log) = open(&disk).unwrap();
    assert_eq!(indexes(&log), [101]);
}

#[test]
fn a_reset_is_remembered_over_any_number_of_starts() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, reset(100, 4));
    for _ in 0..10 {
        let (mut wal, log) = open(&disk).unwrap();
        assert_eq!(log.reset, Some((Index(100), Term(4))));
        wal.compact(Index(100)).unwrap();
    }
}

#[test]
fn a_reset_is_kept_until_the_first_entry_after_it_is_not_needed() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, reset(100, 4));
    // Full segments after it, without an entry.
    for _ in 0..40 {
        durable(&mut wal, batch(vec![], Some("s")));
    }
    wal.compact(Index(100)).unwrap();
    let (_, log) = open(&disk).unwrap();
    assert_eq!(log.reset, Some((Index(100), Term(4))));
}

#[test]
fn a_reset_frees_all_segments_before_it() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for index in 1..=100 {
        durable(&mut wal, batch(vec![entry(index, 1, 3_000)], None));
    }
    durable(&mut wal, reset(50, 2));
    let reopened = disk.copy();
    for (mut wal, disk) in [(wal, disk), (open(&reopened).unwrap().0, reopened.clone())] {
        wal.compact(Index(50)).unwrap();
        assert!(wal.size().segments <= 2, "{:?}", wal.size());
        let (_, log) = open(&disk).unwrap();
        assert_eq!((log.last(), log.entries.len()), (Index(50), 0));
    }
}

/// One write and one sync for all batches of one call.
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
    let stats = wal.stats();
    assert_eq!((stats.frames, stats.records, stats.syncs), (1, 40, 1));
    assert_eq!(stats.bytes, BLOCK_BYTES as u64);
}

#[test]
fn a_batch_of_several_segments_is_read_back_whole() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let entries: Vec<_> = (1..=50).map(|i| entry(i, 1, 5_000)).collect();
    durable(&mut wal, batch(entries.clone(), Some("a")));
    assert!(wal.size().segments > 4);
    let (_, log) = open(&disk).unwrap();
    assert_eq!(log.entries, entries);
    assert_eq!(log.hard_state.as_deref(), Some(&b"a"[..]));
}

/// The front of a batch may be compacted while the rest is still needed.
#[test]
fn a_batch_that_lost_its_front_to_compaction_still_counts() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let entries: Vec<_> = (1..=50).map(|i| entry(i, 1, 5_000)).collect();
    durable(&mut wal, batch(entries, Some("a")));
    wal.compact(Index(30)).unwrap();
    let (_, log) = open(&disk).unwrap();
    assert!((2..=31).contains(&log.entries[0].index.0));
    assert_eq!(log.last(), Index(50));
    assert_eq!(log.hard_state.as_deref(), Some(&b"a"[..]));
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
        assert!(!log.torn_tail);
        wal = reopened;
    }
}

#[test]
fn starts_that_write_nothing_do_not_pile_up() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, batch(vec![], Some("vote")));
    for _ in 0..50 {
        let (wal, log) = open(&disk).unwrap();
        assert!(wal.size().segments + wal.size().spares <= 4);
        assert_eq!(log.hard_state.as_deref(), Some(&b"vote"[..]));
    }
}

/// A new segment whose file was made before costs its header and its name.
#[test]
fn a_prepared_spare_makes_the_next_segment_cheap() {
    let disk = MemoryDisk::new();
    let config = WalConfig {
        segment_bytes: 1 << 20,
        ..config()
    };
    let (mut wal, _) = Wal::open(Arc::new(disk.clone()), DIR, config).unwrap();
    let mut slices = 0;
    while wal.prepare().unwrap() {
        slices += 1;
        durable(&mut wal, batch(vec![entry(slices, 1, 10)], None));
    }
    assert_eq!(slices, 3, "the last slice leaves nothing to do");
    assert!(!wal.prepare().unwrap());
    let spares = wal.size().spares;
    let before = disk.operations();
    wal.append(&[batch((4..=5).map(|i| entry(i, 1, 600_000)).collect(), None)])
        .unwrap();
    assert_eq!(wal.size().spares, spares - 1);
    // Two frames; a sync of the old; header, sync, rename and directory of the new.
    assert_eq!(disk.operations() - before, 2 + 1 + 4);
}

#[test]
fn a_spare_that_cannot_be_made_harms_nothing() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    disk.fail_after(Some(1));
    assert!(wal.prepare().is_err());
    assert!(!wal.prepare().unwrap(), "it would fail again and again");
    disk.fail_after(None);
    let entries = (1..=50).map(|i| entry(i, 1, 5_000)).collect();
    durable(&mut wal, batch(entries, None));
    assert_eq!(open(&disk).unwrap().1.last(), Index(50));
}

#[test]
fn segments_may_change_their_size_between_starts() {
    let disk = MemoryDisk::new();
    let mut written = 0;
    for blocks in [16, 4, 64, 8] {
        let config = WalConfig {
            segment_bytes: blocks * BLOCK_BYTES as u64,
            ..config()
        };
        let (mut wal, log) = Wal::open(Arc::new(disk.clone()), DIR, config).unwrap();
        assert_eq!(log.entries.len() as u64, written);
        for _ in 0..40 {
            written += 1;
            durable(&mut wal, batch(vec![entry(written, 1, 3_000)], None));
        }
    }
}

#[test]
fn a_segment_size_that_cannot_be_used_is_refused() {
    for segment_bytes in [0, 4096, 5000, 16_385, 2 << 30] {
        let config = WalConfig {
            segment_bytes,
            ..config()
        };
        let refused = Wal::open(Arc::new(MemoryDisk::new()), DIR, config).err();
        assert!(matches!(refused, Some(WalError::SegmentSize { .. })));
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
    disk.flip(&segments(&disk)[0], 8, 0x40);
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

#[test]
#[should_panic(expected = "does not follow the log")]
fn a_gap_is_never_written() {
    let (mut wal, _) = open(&MemoryDisk::new()).unwrap();
    durable(&mut wal, batch(vec![entry(1, 1, 10)], None));
    durable(&mut wal, batch(vec![entry(3, 1, 10)], None));
}

#[test]
#[should_panic(expected = "does not follow the log")]
fn a_gap_after_what_was_recovered_is_never_written() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, batch(vec![entry(1, 1, 10)], None));
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, batch(vec![entry(3, 1, 10)], None));
}
