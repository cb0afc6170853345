use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

type Reserving = Pin<Box<dyn Future<Output = ReservedMemory>>>;

fn reserve(share: &MemoryShare, min: usize, max: usize) -> Reserving {
    let share = share.clone();
    Box::pin(async move { share.reserve_up_to(min, max).await })
}

/// What a future has come to, without a runtime.
fn poll(waiting: &mut Reserving) -> Option<ReservedMemory> {
    match waiting
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(reserved) => Some(reserved),
        Poll::Pending => None,
    }
}

#[test]
fn bytes_are_free_again_when_the_last_part_of_them_is_dropped() {
    let budget = MemoryBudget::new(10 * KIB);
    let reserved = budget.try_reserve(6 * KIB).unwrap();
    assert!(budget.try_reserve(5 * KIB).is_none());
    let bytes = reserved.attach(Bytes::from_static(b"0123456789"));
    let part = bytes.slice(2..4);
    drop(bytes);
    assert_eq!((&part[..], budget.reserved_bytes()), (&b"23"[..], 6 * KIB));
    drop(part);
    assert_eq!(budget.reserved_bytes(), 0);
    let mut reserved = budget.try_reserve(10 * KIB).unwrap();
    reserved.shrink(KIB + 1);
    assert_eq!(
        (reserved.bytes(), budget.reserved_bytes()),
        (2 * KIB, 2 * KIB)
    );
    assert!(reserved.try_grow(10 * KIB));
    assert!(!reserved.try_grow(10 * KIB + 1));
    assert_eq!(reserved.bytes(), 10 * KIB);
    drop(reserved);
    assert_eq!(budget.reserved_bytes(), 0);
}

#[test]
fn one_account_leaves_as_much_as_it_holds_and_many_leave_room_for_a_next_one() {
    let budget = MemoryBudget::new(256 * MIB);
    let mut reserved = Vec::new();
    for others in 0..5 {
        // Half of what is free, whether others hold something or not.
        let share = budget.account().share();
        let most = share.try_reserve_up_to(1, 256 * MIB).unwrap();
        assert_eq!(most.bytes(), (256 * MIB) >> (others + 1));
        assert!(share.try_reserve(1).is_none());
        reserved.push((share, most));
    }
    // What the first one releases is divided again.
    reserved.remove(0);
    let next = budget.account().share();
    let most = next.try_reserve_up_to(1, 256 * MIB).unwrap();
    assert_eq!(most.bytes(), (128 + 8) * MIB / 2);
    drop((reserved, most));
    assert_eq!(budget.reserved_bytes(), 0);
}

/// The fault: twenty connections of one user whose replies of 60 MB are not read.
#[test]
fn slow_connections_of_a_user_leave_room_for_others_of_the_same_and_of_other_users() {
    let budget = MemoryBudget::new(512 * MIB);
    let (one, other) = (budget.account(), budget.account());
    let mut slow = Vec::new();
    for _ in 0..20 {
        let share = one.share();
        let reply = share.try_reserve_up_to(64 * KIB, 60 * MIB).unwrap();
        slow.push((share, reply));
    }
    let sizes: Vec<_> = slow.iter().map(|(_, reply)| reply.bytes() / MIB).collect();
    assert_eq!(sizes[..6], [60, 39, 31, 25, 20, 16]);
    assert!(budget.reserved_bytes() <= 256 * MIB);
    // A request of another connection of the same user.
    let request = one.share().try_reserve(MIB).unwrap();
    // Another user, with as much as a largest frame.
    let large = other.share().try_reserve(64 * MIB).unwrap();
    // Further connections of the first one have little, and all of them not everything.
    let mut many = Vec::new();
    while let Some(reply) = one.share().try_reserve(64 * KIB) {
        many.push(reply);
    }
    assert!(many.len() > 500, "{}", many.len());
    drop(large);
    assert!(other.share().try_reserve(48 * MIB).is_some());
    assert!(budget.account().share().try_reserve(MIB).is_some());
    drop((slow, request, many));
    assert_eq!(budget.reserved_bytes(), 0);
}

