//! What a slow, late, restarted or broken peer can do to a replica.

use bytes::Bytes;
use consensus::{Entry, EntryKind, Index, Input, Limits, ReplicaId, SnapshotMeta, Term};

use super::harness::{ELECTION, Group, HEARTBEAT, id};
use crate::ids::{Checksum, Head, View};
use crate::log::Log;
use crate::message::{DoViewChange, Message};
use crate::roles;

/// The two that are not this one.
fn others(number: u64) -> (u64, u64) {
    (number % 3 + 1, (number + 1) % 3 + 1)
}

/// The first view behind this one of which that replica is the primary.
fn next_view_of(group: &Group, view: View, primary: u64) -> View {
    let mut next = view.next();
    while group.core(primary).context().primary_of(next) != id(primary) {
        next = next.next();
    }
    next
}

/// A log that goes on as this view would.
fn continued(log: &Log, view: View, bodies: &[&[u8]]) -> Log {
    let mut log = log.clone();
    for body in bodies {
        log.prepare(view, EntryKind::Command, body);
    }
    log
}

fn snapshot_at(group: &Group, number: u64, log: &Log, op: Index) -> SnapshotMeta {
    SnapshotMeta {
        index: op,
        term: log.view(op).expect("held").term(),
        membership: group.core(number).context().membership().clone(),
    }
}

/// The snapshot is offered, fetched and durable.
fn fetch(group: &mut Group, from: u64, to: u64, view: View, log: &Log, op: Index) {
    let snapshot = snapshot_at(group, to, log, op);
    let checksum = log.checksum(op);
    let offer = Message::SnapshotOffer {
        snapshot: snapshot.clone(),
        checksum,
    };
    group.say(from, to, view.0, offer);
    assert_eq!(group.nodes[&id(to)].fetches.last(), Some(&snapshot));
    fetched(group, to, snapshot);
}

fn fetched(group: &mut Group, to: u64, snapshot: SnapshotMeta) {
    let stored = (snapshot.clone(), Vec::new());
    group.node(to).disk.snapshots.insert(snapshot.index, stored);
    group.input(to, Input::SnapshotFetched(snapshot));
}

/// While a replica catches up to where the view began, the view goes on and its
/// primary compacts: the snapshot reaches behind that.
#[test]
fn a_snapshot_newer_than_the_beginning_of_the_view_is_joined_with() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    let view = next_view_of(&group, group.core(backup).context().view(), other);
    let base = group.core(backup).context().log().clone();
    let begun = continued(&base, view, &[b"b", b"c", b"d"]);
    let later = continued(&begun, view, &[b"e", b"f"]);
    let start = Message::StartView {
        commit: base.last(),
        head: begun.head(),
        entries: Vec::new(),
    };
    group.say(other, backup, view.0, start);
    fetch(&mut group, other, backup, view, &later, later.last());
    let core = group.core(backup);
    assert_eq!(core.context().log().last(), later.last());
    assert_eq!(core.context().log_view(), view);
    assert_eq!(core.context().commit(), later.last());
    assert!(matches!(core.role(), roles::Role::Backup(_)));
}

/// A fetch that an earlier view began ends while the log of a later one is
/// gathered.
#[test]
fn a_snapshot_that_covers_a_part_of_what_is_gathered_takes_its_place() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    let view = group.core(backup).context().view();
    let base = group.core(backup).context().log().clone();
    let old = continued(&base, view, &[b"b", b"c", b"d", b"e"]);
    let snapshot = snapshot_at(&group, backup, &old, Index(base.last().0 + 2));
    let offer = Message::SnapshotOffer {
        snapshot: snapshot.clone(),
        checksum: old.checksum(snapshot.index),
    };
    group.say(primary, backup, view.0, offer);
    let later = next_view_of(&group, view, other);
    let begun = continued(&old, later, &[b""]);
    let entries = begun.slice(base.last().next(), usize::MAX);
    let (first, rest) = entries.split_at(3);
    let start = Message::StartView {
        commit: base.last(),
        head: begun.head(),
        entries: first.to_vec(),
    };
    group.say(other, backup, later.0, start);
    fetched(&mut group, backup, snapshot.clone());
    assert_eq!(
        group.nodes[&id(backup)].installed,
        std::slice::from_ref(&snapshot)
    );
    let rest = rest.to_vec();
    group.say(other, backup, later.0, Message::Prepares { entries: rest });
    let entries = begun.slice(snapshot.index.next(), usize::MAX);
    group.say(other, backup, later.0, Message::Prepares { entries });
    assert_eq!(group.core(backup).context().log().head(), begun.head());
    assert_eq!(group.core(backup).context().log_view(), later);
}

