use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use consensus::{
    ApplyContext, FrozenState, Index, Membership, PersistId, RestoreError, Role, Status, Term,
    UnknownCommand,
};

use super::*;

/// A core with scripted effects, which refuses the inputs of its script.
struct Script {
    effects: VecDeque<Effect>,
    /// Effects of the next [`Input::SnapshotFetched`].
    when_fetched: VecDeque<Effect>,
    refuse: Option<StepError>,
    leader: Option<ReplicaId>,
}

impl Script {
    fn new(effects: impl Into<VecDeque<Effect>>) -> Self {
        Self {
            effects: effects.into(),
            when_fetched: VecDeque::new(),
            refuse: None,
            leader: None,
        }
    }
}

impl Consensus for Script {
    fn step(&mut self, _now: Tick, input: Input) -> Result<(), StepError> {
        if let Input::SnapshotFetched(_) = input {
            self.effects.append(&mut self.when_fetched);
        }
        self.refuse.take().map_or(Ok(()), Err)
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
            leader: self.leader,
            commit: Index::ZERO,
            first: Index(1),
            last: Index::ZERO,
            membership: meta(1).membership,
            elections_started: 0,
            peers: Vec::new(),
        }
    }

    fn detail(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Keeps what was restored last.
#[derive(Clone, Default)]
struct Restored(Arc<Mutex<Vec<u8>>>);

impl StateMachine for Restored {
    fn apply(&mut self, _: ApplyContext, _: &[u8]) -> Result<Bytes, UnknownCommand> {
        Ok(Bytes::new())
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

fn replica(config: &ReplicaConfig, core: Script, machine: Restored) -> Replica {
    Replica::new(config, Box::new(core), Box::new(machine), None)
}

fn moment(tick: u64) -> Now {
    Now {
        tick: Tick(tick),
        wall_micros: 0,
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
        when_fetched: VecDeque::from([fetch(20)]),
        ..Script::new([fetch(10)])
    };
    let machine = Restored::default();
    let config = ReplicaConfig::new(ReplicaId(1));
    let mut replica = replica(&config, core, machine.clone());
    replica.flush().unwrap();
    for index in [10, 20] {
        replica.handle(
            moment(0),
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
    assert_eq!(*machine.0.lock().unwrap(), [10]);
    replica.flush().unwrap();
    replica.effect(Effect::InstallSnapshot(meta(20))).unwrap();
    assert_eq!(*machine.0.lock().unwrap(), [20]);
    replica.flush().unwrap();
    assert_eq!(replica.status().snapshot, Some(Index(20)));
}

/// Power may fail between any two outputs. Until the reset is durable, a restart finds
/// the old log: with its front dropped it would be neither the old one nor the new one.
#[test]
fn an_install_compacts_the_log_only_after_the_write_that_resets_it() {
    let fetch = Effect::FetchSnapshot {
        from: ReplicaId(2),
        snapshot: meta(10),
    };
    let reset = PersistBatch {
        id: PersistId(1),
        reset_to: Some((Index(10), Term(1))),
        ..PersistBatch::default()
    };
    let core = Script {
        when_fetched: VecDeque::from([
            Effect::InstallSnapshot(meta(10)),
            Effect::Persist(reset.clone()),
        ]),
        ..Script::new([fetch])
    };
    let config = ReplicaConfig::new(ReplicaId(1));
    let mut replica = replica(&config, core, Restored::default());
    replica.flush().unwrap();
    while replica.poll().is_some() {}
    let fetched = FileEvent::Received {
        meta: meta(10),
        next: 0,
        state: Some(Bytes::new()),
    };
    replica.handle(moment(0), Event::File(fetched));
    replica.flush().unwrap();
    assert!(matches!(replica.poll(), Some(Output::Persist(batch)) if batch == reset));
    let cut = replica.poll();
    let is_cut = matches!(cut, Some(Output::Compact(Index(10))));
    assert!(is_cut, "the log before it is not needed by any replica");
    assert!(replica.poll().is_none());
}

/// A replica that lags catches up, however often snapshots are due.
#[test]
fn no_snapshot_is_taken_while_a_peer_fetches_one() {
    let config = ReplicaConfig {
        snapshot_entries: 10,
        ..ReplicaConfig::new(ReplicaId(1))
    };
    let mut replica = replica(&config, Script::new([]), Restored::default());
    let request = Event::Receive {
        from: ReplicaId(2),
        message: PeerMessage::Request {
            index: Index(1),
            offset: 0,
        }
        .encode()
        .to_bytes(),
    };
    replica.handle(moment(1), Event::Tick);
    assert!(replica.snapshots.is_due(Index(10), Tick(1)));
    replica.handle(moment(2), request);
    assert!(!replica.snapshots.is_due(Index(10), Tick(2)));
}

/// What a core refuses is an output and counted: messages by peer and reason.
#[test]
fn a_refused_message_is_an_output_and_counted() {
    let refused = StepError::from(RefusedMessage {
        from: ReplicaId(2),
        kind: "Prepare",
        reason: RefusalReason::WrongGroup,
    });
    let core = Script {
        refuse: Some(refused.clone()),
        ..Script::new([])
    };
    let config = ReplicaConfig::new(ReplicaId(1));
    let mut replica = replica(&config, core, Restored::default());
    let receive = |message| Event::Receive {
        from: ReplicaId(2),
        message,
    };
    let message = PeerMessage::Consensus(Bytes::from_static(b"core").into()).encode();
    replica.handle(moment(1), receive(message.to_bytes()));
    assert!(matches!(replica.poll(), Some(Output::Refused(error)) if error == refused));
    // A message that is none of this protocol does not reach the core.
    replica.handle(moment(1), receive(Bytes::from_static(&[9])));
    let output = replica.poll();
    assert!(matches!(
        output,
        Some(Output::Refused(StepError::Message(_)))
    ));
    let counters = replica.status().counters;
    let counts: Vec<_> = counters.messages_refused.iter().collect();
    let peer = ReplicaId(2);
    assert_eq!(counts, [(peer, "malformed", 1), (peer, "wrong_group", 1)]);
    assert_eq!(counters.requests_refused, 0);
}

/// It answers, and does not follow: it is not what the cluster has replicated.
#[test]
fn a_replica_that_refuses_its_leader_states_what_it_refuses() {
    let refused = RefusedMessage::impossible(ReplicaId(2), "AppendEntries", "it differs");
    let statuses = [Some(ReplicaId(2)), Some(ReplicaId(1)), None].map(|leader| {
        let core = Script {
            refuse: Some(refused.clone().into()),
            leader,
            ..Script::new([])
        };
        let config = ReplicaConfig::new(ReplicaId(3));
        let mut replica = replica(&config, core, Restored::default());
        let message = PeerMessage::Consensus(Bytes::from_static(b"core").into()).encode();
        let from = ReplicaId(2);
        let message = message.to_bytes();
        replica.handle(moment(1), Event::Receive { from, message });
        replica.status().refuses_leader
    });
    assert_eq!(statuses, [Some(refused), None, None]);
}

/// The replica must not continue with a log that is not that of the cluster.
#[test]
fn a_replica_that_has_diverged_stops() {
    let refused = RefusedMessage {
        from: ReplicaId(2),
        kind: "Prepare",
        reason: RefusalReason::Diverged("entry 7 differs".into()),
    };
    let core = Script {
        refuse: Some(refused.into()),
        ..Script::new([])
    };
    let config = ReplicaConfig::new(ReplicaId(1));
    let mut replica = replica(&config, core, Restored::default());
    let message = PeerMessage::Consensus(Bytes::from_static(b"core").into()).encode();
    let event = Event::Receive {
        from: ReplicaId(2),
        message: message.to_bytes(),
    };
    replica.handle(moment(1), event);
    // It is logged like any other.
    assert!(matches!(replica.poll(), Some(Output::Refused(_))));
    let text = replica.flush().unwrap_err().to_string();
    assert!(text.starts_with("Prepare of replica 1: the log here is not that of the cluster: entry 7 differs; this replica stops"), "{text}");
}

/// A request that the core refuses is no message of a peer.
#[test]
fn a_refused_request_is_counted_apart_and_a_transfer_has_its_own_result() {
    let refused = StepError::Request("not now".into());
    let core = Script {
        refuse: Some(refused.clone()),
        ..Script::new([])
    };
    let config = ReplicaConfig::new(ReplicaId(1));
    let mut replica = replica(&config, core, Restored::default());
    let ticket = Ticket(7);
    let to = ReplicaId(2);
    replica.handle(moment(1), Event::TransferLeadership { ticket, to });
    let output = replica.poll();
    assert!(matches!(
        output,
        Some(Output::TransferResult { ticket: Ticket(7), result: Err(error) }) if error == refused
    ));
    assert_eq!(replica.status().counters.requests_refused, 0);
    replica.core = Box::new(Script {
        refuse: Some(refused),
        ..Script::new([])
    });
    replica.handle(moment(1), Event::Unreachable(to));
    assert!(matches!(replica.poll(), Some(Output::Refused(_))));
    let counters = replica.status().counters;
    assert_eq!(counters.requests_refused, 1);
    assert_eq!(counters.messages_refused.total(), 0);
}
