//! Snapshots, and logs that follow one.

use consensus::{Consensus, Index, Input, Role, SnapshotMeta};

use super::harness::{ELECTION, Group, HEARTBEAT, id};
use super::scenario::{continued, next_view_of, others};
use crate::ids::View;
use crate::log::Log;
use crate::message::Message;
use crate::roles;

fn snapshot_at(group: &Group, number: u64, log: &Log, op: Index) -> SnapshotMeta {
    SnapshotMeta {
        index: op,
        term: log.view(op).expect("it is in the log").term(),
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

/// While a replica catches up to the start of the view, the view continues and its primary
/// compacts its log: the snapshot covers more than that.
#[test]
fn a_snapshot_newer_than_the_start_of_the_view_is_joined_with() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    let view = next_view_of(&group, group.core(backup).context().view(), other);
    let base = group.core(backup).context().log().clone();
    let chosen = continued(&base, view, &[b"b", b"c", b"d"]);
    let later = continued(&chosen, view, &[b"e", b"f"]);
    let start = Message::StartView {
        commit: base.last(),
        head: chosen.head(),
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

/// A fetch that started in an earlier view ends while the log of a later one is fetched.
#[test]
fn a_snapshot_that_covers_a_part_of_the_fetched_log_replaces_it() {
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
    let chosen = continued(&old, later, &[b""]);
    let entries = chosen.slice(base.last().next(), usize::MAX);
    let (first, rest) = entries.split_at(3);
    let start = Message::StartView {
        commit: base.last(),
        head: chosen.head(),
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
    let entries = chosen.slice(snapshot.index.next(), usize::MAX);
    group.say(other, backup, later.0, Message::Prepares { entries });
    assert_eq!(group.core(backup).context().log().head(), chosen.head());
    assert_eq!(group.core(backup).context().log_view(), later);
}

/// A replica that has an op only in a snapshot does not know its checksum; what it prepares
/// after it is accepted by those that do.
#[test]
fn a_primary_whose_log_is_a_snapshot_leads_those_that_have_the_log() {
    let (mut group, primary) = Group::started(3);
    let view = group.core(primary).context().view();
    let next = group.core(primary).context().primary_of(view.next()).0;
    let third = 6 - primary - next;
    // The next primary lags, and gets a snapshot of everything.
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
    // The replica that was away has the log up to there, and returns.
    group.restart(primary);
    group.run(4 * ELECTION);
    group.commit(b"e");
    for number in 1..=3 {
        assert_eq!(group.commands(number).last().unwrap(), "e", "{number}");
    }
}

/// The chain continues after a snapshot, also when the op before it was never seen
/// and the replica has been restarted since.
#[test]
fn a_chain_continues_after_a_snapshot_after_a_restart() {
    for crash_before_write in [false, true] {
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
        // Either the log starts anew with it, or not even that was written.
        group.node(backup).manual_sync = crash_before_write;
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
