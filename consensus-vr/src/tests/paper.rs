//! What is known to go wrong in the paper's protocol (E1 to E9). Every test fails when its
//! rule is left out.

use consensus::{Consensus, EntryKind, Index, Role};

use super::harness::{ELECTION, Group, HEARTBEAT, id};
use super::scenario::{is_from, others, vote};
use crate::ids::View;
use crate::log::Log;
use crate::message::{Envelope, Message};
use crate::roles;

/// E1: a replica that forgets that it went to a view helps two primaries commit.
#[test]
fn e1_the_view_is_durable_before_a_message_of_it_leaves_and_survives_a_restart() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    let view = group.core(primary).context().view();
    group.crash(primary);
    group.node(backup).manual_sync = true;
    group.node(other).manual_sync = true;
    group.sent.clear();
    group.run(3 * ELECTION);
    assert!(
        group.core(backup).context().view() > view,
        "it has moved in memory"
    );
    let revealing: Vec<_> = group
        .sent
        .iter()
        .filter(|envelope| !matches!(envelope.message, Message::StartViewChange { .. }))
        .collect();
    assert_eq!(
        revealing,
        [] as [&Envelope; 0],
        "a view left before it was durable"
    );
    // When the write is durable, it leaves; and a restart finds the same view.
    while group.sync(backup) {}
    let moved = group.core(backup).context().view();
    group.crash(backup);
    group.restart(backup);
    assert_eq!(group.core(backup).context().view(), moved);
    let old = Message::Prepare {
        commit: Index(9),
        entries: Vec::new(),
    };
    group.say(primary, backup, view.0, old);
    assert!(
        group.core(backup).context().commit() < Index(9),
        "it follows the old view"
    );
}

/// E2 (VRR 5.2): a replica that fetches the log of a view keeps its own until all
/// of it is there: it may be the only one that has what was acknowledged.
#[test]
fn e2_a_log_is_never_cut_before_its_replacement_is_here() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    // Only one backup gets these: they are committed, and only the primary knows.
    group.propose(primary, b"b");
    group.propose(primary, b"c");
    group.settle_if(|envelope| envelope.to != id(other));
    assert_eq!(group.commands(primary), ["a", "b", "c"]);
    let view = group.core(backup).context().view();
    let log = group.core(backup).context().log().clone();
    let commit = group.core(backup).context().commit();
    // A view starts with a log of which this replica receives only the end.
    let mut chosen = Log::new(Index::ZERO, consensus::Term(0), None);
    for op in 1..=log.last().0 {
        chosen.replace(std::slice::from_ref(log.get(Index(op)).unwrap()));
    }
    let mut leader = view.next();
    while group.core(backup).context().primary_of(leader) != id(other) {
        leader = leader.next();
    }
    for body in [b"d", b"e", b"f"] {
        chosen.prepare(leader, EntryKind::Command, body);
    }
    let start_view = Message::StartView {
        commit,
        head: chosen.head(),
        entries: vec![chosen.get(chosen.last()).unwrap().clone()],
    };
    group.say(other, backup, leader.0, start_view);
    assert_eq!(group.core(backup).context().view(), leader);
    assert_eq!(group.core(backup).context().log(), &log, "it cut its log");
    assert_eq!(group.core(backup).context().log_view(), view);
    group.crash(backup);
    group.restart(backup);
    assert_eq!(
        group.core(backup).context().log().head(),
        log.head(),
        "lost on disk"
    );
    assert_eq!(group.core(backup).context().log_view(), view);
}

/// The log view is its own durable number: committed ops of a later view, taken
/// before that view's whole log is here, do not make the log one of that view.
#[test]
fn a_log_with_ops_of_a_later_view_is_still_of_its_own() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    let own = group.core(backup).context().view();
    let mut leader = own.next();
    while group.core(backup).context().primary_of(leader) != id(other) {
        leader = leader.next();
    }
    let mut chosen = group.core(backup).context().log().clone();
    let committed = chosen.prepare(leader, EntryKind::Noop, b"");
    chosen.prepare(leader, EntryKind::Command, b"b");
    let start_view = Message::StartView {
        commit: committed,
        head: chosen.head(),
        entries: vec![chosen.get(committed).unwrap().clone()],
    };
    group.say(other, backup, leader.0, start_view);
    assert_eq!(group.core(backup).context().log().last(), committed);
    assert_eq!(group.core(backup).context().log_view(), own);
    let later = leader.next().next().next();
    for from in [primary, other] {
        group.say(from, backup, later.0, vote());
    }
    let sent = group.sent.iter().rev().find_map(|e| match &e.message {
        Message::DoViewChange(log) if e.from == id(backup) => Some(log.log_view),
        _ => None,
    });
    assert_eq!(sent, Some(own));
}

