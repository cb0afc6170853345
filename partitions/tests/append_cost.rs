//! What an append costs in the protocol of the copies: allocations are checked, and the time
//! is printed (`--nocapture`).
#![allow(unsafe_code, reason = "a global allocator that counts")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use consensus::{Index, ReplicaId};
use iggy_binary_protocol::requests::messages::{RawMessage, SendMessagesEncoder};
use iggy_binary_protocol::{WireIdentifier, WirePartitioning};
use partitions::replication::{
    Assignment, Chain, Effect, Epoch, Event, Member, Message, OffsetTable, PartitionReplica,
    Position, Record, Recovered, Sessions, Settings, Trust,
};
use partitions::{ClientBatch, Durability, Tag};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const APPENDS: u64 = 20_000;

fn copy(me: u64, copies: u64) -> PartitionReplica {
    let replicas: Vec<_> = (0..copies).map(ReplicaId::from_number).collect();
    let member = |node: &ReplicaId| {
        let member = Member {
            registration: 1,
            live: true,
        };
        (*node, member)
    };
    let assignment = Assignment {
        epoch: Epoch(1),
        version: 1,
        leader: replicas.first().copied(),
        in_sync: replicas.clone(),
        members: replicas.iter().map(member).collect::<BTreeMap<_, _>>(),
        replicas,
        min_in_sync: 1,
        durability: Durability::Written,
        recovery: None,
    };
    let recovered = Recovered {
        chain: Chain::new(Position::default()),
        first_offset: 0,
        next_offset: 0,
        last_timestamp: 0,
        segment_bytes: 0,
        synced: Index(0),
        synced_offset: 0,
        commit: Index(0),
        adopted: Epoch(0),
        trust: Trust::Trusted,
        table: OffsetTable::default(),
        table_trust: Trust::Trusted,
        sessions: Sessions::default(),
    };
    let me = ReplicaId::from_number(me);
    PartitionReplica::new(
        me,
        Settings::default(),
        recovered,
        assignment,
        Duration::ZERO,
    )
}

fn batch() -> ClientBatch {
    let message = RawMessage {
        id: 1,
        origin_timestamp: 1_000,
        headers: None,
        payload: &[7; 1024],
    };
    let (stream, partitioning) = (WireIdentifier::Numeric(1), WirePartitioning::PartitionId(3));
    let mut out = BytesMut::new();
    SendMessagesEncoder::encode(&mut out, &stream, &stream, &partitioning, &[message]).unwrap();
    let metadata = u32::from_le_bytes(out[..4].try_into().unwrap()) as usize;
    let batch: Bytes = out.freeze().slice(4 + metadata..);
    ClientBatch::check(&batch).unwrap()
}

/// A group in one place: what a copy sends arrives, and what it writes is written.
struct Group {
    copies: Vec<PartitionReplica>,
    now: Duration,
    answered: u64,
    /// The records that were written last, to be sent.
    written: Vec<Record>,
}

impl Group {
    /// Carries out everything that a copy has to do.
    fn run(&mut self, at: usize) {
        while let Some(effect) = self.copies[at].poll() {
            match effect {
                Effect::Write { ticket, records } => {
                    if at == 0 {
                        self.written.clone_from(&records);
                    }
                    self.copies[at].handle(self.now, Event::Done { ticket });
                }
                Effect::Sync { ticket }
                | Effect::Adopt { ticket, .. }
                | Effect::WriteTable { ticket, .. } => {
                    self.copies[at].handle(self.now, Event::Done { ticket });
                }
                Effect::Send { to, message } => self.deliver(at, to, message),
                Effect::Ready { to } => self.append(to),
                Effect::Reply { .. } => self.answered += 1,
                _ => {}
            }
        }
    }

    fn append(&mut self, to: ReplicaId) {
        while let Some(plan) = self.copies[0].next_append(to) {
            let new = |record: &&Record| record.position.index > plan.predecessor.index;
            let records: Vec<Record> = self.written.iter().filter(new).cloned().collect();
            let last = records
                .last()
                .map_or(plan.predecessor.index, |it| it.position.index);
            let bytes = records.iter().map(Record::bytes).sum();
            self.copies[0].sent(to, &plan, last, bytes);
            let message = Message::Append {
                epoch: plan.epoch,
                predecessor: plan.predecessor,
                records,
                beat: plan.beat,
            };
            self.deliver(0, to, message);
        }
    }

    fn deliver(&mut self, from: usize, to: ReplicaId, message: Message) {
        let event = Event::Message {
            from: ReplicaId::from_number(from as u64),
            registration: 1,
            message,
        };
        let to = usize::try_from(to.number()).unwrap();
        self.copies[to].handle(self.now, event);
        self.run(to);
    }

    fn send(&mut self, request: u64, batch: &ClientBatch) {
        let event = Event::Append {
            request,
            batch: batch.clone(),
            tag: Some(Tag {
                client: 1,
                session: 1,
                request,
            }),
            now_micros: request,
            epoch: Epoch(1),
            first_epoch: None,
        };
        self.copies[0].handle(self.now, event);
        self.run(0);
    }
}

/// Nanoseconds and allocations of an append, of all copies together.
fn cost(copies: u64) -> (f64, f64) {
    let mut group = Group {
        copies: (0..copies).map(|me| copy(me, copies)).collect(),
        now: Duration::ZERO,
        answered: 0,
        written: Vec::new(),
    };
    for _ in 0..10 {
        group.now += Duration::from_millis(100);
        for at in 0..group.copies.len() {
            group.copies[at].handle(group.now, Event::Tick);
            group.run(at);
        }
    }
    assert!(group.copies[0].leads());
    let batch = batch();
    for request in 1..=APPENDS {
        group.send(request, &batch);
    }
    assert_eq!(group.answered, APPENDS, "every append is committed");
    let before = ALLOCATIONS.get();
    let started = Instant::now();
    for request in APPENDS + 1..=2 * APPENDS {
        group.send(request, &batch);
    }
    let elapsed = started.elapsed();
    let allocations = ALLOCATIONS.get() - before;
    assert_eq!(group.answered, 2 * APPENDS, "every append is committed");
    #[allow(clippy::cast_precision_loss, reason = "figures to be read")]
    let each = |total: u64| total as f64 / APPENDS as f64;
    let nanos = u64::try_from(elapsed.as_nanos()).unwrap();
    (each(nanos), each(allocations))
}

#[test]
fn an_append_allocates_little() {
    let (nanos, allocations) = cost(1);
    println!("one copy: {nanos:.0} ns and {allocations:.2} allocations per append");
    assert!(allocations < 6.0, "{allocations} allocations per append");
    let (nanos, allocations) = cost(3);
    println!("three copies together: {nanos:.0} ns and {allocations:.2} allocations per append");
    assert!(allocations < 30.0, "{allocations} allocations per append");
}