/// Committed ops of a view can be in a log that is not of that view.
#[test]
fn a_log_with_ops_of_a_later_view_is_taken_in_a_view_change() {
    let (mut group, primary) = Group::started(5);
    group.commit(b"a");
    let all: Vec<u64> = (1..=5).collect();
    let view = group.core(primary).context().view();
    let second = group.core(primary).context().primary_of(view.next()).0;
    let rest: Vec<u64> = all
        .iter()
        .copied()
        .filter(|number| ![primary, second].contains(number))
        .collect();
    let (third, behind) = (rest[0], [rest[1], rest[2]]);
    // Proposals that two replicas do not have.
    for body in [b"b", b"c"] {
        group.propose(primary, body);
    }
    group.settle_if(|e| !behind.map(id).contains(&e.to));
    assert_eq!(group.commands(primary), ["a", "b", "c"]);
    // The next view, in which these two get what is committed, and not the rest.
    let log = group.core(second).context().log().clone();
    let next = next_view_of(&group, view, second);
    let begun = continued(&log, next, &[b"", b"d"]);
    for number in [third, behind[0], behind[1]] {
        let commit = begun.last().prev();
        let from = if number == third {
            begun.last()
        } else {
            commit
        };
        let from = from.min(group.core(number).context().log().last());
        let mut entries = begun.slice(from.next(), usize::MAX);
        if number != third {
            entries.pop();
        }
        let start = Message::StartView {
            commit,
            head: begun.head(),
            entries,
        };
        group.say(second, number, next.0, start);
    }
    assert_eq!(group.core(third).context().log_view(), next);
    for number in behind {
        assert_eq!(group.core(number).context().log_view(), view);
        assert_eq!(
            group.core(number).context().log().last(),
            begun.last().prev()
        );
    }
    group.network.clear();
    group.crash(primary);
    group.crash(second);
    let leader = group.until_view_after(next.0);
    assert_eq!(
        group.core(leader).context().log().checksum(begun.last()),
        begun.head().checksum
    );
    for number in [third, behind[0], behind[1]] {
        assert_eq!(group.nodes[&id(number)].rejected, [], "replica {number}");
    }
}

/// A primary that says what cannot be true is refused, and nothing is lost.
#[test]
fn a_primary_whose_log_is_not_what_it_announced_is_refused() {
    type Start = fn(&Log, View) -> (Index, Head, Vec<Entry>);
    let starts: [Start; 4] = [
        // Ends where this log does, with another op.
        |log, _| {
            let head = Head {
                op: log.last(),
                checksum: Some(Checksum(7)),
            };
            (Index::ZERO, head, Vec::new())
        },
        // Brings entries that are behind its end.
        |log, view| {
            let longer = continued(log, view, &[b"x"]);
            let head = Head {
                op: log.last(),
                checksum: Some(Checksum(7)),
            };
            (Index::ZERO, head, longer.slice(longer.last(), usize::MAX))
        },
        // Its last entry is another.
        |log, view| {
            let longer = continued(log, view, &[b"x"]);
            let head = Head {
                op: longer.last(),
                checksum: Some(Checksum(7)),
            };
            (Index::ZERO, head, longer.slice(longer.last(), usize::MAX))
        },
        // Other ops where these are committed.
        |log, view| {
            let mut other = log.clone();
            other.truncate_from(Index(2));
            let other = continued(&other, view, &[b"x", b"y", b"z"]);
            (
                other.last(),
                other.head(),
                other.slice(Index(2), usize::MAX),
            )
        },
    ];
    for (case, start) in starts.into_iter().enumerate() {
        let (mut group, primary) = Group::started(3);
        let (backup, other) = others(primary);
        let view = next_view_of(&group, group.core(backup).context().view(), other);
        group.commit(b"a");
        group.commit(b"b");
        let log = group.core(backup).context().log().clone();
        let (commit, head, entries) = start(&log, view);
        let start = Message::StartView {
            commit,
            head,
            entries,
        };
        group.say(other, backup, view.0, start);
        let core = group.core(backup);
        assert_eq!(core.context().log().head(), log.head(), "case {case}");
        assert!(core.context().log_view() < view, "case {case}");
        // The next view finds it unharmed.
        let leader = group.until_view_after(view.0 - 1);
        group.commit(b"c");
        assert_eq!(group.commands(leader), ["a", "b", "c"], "case {case}");
        assert_eq!(group.commands(backup), ["a", "b", "c"], "case {case}");
    }
}