/// E2 again, with a snapshot: it replaces no log that continues after it.
#[test]
fn e2_a_snapshot_does_not_replace_a_log_that_continues_after_it() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    group.commit(b"a");
    group.propose(primary, b"b");
    group.propose(primary, b"c");
    group.settle_if(|envelope| matches!(envelope.message, Message::Prepare { .. }));
    let core = group.core(backup);
    let (last, view) = (core.context().log().last(), core.context().view());
    let at = core.context().commit().next();
    assert!(at < last, "the log continues after the snapshot");
    let snapshot = consensus::SnapshotMeta {
        index: at,
        term: core.context().log().view(at).unwrap().term(),
        membership: core.context().membership().clone(),
    };
    let checksum = core.context().log().checksum(at);
    let offer = Message::SnapshotOffer { snapshot, checksum };
    group.say(primary, backup, view.0, offer);
    assert_eq!(group.core(backup).context().log().last(), last);
    assert_eq!(
        group.core(backup).context().commit(),
        at,
        "what it covers is committed"
    );
    assert!(group.nodes[&id(backup)].fetches.is_empty());
    assert_eq!(group.commands(backup), ["a", "b"]);
}

/// E3: a commit number that goes back runs ops twice.
#[test]
fn e3_the_commit_number_never_goes_back() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    group.commit(b"a");
    group.commit(b"b");
    let commit = group.core(backup).context().commit();
    let view = group.core(backup).context().view().0;
    let beat = 1;
    for message in [
        Message::Commit {
            commit: Index(1),
            beat,
        },
        Message::Prepare {
            commit: Index(1),
            entries: Vec::new(),
        },
    ] {
        group.say(primary, backup, view, message);
        assert_eq!(group.core(backup).context().commit(), commit);
    }
    // A view change whose messages know of less does not take it back either.
    group.crash(primary);
    let next = group.until_view_after(view);
    assert!(group.core(next).context().commit() > commit);
    group.commit(b"c");
    for number in [next, backup] {
        assert_eq!(group.commands(number), ["a", "b", "c"], "replica {number}");
    }
}

/// E4: a replica that counts up where it should adopt mixes the messages of two views.
#[test]
fn e4_the_view_of_a_vote_is_adopted() {
    let mut group = Group::new(5);
    group.network.clear();
    group.now = consensus::Tick(1);
    // All have lost their primary; one votes for view 7, far ahead.
    group.say(3, 2, 7, vote());
    for _ in 0..ELECTION {
        group.now.0 += 1;
        for number in [2, 5] {
            group.input(number, consensus::Input::Tick);
        }
        group.say(3, 2, 7, vote());
    }
    assert_eq!(group.core(2).context().votes.own(), Some(View(7)));
    group.say(4, 2, 7, vote());
    assert_eq!(group.core(2).context().view(), View(7));
    let revealed = group
        .sent
        .iter()
        .rfind(|e| matches!(e.message, Message::DoViewChange(_)));
    assert_eq!(revealed.unwrap().view, View(7));
    // Also by one that joins in before its own time has come.
    assert_eq!(group.core(5).context().votes.own(), None);
    group.now.0 += 1;
    group.say(3, 5, 9, vote());
    assert_eq!(group.core(5).context().votes.own(), Some(View(9)));
    // The primary of views 8 and 13 gets a quorum only of both together.
    let log = |number| {
        let core: &crate::VrCore = group.core(number);
        Message::DoViewChange(crate::message::DoViewChange {
            log_view: core.context().log_view(),
            commit: core.context().commit(),
            head: core.context().log().head(),
            headers: Vec::new(),
        })
    };
    let (one, two) = (log(2), log(5));
    assert_eq!(group.core(4).context().primary_of(View(8)), id(4));
    assert_eq!(group.core(4).context().primary_of(View(13)), id(4));
    group.say(2, 4, 8, one);
    group.say(5, 4, 13, two);
    assert_eq!(group.core(4).context().view(), View(13));
    assert_ne!(group.core(4).status().role, Role::Leader);
}

/// E5: an old `StartView` of the same view would cut what was acknowledged since.
#[test]
fn e5_a_start_view_is_ignored_when_the_log_is_of_the_view() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    let start_view = group
        .sent
        .iter()
        .find(|e| e.to == id(backup) && matches!(e.message, Message::StartView { .. }))
        .cloned()
        .unwrap();
    group.commit(b"a");
    let before = group.core(backup).context().log().clone();
    group.deliver(&start_view);
    assert_eq!(group.core(backup).context().log(), &before);
    // Also after a restart in the middle of the view.
    group.crash(backup);
    group.restart(backup);
    group.deliver(&start_view);
    assert_eq!(group.core(backup).context().log().head(), before.head());
    group.commit(b"b");
    assert_eq!(group.commands(backup), ["a", "b"]);
}

/// E6: whatever message is lost, it or its like is sent again.
#[test]
fn e6_any_message_may_be_lost() {
    let run = |lost: Option<usize>| {
        let mut group = Group::new(3);
        let mut count = 0;
        let mut drop_it = |_: &Envelope| {
            count += 1;
            Some(count) != lost
        };
        group.run_if(12 * ELECTION, &mut drop_it);
        let first = group.primary().expect("a view starts");
        for body in [b"a", b"b"] {
            group.propose(first, body);
            group.run_if(HEARTBEAT, &mut drop_it);
        }
        group.run_if(4 * ELECTION, &mut drop_it);
        for number in 1..=3 {
            assert_eq!(
                group.commands(number),
                ["a", "b"],
                "replica {number} without message {lost:?}"
            );
        }
        group.crash(first);
        group.run_if(12 * ELECTION, &mut drop_it);
        let second = group.primary().expect("the next view starts");
        group.propose(second, b"c");
        group.run_if(4 * ELECTION, &mut drop_it);
        assert_eq!(group.commands(second), ["a", "b", "c"]);
        count
    };
    let messages = run(None);
    assert!(messages > 100);
    for lost in 1..=messages {
        run(Some(lost));
    }
}

