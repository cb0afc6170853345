//! Crashes and restarts.

use crate::conformance::factory::{Cluster, Factory};
use crate::testing::{Answer, ELECTION_TICKS};
use crate::{RecoverError, Recovered, ReplicaId};

/// Crashes the leader after every number of effects and deliveries that a
/// proposal causes, until the proposal is answered before the crash.
pub fn a_leader_that_crashes_at_any_step_loses_nothing_acknowledged(factory: Factory) {
    for crash_in in 1.. {
        let mut cluster = Cluster::new(factory, 3, 0);
        let leader = cluster.elect();
        cluster.commit(b"before");
        cluster.converge();
        cluster.leader_crash_in = Some(crash_in);
        let number = cluster.propose(leader, b"during");
        cluster.settle();
        let finished = cluster.leader_crash_in.take().is_some();
        let acknowledged = matches!(cluster.answers.get(&number), Some(Answer::Committed(_)));
        if !finished {
            assert!(!cluster.is_up(leader));
            cluster.elect();
            cluster.commit(b"after");
            cluster.restart(leader);
        }
        cluster.converge();
        let state = cluster.state(leader);
        let times = state.iter().filter(|command| *command == "during").count();
        assert!(times <= 1, "step {crash_in}: executed {times} times");
        assert!(
            !acknowledged || times == 1,
            "step {crash_in}: acknowledged and lost"
        );
        assert_eq!(state[0], "before");
        if finished {
            assert!(acknowledged);
            assert!(crash_in > 4, "the crash points were not reached");
            return;
        }
    }
}

/// Each replica in turn stops with only its first `durable` batches on disk.
pub fn a_replica_restarts_from_every_persist_point(factory: Factory) {
    for victim in (1..=3).map(ReplicaId) {
        for durable in 0..6 {
            let mut cluster = Cluster::new(factory, 3, 0);
            cluster.set_manual_sync(victim, true);
            let mut synced = 0;
            let mut acknowledged = Vec::new();
            for round in 0..30 * ELECTION_TICKS {
                cluster.tick();
                if synced < durable && cluster.sync(victim) {
                    synced += 1;
                    cluster.settle();
                }
                if let Some(leader) = cluster.leader()
                    && round % 7 == 0
                {
                    let number = cluster.propose(leader, format!("{round}").as_bytes());
                    cluster.settle();
                    if matches!(cluster.answers.get(&number), Some(Answer::Committed(_))) {
                        acknowledged.push(format!("{round}"));
                    }
                }
            }
            cluster.crash(victim);
            cluster.set_manual_sync(victim, false);
            cluster.restart(victim);
            cluster.commit(b"after");
            cluster.converge();
            for command in acknowledged {
                assert!(
                    cluster
                        .state(victim)
                        .iter()
                        .any(|applied| *applied == command),
                    "replica {victim} with {durable} batches lost {command}"
                );
            }
        }
    }
}

pub fn all_crash_together_and_keep_what_was_acknowledged(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    let mut expected = Vec::new();
    for round in 0..5 {
        cluster.elect();
        for number in 0..10 {
            let command = format!("{round}.{number}");
            cluster.commit(command.as_bytes());
            expected.push(command);
        }
        for id in cluster.ids() {
            cluster.crash(id);
        }
        cluster.network.in_flight.clear();
        for id in cluster.ids() {
            cluster.restart(id);
        }
    }
    cluster.elect();
    cluster.converge();
    for id in cluster.ids() {
        assert_eq!(cluster.state(id), expected, "replica {id}");
    }
}

pub fn nothing_is_acknowledged_before_it_is_durable(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    let leader = cluster.elect();
    cluster.converge();
    for id in cluster.ids() {
        cluster.set_manual_sync(id, true);
    }
    let number = cluster.propose(leader, b"one");
    cluster.settle();
    assert_eq!(cluster.answers.get(&number), None, "durable nowhere");
    let first = ReplicaId(leader.0 % 3 + 1);
    let second = ReplicaId(first.0 % 3 + 1);
    while cluster.sync(first) {}
    cluster.settle();
    assert_eq!(
        cluster.answers.get(&number),
        None,
        "durable on one of three"
    );
    while cluster.sync(second) {}
    cluster.settle();
    // Two followers are a quorum, but the leader applies only what is durable on it.
    assert_eq!(cluster.answers.get(&number), None, "not durable here");
    while cluster.sync(leader) {}
    cluster.settle();
    assert!(matches!(
        cluster.answers.get(&number),
        Some(Answer::Committed(_))
    ));
}

pub fn a_lost_log_is_refused(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    cluster.elect();
    for number in 0..10_u8 {
        cluster.commit(&[number]);
    }
    cluster.converge();
    cluster.commit(b"carries the commit index of the others");
    cluster.converge();
    let id = ReplicaId(1);
    let whole = cluster.disk(id).recovered();
    let mut with_gap = whole.clone();
    with_gap.entries.remove(3);
    assert!(matches!(
        factory(&cluster.config(id), with_gap).err(),
        Some(RecoverError::Gap { .. })
    ));
    let shortened = Recovered {
        entries: whole.entries[..2].to_vec(),
        ..whole.clone()
    };
    assert!(matches!(
        factory(&cluster.config(id), shortened).err(),
        Some(RecoverError::LostLog { .. })
    ));
    let garbled = Recovered {
        hard_state: Some(bytes::Bytes::from_static(b"\xff garbage")),
        ..whole.clone()
    };
    assert!(matches!(
        factory(&cluster.config(id), garbled).err(),
        Some(RecoverError::HardState(_))
    ));
    assert!(factory(&cluster.config(id), whole).is_ok());
}
