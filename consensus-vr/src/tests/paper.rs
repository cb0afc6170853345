//! What is known to go wrong in the paper's protocol (E1 to E9), and what went
//! wrong in implementations. Every test fails when its rule is taken out.

use consensus::{Consensus, EntryKind, Index, Role};

use super::harness::{ELECTION, Group, HEARTBEAT, id};
use crate::ids::{Head, View};
use crate::log::Log;
use crate::message::{Envelope, Message};
use crate::roles;

fn is_from(number: u64) -> impl Fn(&Envelope) -> bool {
    move |envelope| envelope.from == id(number)
}

/// The two that are not this one.
fn others(number: u64) -> (u64, u64) {
    (number % 3 + 1, (number + 1) % 3 + 1)
}

/// A backup of the first view wants another.
fn asks() -> Message {
    Message::StartViewChange { at: View::ZERO }
}

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
    // With the disk done, it leaves; and a restart finds the same view.
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
    // A view that begins behind a log of which this replica gets only the end.
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
    let begun = Message::StartView {
        commit,
        head: chosen.head(),
        entries: vec![chosen.get(chosen.last()).unwrap().clone()],
    };
    group.say(other, backup, leader.0, begun);
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
    let begun = Message::StartView {
        commit: committed,
        head: chosen.head(),
        entries: vec![chosen.get(committed).unwrap().clone()],
    };
    group.say(other, backup, leader.0, begun);
    assert_eq!(group.core(backup).context().log().last(), committed);
    assert_eq!(group.core(backup).context().log_view(), own);
    let later = leader.next().next().next();
    for from in [primary, other] {
        group.say(from, backup, later.0, asks());
    }
    let brought = group.sent.iter().rev().find_map(|e| match &e.message {
        Message::DoViewChange(brought) if e.from == id(backup) => Some(brought.log_view),
        _ => None,
    });
    assert_eq!(brought, Some(own));
}

/// E2 again, with a snapshot: it replaces no log that goes on behind it.
#[test]
fn e2_a_snapshot_does_not_replace_a_log_that_goes_on_behind_it() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    group.commit(b"a");
    group.propose(primary, b"b");
    group.propose(primary, b"c");
    group.settle_if(|envelope| matches!(envelope.message, Message::Prepare { .. }));
    let core = group.core(backup);
    let (last, view) = (core.context().log().last(), core.context().view());
    let at = core.context().commit().next();
    assert!(at < last, "something stands behind the snapshot");
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

/// E4: who counts up where it should adopt mixes the messages of two views.
#[test]
fn e4_the_view_that_is_heard_of_is_adopted() {
    let mut group = Group::new(5);
    group.network.clear();
    group.now = consensus::Tick(1);
    // All have lost their primary; one asks for view 7, far ahead.
    group.say(3, 2, 7, asks());
    for _ in 0..ELECTION {
        group.now.0 += 1;
        for number in [2, 5] {
            group.input(number, consensus::Input::Tick);
        }
        group.say(3, 2, 7, asks());
    }
    assert_eq!(group.core(2).context().votes.own(), Some(View(7)));
    group.say(4, 2, 7, asks());
    assert_eq!(group.core(2).context().view(), View(7));
    let revealed = group
        .sent
        .iter()
        .rfind(|e| matches!(e.message, Message::DoViewChange(_)));
    assert_eq!(revealed.unwrap().view, View(7));
    // Also by one that joins in before its own time has come.
    assert_eq!(group.core(5).context().votes.own(), None);
    group.now.0 += 1;
    group.say(3, 5, 9, asks());
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
fn e5_a_start_view_is_ignored_by_whose_log_is_of_the_view() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    let begun = group
        .sent
        .iter()
        .find(|e| e.to == id(backup) && matches!(e.message, Message::StartView { .. }))
        .cloned()
        .unwrap();
    group.commit(b"a");
    let before = group.core(backup).context().log().clone();
    group.deliver(&begun);
    assert_eq!(group.core(backup).context().log(), &before);
    // Also after a restart in the middle of the view.
    group.crash(backup);
    group.restart(backup);
    group.deliver(&begun);
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
        let first = group.primary().expect("a view begins");
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
        let second = group.primary().expect("the next view begins");
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
fn e6_a_view_change_goes_on_after_a_storm() {
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
    // It is durable at the backup, which does not say so.
    group.settle_if(is_from(primary));
    assert_eq!(group.commands(backup), ["a"]);
    group.crash(backup);
    group.restart(backup);
    let last = group.core(backup).context().log().last();
    assert!(group.core(backup).context().commit() < last);
    assert!(group.commands(backup).iter().all(|command| command != "b"));
    // Not even when it votes: it brings it as prepared, not as committed.
    group.crash(primary);
    group.restart(other);
    group.network.clear();
    let leader = group.until_view_after(1);
    assert_eq!(group.commands(leader).last().unwrap(), "b");
}

/// E9: what the old primary proposed is committed by the new one, and answered by
/// neither twice; whoever asked repeats it under its request number, which the
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
    // It hears no acknowledgement, and gives up.
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

/// E9: also when the primary is told of a later view before it misses its quorum.
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

/// A `DoViewChange` that names only the end of a log lets a new primary keep an op
/// of its own that another view has replaced.
#[test]
fn a_new_primary_replaces_what_it_prepared_and_a_later_view_did_not_keep() {
    let (mut group, old) = Group::started(3);
    group.commit(b"a");
    let view = group.core(old).context().view();
    // Nobody but the old primary has it.
    group.propose(old, b"stale");
    group.network.clear();
    let stale = group.core(old).context().log().head();
    group.crash(old);
    let next = group.until_view_after(view.0);
    let third = 6 - old - next;
    let entries = group.core(next).context().log().last();
    assert_eq!(entries, stale.op, "logs of equal length");
    group.crash(next);
    // The old primary leads again, before it has heard of the view between.
    group.restart(old);
    let again = View(view.0 + 3);
    assert_eq!(group.core(old).context().primary_of(again), id(old));
    for from in [old, next] {
        group.say(from, third, again.0, asks());
    }
    group.network.retain(|e| e.to == id(old) && e.view == again);
    group.run(HEARTBEAT);
    assert_eq!(group.core(old).context().view(), again);
    assert_ne!(
        group.core(old).context().log().checksum(stale.op),
        stale.checksum
    );
    group.commit(b"b");
    for number in [old, third] {
        let commands = group.commands(number);
        assert!(!commands.contains(&"stale".into()), "replica {number}");
        assert_eq!(commands.last().unwrap(), "b");
    }
}

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
        "one copy is no quorum"
    );
    while group.sync(primary) {}
    group.run_if(1, |e| e.to != id(other));
    assert_eq!(group.core(primary).context().commit(), op);
}

