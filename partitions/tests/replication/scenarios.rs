//! Situations that random faults hardly ever lead to.

use std::time::Duration;

use consensus::{Index, ReplicaId};
use partitions::replication::{
    Ack, Assignment, Beat, Chain, CopyState, Effect, Epoch, Event, Member, Message, OffsetTable,
    PartitionReplica, Position, Proposal, Record, Recovered, Recovery, Sessions, Settings,
    TableVersion, Trust,
};
use partitions::{Durability, RecordFlags, Stamp};

use crate::client::batch_of;
use crate::world::Violation;

const A: ReplicaId = ReplicaId(1);
const B: ReplicaId = ReplicaId(2);
const C: ReplicaId = ReplicaId(3);
const NOW: Duration = Duration::ZERO;

/// All of them.
pub(crate) const SCENARIOS: &[fn() -> Result<(), Violation>] = &[
    a_follower_that_does_not_write_is_sent_a_window,
    a_former_epochs_record_is_not_committed_by_its_copies,
    the_latest_epoch_wins_over_the_longest_log,
    a_leader_queries_a_majority_whatever_is_the_minimum,
    an_epoch_that_a_copy_lost_is_not_that_of_its_last_record,
    a_recovery_starts_from_the_copy_in_the_latest_epoch,
    a_leader_that_was_not_confirmed_lately_does_not_serve,
    a_follower_acknowledges_what_it_has_compared,
    a_forced_recovery_starts_with_what_is_known_to_be_committed,
    a_leader_waits_for_enough_trusted_tables,
    a_proposed_set_counts_until_the_metadata_has_decided,
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
    copy_with(Trust::Trusted, me, log, assignment)
}

fn copy_with(
    trust: Trust,
    me: ReplicaId,
    log: &[Position],
    assignment: Assignment,
) -> PartitionReplica {
    let mut chain = Chain::new(Position::default());
    for position in log {
        chain.push(*position);
    }
    let recovered = Recovered {
        first_offset: 0,
        next_offset: log.len() as u64,
        last_timestamp: 0,
        segment_bytes: 0,
        synced: chain.last().index,
        synced_offset: log.len() as u64,
        commit: Index(0),
        adopted: chain.last().epoch,
        trust,
        table: OffsetTable::default(),
        table_trust: Trust::Trusted,
        sessions: Sessions::default(),
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
        state: CopyState {
            trust: Trust::Trusted,
            adopted: last.epoch,
            last,
            commit: Index(0),
            next_offset: last.index.0,
            table_trust: Trust::Trusted,
            table: TableVersion::default(),
        },
    }
}

fn epoch_start(position: Position, first_offset: u64) -> Record {
    Record::epoch_start(Stamp {
        partition_id: 0,
        position,
        first_offset,
        timestamp: 0,
        flags: RecordFlags::NONE,
        tag: None,
    })
}

