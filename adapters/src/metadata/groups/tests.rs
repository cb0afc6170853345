use proptest::prelude::*;

use super::*;

const A: u128 = 0xA;
const B: u128 = 0xB;
const C: u128 = 0xC;

fn at(now: u64) -> Moment {
    Moment {
        now,
        command_id: now,
    }
}

fn group() -> Group {
    Group::new(0, Name::new("readers").unwrap())
}

fn all(partitions: u32) -> BTreeSet<u32> {
    (0..partitions).collect()
}

fn readable(group: &Group, client: u128) -> Vec<u32> {
    let member = group.member(client).unwrap();
    member.readable().collect()
}

fn load(group: &Group, client: u128) -> usize {
    group.member(client).unwrap().owned.len()
}

#[test]
fn the_first_member_reads_everything_and_the_second_half_of_it() {
    let mut group = group();
    assert!(group.join(A, 6, &all(6), at(1)));
    assert_eq!(readable(&group, A), [0, 1, 2, 3, 4, 5]);
    assert!(group.join(B, 6, &BTreeSet::new(), at(2)));
    assert_eq!(readable(&group, A), [0, 1, 2]);
    assert_eq!(readable(&group, B), [3, 4, 5]);
    assert_eq!(group.generation, 2);
}

#[test]
fn a_member_changes_nothing_by_joining_again() {
    let mut group = group();
    group.join(A, 3, &BTreeSet::new(), at(1));
    let before = group.clone();
    assert!(!group.join(A, 3, &BTreeSet::new(), at(2)));
    assert!(!group.leave(B, 3, at(3)));
    assert_eq!(group, before);
}

#[test]
fn a_busy_partition_changes_hands_when_its_commit_is_confirmed() {
    let mut group = group();
    group.join(A, 2, &BTreeSet::new(), at(1));
    group.join(B, 2, &all(2), at(2));
    assert!(!group.member(A).unwrap().may_read(1));
    assert!(group.member(A).unwrap().holds(1));
    assert_eq!(load(&group, B), 0);
    let (partition, holder, revocation) = group.revocations().next().unwrap();
    assert_eq!((partition, holder), (1, A));
    assert!(!group.complete(1, revocation.id + 1), "another one");
    assert!(group.complete(1, revocation.id));
    assert!(!group.complete(1, revocation.id), "once");
    assert_eq!(readable(&group, B), [1]);
    assert_eq!(group.generation, 3);
}

#[test]
fn a_revocation_ends_with_its_time_and_not_before() {
    let mut group = group();
    group.join(A, 2, &BTreeSet::new(), at(1));
    group.join(B, 2, &all(2), at(100));
    group.expire(99);
    assert_eq!(load(&group, B), 0);
    group.expire(100);
    assert_eq!(readable(&group, B), [1]);
}

/// A member that joins while partitions are being revoked gets its share of them.
#[test]
fn a_member_that_joins_during_a_revocation_gets_a_share() {
    let mut group = group();
    group.join(A, 4, &BTreeSet::new(), at(1));
    group.join(B, 4, &all(4), at(2));
    group.join(C, 4, &all(4), at(3));
    group.expire(3);
    let mut loads = [load(&group, A), load(&group, B), load(&group, C)];
    loads.sort_unstable();
    assert_eq!(loads, [1, 1, 2]);
}

/// The next member leaves before the revocation is complete: the holder reads on.
#[test]
fn a_revocation_without_a_target_is_cancelled() {
    let mut group = group();
    group.join(A, 2, &BTreeSet::new(), at(1));
    group.join(B, 2, &all(2), at(2));
    group.leave(B, 2, at(3));
    assert_eq!(readable(&group, A), [0, 1]);
}

#[test]
fn a_member_that_leaves_keeps_nothing_waiting() {
    let mut group = group();
    group.join(A, 4, &BTreeSet::new(), at(1));
    group.join(B, 4, &all(4), at(2));
    group.leave(A, 4, at(3));
    assert_eq!(readable(&group, B), [0, 1, 2, 3]);
    group.leave(B, 4, at(4));
    assert_eq!(group.members().len(), 0);
}

/// Slots are reused, the lowest first.
#[test]
fn a_slot_is_free_after_its_member_left() {
    let mut group = group();
    for client in [A, B, C] {
        group.join(client, 3, &BTreeSet::new(), at(1));
    }
    group.leave(B, 3, at(2));
    group.join(0xD, 3, &BTreeSet::new(), at(3));
    let slots: Vec<_> = group.members().map(|(slot, m)| (slot, m.client)).collect();
    assert_eq!(slots, [(0, A), (1, 0xD), (2, C)]);
}

#[test]
fn more_members_than_partitions_leave_some_idle() {
    let mut group = group();
    for client in 1..=5 {
        group.join(client, 2, &BTreeSet::new(), at(1));
    }
    let mut loads: Vec<_> = (1..=5).map(|client| load(&group, client)).collect();
    loads.sort_unstable();
    assert_eq!(loads, [0, 0, 0, 1, 1]);
}

