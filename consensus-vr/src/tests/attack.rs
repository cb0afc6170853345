//! What a broken peer may send: it is refused, and nothing is lost.

use bytes::Bytes;
use consensus::{Entry, EntryKind, Index, Input, SnapshotMeta, Term};

use super::harness::{Group, HEARTBEAT, id};
use super::scenario::{continued, next_view_of, others};
use crate::ids::{Checksum, Head, View};
use crate::log::Log;
use crate::message::{DoViewChange, Message};

/// What contradicts what is committed here is refused.
#[test]
fn a_start_view_that_ends_before_what_is_committed_is_refused() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    let mut view = group.core(backup).context().view().next();
    while group.core(backup).context().primary_of(view) != id(other) {
        view = view.next();
    }
    let start_view = Message::StartView {
        commit: Index(1),
        head: Head {
            op: Index(1),
            checksum: None,
        },
        entries: Vec::new(),
    };
    group.say(other, backup, view.0, start_view);
    assert_eq!(group.nodes[&id(backup)].rejected.len(), 1);
    assert_eq!(group.commands(backup), ["a"]);
}

/// What a broken peer reports about the end of a log is an error, not a panic.
#[test]
fn a_start_view_whose_log_ends_elsewhere_than_announced_is_refused() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    let mut view = group.core(backup).context().view().next();
    while group.core(backup).context().primary_of(view) != id(other) {
        view = view.next();
    }
    let mut chosen = group.core(backup).context().log().clone();
    chosen.prepare(view, EntryKind::Noop, b"");
    let start_view = Message::StartView {
        commit: Index(1),
        head: Head {
            op: chosen.last(),
            checksum: Some(crate::ids::Checksum(1)),
        },
        entries: vec![chosen.get(chosen.last()).unwrap().clone()],
    };
    group.say(other, backup, view.0, start_view);
    assert_eq!(group.nodes[&id(backup)].rejected.len(), 1);
    assert!(group.core(backup).context().log_view() < view);
}

/// A primary that sends what cannot be true is refused, and nothing is lost.
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
        // Has entries after its end.
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

/// Only the replica from which a log is fetched adds entries to it.
#[test]
fn entries_of_a_stranger_do_not_get_into_the_log_of_a_view() {
    let (mut group, primary) = Group::started(3);
    let (backup, other) = others(primary);
    group.commit(b"a");
    let view = next_view_of(&group, group.core(backup).context().view(), other);
    let base = group.core(backup).context().log().clone();
    let chosen = continued(&base, view, &[b"b", b"c"]);
    let forged = continued(&base, view, &[b"x", b"y"]);
    let start = Message::StartView {
        commit: base.last(),
        head: chosen.head(),
        entries: Vec::new(),
    };
    group.say(other, backup, view.0, start);
    let entries = forged.slice(base.last().next(), usize::MAX);
    group.say(primary, backup, view.0, Message::Prepares { entries });
    let entries = chosen.slice(base.last().next(), usize::MAX);
    group.say(other, backup, view.0, Message::Prepares { entries });
    assert_eq!(group.core(backup).context().log().head(), chosen.head());
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
    // Installed, they would decide who leads and what a quorum is.
    let invented = [id(primary), id(backup), consensus::ReplicaId(99)];
    let invented = consensus::Membership::new(2, invented, []).unwrap();
    for (index, term, membership) in [
        (u64::MAX, 1, membership.clone()),
        (50, view.0 + 1, membership),
        (50, 1, strangers),
        (50, 1, invented),
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

/// One replica sends an empty log, beside another that knows of few commits.
#[test]
fn a_log_that_lacks_what_is_committed_here_starts_no_view() {
    let (mut group, primary) = Group::started(3);
    let (one, two) = others(primary);
    group.commit(b"a");
    let view = View(next_view_of(&group, group.core(one).context().view(), one).0 + 3);
    // It was changing views, and lost the logs that it had received.
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
