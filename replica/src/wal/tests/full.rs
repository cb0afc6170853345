//! The log on a disk without room.

use super::*;

/// What a process finds that is started again and again, each time without room: each start
/// writes a little, and needs a segment of its own.
#[test]
fn a_log_opens_on_a_full_disk_as_often_as_it_is_started() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    while wal.prepare().unwrap() {}
    durable(&mut wal, batch(vec![entry(1, 1, 10)], Some("vote")));
    drop(wal);
    disk.set_room(0);
    for index in 2..10 {
        let (mut wal, log) = open(&disk).unwrap();
        assert_eq!(log.last(), Index(index - 1));
        assert_eq!(log.hard_state.as_deref(), Some(&b"vote"[..]));
        durable(&mut wal, batch(vec![entry(index, 1, 10)], None));
    }
    let (wal, log) = open(&disk).unwrap();
    assert_eq!(indexes(&log), (1..10).collect::<Vec<_>>());
    drop(wal);
    // What was cut off is not missed when there is room.
    disk.set_room(1 << 30);
    let (mut wal, log) = open(&disk).unwrap();
    assert_eq!(log.last(), Index(9));
    while wal.prepare().unwrap() {}
    let entries = (10..=60).map(|index| entry(index, 1, 5_000)).collect();
    durable(&mut wal, batch(entries, None));
    wal.compact(Index(60)).unwrap();
    assert!(wal.size().spares > 0);
    let config_bytes = config().segment_bytes;
    for name in disk.list(DIR).unwrap() {
        let bytes = disk.open(&format!("{DIR}/{name}")).unwrap().len().unwrap();
        let small_and_kept = bytes < config_bytes && name.starts_with("spare");
        assert!(!small_and_kept, "{name} has {bytes} bytes");
    }
}

/// Segments before were used up, so there is less than a segment to be gained.
#[test]
fn with_room_for_less_than_a_segment_the_log_continues_in_a_smaller_one() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    // Half of the first segment.
    let entries = (1..=8).map(|index| entry(index, 1, 3_500)).collect();
    durable(&mut wal, batch(entries, None));
    drop(wal);
    for name in disk.list(DIR).unwrap() {
        if name.starts_with("spare") {
            disk.remove(&format!("{DIR}/{name}")).unwrap();
        }
    }
    disk.sync_dir(DIR).unwrap();
    disk.set_room(0);
    let (mut wal, log) = open(&disk).unwrap();
    assert_eq!(log.last(), Index(8));
    durable(&mut wal, batch(vec![entry(9, 1, 3_500)], None));
    assert!(wal.size().bytes < 2 * config().segment_bytes);
    drop(wal);
    assert_eq!(open(&disk).unwrap().1.last(), Index(9));
}

/// A record has to fit into the segment that is made for it.
#[test]
fn a_record_that_fits_into_no_segment_that_can_be_made_fails_the_log() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let large = entry(1, 1, config().segment_bytes as usize - 3 * BLOCK_BYTES);
    durable(&mut wal, batch(vec![large], None));
    disk.set_room(6 * BLOCK_BYTES as u64);
    wal.append(&[batch(vec![entry(2, 1, 100)], None)]).unwrap();
    let large = entry(3, 1, 7 * BLOCK_BYTES);
    let refused = wal.append(&[batch(vec![large], None)]);
    assert!(
        matches!(&refused, Err(WalError::Disk(error)) if error.is_full()),
        "{refused:?}"
    );
}

/// Room is reserved again when there is some, without a new segment or a start.
#[test]
fn a_spare_that_could_not_be_made_is_made_later() {
    let disk = MemoryDisk::new();
    let config = WalConfig {
        segment_bytes: 4 << 20,
        ..config()
    };
    let (mut wal, _) = Wal::open(Arc::new(disk.clone()), DIR, config).unwrap();
    disk.set_room(0);
    assert!(wal.prepare().is_err());
    disk.set_room(1 << 30);
    assert_eq!(wal.size().spares, 0);
    let mut frames = 0;
    while !wal.prepare().unwrap() {
        frames += 1;
        durable(&mut wal, batch(Vec::new(), Some("vote")));
        assert!(frames < 1_000, "never");
    }
    while wal.prepare().unwrap() {}
    assert_eq!((wal.size().segments, wal.size().spares), (1, 1));
}
