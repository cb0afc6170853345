use consensus::{Entry, EntryKind, Membership, ReplicaId, Term};

use super::*;
use crate::disk::MemoryDisk;
use crate::snapshots::CHUNK_BYTES;

impl SnapshotStore {
    fn newest(&self) -> Result<Option<(SnapshotMeta, Bytes)>, SnapshotError> {
        match self.indexes()?.last() {
            Some(index) => Ok(Some(self.read(&path(*index))?)),
            None => Ok(None),
        }
    }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: Index(index),
        term: Term(3),
        membership: Membership::new(1, [ReplicaId(2), ReplicaId(1)], [ReplicaId(3)]).unwrap(),
    }
}

/// Two and a half pieces.
fn state(index: u64) -> Vec<u8> {
    (0..5 * CHUNK_BYTES / 2)
        .map(|at| (at as u64 * 31 + index) as u8)
        .collect()
}

fn store(disk: &MemoryDisk) -> SnapshotStore {
    SnapshotStore::open(Arc::new(disk.clone())).unwrap()
}

fn draws(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    }
}

/// The pieces in which a snapshot travels, each with its offset.
fn pieces(sender: &SnapshotStore, index: u64) -> Vec<(u64, Bytes)> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some((piece, _)) = sender.chunk(Index(index), at).unwrap() {
        let next = at + piece.len() as u64;
        pieces.push((at, piece));
        at = next;
    }
    pieces
}

fn total(pieces: &[(u64, Bytes)]) -> u64 {
    pieces.iter().map(|(_, piece)| piece.len() as u64).sum()
}

#[test]
fn the_newest_is_found_and_the_oldest_go() {
    let disk = MemoryDisk::new();
    let snapshots = store(&disk);
    assert!(snapshots.newest().unwrap().is_none());
    for index in [5, 10, 15] {
        snapshots.save(&meta(index), &state(index)).unwrap();
    }
    let (newest, bytes) = store(&disk).newest().unwrap().unwrap();
    assert!((newest, bytes.to_vec()) == (meta(15), state(15)));
    assert!(snapshots.chunk(Index(10), 0).unwrap().is_some());
    assert!(snapshots.chunk(Index(5), 0).unwrap().is_none());
}

#[test]
fn an_empty_state_is_a_state() {
    let (near, far) = (MemoryDisk::new(), MemoryDisk::new());
    let sender = store(&near);
    sender.save(&meta(5), b"").unwrap();
    let pieces = pieces(&sender, 5);
    assert_eq!(pieces.len(), 1);
    let receiver = store(&far);
    let (_, whole) = receiver
        .receive(&meta(5), 0, total(&pieces), &pieces[0].1)
        .unwrap();
    assert_eq!(whole, Some(Bytes::new()));
    assert_eq!(receiver.newest().unwrap().unwrap().0, meta(5));
}

#[test]
fn a_crash_at_every_operation_leaves_the_old_or_the_new() {
    for fail_at in 1.. {
        let disk = MemoryDisk::new();
        let snapshots = store(&disk);
        snapshots.save(&meta(5), &state(5)).unwrap();
        disk.fail_after(Some(fail_at));
        let saved = snapshots.save(&meta(10), &state(10));
        disk.crash(&mut draws(fail_at));
        let (newest, bytes) = store(&disk).newest().unwrap().unwrap();
        assert!(bytes == state(newest.index.0));
        if saved.is_ok() {
            assert_eq!(newest, meta(10));
            assert!(fail_at > 5);
            return;
        }
    }
}

#[test]
fn a_save_that_fails_leaves_no_file() {
    let disk = MemoryDisk::new();
    let snapshots = store(&disk);
    disk.fail_after(Some(2));
    assert!(snapshots.save(&meta(5), b"state").is_err());
    disk.fail_after(None);
    drop(store(&disk));
    assert!(disk.list(DIR).unwrap().is_empty());
}

