//! Messages that a broken peer could send under its own name.

use consensus::testing::{GROUP, Replica, config};
use consensus::{Entry, EntryKind, RefusalReason, RefusedMessage};
use raft::eraftpb::{Entry as RaftEntry, MessageType as Kind};

use super::*;

const ME: u64 = 2;
const TERM: u64 = 5;
const PEER: u64 = 1;

/// A replica that has received nothing yet.
fn beginner() -> Replica<RaftCore> {
    let mut replica = Replica::new(config(ReplicaId(ME), 3, 0, Limits::default()));
    replica.start(RaftCore::new);
    replica
}

/// A follower of replica 1 in term 5, with three committed entries.
fn follower() -> Replica<RaftCore> {
    let mut replica = beginner();
    let mut append = message(Kind::MsgAppend);
    append.commit = 3;
    append.set_entries((1..=3).map(|index| entry(index, TERM)).collect());
    receive(&mut replica, append).unwrap();
    assert_eq!(replica.core().status().commit, Index(3));
    replica
}

/// The same replica, elected in term 6.
fn leader() -> Replica<RaftCore> {
    let mut replica = follower();
    receive(&mut replica, message(Kind::MsgTimeoutNow)).unwrap();
    let mut vote = message(Kind::MsgRequestVoteResponse);
    vote.term = TERM + 1;
    receive(&mut replica, vote).unwrap();
    assert!(replica.core().is_leader());
    replica
}

fn message(kind: Kind) -> Message {
    let mut message = Message {
        from: PEER,
        to: ME,
        term: TERM,
        ..Message::default()
    };
    message.set_msg_type(kind);
    message
}

fn entry(index: u64, term: u64) -> RaftEntry {
    translate::to_raft_entry(&Entry {
        term: Term(term),
        index: Index(index),
        kind: EntryKind::Command,
        payload: Bytes::from_static(b"command"),
    })
}

fn receive(replica: &mut Replica<RaftCore>, message: Message) -> Result<(), StepError> {
    let offered = (message.get_msg_type() == Kind::MsgSnapshot).then(|| SnapshotMeta {
        index: Index(message.get_snapshot().get_metadata().index),
        term: Term(message.get_snapshot().get_metadata().term),
        membership: replica.core().membership().clone(),
    });
    let input = Input::Receive {
        from: ReplicaId(message.from),
        message: message::encode(GROUP, message, offered.as_ref()).to_bytes(),
    };
    let result = replica.step(replica.core().now, input);
    drain(replica);
    result
}

/// Carries out all effects; what is written is durable immediately.
fn drain(replica: &mut Replica<RaftCore>) {
    while replica.poll().is_some() {}
}

#[track_caller]
fn is_refused(mut replica: Replica<RaftCore>, message: Message) {
    let refused = receive(&mut replica, message);
    assert!(
        matches!(
            refused,
            Err(StepError::Message(RefusedMessage {
                reason: RefusalReason::Impossible(_),
                ..
            }))
        ),
        "{refused:?}"
    );
    for tick in 1..100 {
        replica.step(Tick(tick), Input::Tick).unwrap();
        drain(&mut replica);
    }
}

#[test]
fn an_append_after_an_entry_of_no_term_is_refused() {
    let mut append = message(Kind::MsgAppend);
    append.index = 7;
    append.commit = 7;
    is_refused(follower(), append.clone());
    append.set_entries(vec![entry(8, TERM)].into());
    is_refused(follower(), append);
}

#[test]
fn an_appended_entry_of_no_term_is_refused() {
    let mut append = message(Kind::MsgAppend);
    append.commit = 1;
    append.set_entries(vec![entry(1, 0)].into());
    is_refused(beginner(), append);
}

#[test]
fn a_forwarded_read_with_a_term_is_refused() {
    let mut read = message(Kind::MsgReadIndex);
    let context = Bytes::from_static(&[0; crate::reads::CONTEXT_BYTES]);
    read.set_entries(vec![translate::command(context)].into());
    is_refused(follower(), read);
}

#[test]
fn a_snapshot_that_contradicts_the_last_committed_entry_is_refused() {
    let mut offer = message(Kind::MsgSnapshot);
    offer.mut_snapshot().mut_metadata().index = 3;
    offer.mut_snapshot().mut_metadata().term = TERM - 1;
    is_refused(follower(), offer);
}

#[test]
fn a_rejection_that_hints_beyond_the_log_is_refused() {
    let mut rejection = message(Kind::MsgAppendResponse);
    rejection.term = TERM + 1;
    rejection.reject = true;
    rejection.index = 3;
    rejection.reject_hint = u64::MAX;
    is_refused(leader(), rejection);
}

#[test]
fn a_term_that_leaves_no_room_for_elections_is_refused() {
    let mut vote = message(Kind::MsgRequestVote);
    vote.term = u64::MAX;
    vote.context = Bytes::from_static(raft::CAMPAIGN_TRANSFER);
    is_refused(follower(), vote);
}

