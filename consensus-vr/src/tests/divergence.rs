//! A replica whose disk is not the one that it has had: it stops, and is not counted.

use consensus::{EntryKind, RefusalReason, RefusedMessage, StepError};

use super::harness::{ELECTION, Group, HEARTBEAT, id};
use super::scenario::{continued, others};
use crate::log::Log;
use crate::message::{Envelope, FIRST_BEAT, Message};

/// Why the replica refused the last message that it refused as proof that it diverged.
fn divergence(group: &Group, number: u64) -> Option<String> {
    let rejected = group.nodes[&id(number)].rejected.iter().rev();
    rejected
        .filter_map(|error| match error {
            StepError::Message(RefusedMessage {
                reason: RefusalReason::Diverged(why),
                ..
            }) => Some(why.clone()),
            _ => None,
        })
        .next()
}

fn between(one: u64, other: u64) -> impl Fn(&Envelope) -> bool {
    move |envelope| {
        let ends = [envelope.from, envelope.to];
        ends.contains(&id(one)) && ends.contains(&id(other))
    }
}

/// The replica comes back with this log after its own up to the last op.
fn restart_with(group: &mut Group, number: u64, log: &Log) {
    group.crash(number);
    let disk = &mut group.node(number).disk;
    let from = disk.last().next();
    disk.entries.extend(log.slice(from, usize::MAX));
    group.restart(number);
}

/// Two histories of one view, as a node that has run alone has one: an op of the same number
/// is another op, and its acknowledgement does not commit that of the view.
#[test]
fn an_acknowledgement_of_another_op_is_not_counted_and_its_sender_stops() {
    for longer in [false, true] {
        let (mut group, primary) = Group::started(3);
        let (backup, _) = others(primary);
        group.commit(b"a");
        let view = group.core(primary).context().view();
        let log = group.core(primary).context().log().clone();
        group.propose(primary, b"b");
        group.network.clear();
        let bodies: &[&[u8]] = if longer { &[b"x", b"y"] } else { &[b"x"] };
        restart_with(&mut group, backup, &continued(&log, view, bodies));
        group.run_if(3 * HEARTBEAT, between(primary, backup));
        assert_eq!(group.commands(primary), ["a"], "longer: {longer}");
        let why = divergence(&group, backup).expect("it learns of it");
        assert!(why.contains("a view has one log"), "{why}");
        assert_eq!(divergence(&group, primary), None);
    }
}

/// A primary of version 0.1 counts its beats from zero, and does not decode checksums.
#[test]
fn only_a_primary_that_knows_checksums_receives_them() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    group.commit(b"a");
    let context = group.core(primary).context();
    let (view, commit) = (context.view().0, context.commit());
    let answer_to = |group: &mut Group, beat| {
        group.sent.clear();
        group.say(primary, backup, view, Message::Commit { commit, beat });
        let answers = group.sent.iter().map(|envelope| match envelope.message {
            Message::PrepareOk { checksum, .. } => checksum,
            ref other => panic!("{other:?}"),
        });
        answers.collect::<Vec<_>>()
    };
    let checksum = group.core(backup).context().log().checksum(commit);
    assert!(checksum.is_some());
    let later = FIRST_BEAT + 1_000;
    assert_eq!(answer_to(&mut group, later), [checksum]);
    group.crash(backup);
    group.restart(backup);
    assert_eq!(answer_to(&mut group, 7), [None]);
}

/// And an acknowledgement without one, as a backup of version 0.1 sends it, counts.
#[test]
fn an_acknowledgement_without_a_checksum_counts() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    group.propose(primary, b"a");
    group.network.clear();
    let context = group.core(primary).context();
    let (view, op) = (context.view().0, context.log().last());
    let answer = Message::PrepareOk {
        op,
        received: op,
        beat: 0,
        checksum: None,
    };
    group.say(backup, primary, view, answer);
    assert_eq!(group.commands(primary), ["a"]);
}

/// The primary has counted on what the replica has lost.
#[test]
fn a_backup_that_has_lost_what_it_acknowledged_stops() {
    let (mut group, primary) = Group::started(3);
    let (backup, _) = others(primary);
    group.commit(b"a");
    group.commit(b"b");
    let last = group.core(backup).context().log().last();
    group.crash(backup);
    group.node(backup).disk.entries.pop();
    group.restart(backup);
    group.run_if(2 * HEARTBEAT + 1, between(primary, backup));
    let why = divergence(&group, backup).expect("it learns of it");
    let expected = format!("has acknowledged {last} to replica {}", id(primary));
    assert!(why.contains(&expected), "{why}");
    // Whole, it comes back.
    let log = group.core(primary).context().log().clone();
    group.node(backup).rejected.clear();
    restart_with(&mut group, backup, &log);
    group.run(2 * HEARTBEAT);
    assert_eq!(divergence(&group, backup), None);
    assert_eq!(group.commands(backup), ["a", "b"]);
}

/// A replica has committed alone, in a view that the others never had.
#[test]
fn a_replica_that_has_committed_something_else_than_a_later_view_stops() {
    for (own, why) in [
        (&[b"x".as_slice(), b"y", b"z", b"z"][..], "ops, and"),
        (
            &[b"x".as_slice()][..],
            "does not continue what is committed here",
        ),
    ] {
        let (mut group, primary) = Group::started(3);
        let (backup, other) = others(primary);
        group.commit(b"a");
        let view = group.core(primary).context().view();
        let log = group.core(backup).context().log().clone();
        group.crash(backup);
        group.propose(primary, b"b");
        group.run(HEARTBEAT);
        // The others start a later view with it.
        group.crash(primary);
        group.restart(primary);
        group.until_view_after(view.0);
        group.commit(b"c");
        // Meanwhile this one commits by itself.
        let mut alone = log.clone();
        for body in own {
            alone.prepare(view, EntryKind::Command, body);
        }
        restart_with(&mut group, backup, &alone);
        let context = group.node(backup).core.as_mut().expect("it runs");
        context.commit_alone();
        group.run(4 * ELECTION);
        let found = divergence(&group, backup).expect("it learns of it");
        assert!(found.contains(why), "{found}");
        assert_eq!(divergence(&group, other), None);
        assert_eq!(group.commands(other), ["a", "b", "c"]);
    }
}
