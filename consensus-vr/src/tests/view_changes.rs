//! View changes, and catching up with the log of a view.

use consensus::{Consensus, Index, Input, Limits, ReplicaId, Role};

use super::harness::{ELECTION, Group, HEARTBEAT, id};
use super::scenario::{continued, next_view_of, others, vote};
use crate::ids::View;
use crate::message::{Envelope, Message};
use crate::roles;

/// A `DoViewChange` that names only the end of a log lets a new primary keep an op
/// of its own that another view has replaced.
#[test]
fn a_new_primary_replaces_what_it_prepared_and_a_later_view_did_not_keep() {
    let (mut group, old) = Group::started(3);
    group.commit(b"a");
    let view = group.core(old).context().view();
    // Only the old primary has it.
    group.propose(old, b"stale");
    group.network.clear();
    let stale = group.core(old).context().log().head();
    group.crash(old);
    let next = group.until_view_after(view.0);
    let third = 6 - old - next;
    let entries = group.core(next).context().log().last();
    assert_eq!(entries, stale.op, "logs of equal length");
    group.crash(next);
    // The old primary leads again, before it learns of the view between.
    group.restart(old);
    let again = View(view.0 + 3);
    assert_eq!(group.core(old).context().primary_of(again), id(old));
    for from in [old, next] {
        group.say(from, third, again.0, vote());
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

/// The primary reveals its view, and counts in it, only when its log is durable.
#[test]
fn a_view_starts_when_its_log_is_durable_at_its_primary() {
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

/// Committed ops of a view can be in a log that is not of that view.
#[test]
fn a_log_with_ops_of_a_later_view_is_accepted_in_a_view_change() {
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
    let (third, lagging) = (rest[0], [rest[1], rest[2]]);
    // Proposals that two replicas do not have.
    for body in [b"b", b"c"] {
        group.propose(primary, body);
    }
    group.settle_if(|e| !lagging.map(id).contains(&e.to));
    assert_eq!(group.commands(primary), ["a", "b", "c"]);
    // The next view, in which these two get what is committed, and not the rest.
    let log = group.core(second).context().log().clone();
    let next = next_view_of(&group, view, second);
    let chosen = continued(&log, next, &[b"", b"d"]);
    for number in [third, lagging[0], lagging[1]] {
        let commit = chosen.last().prev();
        let from = if number == third {
            chosen.last()
        } else {
            commit
        };
        let from = from.min(group.core(number).context().log().last());
        let mut entries = chosen.slice(from.next(), usize::MAX);
        if number != third {
            entries.pop();
        }
        let start = Message::StartView {
            commit,
            head: chosen.head(),
            entries,
        };
        group.say(second, number, next.0, start);
    }
    assert_eq!(group.core(third).context().log_view(), next);
    for number in lagging {
        assert_eq!(group.core(number).context().log_view(), view);
        assert_eq!(
            group.core(number).context().log().last(),
            chosen.last().prev()
        );
    }
    group.network.clear();
    group.crash(primary);
    group.crash(second);
    let leader = group.until_view_after(next.0);
    assert_eq!(
        group.core(leader).context().log().checksum(chosen.last()),
        chosen.head().checksum
    );
    for number in [third, lagging[0], lagging[1]] {
        assert_eq!(group.nodes[&id(number)].rejected, [], "replica {number}");
    }
}

/// A replica that fetches the log of a view is in that view: its primary leads on.
#[test]
fn a_primary_waits_for_a_backup_that_catches_up() {
    let limits = Limits {
        message_bytes_max: 100,
        ..Limits::default()
    };
    let (mut group, primary) = Group::with_limits(3, limits).start();
    let (backup, other) = others(primary);
    let lagging = group
        .core(primary)
        .context()
        .primary_of(group.core(primary).context().view().next())
        .0;
    let helper = if lagging == backup { other } else { backup };
    group.run_if(1, |e| e.to != id(lagging));
    for number in 0..100_u8 {
        group.propose(primary, &[number; 90]);
    }
    // They are not known to be committed.
    group.settle_if(|e| e.to != id(lagging) && !matches!(e.message, Message::PrepareOk { .. }));
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
        if group.commands(helper).len() == 100 && group.commands(lagging).len() == 100 {
            return;
        }
    }
    panic!("the view never starts");
}

/// The primary of a view that has not started restarts: its own log counts as before.
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

/// E1: a transfer becomes a view change immediately, when another replica votes for it.
#[test]
fn a_primary_that_transfers_into_a_view_makes_it_durable_first() {
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

/// A quorum voted for a view, and then only one replica entered it: it cannot return, so
/// the others follow.
#[test]
fn a_replica_that_moved_to_a_view_alone_is_not_left_there() {
    let (mut group, primary) = Group::started(3);
    let view = group.core(primary).context().view();
    let alone = group.core(primary).context().primary_of(view.next()).0;
    for from in [others(alone).0, others(alone).1] {
        group.say(from, alone, view.next().0, vote());
    }
    assert_eq!(group.core(alone).context().view(), view.next());
    group.network.clear();
    group.run(6 * ELECTION);
    let leader = group.primary().expect("a replica leads");
    assert!(group.core(leader).context().view() > view);
    group.commit(b"a");
    for number in 1..=3 {
        assert_eq!(group.commands(number), ["a"], "replica {number}");
    }
}

/// Two vote for a view, one of them sees both votes, and the other is in contact with the
/// primary again.
#[test]
fn a_replica_that_moved_alone_is_followed() {
    let (mut group, primary) = Group::started(3);
    group.commit(b"a");
    let view = group.core(primary).context().view();
    let moved = group.core(primary).context().primary_of(view.next()).0;
    let other = 6 - primary - moved;
    // Neither receives from the primary, and only what `other` sends to `moved` arrives.
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
    let lagging = 6 - primary - next;
    group.crash(lagging);
    for body in [b"b", b"c"] {
        group.commit(body);
    }
    group.input(primary, Input::TransferLeadership(id(next)));
    group.run(2 * HEARTBEAT);
    group.commit(b"d");
    // It gets what is committed, and not the end.
    group.restart(lagging);
    group.run_if(3, |e| e.to != id(lagging));
    let core = group.core(next);
    let (view, log) = (core.context().view(), core.context().log().clone());
    let mut entries = log.slice(Index(1), usize::MAX);
    entries.pop();
    let start = Message::StartView {
        commit: core.context().commit(),
        head: log.head(),
        entries,
    };
    group.say(next, lagging, view.0, start);
    assert_eq!(
        group.core(lagging).context().log().view(log.last().prev()),
        Some(view)
    );
    assert!(group.core(lagging).context().log_view() < view);
    group.crash(lagging);
    group.run(ticks);
    group.restart(lagging);
    group.run(3 * HEARTBEAT);
    assert_eq!(group.core(lagging).context().log_view(), view);
    assert_eq!(group.core(lagging).context().log().head(), log.head());
}

/// Ten thousand proposals in flight, some of them acknowledged: the next view has
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