/// What the copy has to do, with its disk operations done.
fn outputs(copy: &mut PartitionReplica, mut finish: impl FnMut(&Effect) -> bool) -> Vec<Effect> {
    let mut outputs = Vec::new();
    while let Some(effect) = copy.poll() {
        let ticket = match &effect {
            Effect::Write { ticket, .. }
            | Effect::Truncate { ticket, .. }
            | Effect::Sync { ticket }
            | Effect::Adopt { ticket, .. }
            | Effect::WriteTable { ticket, .. } => Some(*ticket),
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
    let acked = |index| Message::Ack {
        epoch: Epoch(4),
        ack: Ack {
            matched: Index(index),
            written: Index(index),
            trusted: true,
            ..Ack::default()
        },
    };
    receive(&mut leader, B, acked(2));
    outputs(&mut leader, |_| true);
    if leader.commit() != Index(0) {
        return Err("2/2 is committed before the first record of epoch 4".into());
    }
    receive(&mut leader, B, acked(3));
    outputs(&mut leader, |_| true);
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
        records: vec![epoch_start(at(3, 2), 1)],
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
    let first = epoch_start(at(2, 2), 1);
    let append = Message::Append {
        epoch: Epoch(2),
        predecessor: at(1, 1),
        records: vec![first],
        beat: Beat {
            end: Index(2),
            ..Beat::default()
        },
    };
    receive(&mut follower, A, append);
    let acknowledged = |outputs: &[Effect]| {
        let acks = outputs.iter().filter_map(|effect| match effect {
            Effect::Send {
                message: Message::Ack { ack, .. },
                ..
            } => Some(ack.written),
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

/// B has received everything, and writes nothing.
fn a_follower_that_does_not_write_is_sent_a_window() -> Result<(), Violation> {
    let mut leader = copy(A, &[at(1, 1)], assignment(2, A));
    receive(&mut leader, B, answer(2, at(1, 1)));
    let mut sent = 0;
    for end in 2..102 {
        outputs(&mut leader, |_| true);
        while let Some(plan) = leader.next_append(B) {
            let bytes = 1 << 20;
            let last = plan.through.min(plan.predecessor.index.next());
            leader.sent(B, &plan, last, bytes);
            if last == plan.predecessor.index || sent > 20 << 20 {
                break;
            }
            sent += bytes;
        }
        let ack = Message::Ack {
            epoch: Epoch(2),
            ack: Ack {
                matched: Index(end),
                written: Index(1),
                synced: Index(1),
                trusted: true,
                ..Ack::default()
            },
        };
        receive(&mut leader, B, ack);
        leader.handle(NOW, append(end));
    }
    match sent >> 20 {
        8..=10 => Ok(()),
        sent => Err(format!("{sent} MiB are in flight")),
    }
}

fn append(request: u64) -> Event {
    Event::Append {
        request,
        batch: batch_of(request, 1),
        tag: None,
        now_micros: 0,
        epoch: Epoch(2),
        first_epoch: None,
    }
}

fn state(trust: Trust, adopted: u64, last: Position) -> Message {
    let Message::Answer { state, .. } = answer(4, last) else {
        unreachable!("an answer")
    };
    Message::Answer {
        epoch: Epoch(4),
        state: CopyState {
            trust,
            adopted: Epoch(adopted),
            ..state
        },
    }
}

/// The minimum may have been lower when what is there was committed.
fn a_leader_queries_a_majority_whatever_is_the_minimum() -> Result<(), Violation> {
    let mut assignment = assignment(4, A);
    assignment.min_in_sync = 3;
    let mut leader = copy(A, &[at(1, 1)], assignment);
    leader.handle(NOW, Event::Tick);
    outputs(&mut leader, |_| true);
    match leader.leads() {
        false => Ok(()),
        true => Err("it leads with its own answer".into()),
    }
}

/// B was in epoch 3, and lost what it had of it.
fn an_epoch_that_a_copy_lost_is_not_that_of_its_last_record() -> Result<(), Violation> {
    let mut leader = copy(A, &[at(1, 1), at(2, 2)], assignment(4, A));
    receive(&mut leader, B, state(Trust::TailLost, 3, at(1, 1)));
    receive(&mut leader, C, state(Trust::Trusted, 2, at(2, 2)));
    outputs(&mut leader, |_| true);
    match leader.chain().contains(at(2, 2)) && leader.leads() {
        true => Ok(()),
        false => Err("2/2 may be committed, and the leader does not start with it".into()),
    }
}

/// Everything lost power. B was in epoch 3, whose records no copy has.
fn a_recovery_starts_from_the_copy_in_the_latest_epoch() -> Result<(), Violation> {
    let mut leader = copy_with(Trust::TailLost, A, &[at(1, 1)], assignment(4, A));
    receive(&mut leader, B, state(Trust::TailLost, 3, at(1, 2)));
    receive(&mut leader, C, state(Trust::TailLost, 2, at(2, 2)));
    let outputs = outputs(&mut leader, |_| true);
    let recovery = outputs.iter().find_map(|effect| match effect {
        Effect::Propose(Proposal::Recover { leader, .. }) => Some(*leader),
        _ => None,
    });
    match recovery {
        Some(B) => Ok(()),
        other => Err(format!("{other:?} is to lead, not B")),
    }
}

fn ack(index: u64, table: u64) -> Message {
    Message::Ack {
        epoch: Epoch(2),
        ack: Ack {
            matched: Index(index),
            written: Index(index),
            trusted: true,
            table,
            ..Ack::default()
        },
    }
}

/// A quorum answered a beat ten seconds ago.
fn a_leader_that_was_not_confirmed_lately_does_not_serve() -> Result<(), Violation> {
    let mut leader = copy(A, &[at(1, 1)], assignment(2, A));
    receive(&mut leader, B, answer(2, at(1, 1)));
    outputs(&mut leader, |_| true);
    receive(&mut leader, B, ack(2, 1));
    outputs(&mut leader, |_| true);
    if !leader.may_read(NOW) {
        return Err("the leader is confirmed, and does not serve".into());
    }
    match leader.may_read(Duration::from_secs(10)) {
        false => Ok(()),
        true => Err("the leader serves after ten seconds without an answer".into()),
    }
}

/// 1/2 may differ from what the leader has there.
fn a_follower_acknowledges_what_it_has_compared() -> Result<(), Violation> {
    let mut follower = copy(B, &[at(1, 1), at(1, 2)], assignment(2, A));
    let append = Message::Append {
        epoch: Epoch(2),
        predecessor: at(1, 1),
        records: Vec::new(),
        beat: Beat {
            end: Index(3),
            ..Beat::default()
        },
    };
    receive(&mut follower, A, append);
    let acks = outputs(&mut follower, |_| true);
    let acks = acks.iter().filter_map(|effect| match effect {
        Effect::Send {
            message: Message::Ack { ack, .. },
            ..
        } => Some(ack.written),
        _ => None,
    });
    match acks.max() {
        Some(Index(1)) => Ok(()),
        written => Err(format!("{written:?} is acknowledged, not 1")),
    }
}

/// The copy was in epoch 1, and others may have been in later ones.
fn a_forced_recovery_starts_with_what_is_known_to_be_committed() -> Result<(), Violation> {
    let mut assignment = assignment(5, A);
    assignment.in_sync = vec![A];
    assignment.recovery = Some(Recovery::forced(Epoch(5), None));
    let mut leader = copy_with(Trust::TailLost, A, &[at(1, 1), at(1, 2)], assignment);
    outputs(&mut leader, |_| true);
    match leader.chain().last() {
        last if last == at(5, 1) => Ok(()),
        last => Err(format!("the leader's log ends at {last}")),
    }
}

/// The table of A may lack what B has lost, and C has.
fn a_leader_waits_for_enough_trusted_tables() -> Result<(), Violation> {
    let mut leader = copy(A, &[at(1, 1)], assignment(2, A));
    let mut message = answer(2, at(1, 1));
    if let Message::Answer { state, .. } = &mut message {
        state.table_trust = Trust::TailLost;
    }
    receive(&mut leader, B, message);
    outputs(&mut leader, |_| true);
    if leader.leads() {
        return Err("the leader starts with one trusted table of two".into());
    }
    receive(&mut leader, C, answer(2, at(1, 1)));
    outputs(&mut leader, |_| true);
    match leader.leads() {
        true => Ok(()),
        false => Err("two trusted tables do not suffice".into()),
    }
}

/// C is silent. The set without it may be in force, and B lacks the last record.
fn a_proposed_set_counts_until_the_metadata_has_decided() -> Result<(), Violation> {
    let mut leader = copy(A, &[at(1, 1)], assignment(2, A));
    receive(&mut leader, B, answer(2, at(1, 1)));
    outputs(&mut leader, |_| true);
    let table = leader.table().at.version;
    let receive_at = |leader: &mut PartitionReplica, now, from, message| {
        let event = Event::Message {
            from,
            registration: 1,
            message,
        };
        leader.handle(now, event);
    };
    let mut now = NOW;
    let mut proposed = false;
    while !proposed && now < Duration::from_secs(6) {
        now += Duration::from_millis(100);
        receive_at(&mut leader, now, B, ack(2, table));
        outputs(&mut leader, |_| true);
        leader.handle(now, Event::Tick);
        let outputs = outputs(&mut leader, |_| true);
        proposed = outputs
            .iter()
            .any(|effect| matches!(effect, Effect::Propose(Proposal::AlterInSync { .. })));
    }
    if !proposed {
        return Err("no set is proposed without the silent copy".into());
    }
    now += Duration::from_millis(1500);
    leader.handle(now, Event::Tick);
    outputs(&mut leader, |_| true);
    leader.handle(now, append(1));
    outputs(&mut leader, |_| true);
    receive_at(&mut leader, now, C, ack(3, table));
    outputs(&mut leader, |_| true);
    match leader.commit() {
        Index(2) => Ok(()),
        commit => Err(format!("up to {commit} is committed, not 2")),
    }
}
