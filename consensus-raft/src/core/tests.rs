//! Messages that a broken peer could send under its own name.

use consensus::{Entry, EntryKind, RefusalReason, RefusedMessage};
use raft::eraftpb::{Entry as RaftEntry, MessageType as Kind};

use super::*;

const GROUP: u128 = 7;
const ME: u64 = 2;
const TERM: u64 = 5;
const PEER: u64 = 1;

/// A replica that has heard nothing yet.
fn beginner() -> RaftCore {
    let config = CoreConfig {
        id: ReplicaId(ME),
        group: GROUP,
        membership: Membership::new(1, (1..=3).map(ReplicaId), []).unwrap(),
        heartbeat_ticks: 3,
        election_ticks: 10,
        seed: 1,
        limits: Limits::default(),
    };
    RaftCore::new(&config, Recovered::default()).unwrap()
}

/// A follower of replica 1 in term 5, with three committed entries.
fn follower() -> RaftCore {
    let mut core = beginner();
    let mut append = message(Kind::MsgAppend);
    append.commit = 3;
    append.set_entries((1..=3).map(|index| entry(index, TERM)).collect());
    receive(&mut core, append).unwrap();
    assert_eq!(core.status().commit, Index(3));
    core
}

/// The same replica, elected in term 6.
fn leader() -> RaftCore {
    let mut core = follower();
    receive(&mut core, message(Kind::MsgTimeoutNow)).unwrap();
    let mut vote = message(Kind::MsgRequestVoteResponse);
    vote.term = TERM + 1;
    receive(&mut core, vote).unwrap();
    assert!(core.is_leader());
    core
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

fn receive(core: &mut RaftCore, message: Message) -> Result<(), StepError> {
    let offered = (message.get_msg_type() == Kind::MsgSnapshot).then(|| SnapshotMeta {
        index: Index(message.get_snapshot().get_metadata().index),
        term: Term(message.get_snapshot().get_metadata().term),
        membership: core.membership().clone(),
    });
    let input = Input::Receive {
        from: ReplicaId(message.from),
        message: message::encode(GROUP, message, offered.as_ref()).to_bytes(),
    };
    let result = core.step(core.now, input);
    drain(core);
    result
}

/// Carries out what the core wants; disks are immediate.
fn drain(core: &mut RaftCore) {
    while let Some(effect) = core.poll() {
        if let Effect::Persist(batch) = effect {
            core.step(core.now, Input::Persisted(batch.id)).unwrap();
        }
    }
}

#[track_caller]
fn is_refused(mut core: RaftCore, message: Message) {
    let refused = receive(&mut core, message);
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
        core.step(Tick(tick), Input::Tick).unwrap();
        drain(&mut core);
    }
}

#[test]
fn an_append_behind_an_entry_of_no_term_is_refused() {
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

#[test]
fn a_vote_before_it_was_asked_for_is_refused() {
    let mut core = follower();
    let mut append = message(Kind::MsgAppend);
    (append.index, append.log_term) = (3, TERM);
    append.set_entries(vec![entry(4, TERM)].into());
    let mut vote = message(Kind::MsgRequestVoteResponse);
    vote.term = TERM + 1;
    // In one breath: nothing is carried out between them.
    let mut step = |message: Message| {
        let input = Input::Receive {
            from: ReplicaId(message.from),
            message: message::encode(GROUP, message, None).to_bytes(),
        };
        core.step(core.now, input)
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
    // Once it was asked for, it counts.
    drain(&mut core);
    receive(&mut core, vote).unwrap();
    assert!(core.is_leader());
}
