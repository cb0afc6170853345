use super::*;
use crate::disk::{SECTOR_BYTES, read_all};

fn nothing() -> u64 {
    0
}

fn content(disk: &MemoryDisk, path: &str) -> Vec<u8> {
    read_all(disk.open(path).unwrap().as_ref()).unwrap()
}

fn named(disk: &MemoryDisk, path: &str, bytes: u64) -> Box<dyn DiskFile> {
    let file = disk.create(path, bytes).unwrap();
    disk.sync_dir("d").unwrap();
    file
}

/// Against a plain vector: zeros at the end of a block are not kept.
#[test]
fn a_file_reads_as_it_was_written_whichever_part_of_it_is_zeros() {
    const BYTES_MAX: u64 = 20_000;
    let disk = MemoryDisk::new();
    let file = named(&disk, "d/a", BYTES_MAX);
    let mut model = vec![0; BYTES_MAX as usize];
    let mut state: u64 = 1;
    let mut draw = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % bound
    };
    for _ in 0..2_000 {
        let (at, length) = (draw(BYTES_MAX) as usize, draw(9_000) as usize);
        if draw(20) == 0 {
            file.truncate(at as u64).unwrap();
            model.truncate(at);
        } else {
            let mut bytes = vec![draw(3) as u8; length];
            bytes[(draw(9_000) as usize).min(length)..].fill(0);
            file.write_at(at as u64, &bytes).unwrap();
            model.resize(model.len().max(at + length), 0);
            model[at..at + length].copy_from_slice(&bytes);
        }
        if draw(5) == 0 {
            file.sync().unwrap();
            assert!(disk.is_durable("d/a"));
        }
        assert_eq!(content(&disk, "d/a"), model);
    }
    file.sync().unwrap();
    disk.crash(&mut nothing);
    assert_eq!(content(&disk, "d/a"), model);
}

#[test]
fn a_crash_loses_unsynced_writes() {
    let disk = MemoryDisk::new();
    let file = named(&disk, "d/a", 4);
    file.write_at(0, b"old").unwrap();
    file.sync().unwrap();
    file.write_at(0, b"new").unwrap();
    disk.create("d/b", 0).unwrap();
    assert_eq!(content(&disk, "d/a"), b"new\0");
    disk.crash(&mut nothing);
    assert_eq!(content(&disk, "d/a"), b"old\0");
    assert!(disk.open("d/b").is_err());
}

#[test]
fn a_later_sync_does_not_bring_back_what_a_failed_one_lost() {
    let disk = MemoryDisk::new();
    let file = named(&disk, "d/a", 4);
    file.write_at(0, b"lost").unwrap();
    disk.fail_after(Some(1));
    file.sync().unwrap_err();
    disk.fail_after(None);
    file.sync().unwrap();
    assert_eq!(content(&disk, "d/a"), b"lost");
    assert!(!disk.is_durable("d/a"));
    disk.crash(&mut nothing);
    assert_eq!(content(&disk, "d/a"), [0; 4]);
    assert!(disk.is_durable("d/a"));
}

#[test]
fn a_full_disk_has_room_for_what_is_there() {
    let disk = MemoryDisk::new();
    let file = named(&disk, "d/a", 4);
    disk.set_full(true);
    file.write_at(0, b"over").unwrap();
    let refused = file.write_at(4, b"more").unwrap_err();
    assert_eq!(refused.source.kind(), io::ErrorKind::StorageFull);
    assert!(disk.create("d/b", 1).is_err());
    assert_eq!(disk.failed(), 2);
    disk.set_full(false);
    file.write_at(4, b"more").unwrap();
    assert_eq!(content(&disk, "d/a"), b"overmore");
}

#[test]
fn of_a_torn_write_any_sectors_survive() {
    let disk = MemoryDisk::new();
    let file = named(&disk, "d/a", 3 * SECTOR_BYTES as u64);
    file.write_at(0, &[7; 3 * SECTOR_BYTES]).unwrap();
    let mut sector = 0;
    disk.crash(&mut || {
        sector += 1;
        u64::from(sector == 2)
    });
    let found = content(&disk, "d/a");
    assert_eq!(found[..SECTOR_BYTES], [0; SECTOR_BYTES]);
    assert_eq!(found[SECTOR_BYTES..2 * SECTOR_BYTES], [7; SECTOR_BYTES]);
    assert_eq!(found[2 * SECTOR_BYTES..], [0; SECTOR_BYTES]);
}

#[test]
fn a_rename_is_all_or_nothing() {
    for survivors in 0..=1 {
        let disk = MemoryDisk::new();
        let old = named(&disk, "d/a", 0);
        old.write_at(0, b"old").unwrap();
        old.sync().unwrap();
        let new = named(&disk, "d/b", 0);
        new.write_at(0, b"new").unwrap();
        new.sync().unwrap();
        disk.rename("d/b", "d/a").unwrap();
        disk.crash(&mut || survivors);
        let expected: &[u8] = if survivors == 0 { b"old" } else { b"new" };
        assert_eq!(content(&disk, "d/a"), expected);
    }
}

#[test]
fn removed_files_take_no_memory() {
    let disk = MemoryDisk::new();
    for _ in 0..10 {
        drop(named(&disk, "d/a", 100));
        disk.remove("d/a").unwrap();
        disk.sync_dir("d").unwrap();
    }
    assert!(disk.lock().files.is_empty());
}