/// Whoever is not asked brings nothing into a log that is being fetched.
#[test]
fn entries_of_a_stranger_do_not_get_into_the_log_of_a_view() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    let view = next_view_of(&group, group.core(backup).context().view(), other);
    let base = group.core(backup).context().log().clone();
    let begun = continued(&base, view, &[b"b", b"c"]);
    let forged = continued(&base, view, &[b"x", b"y"]);
    let start = Message::StartView {
        commit: base.last(),
        head: begun.head(),
        entries: Vec::new(),
    };
    group.say(other, backup, view.0, start);
    let entries = forged.slice(base.last().next(), usize::MAX);
    group.say(primary, backup, view.0, Message::Prepares { entries });
    let entries = begun.slice(base.last().next(), usize::MAX);
    group.say(other, backup, view.0, Message::Prepares { entries });
    assert_eq!(group.core(backup).context().log().head(), begun.head());
    assert_eq!(group.core(backup).context().log_view(), view);
}

fn entry(term: u64, index: u64, parent: Checksum) -> Entry {
    let mut payload = parent.0.to_le_bytes().to_vec();
    payload.push(b'x');
    Entry {
        term: Term(term),
        index: Index(index),
        kind: EntryKind::Command,
        payload: Bytes::from(payload),
    }
}

/// The chain holds, and the views in it go back.
#[test]
fn an_entry_of_an_earlier_view_than_the_one_before_it_is_refused() {
    let (mut group, primary) = Group::started(3);
    let view = group.core(primary).context().view();
    group.crash(primary);
    let leader = group.until_view_after(view.0);
    group.run(HEARTBEAT);
    let backup = 6 - primary - leader;
    let core = group.core(backup);
    let (view, head) = (core.context().view(), core.context().log().head());
    let back = entry(1, head.op.next().0, head.checksum.unwrap());
    let commit = head.op;
    let entries = vec![back.clone()];
    group.say(leader, backup, view.0, Message::Prepare { commit, entries });
    assert_eq!(group.core(backup).context().log().head(), head);
    assert_eq!(group.nodes[&id(backup)].rejected.len(), 1);
    // Also while it catches up.
    let later = next_view_of(&group, view, leader);
    let start = Message::StartView {
        commit,
        head: Head {
            op: back.index.next(),
            checksum: None,
        },
        entries: vec![back],
    };
    group.say(leader, backup, later.0, start);
    assert_eq!(group.core(backup).context().log().head(), head);
}