#[derive(Clone, Debug)]
enum Step {
    Join(u128, BTreeSet<u32>),
    Leave(u128),
    Resize(u32),
    Complete(usize),
    Expire(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let busy = prop::collection::btree_set(0u32..12, 0..12);
    prop_oneof![
        4 => (1u128..7, busy).prop_map(|(client, busy)| Step::Join(client, busy)),
        2 => (1u128..7).prop_map(Step::Leave),
        1 => (0u32..12).prop_map(Step::Resize),
        2 => any::<usize>().prop_map(Step::Complete),
        1 => (0u64..80).prop_map(Step::Expire),
    ]
}

/// The load of each member when all revocations are complete.
fn loads(group: &Group) -> BTreeMap<u32, usize> {
    let mut loads: BTreeMap<u32, usize> = group
        .members()
        .map(|(slot, member)| (slot, member.readable().count()))
        .collect();
    for (_, _, revocation) in group.revocations() {
        *loads.get_mut(&revocation.to).unwrap() += 1;
    }
    loads
}

fn readers(group: &Group) -> BTreeMap<u32, u128> {
    let members = group.members();
    members
        .flat_map(|(_, member)| member.readable().map(|id| (id, member.client)))
        .collect()
}

proptest! {
    /// One holder for each partition, fair loads, no partition that is busy read by
    /// another without a revocation, and a new generation for each assignment.
    #[test]
    fn assignments_are_sound_fair_and_numbered(steps in prop::collection::vec(step(), 1..60)) {
        let mut group = group();
        let mut partitions = 6;
        for (now, step) in (1u64..).zip(steps) {
            let before = group.clone();
            let mut busy = all(partitions);
            match step {
                Step::Join(client, hint) => {
                    busy = hint;
                    group.join(client, partitions, &busy, at(now));
                }
                Step::Leave(client) => { group.leave(client, partitions, at(now)); }
                Step::Resize(count) => {
                    partitions = count;
                    group.resize(partitions, at(now));
                }
                Step::Complete(nth) => {
                    let found = group.revocations().nth(nth % 4);
                    if let Some((partition, _, revocation)) = found {
                        prop_assert!(group.complete(partition, revocation.id));
                        busy.remove(&partition);
                    }
                }
                Step::Expire(latest) => {
                    group.expire(latest);
                    busy.clear();
                }
            }
            prop_assert!(group.is_sound(partitions), "{:#?}", group);
            let loads = loads(&group);
            let (least, most) = (loads.values().min(), loads.values().max());
            prop_assert!(most.unwrap_or(&0) - least.unwrap_or(&0) <= 1, "{:#?}", group);
            if readers(&group) != readers(&before) || group.members != before.members {
                prop_assert!(group.generation > before.generation);
            }
            let after = readers(&group);
            for (id, client) in readers(&before) {
                let stays = before.member(client).is_some() && group.member(client).is_some();
                let taken = after.get(&id).is_some_and(|reader| *reader != client);
                prop_assert!(!(stays && taken && busy.contains(&id)), "{} of {}", id, client);
            }
        }
    }

    /// Iggy's server reassigns everything when a member leaves or partitions are added. Here
    /// only what has no holder is assigned, immediately, and no member waits for another.
    #[test]
    fn nothing_waits_when_a_member_leaves_or_partitions_are_added(
        members in 1u128..8,
        partitions in 0u32..40,
        leaver in 1u128..8,
        added in 1u32..40,
    ) {
        let mut group = group();
        for client in 1..=members {
            group.join(client, partitions, &BTreeSet::new(), at(1));
        }
        let mut before = readers(&group);
        before.retain(|_, client| *client != leaver);
        group.leave(leaver, partitions, at(2));
        group.resize(partitions + added, at(3));
        prop_assert_eq!(group.revocations().count(), 0);
        let after = readers(&group);
        prop_assert!(before.iter().all(|(id, client)| after[id] == *client));
        let expected = if group.members.is_empty() { 0 } else { partitions + added };
        prop_assert_eq!(after.len() as u32, expected);
    }

    /// A member that stays keeps its fair share: a join moves no more than it must.
    #[test]
    fn a_join_moves_only_the_share_of_the_new_member(members in 1u128..8, partitions in 0u32..40) {
        let mut group = group();
        for client in 1..=members {
            group.join(client, partitions, &BTreeSet::new(), at(1));
        }
        let before = readers(&group);
        group.join(99, partitions, &BTreeSet::new(), at(2));
        let moved = readers(&group)
            .iter()
            .filter(|(id, client)| before[id] != **client)
            .count();
        prop_assert_eq!(moved, load(&group, 99));
        prop_assert!(moved <= partitions as usize / (members as usize + 1) + 1);
    }
}
