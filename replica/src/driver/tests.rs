use std::sync::{Arc, Mutex};

use consensus::{FrozenState, Membership, Role, StepError};

use super::*;

/// A core that does what it is told to.
struct Script {
    effects: VecDeque<Effect>,
    /// Given once something is fetched.
    when_fetched: VecDeque<Effect>,
    membership: Membership,
}

impl Consensus for Script {
    fn step(&mut self, _now: Tick, input: Input) -> Result<(), StepError> {
        if let Input::SnapshotFetched(_) = input {
            self.effects.append(&mut self.when_fetched);
        }
        Ok(())
    }

    fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn next_deadline(&self) -> Option<Tick> {
        None
    }

    fn status(&self) -> Status {
        Status {
            role: Role::Follower,
            term: Term(1),
            leader: None,
            commit: Index::ZERO,
            first: Index(1),
            last: Index::ZERO,
            membership: self.membership.clone(),
            elections_started: 0,
            peers: Vec::new(),
            detail: Vec::new(),
        }
    }
}

/// Keeps what was restored last.
#[derive(Clone, Default)]
struct Restored(Arc<Mutex<Vec<u8>>>);

impl StateMachine for Restored {
    fn apply(&mut self, _context: ApplyContext, _command: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn freeze(&self) -> Box<dyn FrozenState> {
        unreachable!("no snapshot is due")
    }

    fn restore(&mut self, encoded: &[u8]) -> Result<(), RestoreError> {
        *self.0.lock().unwrap() = encoded.to_vec();
        Ok(())
    }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: Index(index),
        term: Term(1),
        membership: Membership::new(1, [ReplicaId(1), ReplicaId(2)], []).unwrap(),
    }
}

/// A core keeps a fetched snapshot whose offer is outdated, and may install it
/// when it is offered again, while a newer one arrives.
#[test]
fn a_snapshot_is_installed_although_a_newer_one_was_fetched() {
    let fetch = |index| Effect::FetchSnapshot {
        from: ReplicaId(2),
        snapshot: meta(index),
    };
    let core = Script {
        effects: VecDeque::from([fetch(10)]),
        when_fetched: VecDeque::from([fetch(20)]),
        membership: meta(10).membership,
    };
    let machine = Restored::default();
    let mut replica = Replica::new(
        ReplicaConfig::new(ReplicaId(1)),
        Box::new(core),
        Box::new(machine.clone()),
        None,
    );
    let now = Now {
        tick: Tick(0),
        wall_micros: 0,
    };
    replica.flush().unwrap();
    for index in [10, 20] {
        replica.handle(
            now,
            Event::File(FileEvent::Received {
                meta: meta(index),
                next: 0,
                state: Some(Bytes::from(vec![index as u8])),
            }),
        );
        if index == 10 {
            replica.flush().unwrap();
        }
    }
    while replica.poll().is_some() {}
    replica.effect(Effect::InstallSnapshot(meta(10))).unwrap();
    let cut = replica.poll();
    let is_cut = matches!(cut, Some(Output::Compact(Index(10))));
    assert!(is_cut, "the log before it is for nobody");
    assert_eq!(*machine.0.lock().unwrap(), [10]);
    replica.flush().unwrap();
    replica.effect(Effect::InstallSnapshot(meta(20))).unwrap();
    assert_eq!(*machine.0.lock().unwrap(), [20]);
    replica.flush().unwrap();
    assert_eq!(replica.status().snapshot, Some(Index(20)));
}

/// A replica that is left behind arrives, however often snapshots are taken.
#[test]
fn no_snapshot_is_taken_while_one_is_sent_unless_the_log_grows_too_long() {
    let core = Script {
        effects: VecDeque::new(),
        when_fetched: VecDeque::new(),
        membership: meta(10).membership,
    };
    let mut replica = Replica::new(
        ReplicaConfig {
            snapshot_entries: 10,
            ..ReplicaConfig::new(ReplicaId(1))
        },
        Box::new(core),
        Box::new(Restored::default()),
        None,
    );
    let moment = |tick| Now {
        tick: Tick(tick),
        wall_micros: 0,
    };
    let ask = Event::Peer {
        from: ReplicaId(2),
        message: PeerMessage::Request {
            index: Index(1),
            offset: 0,
        }
        .encode()
        .to_bytes(),
    };
    replica.handle(moment(1), Event::Tick);
    replica.applied = Index(10);
    assert!(replica.snapshot_is_due());
    replica.handle(moment(2), ask);
    assert!(!replica.snapshot_is_due());
    replica.applied = Index(10 * SERVING_PATIENCE);
    assert!(replica.snapshot_is_due());
    replica.applied = Index(10);
    replica.now = moment(2 + SERVING_TICKS);
    assert!(replica.snapshot_is_due());
}