/// E6: also when everything of a kind is lost for a while.
#[test]
fn e6_a_view_change_continues_after_a_storm() {
    type Kind = fn(&Message) -> bool;
    let kinds: [Kind; 3] = [
        |message| matches!(message, Message::StartViewChange { .. }),
        |message| matches!(message, Message::DoViewChange(_)),
        |message| matches!(message, Message::StartView { .. }),
    ];
    for (at, lost) in kinds.into_iter().enumerate() {
        let (mut group, primary) = Group::started(3);
        let view = group.core(primary).context().view();
        group.crash(primary);
        group.run_if(ELECTION + HEARTBEAT + 2, |e| !lost(&e.message));
        group.run(HEARTBEAT + 2);
        let leader = group.primary();
        let leads = leader.is_some_and(|leader| group.core(leader).context().view() == view.next());
        assert!(leads, "kind {at}: the first attempt is not finished");
        group.commit(b"a");
        let (one, two) = others(primary);
        assert_eq!(group.commands(one), group.commands(two));
    }
}

/// E7: timeouts that shrink on entering normal operation rotate views for ever.
#[test]
fn e7_timeouts_shrink_only_after_a_stable_time() {
    let mut group = Group::new(5);
    group.run(3);
    let view = group.core(1).context().view().0;
    // The primaries of the next two views are down.
    let dead: Vec<u64> = (view..=view + 2)
        .map(|view| group.core(1).context().primary_of(View(view)).0)
        .collect();
    group.crash(dead[0]);
    group.crash(dead[1]);
    let leader = group.until_view_after(view);
    let timeout = |group: &Group| {
        let context = group.core(leader).context();
        context.votes.timeout_ticks(&context.clock)
    };
    assert!(timeout(&group) > ELECTION, "it took more than one attempt");
    assert!(matches!(group.core(leader).role(), roles::Role::Primary(_)));
    group.run(2 * ELECTION);
    assert!(timeout(&group) > ELECTION, "shrunk too early");
    group.run(3 * ELECTION);
    assert_eq!(timeout(&group), ELECTION);
}

/// E8: the end of a log that was read back may not be committed.
#[test]
fn e8_a_restart_delivers_nothing_that_is_not_known_to_be_committed() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    group.crash(other);
    group.propose(primary, b"b");
    // It is durable at the backup, whose acknowledgement is lost.
    group.settle_if(is_from(primary));
    assert_eq!(group.commands(backup), ["a"]);
    group.crash(backup);
    group.restart(backup);
    let last = group.core(backup).context().log().last();
    assert!(group.core(backup).context().commit() < last);
    assert!(group.commands(backup).iter().all(|command| command != "b"));
    // Not even when it votes: it sends it as prepared, not as committed.
    group.crash(primary);
    group.restart(other);
    group.network.clear();
    let leader = group.until_view_after(1);
    assert_eq!(group.commands(leader).last().unwrap(), "b");
}

/// E9: what the old primary proposed is committed by the new one, and answered by
/// neither twice; the client repeats it under its request number, which the
/// session table, part of the replicated state, knows.
#[test]
fn e9_a_proposal_that_outlives_its_primary_is_answered_once_and_committed_once() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    let proposal = group.propose(primary, b"a");
    group.settle_if(is_from(primary));
    assert_eq!(
        group.core(backup).context().log().last(),
        group.core(primary).context().log().last()
    );
    // It receives no acknowledgement, and cedes.
    group.run_if(2 * ELECTION, |e| {
        e.from != id(primary) && e.to != id(primary)
    });
    assert_eq!(group.nodes[&id(primary)].answers, [(proposal, false)]);
    group.run(4 * ELECTION);
    for number in 1..=3 {
        assert_eq!(group.commands(number), ["a"], "replica {number}");
    }
    assert_eq!(group.nodes[&id(primary)].answers, [(proposal, false)]);
}

/// E9: also when the primary receives of a later view before it misses its quorum.
#[test]
fn e9_a_primary_that_follows_a_later_view_answers_what_is_open() {
    let (mut group, primary) = Group::started(3);
    let proposal = group.propose(primary, b"a");
    let next = group.core(primary).context().view().next();
    let leader = group.core(primary).context().primary_of(next).0;
    let (commit, beat) = (Index(1), 1);
    group.say(leader, primary, next.0, Message::Commit { commit, beat });
    assert_eq!(group.nodes[&id(primary)].answers, [(proposal, false)]);
    assert_eq!(group.core(primary).context().view(), next);
}