/// Numbers at the end of their range.
#[test]
fn numbers_that_overflow_are_refused() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    let view = group.core(backup).context().view();
    let last = entry(1, u64::MAX, Checksum(1));
    let entries = vec![last.clone(), entry(1, 0, crate::log::checksum(&last))];
    let commit = Index(1);
    group.say(
        primary,
        backup,
        view.0,
        Message::Prepare { commit, entries },
    );
    assert_eq!(group.nodes[&id(backup)].rejected.len(), 1);
    let nonce = backup * 1000 + 1;
    let round = u64::MAX;
    let reply = Message::ReadReply {
        nonce,
        round,
        commit,
    };
    group.input(backup, Input::ReadIndex(consensus::ReadToken(1)));
    group.say(primary, backup, view.0, reply);
    assert_eq!(group.nodes[&id(backup)].reads, []);
    let membership = group.core(backup).context().membership().clone();
    let strangers = consensus::Membership::new(1, [id(primary), id(other)], []).unwrap();
    for (index, term, membership) in [
        (u64::MAX, 1, membership.clone()),
        (50, view.0 + 1, membership),
        (50, 1, strangers),
    ] {
        let snapshot = SnapshotMeta {
            index: Index(index),
            term: Term(term),
            membership,
        };
        let checksum = None;
        let offer = Message::SnapshotOffer { snapshot, checksum };
        group.say(other, backup, view.0, offer);
    }
    assert_eq!(group.nodes[&id(backup)].fetches, []);
}

/// One that brings a log of nothing, beside another that knows of few commits.
#[test]
fn a_log_that_lacks_what_is_committed_here_begins_no_view() {
    let (mut group, primary) = Group::started(3);
    let (one, two) = others(primary);
    group.commit(b"a");
    let view = View(next_view_of(&group, group.core(one).context().view(), one).0 + 3);
    // It was changing views, and lost its memory of who brought what.
    group.network.clear();
    let head = group.core(one).context().log().head();
    let log = |log_view: u64, head: Head| DoViewChange {
        log_view: View(log_view),
        commit: Index::ZERO,
        head,
        headers: Vec::new(),
    };
    group.say(
        two,
        one,
        view.0,
        Message::StartViewChange { at: View::ZERO },
    );
    group.say(
        primary,
        one,
        view.0,
        Message::StartViewChange { at: View::ZERO },
    );
    assert_eq!(group.core(one).context().view(), view);
    group.crash(one);
    group.restart(one);
    let nothing = Head {
        op: Index::ZERO,
        checksum: None,
    };
    let liar = Message::DoViewChange(log(view.0 - 1, nothing));
    let honest = Message::DoViewChange(log(1, head));
    group.say(two, one, view.0, liar);
    group.say(primary, one, view.0, honest);
    assert!(group.core(one).context().log_view() < view);
    assert_eq!(group.core(one).context().log().head(), head);
}