/// A crash at every operation of a transfer, with anything left of the unsynced writes; the
/// transfer continues with what is whole, and ends with the snapshot.
#[test]
fn a_transfer_continues_after_a_crash_at_every_operation() {
    let near = MemoryDisk::new();
    let sender = store(&near);
    sender.save(&meta(5), &state(5)).unwrap();
    let pieces = pieces(&sender, 5);
    for fail_at in 1.. {
        let far = MemoryDisk::new();
        let receiver = store(&far);
        far.fail_after(Some(fail_at));
        let mut failed = false;
        for (at, piece) in &pieces {
            failed |= receiver
                .receive(&meta(5), *at, total(&pieces), piece)
                .is_err();
        }
        far.crash(&mut draws(fail_at));
        let receiver = store(&far);
        let (mut next, mut whole) = receiver.resume(&meta(5)).unwrap();
        while whole.is_none() {
            let (piece, total) = sender.chunk(Index(5), next).unwrap().unwrap();
            (next, whole) = receiver.receive(&meta(5), next, total, &piece).unwrap();
        }
        assert!(whole.unwrap() == state(5));
        assert!(store(&far).newest().unwrap().unwrap().1 == state(5));
        if !failed {
            assert!(fail_at > 6);
            return;
        }
    }
}

/// The disk returns one error, and the process continues: what a failed sync left in the
/// page cache can be read back and is still not durable.
#[test]
fn a_transfer_that_continues_after_an_error_of_the_disk_is_durable() {
    let near = MemoryDisk::new();
    let sender = store(&near);
    sender.save(&meta(5), &state(5)).unwrap();
    let pieces = pieces(&sender, 5);
    for fail_at in 1.. {
        let far = MemoryDisk::new();
        let receiver = store(&far);
        far.fail_after(Some(fail_at));
        let failed = pieces.iter().any(|(at, piece)| {
            let received = receiver.receive(&meta(5), *at, total(&pieces), piece);
            received.is_err()
        });
        far.fail_after(None);
        let receiver = store(&far);
        let (mut next, mut whole) = receiver.resume(&meta(5)).unwrap();
        while whole.is_none() {
            let (piece, total) = sender.chunk(Index(5), next).unwrap().unwrap();
            (next, whole) = receiver.receive(&meta(5), next, total, &piece).unwrap();
        }
        stays(&far, 5);
        if !failed {
            return;
        }
    }
}

/// Whatever a crash leaves of the unsynced writes.
fn stays(disk: &MemoryDisk, index: u64) {
    for seed in 0..8 {
        let disk = disk.copy();
        disk.crash(&mut draws(seed));
        let (newest, bytes) = store(&disk).newest().unwrap().unwrap();
        assert!((newest, bytes.to_vec()) == (meta(index), state(index)));
    }
}

/// A process ends after an error of its disk, and the next starts from what it left
/// in the page cache.
#[test]
fn a_snapshot_that_a_replica_starts_from_is_durable() {
    for fail_at in 1.. {
        let disk = MemoryDisk::new();
        let snapshots = store(&disk);
        snapshots.save(&meta(5), &state(5)).unwrap();
        disk.fail_after(Some(fail_at));
        let saved = snapshots.save(&meta(10), &state(10));
        disk.fail_after(None);
        let base = store(&disk).base(&RecoveredLog::default()).unwrap();
        stays(&disk, base.snapshot.unwrap().0.index.0);
        if saved.is_ok() {
            return;
        }
    }
}

#[test]
fn a_transfer_continues_after_the_last_piece_that_is_whole() {
    let (near, far) = (MemoryDisk::new(), MemoryDisk::new());
    let sender = store(&near);
    sender.save(&meta(5), &state(5)).unwrap();
    let pieces = pieces(&sender, 5);
    let receiver = store(&far);
    for (at, piece) in &pieces[..3] {
        receiver
            .receive(&meta(5), *at, total(&pieces), piece)
            .unwrap();
    }
    assert_eq!(receiver.resume(&meta(5)).unwrap(), (pieces[3].0, None));
    // Damage in the second piece of the state.
    far.flip(&part_path(5), pieces[2].0 as usize + 7, 1);
    let (next, none) = store(&far).resume(&meta(5)).unwrap();
    assert_eq!((next, none), (pieces[2].0, None));
    // Damage in the header.
    far.flip(&part_path(5), 20, 1);
    assert_eq!(store(&far).resume(&meta(5)).unwrap(), (0, None));
    assert!(far.list(DIR).unwrap().is_empty());
}

