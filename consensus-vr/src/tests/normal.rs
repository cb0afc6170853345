//! Normal operation: acknowledgements, lost messages, reads, transfer of leadership.

use consensus::{Consensus, EntryKind, Index, Input, Limits, Role};

use super::harness::{ELECTION, Group, HEARTBEAT, id};
use super::scenario::others;
use crate::log::Log;
use crate::message::{Envelope, Message};
use crate::roles;

/// The primary is one of the quorum only with what is on its own disk.
#[test]
fn the_primary_counts_itself_only_when_its_own_write_is_durable() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.node(primary).manual_sync = true;
    group.propose(primary, b"a");
    let op = group.core(primary).context().log().last();
    group.run_if(HEARTBEAT, |e| e.to != id(other));
    assert_eq!(group.core(backup).context().durable(), op);
    assert!(
        group.core(primary).context().commit() < op,
        "one copy is not a quorum"
    );
    while group.sync(primary) {}
    group.run_if(1, |e| e.to != id(other));
    assert_eq!(group.core(primary).context().commit(), op);
}

/// An answer of an earlier view, or one that does not continue the log, is not
/// applied.
#[test]
fn stale_entries_are_not_applied() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    group.commit(b"a");
    let view = group.core(backup).context().view();
    let mut other = group.core(backup).context().log().clone();
    other.truncate_from(other.last());
    other.prepare(view, EntryKind::Command, b"x");
    other.prepare(view, EntryKind::Command, b"y");
    let before = group.core(backup).context().log().clone();
    let stray = |from: u64, log: &Log| log.slice(Index(from), usize::MAX);
    let entries = stray(other.last().0, &other);
    group.say(
        primary,
        backup,
        view.0,
        Message::Prepares {
            entries: entries.clone(),
        },
    );
    assert_eq!(
        group.core(backup).context().log(),
        &before,
        "a reply without a request"
    );
    let commit = Index(1);
    group.say(
        primary,
        backup,
        view.0,
        Message::Prepare { commit, entries },
    );
    assert_eq!(
        group.core(backup).context().log(),
        &before,
        "a broken chain"
    );
    let entries = stray(other.last().0 - 1, &other);
    group.say(
        primary,
        backup,
        view.0,
        Message::Prepare { commit, entries },
    );
    assert_eq!(
        group.core(backup).context().log(),
        &before,
        "another op of the view"
    );
    let entries = vec![other.get(other.last().prev()).unwrap().clone()];
    group.say(
        primary,
        backup,
        view.0,
        Message::Prepare { commit, entries },
    );
    assert_eq!(group.nodes[&id(backup)].rejected.len(), 3);
}

/// The commit number of a view that knows of more than is here waits for it.
#[test]
fn a_commit_number_ahead_of_the_log_waits() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    let view = group.core(backup).context().view().0;
    let last = group.core(backup).context().log().last();
    let ahead = Message::Commit {
        commit: Index(99),
        beat: 1,
    };
    group.say(primary, backup, view, ahead);
    assert_eq!(group.core(backup).context().commit(), last);
    group.commit(b"a");
    assert_eq!(group.commands(backup), ["a"]);
}

/// A beat may leave before the one before it is answered: reads cause beats.
#[test]
fn a_lost_prepare_is_sent_again_although_beats_are_closer_than_a_round_trip() {
    let (mut group, primary) = Group::started(3);
    group.propose(primary, b"a");
    group
        .network
        .retain(|e| !matches!(e.message, Message::Prepare { .. }));
    // Each message takes a while, during which further beats leave.
    let mut in_flight = Vec::new();
    for round in 0..20 * ELECTION {
        group.input(primary, Input::ReadIndex(consensus::ReadToken(round)));
        in_flight.push(std::mem::take(&mut group.network));
        if in_flight.len() > 3 {
            for envelope in in_flight.remove(0) {
                group.deliver(&envelope);
            }
        }
        if round % 4 == 0 {
            group.tick();
        }
    }
    assert_eq!(group.commands(primary), ["a"]);
    let prepares = group
        .sent
        .iter()
        .filter(|e| matches!(e.message, Message::Prepare { .. }))
        .count();
    assert!(prepares < 20, "{prepares} were sent for one lost");
}

/// A backup with a slow disk is not sent entries without bound.
#[test]
fn a_backup_with_a_slow_disk_is_sent_no_more_than_may_be_in_flight() {
    let limits = Limits {
        inflight_messages_max: 16,
        ..Limits::default()
    };
    let (mut group, primary) = Group::with_limits(3, limits).start();
    let (backup, _) = others(primary);
    group.node(backup).manual_sync = true;
    for _ in 0..1_000 {
        group.propose(primary, b"a");
        group.run(1);
    }
    assert_eq!(group.commands(primary).len(), 1_000);
    let core = group.core(backup);
    let unsaved = core.context().log().last().0 - core.context().durable().0;
    assert!(unsaved <= 16, "{unsaved} are in memory");
    group.node(backup).manual_sync = false;
    while group.sync(backup) {}
    group.run(8 * HEARTBEAT);
    assert_eq!(group.commands(backup).len(), 1_000);
}

