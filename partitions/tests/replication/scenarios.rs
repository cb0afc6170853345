//! Situations that random faults hardly ever lead to.

use std::time::Duration;

use bytes::Bytes;
use consensus::{Index, ReplicaId};
use partitions::replication::{
    Assignment, Chain, Effect, Epoch, Event, Member, Message, PartitionReplica, Position, Record,
    Recovered, Settings, Trust,
};
use partitions::{Durability, RecordFlags};

use crate::world::Violation;

const A: ReplicaId = ReplicaId(1);
const B: ReplicaId = ReplicaId(2);
const C: ReplicaId = ReplicaId(3);
const NOW: Duration = Duration::ZERO;

/// All of them.
pub(crate) const SCENARIOS: &[fn() -> Result<(), Violation>] = &[
    a_former_epochs_record_is_not_committed_by_its_copies,
    the_latest_epoch_wins_over_the_longest_log,
    an_epoch_is_adopted_before_anything_is_acknowledged_in_it,
];

fn at(epoch: u64, index: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

fn assignment(epoch: u64, leader: ReplicaId) -> Assignment {
    let member = |node| {
        let member = Member {
            registration: 1,
            live: true,
        };
        (node, member)
    };
    Assignment {
        epoch: Epoch(epoch),
        version: epoch,
        leader: Some(leader),
        replicas: vec![A, B, C],
        in_sync: vec![A, B, C],
        min_in_sync: 1,
        durability: Durability::Written,
        members: [A, B, C].into_iter().map(member).collect(),
        recovery: None,
    }
}

/// A copy with these records on its disk.
fn copy(me: ReplicaId, log: &[Position], assignment: Assignment) -> PartitionReplica {
    let mut chain = Chain::new(Position::default());
    for position in log {
        chain.push(*position);
    }
    let recovered = Recovered {
        next_offset: log.len() as u64,
        synced: chain.last().index,
        synced_offset: log.len() as u64,
        commit: Index(0),
        adopted: chain.last().epoch,
        trust: Trust::Trusted,
        chain,
    };
    PartitionReplica::new(me, Settings::default(), recovered, assignment, NOW)
}

fn receive(copy: &mut PartitionReplica, from: ReplicaId, message: Message) {
    let event = Event::Message {
        from,
        registration: 1,
        message,
    };
    copy.handle(NOW, event);
}

fn answer(epoch: u64, last: Position) -> Message {
    Message::Answer {
        epoch: Epoch(epoch),
        trust: Trust::Trusted,
        adopted: last.epoch,
        last,
        commit: Index(0),
        next_offset: last.index.0,
    }
}

/// What the copy has to do, with its disk operations done.
fn outputs(copy: &mut PartitionReplica, mut finish: impl FnMut(&Effect) -> bool) -> Vec<Effect> {
    let mut outputs = Vec::new();
    while let Some(effect) = copy.poll() {
        let ticket = match &effect {
            Effect::Write { ticket, .. }
            | Effect::Truncate { ticket, .. }
            | Effect::Sync { ticket }
            | Effect::Adopt { ticket, .. } => Some(*ticket),
            _ => None,
        };
        if let Some(ticket) = ticket
            && finish(&effect)
        {
            copy.handle(NOW, Event::Done { ticket });
        }
        outputs.push(effect);
    }
    outputs
}

/// Raft's figure 8: a third node, whose last record is of epoch 3, could still replace it.
fn a_former_epochs_record_is_not_committed_by_its_copies() -> Result<(), Violation> {
    let mut leader = copy(A, &[at(1, 1), at(2, 2)], assignment(4, A));
    receive(&mut leader, B, answer(4, at(1, 1)));
    outputs(&mut leader, |_| true);
    if !leader.leads() {
        return Err("two answers of three do not suffice".into());
    }
    let ack = |index| Message::Ack {
        epoch: Epoch(4),
        matched: Index(index),
        written: Index(index),
        synced: Index(0),
        trusted: true,
    };
    receive(&mut leader, B, ack(2));
    if leader.commit() != Index(0) {
        return Err("2/2 is committed before the first record of epoch 4".into());
    }
    receive(&mut leader, B, ack(3));
    match leader.commit() {
        Index(3) => Ok(()),
        commit => Err(format!("up to {commit} is committed, not 3")),
    }
}

/// 3/2 may be committed, and 1/3 was not.
fn the_latest_epoch_wins_over_the_longest_log() -> Result<(), Violation> {
    let mut leader = copy(A, &[at(1, 1), at(1, 2), at(1, 3)], assignment(4, A));
    receive(&mut leader, B, answer(4, at(3, 2)));
    let fetches = |effect: &Effect| {
        let Effect::Send { to, message } = effect else {
            return false;
        };
        *to == B && matches!(message, Message::Fetch { .. })
    };
    if leader.leads() || !outputs(&mut leader, |_| true).iter().any(fetches) {
        return Err("the leader does not fetch 3/2".into());
    }
    let record = |position: Position| Record {
        position,
        first_offset: position.index.0 - 1,
        messages: 1,
        timestamp: 0,
        flags: RecordFlags::NONE,
        tag: None,
        header: Bytes::new(),
        body: Bytes::new(),
    };
    let fetched = Message::Fetched {
        epoch: Epoch(4),
        predecessor: at(1, 2),
        records: Vec::new(),
    };
    receive(&mut leader, B, fetched);
    let mismatch = Message::Mismatch {
        epoch: Epoch(4),
        probed: at(1, 2),
        have: at(1, 1),
    };
    receive(&mut leader, B, mismatch);
    let fetched = Message::Fetched {
        epoch: Epoch(4),
        predecessor: at(1, 1),
        records: vec![record(at(3, 2))],
    };
    receive(&mut leader, B, fetched);
    match leader.chain().last() {
        last if last == at(4, 3) && leader.leads() => Ok(()),
        last => Err(format!("the leader's log ends at {last}")),
    }
}

/// Otherwise a recovery takes the copy for one of a former epoch.
fn an_epoch_is_adopted_before_anything_is_acknowledged_in_it() -> Result<(), Violation> {
    let mut follower = copy(B, &[at(1, 1)], assignment(2, A));
    let first = Record {
        position: at(2, 2),
        first_offset: 1,
        messages: 0,
        timestamp: 0,
        flags: RecordFlags::NONE,
        tag: None,
        header: Bytes::new(),
        body: Bytes::new(),
    };
    let append = Message::Append {
        epoch: Epoch(2),
        predecessor: at(1, 1),
        records: vec![first],
        commit: Index(0),
        end: Index(2),
    };
    receive(&mut follower, A, append);
    let acknowledged = |outputs: &[Effect]| {
        let acks = outputs.iter().filter_map(|effect| match effect {
            Effect::Send {
                message: Message::Ack { written, .. },
                ..
            } => Some(*written),
            _ => None,
        });
        acks.max()
    };
    let mut adopt = None;
    let before = outputs(&mut follower, |effect| match effect {
        Effect::Adopt { ticket, .. } => {
            adopt = Some(*ticket);
            false
        }
        _ => true,
    });
    if acknowledged(&before) > Some(Index(1)) {
        return Err("2/2 is acknowledged, and its epoch is not adopted".into());
    }
    let ticket = adopt.ok_or("the epoch is not adopted")?;
    follower.handle(NOW, Event::Done { ticket });
    match acknowledged(&outputs(&mut follower, |_| true)) {
        Some(Index(2)) => Ok(()),
        written => Err(format!("{written:?} is acknowledged, not 2/2")),
    }
}