#[test]
fn all_pieces_without_the_name_are_a_whole_snapshot() {
    let (near, far) = (MemoryDisk::new(), MemoryDisk::new());
    let sender = store(&near);
    sender.save(&meta(5), &state(5)).unwrap();
    drop(store(&far));
    let file = far.create(&part_path(5), 0).unwrap();
    for (at, piece) in pieces(&sender, 5) {
        file.write_at(at, &piece).unwrap();
    }
    let (_, whole) = store(&far).resume(&meta(5)).unwrap();
    assert!(whole.unwrap() == state(5));
    assert_eq!(store(&far).newest().unwrap().unwrap().0, meta(5));
}

#[test]
fn another_transfer_removes_what_was_received_of_the_last() {
    let (near, far) = (MemoryDisk::new(), MemoryDisk::new());
    let sender = store(&near);
    sender.save(&meta(5), &state(5)).unwrap();
    let pieces = pieces(&sender, 5);
    let receiver = store(&far);
    receiver
        .receive(&meta(5), 0, total(&pieces), &pieces[0].1)
        .unwrap();
    assert_eq!(receiver.resume(&meta(9)).unwrap(), (0, None));
    assert!(far.list(DIR).unwrap().is_empty());
}

#[test]
fn a_piece_that_does_not_belong_is_refused_and_the_transfer_restarts() {
    let (near, far) = (MemoryDisk::new(), MemoryDisk::new());
    let sender = store(&near);
    sender.save(&meta(5), &state(5)).unwrap();
    let pieces = pieces(&sender, 5);
    let total = total(&pieces);
    let mut damaged = pieces[1].1.to_vec();
    damaged[5_000] ^= 1;
    let cases: [(u64, u64, &[u8]); 5] = [
        (pieces[1].0, total, &damaged),
        (pieces[1].0, total, &pieces[1].1[..9]),
        (pieces[1].0 + 1, total, &pieces[1].1),
        (pieces[1].0, total + 1, &pieces[1].1),
        (u64::MAX, total, &pieces[1].1),
    ];
    for (offset, total, bytes) in cases {
        let receiver = store(&far);
        receiver
            .receive(&meta(5), 0, self::total(&pieces), &pieces[0].1)
            .unwrap();
        assert!(receiver.receive(&meta(5), offset, total, bytes).is_err());
        assert_eq!(receiver.resume(&meta(5)).unwrap(), (0, None));
    }
}

#[test]
fn a_header_that_is_not_the_one_announced_is_refused_before_anything_is_written() {
    let (near, far) = (MemoryDisk::new(), MemoryDisk::new());
    let sender = store(&near);
    sender.save(&meta(5), &state(5)).unwrap();
    let pieces = pieces(&sender, 5);
    let total = total(&pieces);
    let receiver = store(&far);
    let header = &pieces[0].1;
    let mut longer = header.to_vec();
    longer.push(0);
    for length in 0..header.len() {
        assert!(
            receiver
                .receive(&meta(5), 0, total, &header[..length])
                .is_err()
        );
    }
    assert!(receiver.receive(&meta(5), 0, total, &longer).is_err());
    assert!(receiver.receive(&meta(6), 0, total, header).is_err());
    assert!(receiver.receive(&meta(5), 0, total + 1, header).is_err());
    assert_eq!(far.bytes_written(), 0);
}

#[test]
fn every_damaged_byte_of_the_header_is_noticed() {
    let disk = MemoryDisk::new();
    store(&disk).save(&meta(5), b"state").unwrap();
    let length = disk.open(&path(5)).unwrap().len().unwrap();
    for at in 0..length {
        let damaged = disk.copy();
        damaged.flip(&path(5), at as usize, 4);
        assert!(store(&damaged).newest().is_err(), "byte {at}");
    }
}