/// Nobody knows the checksum of a snapshot's last op whose prepare it has not seen;
/// what is prepared behind it is taken by those who do.
#[test]
fn a_primary_whose_log_is_a_snapshot_leads_who_has_the_log() {
    let (mut group, primary) = Group::started(3);
    let view = group.core(primary).context().view();
    let next = group.core(primary).context().primary_of(view.next()).0;
    let third = 6 - primary - next;
    // The next primary lags behind, and gets a snapshot of everything.
    for body in [b"a", b"b", b"c"] {
        group.propose(primary, body);
    }
    group.run_if(HEARTBEAT, |e| e.to != id(next));
    group.run_if(HEARTBEAT, |e| e.to != id(next));
    let log = group.core(primary).context().log().clone();
    assert_eq!(group.core(third).context().log().head(), log.head());
    fetch(&mut group, primary, next, view, &log, log.last());
    group.network.clear();
    // It restarts, and nothing on its disk has the checksum: the batch with it came
    // too late.
    group.crash(next);
    let state = &mut group.node(next).disk.hard_state;
    let mut bytes = state.take().unwrap().to_vec();
    bytes[33..].fill(0);
    *state = Some(bytes.into());
    group.restart(next);
    assert_eq!(group.core(next).context().log().head().checksum, None);
    group.crash(primary);
    let mut after = view;
    for round in 0..3 {
        let leader = group.until_view_after(after.0);
        group.propose(leader, b"d");
        group.run(HEARTBEAT + 1);
        let head = group.core(next).context().log().head();
        assert_eq!(
            head,
            group.core(third).context().log().head(),
            "round {round}"
        );
        assert_eq!(
            group.core(third).context().commit(),
            head.op,
            "round {round}"
        );
        after = group.core(leader).context().view();
        for number in [next, third] {
            assert_eq!(group.nodes[&id(number)].rejected, [], "replica {number}");
            group.crash(number);
            group.restart(number);
        }
    }
    // Who was away has the log up to there, and comes back.
    group.restart(primary);
    group.run(4 * ELECTION);
    group.commit(b"e");
    for number in 1..=3 {
        assert_eq!(group.commands(number).last().unwrap(), "e", "{number}");
    }
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
    let mut under_way = Vec::new();
    for round in 0..20 * ELECTION {
        group.input(primary, Input::ReadIndex(consensus::ReadToken(round)));
        under_way.push(std::mem::take(&mut group.network));
        if under_way.len() > 3 {
            for envelope in under_way.remove(0) {
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

/// A replica that fetches the log of a view is in that view: its primary leads on.
#[test]
fn a_primary_waits_for_a_backup_that_catches_up() {
    let limits = Limits {
        message_bytes_max: 100,
        ..Limits::default()
    };
    let (mut group, primary) = Group::with_limits(3, limits).begun();
    let (backup, other) = others(primary);
    let behind = group
        .core(primary)
        .context()
        .primary_of(group.core(primary).context().view().next())
        .0;
    let helper = if behind == backup { other } else { backup };
    group.run_if(1, |e| e.to != id(behind));
    for number in 0..100_u8 {
        group.propose(primary, &[number; 90]);
    }
    // They are not known to be committed.
    group.settle_if(|e| e.to != id(behind) && !matches!(e.message, Message::PrepareOk { .. }));
    assert_eq!(
        group.core(helper).context().log().last(),
        group.core(primary).context().log().last()
    );
    group.crash(primary);
    // From now on a piece of the log takes a while.
    let mut last = 0;
    for tick in 0..400 * HEARTBEAT {
        let mut pieces = 1;
        group.tick();
        group.settle_if(|e| {
            let piece = matches!(e.message, Message::Prepares { .. });
            let late = piece && (tick < last + HEARTBEAT || pieces == 0);
            if piece && !late {
                pieces -= 1;
                last = tick;
            }
            !late
        });
        if group.commands(helper).len() == 100 && group.commands(behind).len() == 100 {
            return;
        }
    }
    panic!("the view never begins");
}

/// Every nonce is another bucket only to a peer that invents them.
#[test]
fn reads_of_one_peer_are_bounded_whatever_it_calls_itself() {
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

/// A backup whose disk does not keep up is not fed without bound.
#[test]
fn a_backup_with_a_slow_disk_is_sent_no_more_than_may_be_under_way() {
    let limits = Limits {
        inflight_messages_max: 16,
        ..Limits::default()
    };
    let (mut group, primary) = Group::with_limits(3, limits).begun();
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

/// A primary-to-be that restarts brings its own log like everybody else.
#[test]
fn a_primary_of_a_view_to_be_counts_its_own_log_after_a_restart() {
    let (mut group, primary) = Group::started(3);
    let view = group.core(primary).context().view().next();
    let next = group.core(primary).context().primary_of(view).0;
    let third = 6 - primary - next;
    group.crash(primary);
    group.run_if(3 * ELECTION / 2, |e| {
        !matches!(e.message, Message::DoViewChange(_))
    });
    assert_eq!(group.core(next).context().view(), view);
    assert_eq!(group.core(third).context().view(), view);
    group.crash(next);
    group.restart(next);
    group.run(HEARTBEAT + 1);
    assert_eq!(group.primary(), Some(next));
    assert_eq!(group.core(next).context().view(), view);
}

/// E1: also a read reveals the view that it is asked in.
#[test]
fn a_backup_asks_for_reads_in_a_view_that_is_durable() {
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
    let asked = |group: &Group| {
        let by_third = group.sent.iter().filter(|e| e.from == id(third));
        by_third
            .filter(|e| matches!(e.message, Message::ReadRequest { .. }))
            .count()
    };
    assert_eq!(asked(&group), 0);
    group.node(third).manual_sync = false;
    while group.sync(third) {}
    group.run(HEARTBEAT);
    assert!(asked(&group) > 0);
    assert_eq!(group.nodes[&id(third)].reads.len(), 1);
}

/// E1: a handover can end in a view change at once, when somebody else wants one.
#[test]
fn a_primary_that_hands_over_into_a_view_makes_it_durable_first() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    let view = group.core(primary).context().view().next();
    group.say(
        backup,
        primary,
        view.0,
        Message::StartViewChange { at: View::ZERO },
    );
    group.node(primary).manual_sync = true;
    group.sent.clear();
    group.input(primary, Input::TransferLeadership(id(other)));
    assert_eq!(group.core(primary).context().view(), view);
    let early = group
        .sent
        .iter()
        .any(|e| e.from == id(primary) && matches!(e.message, Message::DoViewChange(_)));
    assert!(!early, "the view left before it was durable");
}

/// Two ask for a view, one of them sees it, and the other hears the primary again.
#[test]
fn a_replica_that_moved_alone_is_followed() {
    let (mut group, primary) = Group::started(3);
    group.commit(b"a");
    let view = group.core(primary).context().view();
    let moved = group.core(primary).context().primary_of(view.next()).0;
    let other = 6 - primary - moved;
    // Neither hears the primary, and only what `other` says to `moved` arrives.
    let arrives = |from: ReplicaId, to: ReplicaId| from == id(other) && to == id(moved);
    let late = group
        .sent
        .iter()
        .rfind(|e| e.from == id(other) && matches!(e.message, Message::PrepareOk { .. }))
        .cloned()
        .unwrap();
    for _ in 0..4 * ELECTION {
        group.deliver(&late);
        group.run_if(1, |e| arrives(e.from, e.to));
        if group.core(moved).context().view() > view {
            break;
        }
    }
    assert_eq!(group.core(moved).context().view(), view.next());
    assert_eq!(group.core(other).context().view(), view);
    assert_eq!(group.core(primary).context().view(), view);
    group.network.clear();
    group.run(20 * ELECTION);
    group.commit(b"b");
    for number in 1..=3 {
        assert_eq!(group.commands(number), ["a", "b"], "replica {number}");
    }
}

/// It has ops of the view, and the view's log neither in memory nor on disk.
#[test]
fn a_replica_that_restarts_while_it_catches_up_joins_the_view() {
    // Whenever the primary beats, counted from the restart.
    for ticks in 0..HEARTBEAT {
        restarts_while_it_catches_up(ticks);
    }
}

fn restarts_while_it_catches_up(ticks: u64) {
    let (mut group, primary) = Group::started(3);
    group.commit(b"a");
    let view = group.core(primary).context().view();
    let next = group.core(primary).context().primary_of(view.next()).0;
    let behind = 6 - primary - next;
    group.crash(behind);
    for body in [b"b", b"c"] {
        group.commit(body);
    }
    group.input(primary, Input::TransferLeadership(id(next)));
    group.run(2 * HEARTBEAT);
    group.commit(b"d");
    // It gets what is committed, and not the end.
    group.restart(behind);
    group.run_if(3, |e| e.to != id(behind));
    let core = group.core(next);
    let (view, log) = (core.context().view(), core.context().log().clone());
    let mut entries = log.slice(Index(1), usize::MAX);
    entries.pop();
    let start = Message::StartView {
        commit: core.context().commit(),
        head: log.head(),
        entries,
    };
    group.say(next, behind, view.0, start);
    assert_eq!(
        group.core(behind).context().log().view(log.last().prev()),
        Some(view)
    );
    assert!(group.core(behind).context().log_view() < view);
    group.crash(behind);
    group.run(ticks);
    group.restart(behind);
    group.run(3 * HEARTBEAT);
    assert_eq!(group.core(behind).context().log_view(), view);
    assert_eq!(group.core(behind).context().log().head(), log.head());
}
