//! Normal operation.

use crate::conformance::factory::{Cluster, Factory};
use crate::testing::{Answer, ELECTION_TICKS};
use crate::{Input, ProposeError, ReplicaId, Role};

pub fn a_single_node_commits_alone(factory: Factory) {
    let mut cluster = Cluster::new(factory, 1, 0);
    let leader = cluster.elect();
    for command in [b"a", b"b", b"c"] {
        cluster.commit(command);
    }
    assert_eq!(cluster.state(leader), ["a", "b", "c"]);
    cluster.crash(leader);
    cluster.restart(leader);
    cluster.elect();
    assert_eq!(cluster.state(leader), ["a", "b", "c"]);
}

pub fn three_nodes_commit_the_same_commands(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    cluster.elect();
    for number in 0..100_u32 {
        cluster.commit(&number.to_le_bytes());
    }
    cluster.converge();
    for id in cluster.ids() {
        assert_eq!(cluster.state(id).len(), 100, "replica {id}");
    }
}

pub fn five_nodes_commit_with_two_down(factory: Factory) {
    let mut cluster = Cluster::new(factory, 5, 0);
    let leader = cluster.elect();
    cluster.commit(b"before");
    let others: Vec<_> = cluster
        .ids()
        .into_iter()
        .filter(|id| *id != leader)
        .collect();
    cluster.crash(others[0]);
    cluster.crash(leader);
    cluster.elect();
    cluster.commit(b"after");
    cluster.restart(others[0]);
    cluster.restart(leader);
    cluster.converge();
    assert_eq!(cluster.state(leader), ["before", "after"]);
}

pub fn nothing_commits_without_a_quorum(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    let leader = cluster.elect();
    let others: Vec<_> = cluster
        .ids()
        .into_iter()
        .filter(|id| *id != leader)
        .collect();
    cluster.crash(others[0]);
    cluster.crash(others[1]);
    let number = cluster.propose(leader, b"alone");
    cluster.run(10 * ELECTION_TICKS);
    assert!(
        !matches!(cluster.answers.get(&number), Some(Answer::Committed(_))),
        "one of three committed"
    );
    assert!(cluster.answers.contains_key(&number), "never answered");
    assert_eq!(cluster.leader(), None, "claims to lead without a quorum");
    cluster.restart(others[0]);
    cluster.commit(b"together");
}

pub fn an_idle_cluster_keeps_its_leader(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    let leader = cluster.elect();
    let term = cluster.status(leader).term;
    let last = cluster.status(leader).last;
    cluster.run(100 * ELECTION_TICKS);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.status(leader).term, term);
    assert_eq!(cluster.status(leader).last, last, "an idle log grows");
}

pub fn leadership_moves_to_the_named_replica(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    cluster.elect();
    for round in 0..6_u64 {
        cluster.commit(&round.to_le_bytes());
        cluster.converge();
        let leader = cluster.elect();
        let target = ReplicaId(leader.0 % 3 + 1);
        cluster
            .input(leader, Input::TransferLeadership(target))
            .expect("the leader transfers leadership to a voter");
        cluster.run(ELECTION_TICKS / 2);
        assert_eq!(cluster.leader(), Some(target), "within half a timeout");
    }
    let leader = cluster.elect();
    assert!(
        cluster
            .input(leader, Input::TransferLeadership(ReplicaId(99)))
            .is_err()
    );
    let follower = ReplicaId(leader.0 % 3 + 1);
    assert!(
        cluster
            .input(follower, Input::TransferLeadership(leader))
            .is_err()
    );
}

pub fn a_learner_receives_the_log_and_never_leads(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 1);
    let learner = ReplicaId(4);
    let leader = cluster.elect();
    cluster.commit(b"one");
    cluster.converge();
    assert_eq!(cluster.state(learner), ["one"]);
    assert_eq!(cluster.status(learner).role, Role::Learner);
    let other = ReplicaId(leader.0 % 3 + 1);
    cluster.crash(leader);
    cluster.crash(other);
    cluster.run(20 * ELECTION_TICKS);
    assert_eq!(cluster.leader(), None, "a learner's vote counted");
}

pub fn a_follower_names_the_leader(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    let leader = cluster.elect();
    cluster.run(ELECTION_TICKS);
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        let number = cluster.propose(id, b"at a follower");
        assert_eq!(
            cluster.answers.get(&number),
            Some(&Answer::Rejected(ProposeError::NotLeader {
                leader: Some(leader)
            }))
        );
    }
}

pub fn equal_inputs_give_equal_effects(factory: Factory) {
    let run = || {
        let mut cluster = Cluster::new(factory, 5, 0);
        let first = cluster.elect();
        for number in 0..20_u32 {
            cluster.commit(&number.to_le_bytes());
        }
        cluster.crash(first);
        cluster.elect();
        cluster.commit(b"after");
        cluster.restart(first);
        cluster.converge();
        cluster
            .ids()
            .into_iter()
            .map(|id| cluster.trace(id).to_vec())
            .collect::<Vec<_>>()
    };
    let (first, second) = (run(), run());
    for (id, (first, second)) in (1..).map(ReplicaId).zip(first.iter().zip(&second)) {
        for (at, (first, second)) in first.iter().zip(second).enumerate() {
            assert_eq!(first, second, "effect {at} of replica {id}");
        }
        assert_eq!(first.len(), second.len());
    }
}