#[test]
fn the_only_share_of_an_account_may_hold_all_that_the_account_may() {
    let budget = MemoryBudget::new(256 * MIB);
    let account = budget.account();
    let share = account.share();
    let mut all = share.try_reserve(128 * MIB).unwrap();
    assert!(share.try_reserve(MIB).is_none());
    let next = account.share();
    assert_eq!(next.try_reserve_up_to(1, 2 * MIB).unwrap().bytes(), MIB);
    all.shrink(64 * MIB);
    // What may be smaller is, and what may not is half of the rest.
    let usual = next.try_reserve_up_to(1, 256 * MIB).unwrap();
    assert_eq!(usual.bytes() / MIB, 64 / 5);
    drop(usual);
    assert!(next.try_reserve(32 * MIB + KIB).is_none());
    let rest = next.try_reserve(32 * MIB).unwrap();
    // The share may add nothing now: another one holds some.
    assert!(share.try_reserve(MIB).is_none());
    drop((all, rest));
    assert_eq!(budget.reserved_bytes(), 0);
}

#[test]
fn those_who_wait_are_served_in_order_and_accounts_take_turns() {
    let budget = MemoryBudget::new(64 * MIB);
    let (one, other) = (budget.account(), budget.account());
    let mut all = budget.try_reserve(64 * MIB).unwrap();
    let wait = |account: &MemoryAccount, min, max| reserve(&account.share(), min, max);
    let mut first = wait(&one, 24 * MIB, 24 * MIB);
    let mut second = wait(&one, 64 * KIB, 4 * MIB);
    let mut third = wait(&one, 64 * KIB, 4 * MIB);
    let mut fourth = wait(&other, 64 * KIB, 4 * MIB);
    let waiting = [&mut first, &mut second, &mut third, &mut fourth];
    assert!(waiting.map(poll).iter().all(Option::is_none));
    assert_eq!(budget.waiting(), 4);
    // There is room for small ones, of each account in turn, before the large one.
    all.shrink(64 * MIB - 100 * KIB);
    let second = poll(&mut second).unwrap();
    assert_eq!(second.bytes(), 75 * KIB);
    assert!(
        [&mut third, &mut fourth]
            .map(poll)
            .iter()
            .all(Option::is_none)
    );
    let mut fifth = wait(&one, 1, MIB);
    assert!(poll(&mut fifth).is_none());
    all.shrink(63 * MIB);
    let (third, fourth) = (poll(&mut third).unwrap(), poll(&mut fourth).unwrap());
    // The other account had its turn first.
    assert!(fourth.bytes() > third.bytes(), "{fourth:?} {third:?}");
    drop(all);
    let fifth = poll(&mut fifth).unwrap();
    // The large one fits when no other of its account holds anything.
    drop((second, third));
    assert!(poll(&mut first).is_none());
    drop(fifth);
    let first = poll(&mut first).unwrap();
    assert_eq!((first.bytes(), budget.waiting()), (24 * MIB, 0));
    drop((first, fourth));
    assert_eq!(budget.reserved_bytes(), 0);
}

#[test]
fn a_grant_to_one_that_waits_no_more_is_released() {
    let budget = MemoryBudget::new(MIB);
    let share = budget.account().share();
    let all = budget.try_reserve(MIB).unwrap();
    let mut gone = reserve(&share, 64 * KIB, MIB);
    assert!(poll(&mut gone).is_none());
    let mut granted = reserve(&share, 64 * KIB, MIB);
    assert!(poll(&mut granted).is_none());
    drop(gone);
    drop(all);
    // It is dropped after it was granted, before it has seen that.
    assert!(budget.reserved_bytes() > 0);
    drop(granted);
    assert_eq!((budget.reserved_bytes(), budget.waiting()), (0, 0));
}
