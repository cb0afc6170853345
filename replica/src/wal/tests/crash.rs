//! What a crash or a failing disk leaves.

use super::*;

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
    let path = &segments(&disk)[0];
    let at = 2 * BLOCK_BYTES as u64;
    let mut frame = vec![0; 2 * BLOCK_BYTES];
    disk.open(path).unwrap().read_at(at, &mut frame).unwrap();
    let content = frame.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let recover_with = |bytes: &[u8]| {
        let torn = before.copy();
        let file = torn.open(path).unwrap();
        file.write_at(at, bytes).unwrap();
        file.sync().unwrap();
        let (mut wal, log) = open(&torn).unwrap();
        // What is written next must not bring the torn frame back, not even when
        // the rest of it turns up.
        durable(&mut wal, batch(vec![entry(2, 9, 10)], None));
        let file = torn.open(path).unwrap();
        file.write_at(at, &frame).unwrap();
        file.sync().unwrap();
        let (_, again) = open(&torn).unwrap();
        assert_eq!(again.entries.last().unwrap().term, Term(9));
        log
    };
    for length in 0..content {
        let log = recover_with(&frame[..length]);
        assert_eq!(indexes(&log), [1], "{length} bytes of the frame");
        assert_eq!(log.hard_state.as_deref(), Some(&b"a"[..]));
        assert_eq!(log.torn_tail, length >= 5, "{length} bytes of the frame");
    }
    for missing in 0..content.div_ceil(512) {
        let mut holed = frame.clone();
        holed[missing * 512..(missing + 1) * 512].fill(0);
        let log = recover_with(&holed);
        assert_eq!(indexes(&log), [1], "sector {missing} missing");
    }
    let whole = open(&disk.copy()).unwrap().1;
    assert_eq!(indexes(&whole), [1, 2, 3]);
}

/// Of several unsynced frames any may be missing: the log ends before the first
/// that is.
#[test]
fn unsynced_frames_with_a_hole_are_a_torn_tail() {
    for lost in 0..4 {
        let disk = MemoryDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        durable(&mut wal, batch(vec![entry(1, 1, 10)], None));
        for index in 2..=5 {
            let batch = batch(vec![entry(index, 1, 10)], None);
            wal.append(&[batch]).unwrap();
        }
        let mut sectors = 0..;
        disk.crash(&mut || {
            let frame = sectors.next().unwrap_or(0) / (BLOCK_BYTES / 512);
            u64::from(frame != lost)
        });
        let (_, log) = open(&disk).unwrap();
        let kept: Vec<_> = (1..=1 + lost as u64).collect();
        assert_eq!(indexes(&log), kept);
        assert_eq!(log.torn_tail, lost < 3, "the last leaves no trace");
    }
}

/// A batch that spans segments and replaces a suffix: all of it or nothing.
#[test]
fn a_batch_that_a_crash_cuts_between_frames_leaves_the_log_as_it_was() {
    let old: Vec<_> = (1..=20).map(|i| entry(i, 1, 10)).collect();
    let new: Vec<_> = (5..=50).map(|i| entry(i, 2, 5_000)).collect();
    let mut whole = 0;
    for fail_at in 1.. {
        let disk = MemoryDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        durable(&mut wal, batch(old.clone(), Some("view 1")));
        disk.fail_after(Some(fail_at));
        let written = wal.append(&[batch(new.clone(), Some("view 2"))]);
        disk.crash(&mut || 1);
        for start in 0..2 {
            let (mut wal, log) = open(&disk).unwrap();
            if log.hard_state.as_deref() == Some(b"view 2") {
                assert_eq!(log.entries[..4], old[..4]);
                assert_eq!(log.entries[4..], new);
                whole += 1;
            } else {
                assert_eq!(log.entries, old);
                assert_eq!(log.torn_tail, start == 0, "operation {fail_at}");
            }
            // Neither a start nor what is written after it may complete the batch.
            durable(&mut wal, batch(vec![], Some("view 1")));
            if whole > 0 {
                break;
            }
        }
        if written.is_ok() {
            break;
        }
    }
    assert!(whole > 0);
}

/// A process whose sync failed, and one that is killed, leave data in the page
/// cache that is not on the medium. It is recovered, so it has to get there.
#[test]
fn what_is_recovered_survives_a_power_loss_even_if_its_own_sync_failed() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, batch(vec![entry(1, 1, 10)], None));
    wal.append(&[batch(vec![entry(2, 1, 9_000)], Some("vote"))])
        .unwrap();
    disk.fail_after(Some(1));
    wal.sync().unwrap_err();
    drop(wal);
    disk.fail_after(None);
    let (wal, log) = open(&disk).unwrap();
    assert_eq!(indexes(&log), [1, 2]);
    drop(wal);
    disk.crash(&mut || 0);
    let (_, log) = open(&disk).unwrap();
    assert_eq!(indexes(&log), [1, 2]);
    assert_eq!(log.hard_state.as_deref(), Some(&b"vote"[..]));
}