/// The last term is durable on every replica that follows it, and leaves none to elect a
/// leader in.
#[test]
fn a_term_that_is_too_far_ahead_is_refused_and_the_group_elects_a_leader() {
    for kind in [
        Kind::MsgHeartbeat,
        Kind::MsgAppend,
        Kind::MsgRequestVote,
        Kind::MsgRequestVoteResponse,
        Kind::MsgAppendResponse,
    ] {
        let mut forged = message(kind);
        forged.context = Bytes::from_static(raft::CAMPAIGN_TRANSFER);
        for term in [u64::MAX / 2, TERM + (1 << 32) + 1] {
            forged.term = term;
            is_refused(follower(), forged.clone());
            let mut replica = follower();
            assert!(receive(&mut replica, forged.clone()).is_err());
            assert_eq!(replica.core().status().term, Term(TERM));
            receive(&mut replica, message(Kind::MsgTimeoutNow)).unwrap();
            let mut vote = message(Kind::MsgRequestVoteResponse);
            vote.term = TERM + 1;
            receive(&mut replica, vote).unwrap();
            assert!(replica.core().is_leader(), "after {kind:?} of term {term}");
        }
    }
    let mut replica = follower();
    let mut ahead = message(Kind::MsgHeartbeat);
    ahead.term = TERM + (1 << 32);
    receive(&mut replica, ahead).unwrap();
}

#[test]
fn a_vote_before_it_was_requested_is_refused() {
    let mut replica = follower();
    let mut append = message(Kind::MsgAppend);
    (append.index, append.log_term) = (3, TERM);
    append.set_entries(vec![entry(4, TERM)].into());
    let mut vote = message(Kind::MsgRequestVoteResponse);
    vote.term = TERM + 1;
    // No effect is carried out between them.
    let mut step = |message: Message| {
        let input = Input::Receive {
            from: ReplicaId(message.from),
            message: message::encode(GROUP, message, None).to_bytes(),
        };
        replica.step(replica.core().now, input)
    };
    step(append).unwrap();
    step(message(Kind::MsgTimeoutNow)).unwrap();
    assert!(matches!(
        step(vote.clone()),
        Err(StepError::Message(RefusedMessage {
            reason: RefusalReason::Impossible(_),
            ..
        }))
    ));
    // Once it was requested, it counts.
    drain(&mut replica);
    receive(&mut replica, vote).unwrap();
    assert!(replica.core().is_leader());
}

/// raft-rs drops them, so no response would ever remove what is kept for them.
#[test]
fn reads_of_peers_before_the_first_commit_of_a_term_leave_nothing_behind() {
    let mut replica = leader();
    let mut read = message(Kind::MsgReadIndex);
    read.term = 0;
    let context = Bytes::from_static(&[7; crate::reads::CONTEXT_BYTES]);
    read.set_entries(vec![translate::command(context)].into());
    for _ in 0..5_000 {
        receive(&mut replica, read.clone()).unwrap();
    }
    let mut ack = message(Kind::MsgAppendResponse);
    (ack.term, ack.index) = (TERM + 1, 4);
    receive(&mut replica, ack).unwrap();
    assert_eq!(replica.core().status().commit, Index(4));
    let input = Input::Receive {
        from: ReplicaId(PEER),
        message: message::encode(GROUP, read, None).to_bytes(),
    };
    replica.step(replica.core().now, input).unwrap();
    let mut sent = std::iter::from_fn(|| replica.poll()).filter_map(|effect| match effect {
        Effect::Send { message, .. } => message::decode(GROUP, message.to_bytes()).ok(),
        _ => None,
    });
    let asks = |sent: message::Decoded| {
        let is_heartbeat = sent.message.get_msg_type() == Kind::MsgHeartbeat;
        is_heartbeat && !sent.message.context.is_empty()
    };
    assert!(sent.any(asks), "a quorum has to confirm it");
}

#[test]
fn a_snapshot_of_other_members_is_refused() {
    let mut replica = follower();
    let meta = SnapshotMeta {
        index: Index(50),
        term: Term(TERM),
        membership: Membership::new(2, [1, 2, 9].map(ReplicaId), []).unwrap(),
    };
    let mut offer = message(Kind::MsgSnapshot);
    offer.set_snapshot(translate::to_raft_snapshot(&meta));
    let input = Input::Receive {
        from: ReplicaId(PEER),
        message: message::encode(GROUP, offer, Some(&meta)).to_bytes(),
    };
    let refused = replica.step(replica.core().now, input);
    assert!(matches!(refused, Err(StepError::Message(_))), "{refused:?}");
    let fetches = std::iter::from_fn(|| replica.poll())
        .filter(|effect| matches!(effect, Effect::FetchSnapshot { .. }));
    assert_eq!(fetches.count(), 0);
}

#[track_caller]
fn shows_divergence(mut replica: Replica<RaftCore>, message: Message, why: &str) {
    match receive(&mut replica, message) {
        Err(StepError::Message(RefusedMessage {
            reason: RefusalReason::Diverged(text),
            ..
        })) => assert!(text.contains(why), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_leader_with_another_entry_where_this_replica_has_committed_shows_divergence() {
    let why = "has another entry 3 than is committed here up to 3";
    let mut append = message(Kind::MsgAppend);
    (append.index, append.log_term) = (2, TERM);
    append.set_entries(vec![entry(3, TERM + 1)].into());
    append.term = TERM + 1;
    shows_divergence(follower(), append.clone(), why);
    // Also where the entry is only the one before those that are sent.
    (append.index, append.log_term) = (3, TERM + 1);
    append.set_entries(vec![entry(4, TERM + 1)].into());
    shows_divergence(follower(), append.clone(), why);
    // An earlier leader shows nothing.
    (append.term, append.log_term) = (TERM - 1, TERM - 1);
    append.set_entries(vec![entry(4, TERM - 1)].into());
    let mut replica = follower();
    receive(&mut replica, append).unwrap();
}

#[test]
fn a_leader_that_counts_on_more_than_is_here_shows_divergence() {
    let mut heartbeat = message(Kind::MsgHeartbeat);
    heartbeat.commit = 9;
    let why = "has acknowledged 9 to replica 0, and its log ends at 3";
    shows_divergence(follower(), heartbeat, why);
}
