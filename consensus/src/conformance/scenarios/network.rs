//! Networks that lose, repeat, delay, reorder and part.

use crate::Role;
use crate::conformance::factory::{Cluster, Factory};
use crate::testing::{Answer, ELECTION_TICKS, Verdict};

pub fn lost_duplicated_delayed_and_reordered_messages_do_no_harm(factory: Factory) {
    for seed in 1..=30_u64 {
        let mut cluster = Cluster::new(factory, if seed % 2 == 0 { 3 } else { 5 }, 0);
        cluster
            .network
            .set_policy(seed * 0x9e37, |_, random| match random % 10 {
                0 => Verdict::Drop,
                1 => Verdict::Duplicate,
                2..=4 => Verdict::Delay,
                _ => Verdict::Deliver,
            });
        let mut open = Vec::new();
        for round in 0..60 * ELECTION_TICKS {
            cluster.tick();
            if let Some(leader) = cluster.leader() {
                let command = format!("{round}");
                open.push((cluster.propose(leader, command.as_bytes()), command));
            }
        }
        cluster.network.set_policy(1, |_, _| Verdict::Deliver);
        cluster.commit(b"calm");
        cluster.converge();
        let acknowledged: Vec<_> = open
            .iter()
            .filter(|(number, _)| matches!(cluster.answers.get(number), Some(Answer::Committed(_))))
            .collect();
        assert!(acknowledged.len() > 20, "seed {seed}: too little committed");
        for id in cluster.ids() {
            let state = cluster.state(id);
            for (_, command) in &acknowledged {
                let times = state.iter().filter(|applied| *applied == command).count();
                assert_eq!(times, 1, "seed {seed}, replica {id}: {command}");
            }
        }
        for (number, command) in &open {
            assert!(cluster.answers.contains_key(number), "{command} unanswered");
        }
    }
}

pub fn a_partitioned_leader_is_replaced_and_rejoins(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    let old = cluster.elect();
    cluster.commit(b"before");
    cluster.isolate(old, true);
    let lost = cluster.propose(old, b"in the minority");
    cluster.run(10 * ELECTION_TICKS);
    let new = cluster.leader().expect("the majority elects");
    assert_ne!(new, old);
    assert_ne!(
        cluster.status(old).role,
        Role::Leader,
        "a leader without its quorum claims to lead"
    );
    assert!(matches!(
        cluster.answers.get(&lost),
        Some(Answer::Rejected(_))
    ));
    cluster.commit(b"in the majority");
    cluster.isolate(old, false);
    cluster.converge();
    assert_eq!(cluster.state(old), ["before", "in the majority"]);
}

pub fn a_returning_replica_does_not_disturb_a_healthy_leader(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    let leader = cluster.elect();
    let term = cluster.status(leader).term;
    let away = cluster
        .ids()
        .into_iter()
        .find(|id| *id != leader)
        .expect("three replicas");
    cluster.isolate(away, true);
    cluster.run(30 * ELECTION_TICKS);
    cluster.isolate(away, false);
    cluster.run(10 * ELECTION_TICKS);
    assert_eq!(cluster.leader(), Some(leader), "the leader was disturbed");
    assert_eq!(cluster.status(leader).term, term);
}

/// Everything that was ever sent is delivered once more, later.
pub fn messages_of_an_earlier_incarnation_do_no_harm(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    cluster.network.record = Some(Vec::new());
    for round in 0..4_u8 {
        let leader = cluster.elect();
        cluster.commit(&[round]);
        cluster.crash(leader);
        cluster.elect();
        cluster.commit(&[round, round]);
        cluster.restart(leader);
        cluster.converge();
        let old = cluster
            .network
            .record
            .replace(Vec::new())
            .unwrap_or_default();
        for packet in &old {
            cluster.deliver(packet);
        }
        cluster.settle();
        cluster.network.record = Some(old);
    }
    cluster.commit(b"last");
    cluster.converge();
    assert_eq!(cluster.state(cluster.ids()[0]).len(), 9);
}
