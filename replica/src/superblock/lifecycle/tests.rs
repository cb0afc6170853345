use consensus::ReplicaId;
use crc32c::crc32c;

use super::*;
use crate::disk::{self, MemoryDisk};
use crate::superblock::slots::CRC_AT;

fn identity() -> Superblock {
    Superblock {
        group: 7,
        cluster: "c".into(),
        replica: ReplicaId(1),
        incarnation: 0,
        storage_id: 5,
        backend: "raft".into(),
        membership: Some(members(3)),
    }
}

fn members(voters: u64) -> Membership {
    Membership::new(1, (1..=voters).map(ReplicaId), []).unwrap()
}

fn formatted() -> MemoryDisk {
    let disk = MemoryDisk::new();
    format(&disk, &identity()).unwrap();
    disk
}

fn content(disk: &MemoryDisk) -> Vec<u8> {
    disk::read_all(disk.open(PATH).unwrap().as_ref()).unwrap()
}

#[test]
fn every_start_is_a_new_incarnation() {
    let disk = formatted();
    for start in 1..=5 {
        let block = start_incarnation(&disk, &identity()).unwrap();
        assert_eq!(block.incarnation, start);
        disk.crash(&mut || 0_u64);
    }
}

#[test]
fn only_formatting_makes_a_superblock_and_only_once() {
    let disk = MemoryDisk::new();
    let refused = start_incarnation(&disk, &identity());
    assert!(matches!(refused, Err(SuperblockError::Blank)));
    assert!(!exists(&disk).unwrap());
    format(&disk, &identity()).unwrap();
    start_incarnation(&disk, &identity()).unwrap();
    let refused = format(&disk, &identity());
    assert!(matches!(refused, Err(SuperblockError::Formatted)));
    assert_eq!(
        start_incarnation(&disk, &identity()).unwrap().incarnation,
        2
    );
}

#[test]
fn formatting_that_is_cut_off_anywhere_can_be_done_again() {
    for fail_at in 1..=5 {
        for survivor in 0..4_u64 {
            let disk = MemoryDisk::new();
            disk.fail_after(Some(fail_at));
            format(&disk, &identity()).unwrap_err();
            disk.crash(&mut || survivor);
            match format(&disk, &identity()) {
                Ok(()) | Err(SuperblockError::Formatted) => {}
                Err(error) => panic!("{fail_at} {survivor}: {error}"),
            }
            assert_eq!(
                start_incarnation(&disk, &identity()).unwrap().incarnation,
                1
            );
        }
    }
}

#[test]
fn a_start_torn_at_any_byte_leaves_the_one_before() {
    for starts in 0..4_u64 {
        let disk = formatted();
        for _ in 0..starts {
            start_incarnation(&disk, &identity()).unwrap();
        }
        let whole = disk.copy();
        start_incarnation(&whole, &identity()).unwrap();
        let after = content(&whole);
        let slot = slot_of(FIRST_SEQUENCE + starts + 1) as usize;
        for byte in (0..200).chain(CRC_AT - 10..SLOT_BYTES) {
            let torn = whole.copy();
            let file = torn.open(PATH).unwrap();
            let mut torn_slot = after[slot..slot + SLOT_BYTES].to_vec();
            torn_slot[byte..].fill(0);
            file.write_at(slot as u64, &torn_slot).unwrap();
            file.sync().unwrap();
            let block = start_incarnation(&torn, &identity()).unwrap();
            assert!(block.incarnation > starts, "{starts} {byte}");
            assert!(block.incarnation <= starts + 2, "{starts} {byte}");
        }
    }
}

/// Whichever operation of a start fails, and whatever a crash leaves of it,
/// every incarnation that was returned is higher than all before it.
#[test]
fn starts_that_fail_anywhere_never_return_an_incarnation_twice() {
    for fail_at in 1..=9 {
        for seed in 0..40_u64 {
            let disk = formatted();
            let mut newest = 0;
            let mut draws = seed * 100 + fail_at;
            let mut draw = move || {
                draws = draws
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                draws >> 33
            };
            for start in 0..12 {
                if start % 2 == 1 {
                    disk.fail_after(Some(fail_at));
                }
                if let Ok(block) = start_incarnation(&disk, &identity()) {
                    assert!(block.incarnation > newest);
                    newest = block.incarnation;
                }
                // A crash, or a process that ends.
                if draw() % 3 == 0 {
                    disk.crash(&mut draw);
                }
                disk.fail_after(None);
            }
            assert!(newest >= 6);
        }
    }
}

#[test]
fn a_damaged_slot_does_not_bring_an_incarnation_back() {
    for starts in 2..5_u64 {
        let disk = formatted();
        for _ in 0..starts {
            start_incarnation(&disk, &identity()).unwrap();
        }
        for at in (0..SLOT_BYTES).step_by(7) {
            let damaged = disk.copy();
            damaged.flip(PATH, slot_of(FIRST_SEQUENCE + starts) as usize + at, 1);
            let block = start_incarnation(&damaged, &identity()).unwrap();
            assert_eq!(block.incarnation, starts + 1);
            let block = start_incarnation(&damaged, &identity()).unwrap();
            assert_eq!(block.incarnation, starts + 2);
        }
    }
}