/// The primary tells of its view, and counts in it, only when its log is durable.
#[test]
fn a_view_begins_when_its_log_is_durable_at_its_primary() {
    let (mut group, primary) = Group::started(3);
    let view = group.core(primary).context().view().next();
    let next = group.core(primary).context().primary_of(view).0;
    group.crash(primary);
    group.run_if(ELECTION + HEARTBEAT, |e| e.to != id(next));
    group.node(next).manual_sync = true;
    group.sent.clear();
    group.run(2 * HEARTBEAT);
    assert!(matches!(group.core(next).role(), roles::Role::Primary(_)));
    assert_ne!(group.core(next).status().role, Role::Leader);
    let revealed: Vec<_> = group
        .sent
        .iter()
        .filter(|e| e.from == id(next) && !matches!(e.message, Message::StartViewChange { .. }))
        .collect();
    assert_eq!(revealed, [] as [&Envelope; 0]);
    while group.sync(next) {}
    group.run(HEARTBEAT);
    assert_eq!(
        group.core(next).context().commit(),
        group.core(next).context().log().last()
    );
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

/// A view's primary that lacks the chosen log fetches it, and commits all of it.
#[test]
fn a_new_primary_without_the_bodies_fetches_them_and_commits() {
    let (mut group, primary) = Group::started(3);
    let view = group.core(primary).context().view();
    let next = group.core(primary).context().primary_of(view.next()).0;
    let third = 6 - primary - next;
    for body in [b"a", b"b", b"c"] {
        group.propose(primary, body);
    }
    // The next primary gets none of them; the third makes a quorum.
    group.run_if(HEARTBEAT, |envelope| envelope.to != id(next));
    assert_eq!(group.commands(primary), ["a", "b", "c"]);
    group.crash(primary);
    assert_eq!(group.until_view_after(view.0), next);
    assert_eq!(group.commands(next), ["a", "b", "c"]);
    group.run(HEARTBEAT);
    assert_eq!(group.commands(third), ["a", "b", "c"]);
}

/// Acknowledging the log of a view before it is durable acknowledges nothing.
#[test]
fn the_log_of_a_view_is_durable_before_it_is_acknowledged() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    let view = group.core(primary).context().view();
    group.crash(primary);
    let next = group.core(backup).context().primary_of(view.next()).0;
    let joins = if next == backup { other } else { backup };
    group.run_if(ELECTION + HEARTBEAT, |e| {
        e.to != id(joins) || !matches!(e.message, Message::StartView { .. })
    });
    group.node(joins).manual_sync = true;
    group.sent.clear();
    group.run(2 * HEARTBEAT);
    assert_eq!(
        group.core(joins).context().log_view(),
        group.core(next).context().view(),
        "it joined"
    );
    let early = group
        .sent
        .iter()
        .any(|e| e.from == id(joins) && matches!(e.message, Message::PrepareOk { .. }));
    assert!(!early, "acknowledged before it was durable");
    while group.sync(joins) {}
    assert!(
        group
            .sent
            .iter()
            .any(|e| { e.from == id(joins) && matches!(e.message, Message::PrepareOk { .. }) })
    );
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
        "an answer to no question"
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

/// What cannot be true beside what is committed here is refused.
#[test]
fn a_start_view_that_ends_before_what_is_committed_is_refused() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    let mut view = group.core(backup).context().view().next();
    while group.core(backup).context().primary_of(view) != id(other) {
        view = view.next();
    }
    let begun = Message::StartView {
        commit: Index(1),
        head: Head {
            op: Index(1),
            checksum: None,
        },
        entries: Vec::new(),
    };
    group.say(other, backup, view.0, begun);
    assert_eq!(group.nodes[&id(backup)].rejected.len(), 1);
    assert_eq!(group.commands(backup), ["a"]);
}