/// A new primary may not know yet how much of what it inherited is committed.
#[test]
fn a_read_waits_for_an_op_of_the_view() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.propose(primary, b"a");
    group.settle_if(|e| {
        matches!(
            e.message,
            Message::Prepare { .. } | Message::PrepareOk { .. }
        )
    });
    assert_eq!(group.commands(primary), ["a"]);
    let view = group.core(primary).context().view().next();
    let next = group.core(primary).context().primary_of(view).0;
    group.crash(primary);
    // Beats are answered, but no op of the view is acknowledged.
    let mute = |e: &Envelope| match e.message {
        Message::PrepareOk { .. } => false,
        _ => e.from != id(primary),
    };
    group.run_if(ELECTION + HEARTBEAT, mute);
    assert_eq!(group.core(next).status().role, Role::Leader);
    group.input(next, consensus::Input::ReadIndex(consensus::ReadToken(1)));
    let core = group.core(next);
    let commit = core.context().commit();
    let follower = if next == backup { other } else { backup };
    let roles::Role::Primary(leading) = &core.role() else {
        panic!("it leads");
    };
    let answer = Message::PrepareOk {
        op: Index::ZERO,
        received: Index::ZERO,
        beat: leading.beat(),
        checksum: None,
    };
    group.say(follower, next, view.0, answer);
    assert!(commit < core_first_op(&group, next));
    assert_eq!(group.nodes[&id(next)].reads, [] as [(u64, Index); 0]);
    group.run(HEARTBEAT);
    let reads = &group.nodes[&id(next)].reads;
    assert_eq!(reads.len(), 1);
    assert!(reads[0].1 >= core_first_op(&group, next));
}

fn core_first_op(group: &Group, number: u64) -> Index {
    match &group.core(number).role() {
        roles::Role::Primary(primary) => primary.first_op(),
        _ => panic!("it leads"),
    }
}

/// E1: also a request to confirm reads reveals its view.
#[test]
fn a_backup_requests_reads_in_a_view_that_is_durable() {
    let (mut group, primary) = Group::started(3);
    let view = group.core(primary).context().view().next();
    let next = group.core(primary).context().primary_of(view).0;
    let third = 6 - primary - next;
    group.crash(primary);
    group.run_if(2 * ELECTION, |e| {
        !matches!(e.message, Message::StartView { .. })
    });
    group.input(third, Input::ReadIndex(consensus::ReadToken(1)));
    group.node(third).manual_sync = true;
    group.sent.clear();
    group.run(HEARTBEAT + 1);
    let core = group.core(third);
    assert_eq!(
        core.context().log_view(),
        core.context().view(),
        "it has joined"
    );
    let requests = |group: &Group| {
        let by_third = group.sent.iter().filter(|e| e.from == id(third));
        by_third
            .filter(|e| matches!(e.message, Message::ReadRequest { .. }))
            .count()
    };
    assert_eq!(requests(&group), 0);
    group.node(third).manual_sync = false;
    while group.sync(third) {}
    group.run(HEARTBEAT);
    assert!(requests(&group) > 0);
    assert_eq!(group.nodes[&id(third)].reads.len(), 1);
}

/// A peer has no more room by inventing nonces.
#[test]
fn reads_of_one_peer_are_bounded_whatever_nonces_it_uses() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    let view = group.core(primary).context().view().0;
    for nonce in 0..1_000 {
        let round = 0;
        let ask = Message::ReadRequest { nonce, round };
        group.say(backup, primary, view, ask);
    }
    group.sent.clear();
    group.settle_if(|_| true);
    let answers = group
        .sent
        .iter()
        .filter(|e| matches!(e.message, Message::ReadReply { .. }))
        .count();
    assert!((1..=64).contains(&answers), "{answers} waited");
}

/// One transfer of leadership at a time.
#[test]
fn a_second_transfer_is_refused_while_the_first_is_in_progress() {
    let (mut group, primary) = Group::started(3);
    let (one, two) = others(primary);
    for to in [one, two] {
        group.input(primary, consensus::Input::TransferLeadership(id(to)));
    }
    assert_eq!(group.nodes[&id(primary)].rejected.len(), 1);
    group.run(3);
    assert_eq!(group.primary(), Some(one));
}