/// A start is torn, the next one skips its number, and later the slot of that
/// one goes bad.
#[test]
fn damage_after_a_torn_start_does_not_bring_an_incarnation_back() {
    for starts in 1..5_u64 {
        for torn_to in [0, 1, 20, 100] {
            let disk = formatted();
            for _ in 0..starts {
                start_incarnation(&disk, &identity()).unwrap();
            }
            let slot = slot_of(FIRST_SEQUENCE + starts + 1);
            let file = disk.open(PATH).unwrap();
            let mut torn = encode(&identity(), FIRST_SEQUENCE + starts + 1);
            torn[torn_to..].fill(0);
            file.write_at(slot, &torn).unwrap();
            file.sync().unwrap();
            let after = start_incarnation(&disk, &identity()).unwrap();
            for slot in [0, SLOT_BYTES] {
                let rotten = disk.copy();
                rotten.flip(PATH, slot + 20, 1);
                let next = start_incarnation(&rotten, &identity()).unwrap();
                assert!(next.incarnation > after.incarnation);
            }
        }
    }
}

#[test]
fn a_log_that_is_gone_is_missed_from_the_first_start_on() {
    let disk = formatted();
    check(&disk, &identity()).unwrap();
    start_incarnation(&disk, &identity()).unwrap();
    let refused = check(&disk, &identity());
    assert!(matches!(refused, Err(SuperblockError::LogLost)));
    disk.create_dir("wal").unwrap();
    disk.create("wal/0000000000000001.wal", 0).unwrap();
    check(&disk, &identity()).unwrap();
}

#[test]
fn two_bad_slots_or_a_log_without_a_superblock_are_refused() {
    let disk = formatted();
    for _ in 0..2 {
        start_incarnation(&disk, &identity()).unwrap();
    }
    disk.flip(PATH, 20, 1);
    disk.flip(PATH, SLOT_BYTES + 20, 1);
    let refused = start_incarnation(&disk, &identity());
    assert!(matches!(refused, Err(SuperblockError::Corrupt)));

    let disk = MemoryDisk::new();
    disk.create("wal/0000000000000001.wal", 0).unwrap();
    let refused = start_incarnation(&disk, &identity());
    assert!(matches!(refused, Err(SuperblockError::Corrupt)));
    let refused = format(&disk, &identity());
    assert!(matches!(refused, Err(SuperblockError::Corrupt)));
}