/// Only that: sectors that are known to be durable are never written again.
#[test]
fn a_start_writes_again_only_what_nothing_vouches_for() {
    let bytes_of_a_start = |written: u64| {
        let disk = MemoryDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        for index in 1..=written {
            durable(&mut wal, batch(vec![entry(index, 1, 10)], None));
        }
        let before = disk.bytes_written();
        open(&disk).unwrap();
        disk.bytes_written() - before
    };
    let one_frame = bytes_of_a_start(1);
    assert_eq!(bytes_of_a_start(10), one_frame);
    assert_eq!(one_frame - bytes_of_a_start(0), BLOCK_BYTES as u64);
}

/// A client's bytes, laid out like a frame that records everything before as durable,
/// inside a frame that a crash tore.
#[test]
fn a_payload_that_looks_like_a_frame_does_not_turn_a_torn_tail_into_damage() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, batch(vec![entry(1, 1, 10)], None));
    let number = segment::number_of(segments(&disk)[0].rsplit('/').next().unwrap()).unwrap();
    let guessed = segment::SegmentHeader {
        number,
        first_sequence: 1,
        nonce: 0,
        first_of_start: true,
    };
    let frame = segment::FrameHeader {
        sequence: 9,
        synced: 8,
    };
    let mut forged = Vec::new();
    segment::encode_frame(&mut forged, &guessed, &frame, &[]);
    // The payload is laid out so that the forgery starts at a block.
    let mut payload = vec![7; BLOCK_BYTES - 36 - 5 - 17];
    payload.extend_from_slice(&forged);
    let entry = Entry {
        payload: payload.into(),
        ..entry(2, 1, 0)
    };
    wal.append(&[batch(vec![entry], None)]).unwrap();
    let mut sectors = 0..;
    disk.crash(&mut || u64::from(sectors.next() != Some(0)));
    let mut block = vec![0; BLOCK_BYTES];
    let file = disk.open(&segments(&disk)[0]).unwrap();
    file.read_at(3 * BLOCK_BYTES as u64, &mut block).unwrap();
    assert_eq!(block, forged, "the forgery is where a frame could be");
    let (_, log) = open(&disk).unwrap();
    assert_eq!(indexes(&log), [1]);
    assert!(log.torn_tail);
}

/// Every operation fails once; what was acknowledged before is there afterwards,
/// and the log refuses to continue.
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
                .and_then(|()| match index % 15 {
                    0 => wal.compact(Index(index - 2)),
                    _ => Ok(()),
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
        assert!(matches!(wal.prepare(), Err(WalError::Poisoned)));
        assert!(matches!(wal.compact(Index(1)), Err(WalError::Poisoned)));
        for seed in 0..8 {
            let disk = disk.copy();
            disk.crash(&mut numbers(seed * 1000 + fail_at));
            let (_, log) = open(&disk).unwrap();
            assert!(log.last() >= Index(acknowledged), "operation {fail_at}");
            assert!(log.last() <= Index(acknowledged + 1));
        }
    }
}

/// Opening also writes; at whichever operation it fails, the next try finds all.
#[test]
fn opening_may_fail_at_every_operation_and_loses_nothing() {
    let prepared = MemoryDisk::new();
    let (mut wal, _) = open(&prepared).unwrap();
    durable(&mut wal, batch(vec![], Some("vote")));
    drop(open(&prepared).unwrap());
    let (mut wal, _) = open(&prepared).unwrap();
    for index in 1..=30 {
        durable(&mut wal, batch(vec![entry(index, 1, 3_000)], None));
    }
    for fail_at in 1.. {
        let disk = prepared.copy();
        disk.fail_after(Some(fail_at));
        let opened = open(&disk);
        for seed in 0..8 {
            let disk = disk.copy();
            disk.crash(&mut numbers(seed * 1000 + fail_at));
            let (_, log) = open(&disk).unwrap();
            assert_eq!(log.entries.len(), 30, "operation {fail_at}");
            assert_eq!(log.hard_state.as_deref(), Some(&b"vote"[..]));
        }
        if opened.is_ok() {
            assert!(fail_at > 5);
            return;
        }
    }
}

#[test]
fn compaction_may_stop_at_every_operation_and_loses_nothing_it_should_keep() {
    for fail_at in 1.. {
        let disk = MemoryDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        durable(&mut wal, batch(vec![], Some("vote")));
        for index in 1..=100 {
            durable(&mut wal, batch(vec![entry(index, 1, 3_000)], None));
        }
        disk.fail_after(Some(fail_at));
        let compacted = wal.compact(Index(95));
        for seed in 0..8 {
            let disk = disk.copy();
            disk.crash(&mut numbers(seed * 1000 + fail_at));
            let (mut wal, log) = open(&disk).unwrap();
            assert_eq!(log.hard_state.as_deref(), Some(&b"vote"[..]));
            assert_eq!(log.last(), Index(100), "operation {fail_at}");
            assert!(log.entries[0].index <= Index(96));
            // It can continue where it stopped.
            wal.compact(Index(95)).unwrap();
            assert!(wal.size().segments <= 4);
        }
        if compacted.is_ok() {
            assert!(fail_at > 8);
            return;
        }
    }
}
