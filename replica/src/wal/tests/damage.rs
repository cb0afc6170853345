//! Damage to what was acknowledged is refused, never dropped in silence.

use super::*;

#[test]
fn damage_to_any_byte_of_what_was_acknowledged_is_refused() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for index in 1..=6 {
        durable(&mut wal, batch(vec![entry(index, 1, 300)], Some("s")));
    }
    let segment = &segments(&disk)[0];
    let frame_bytes = 400;
    for frame in 0..5 {
        for byte in 0..frame_bytes {
            let damaged = disk.copy();
            let at = (1 + frame) * BLOCK_BYTES + byte;
            damaged.flip(segment, at, 0x10);
            match open(&damaged) {
                Err(WalError::Corrupt { path, offset, .. }) => {
                    assert_eq!(&path, segment);
                    assert_eq!(offset, ((1 + frame) * BLOCK_BYTES) as u64);
                }
                Err(other) => panic!("{other}"),
                // Bytes after the records are padding.
                Ok((_, log)) => {
                    assert_eq!(log.entries.len(), 6, "frame {frame} byte {byte}");
                    assert!(byte > 300);
                }
            }
        }
    }
}

/// Once a start has vouched for it, the last frame is protected as well.
#[test]
fn damage_to_the_last_frame_before_a_restart_is_refused() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, batch(vec![entry(1, 1, 300)], None));
    drop(open(&disk).unwrap());
    disk.flip(&segments(&disk)[0], BLOCK_BYTES + 100, 1);
    assert!(matches!(open(&disk), Err(WalError::Corrupt { .. })));
}

#[test]
fn damage_in_a_sealed_segment_is_refused_also_in_its_last_frame() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for index in 1..=40 {
        durable(&mut wal, batch(vec![entry(index, 1, 3_000)], None));
    }
    assert!(wal.size().segments > 2);
    let last_frame = (BLOCKS_PER_SEGMENT - 1) * BLOCK_BYTES;
    disk.flip(&segments(&disk)[0], last_frame + 100, 1);
    assert!(matches!(open(&disk), Err(WalError::Corrupt { .. })));
}

#[test]
fn damage_to_any_byte_of_a_segments_header_is_refused() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    durable(&mut wal, batch(vec![entry(1, 1, 300)], None));
    for at in 0..55 {
        let damaged = disk.copy();
        damaged.flip(&segments(&disk)[0], at, 0x10);
        let refused = open(&damaged).err();
        assert!(
            matches!(
                refused,
                Some(WalError::Corrupt { .. } | WalError::Version { .. })
            ),
            "byte {at}"
        );
    }
}

#[test]
fn a_missing_segment_is_refused() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for index in 1..=50 {
        durable(&mut wal, batch(vec![entry(index, 1, 3_000)], None));
    }
    disk.remove(&segments(&disk)[1]).unwrap();
    assert!(matches!(open(&disk), Err(WalError::Corrupt { .. })));
}

#[test]
fn swapped_segments_are_refused() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for index in 1..=50 {
        durable(&mut wal, batch(vec![entry(index, 1, 3_000)], None));
    }
    let paths = segments(&disk);
    disk.rename(&paths[0], "wal/other").unwrap();
    disk.rename(&paths[1], &paths[0]).unwrap();
    disk.rename("wal/other", &paths[1]).unwrap();
    assert!(matches!(open(&disk), Err(WalError::Corrupt { .. })));
}

/// What a cut leaves of the log does not depend on its last frame alone, for which nothing
/// vouches: a replica that has lost its hard state would vote twice.
#[test]
fn damage_to_any_frame_after_a_cut_loses_no_hard_state() {
    let disk = MemoryDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for index in 1..=20 {
        durable(&mut wal, batch(vec![entry(index, 1, 3_000)], Some("old")));
    }
    durable(&mut wal, batch(Vec::new(), Some("new")));
    wal.compact(Index(20)).unwrap();
    for path in segments(&disk) {
        for block in 1..BLOCKS_PER_SEGMENT {
            let damaged = disk.copy();
            damaged.flip(&path, block * BLOCK_BYTES + 45, 1);
            match open(&damaged) {
                Err(error) => assert!(matches!(error, WalError::Corrupt { .. }), "{error}"),
                Ok((_, log)) => assert_eq!(log.hard_state.as_deref(), Some(&b"new"[..])),
            }
        }
    }
}