#[test]
fn a_newer_version_in_either_slot_is_refused_by_number() {
    let disk = formatted();
    for _ in 0..2 {
        start_incarnation(&disk, &identity()).unwrap();
    }
    let mut newer = content(&disk)[..SLOT_BYTES].to_vec();
    newer[8] = 9;
    let crc = crc32c(&newer[..CRC_AT]);
    newer[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    let file = disk.open(PATH).unwrap();
    file.write_at(0, &newer).unwrap();
    let refused = start_incarnation(&disk, &identity());
    assert!(matches!(
        refused,
        Err(SuperblockError::Version { found: 9, .. })
    ));
}

#[test]
fn a_name_that_does_not_fit_is_refused_before_anything_is_written() {
    let disk = MemoryDisk::new();
    let long = Superblock {
        cluster: "c".repeat(NAME_BYTES_MAX + 1),
        ..identity()
    };
    for refused in [
        format(&disk, &long),
        start_incarnation(&disk, &long).map(drop),
    ] {
        assert!(matches!(refused, Err(SuperblockError::TooLong { .. })));
    }
    assert_eq!(disk.operations(), 0);
}

#[test]
fn a_disk_of_another_replica_is_refused_by_name() {
    let disk = formatted();
    start_incarnation(&disk, &identity()).unwrap();
    let others = [
        Superblock {
            cluster: "d".into(),
            ..identity()
        },
        Superblock {
            replica: ReplicaId(2),
            ..identity()
        },
        Superblock {
            backend: "vr".into(),
            ..identity()
        },
    ];
    for (other, what) in others
        .iter()
        .zip(["cluster c", "replica 0", "backend raft"])
    {
        let error = start_incarnation(&disk, other).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_start_with_another_list_of_replicas_is_refused_and_changes_nothing() {
    let disk = formatted();
    start_incarnation(&disk, &identity()).unwrap();
    let before = content(&disk);
    for voters in [1, 2, 4] {
        let mut other = identity();
        other.membership = Some(members(voters));
        for refused in [
            check(&disk, &other).unwrap_err(),
            start_incarnation(&disk, &other).unwrap_err(),
        ] {
            let text = refused.to_string();
            assert!(text.contains("of the replicas 0, 1, 2, but"), "{text}");
            let lists = format!("lists {};", members(voters));
            assert!(text.contains(&lists), "{text}");
        }
    }
    assert_eq!(content(&disk), before);
}

/// Another one is proposed by each start, and counts for the disk of version 0.1 only.
#[test]
fn a_disk_keeps_the_storage_id_that_it_was_formatted_with() {
    let disk = formatted();
    let proposed = |storage_id| Superblock {
        storage_id,
        ..identity()
    };
    for start in 0..4 {
        let block = start_incarnation(&disk, &proposed(100 + start)).unwrap();
        assert_eq!(block.storage_id, 5);
        disk.crash(&mut || 0_u64);
    }
    let refused = format(&MemoryDisk::new(), &proposed(0));
    assert!(matches!(refused, Err(SuperblockError::NoStorageId)));
}

/// The superblock of a directory that version 0.1 has written.
fn of_version_0_1() -> (MemoryDisk, Superblock) {
    let fixture = include_bytes!("../../../fixtures/superblock-0.1");
    let disk = MemoryDisk::new();
    disk.create_dir("meta").unwrap();
    let file = disk.create(PATH, fixture.len() as u64).unwrap();
    file.write_at(0, fixture).unwrap();
    file.sync().unwrap();
    disk.sync_dir("meta").unwrap();
    let (found, _) = read(&disk).unwrap().newest.unwrap();
    (disk, found)
}

/// Whichever slot is damaged later, it has no other: its peers have seen that one.
#[test]
fn a_disk_of_version_0_1_gets_a_storage_id_at_its_next_start_and_keeps_it() {
    let (old, found) = of_version_0_1();
    assert_eq!((found.storage_id, &found.membership), (0, &None));
    assert_eq!(
        (found.cluster.as_str(), found.replica),
        ("upgrade", ReplicaId(1))
    );
    let proposed = |storage_id| Superblock {
        storage_id,
        ..found.clone()
    };
    let unnamed = start_incarnation(&old.copy(), &proposed(0));
    assert!(matches!(unnamed, Err(SuperblockError::NoStorageId)));
    let started = start_incarnation(&old, &proposed(8)).unwrap();
    assert_eq!(
        (started.storage_id, started.incarnation),
        (8, found.incarnation + 1)
    );
    for slot in [0, SLOT_BYTES] {
        let rotten = old.copy();
        rotten.flip(PATH, slot + 20, 1);
        let next = start_incarnation(&rotten, &proposed(9)).unwrap();
        assert_eq!(next.storage_id, 8);
        assert!(next.incarnation > started.incarnation);
    }
}

/// Whatever fails while a disk gets its storage id, one that was returned is kept.
#[test]
fn a_start_that_fails_anywhere_does_not_change_a_storage_id_that_was_used() {
    for fail_at in 1..=9 {
        for survivor in 0..4_u64 {
            let (disk, found) = of_version_0_1();
            let mut used = None;
            for storage_id in 10..14_u128 {
                disk.fail_after((storage_id == 10).then_some(fail_at));
                let proposed = Superblock {
                    storage_id,
                    ..found.clone()
                };
                if let Ok(block) = start_incarnation(&disk, &proposed) {
                    let used = *used.get_or_insert(block.storage_id);
                    assert_eq!(block.storage_id, used, "{fail_at} {survivor}");
                }
                disk.crash(&mut || survivor);
            }
            assert!(used.is_some());
        }
    }
}

/// As version 0.1 has written it.
#[test]
fn a_disk_without_a_list_adopts_that_of_its_first_start() {
    let disk = MemoryDisk::new();
    let old = Superblock {
        membership: None,
        ..identity()
    };
    format(&disk, &old).unwrap();
    start_incarnation(&disk, &old).unwrap();
    assert_eq!(inspect(&disk, &identity()).unwrap().0.membership, None);
    start_incarnation(&disk, &identity()).unwrap();
    let mut other = identity();
    other.membership = Some(members(1));
    let refused = start_incarnation(&disk, &other);
    assert!(matches!(refused, Err(SuperblockError::Members { .. })));
}

#[test]
fn names_and_replicas_that_do_not_fit_are_refused() {
    let mut large = identity();
    large.cluster = "c".repeat(NAME_BYTES_MAX);
    let learners = |last: u64| {
        let voters = (1..=3).map(ReplicaId);
        Some(Membership::new(1, voters, (4..=last).map(ReplicaId)).unwrap())
    };
    // As many as a cluster may list.
    large.membership = learners(255);
    format(&MemoryDisk::new(), &large).unwrap();
    large.membership = learners(500);
    let refused = format(&MemoryDisk::new(), &large);
    assert!(matches!(refused, Err(SuperblockError::TooLong { .. })));
}

#[test]
fn a_formatted_disk_is_unchecked_until_it_is_started_or_the_check_is_skipped() {
    let disk = MemoryDisk::new();
    assert!(!is_unchecked(&disk).unwrap());
    format(&disk, &identity()).unwrap();
    assert!(is_unchecked(&disk).unwrap());
    let skipped = formatted();
    skip_peer_check(&skipped).unwrap();
    assert!(!is_unchecked(&skipped).unwrap());
    assert!(exists(&skipped).unwrap());
    start_incarnation(&disk, &identity()).unwrap();
    assert!(!is_unchecked(&disk).unwrap());
}