#[test]
fn a_damaged_piece_is_not_served() {
    let disk = MemoryDisk::new();
    let snapshots = store(&disk);
    snapshots.save(&meta(5), &state(5)).unwrap();
    let pieces = pieces(&snapshots, 5);
    disk.flip(&path(5), pieces[2].0 as usize + 99, 1);
    assert!(snapshots.chunk(Index(5), pieces[1].0).unwrap().is_some());
    let refused = snapshots.chunk(Index(5), pieces[2].0);
    assert!(matches!(refused, Err(SnapshotError::Corrupt { .. })));
}

fn log(first: u64, last: u64, term: u64) -> RecoveredLog {
    let entries = (first..=last).map(|index| Entry {
        term: Term(term),
        index: Index(index),
        kind: EntryKind::Noop,
        payload: Bytes::new(),
    });
    RecoveredLog {
        entries: entries.collect(),
        ..RecoveredLog::default()
    }
}

#[test]
fn a_replica_starts_from_the_snapshot_before_a_damaged_one_when_the_log_replaces_it() {
    let disk = MemoryDisk::new();
    for index in [5, 10] {
        store(&disk).save(&meta(index), b"state").unwrap();
    }
    let base = |log: &RecoveredLog| {
        let base = store(&disk).base(log);
        base.map(|base| {
            (
                base.snapshot.map(|(meta, _)| meta.index.0),
                base.damaged.len(),
            )
        })
    };
    assert_eq!(base(&log(9, 10, 3)).unwrap(), (Some(10), 0));
    disk.flip(&path(10), 9, 1);
    for (log, found) in [
        (log(6, 10, 3), Some(5)),
        (log(2, 12, 3), Some(5)),
        // Reaches back to 5 but holds another entry there.
        (log(2, 12, 2), None),
        // Does not connect.
        (log(7, 12, 3), None),
        // Ends before what the damaged one held.
        (log(2, 9, 3), None),
        (RecoveredLog::default(), None),
    ] {
        match found {
            Some(index) => assert_eq!(base(&log).unwrap(), (Some(index), 1)),
            None => assert!(base(&log).is_err()),
        }
    }
    disk.flip(&path(5), 9, 1);
    assert_eq!(base(&log(1, 10, 3)).unwrap(), (None, 2));
    assert!(base(&log(2, 12, 3)).is_err());
}

#[test]
fn garbage_for_a_file_is_an_error_and_no_panic() {
    let mut draw = draws(1);
    let disk = MemoryDisk::new();
    let snapshots = store(&disk);
    snapshots.save(&meta(5), b"state").unwrap();
    let whole = disk::read_all(disk.open(&path(5)).unwrap().as_ref()).unwrap();
    let header = &whole[..whole.len() - b"state".len()];
    for _ in 0..2_000 {
        let mut bytes = whole.clone();
        for _ in 0..=draw() % 4 {
            let at = draw() as usize % bytes.len();
            bytes[at] = draw() as u8;
        }
        bytes.truncate(draw() as usize % (bytes.len() + 1));
        assert!(Header::decode("x", &bytes).is_err() || bytes.starts_with(header));
    }
}

/// A start stores its snapshot again before it relies on it.
#[test]
fn a_replica_starts_from_its_snapshot_on_a_full_disk() {
    let disk = MemoryDisk::new();
    store(&disk).save(&meta(5), &state(5)).unwrap();
    disk.set_full(true);
    for _ in 0..2 {
        let store = store(&disk);
        let base = store.base(&RecoveredLog::default()).unwrap();
        assert_eq!(base.snapshot, Some((meta(5), state(5).into())));
        assert!(disk.is_durable(&path(5)));
        assert_eq!(disk.list(DIR).unwrap().len(), 1, "nothing is left behind");
    }
    disk.crash(&mut draws(1));
    disk.set_full(false);
    let base = store(&disk).base(&RecoveredLog::default()).unwrap();
    assert_eq!(base.snapshot, Some((meta(5), state(5).into())));
}