/// The chain goes on behind a snapshot, also when the op before it was never seen
/// and the replica has been restarted since.
#[test]
fn a_chain_goes_on_behind_a_snapshot_after_a_restart() {
    for restart_at_once in [false, true] {
        let (mut group, primary) = Group::started(3);
        let (backup, other) = others(primary);
        group.crash(backup);
        for body in [b"a", b"b", b"c"] {
            group.commit(body);
        }
        group.snapshot(primary);
        group.snapshot(other);
        group.restart(backup);
        group.run(2 * HEARTBEAT);
        // Either the log begins anew with it, or not even that was written.
        group.node(backup).manual_sync = restart_at_once;
        group.fetched(backup);
        assert_eq!(group.nodes[&id(backup)].installed.len(), 1);
        group.crash(backup);
        group.restart(backup);
        let head = group.core(primary).context().log().head();
        assert_eq!(group.core(backup).context().log().head(), head);
        let view = group.core(primary).context().view().0;
        group.crash(primary);
        let leader = group.until_view_after(view);
        if leader != backup {
            let to = consensus::Input::TransferLeadership(id(backup));
            group.input(leader, to);
            group.run(2);
        }
        assert_eq!(group.core(backup).status().role, Role::Leader);
        group.commit(b"d");
        assert_eq!(group.commands(other).last().unwrap(), "d");
    }
}

/// What a broken peer says about the end of a log is an error, and no panic.
#[test]
fn a_start_view_whose_log_does_not_end_as_it_says_is_refused() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    let mut view = group.core(backup).context().view().next();
    while group.core(backup).context().primary_of(view) != id(other) {
        view = view.next();
    }
    let mut chosen = group.core(backup).context().log().clone();
    chosen.prepare(view, EntryKind::Noop, b"");
    let begun = Message::StartView {
        commit: Index(1),
        head: Head {
            op: chosen.last(),
            checksum: Some(crate::ids::Checksum(1)),
        },
        entries: vec![chosen.get(chosen.last()).unwrap().clone()],
    };
    group.say(other, backup, view.0, begun);
    assert_eq!(group.nodes[&id(backup)].rejected.len(), 1);
    assert!(group.core(backup).context().log_view() < view);
}

/// A quorum asked for a view, and then only one replica went there: it cannot come
/// back, so the others follow.
#[test]
fn a_replica_that_moved_to_a_view_alone_is_not_left_there() {
    let (mut group, primary) = Group::started(3);
    let view = group.core(primary).context().view();
    let alone = group.core(primary).context().primary_of(view.next()).0;
    for from in [others(alone).0, others(alone).1] {
        group.say(from, alone, view.next().0, asks());
    }
    assert_eq!(group.core(alone).context().view(), view.next());
    group.network.clear();
    group.run(6 * ELECTION);
    let leader = group.primary().expect("somebody leads");
    assert!(group.core(leader).context().view() > view);
    group.commit(b"a");
    for number in 1..=3 {
        assert_eq!(group.commands(number), ["a"], "replica {number}");
    }
}

/// Whoever hands over is not asked to hand over to somebody else meanwhile.
#[test]
fn a_second_handover_is_refused_while_the_first_is_under_way() {
    let (mut group, primary) = Group::started(3);
    let (one, two) = others(primary);
    for to in [one, two] {
        group.input(primary, consensus::Input::TransferLeadership(id(to)));
    }
    assert_eq!(group.nodes[&id(primary)].rejected.len(), 1);
    group.run(3);
    assert_eq!(group.primary(), Some(one));
}

/// Ten thousand proposals under way, some of them acknowledged: the next view has
/// all that were.
#[test]
fn a_view_change_with_ten_thousand_in_flight_loses_nothing_acknowledged() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    for number in 0..10_000_u32 {
        group.propose(primary, &number.to_le_bytes());
    }
    // One backup gets everything, and only its first acknowledgements arrive.
    let mut acknowledged = 0;
    group.settle_if(|envelope| {
        let ok = matches!(envelope.message, Message::PrepareOk { .. });
        acknowledged += usize::from(ok && envelope.from == id(backup));
        envelope.to != id(other) && envelope.from != id(other) && (!ok || acknowledged <= 200)
    });
    let committed = group.nodes[&id(primary)].committed.clone();
    assert!(
        (100..10_000).contains(&committed.len()),
        "{} were acknowledged",
        committed.len()
    );
    group.crash(primary);
    group.run(6 * ELECTION);
    for number in [backup, other] {
        let node = &group.nodes[&id(number)];
        assert_eq!(node.committed[..committed.len()], committed);
        assert_eq!(node.committed.len(), 10_000, "replica {number}");
    }
}
