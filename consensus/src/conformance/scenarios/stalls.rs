//! Disks on which a write returns no error, and does not return.

use crate::conformance::factory::{Cluster, Factory};
use crate::testing::{Answer, ELECTION_TICKS};
use crate::{DISK_STALL_ELECTION_TIMEOUTS, ProposeError, ReplicaId, Role};

const STALL_TICKS: u64 = DISK_STALL_ELECTION_TIMEOUTS * ELECTION_TICKS;

fn resume(cluster: &mut Cluster, id: ReplicaId) {
    cluster.set_manual_sync(id, false);
    while cluster.sync(id) {}
}

pub fn a_leader_whose_disk_stalls_is_replaced_and_rejoins(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    let old = cluster.elect();
    cluster.commit(b"before");
    let elections = cluster.status(old).elections_started;
    cluster.set_manual_sync(old, true);
    // The others have it, and this one cannot answer.
    let open = cluster.propose(old, b"in flight");
    cluster.run(STALL_TICKS - ELECTION_TICKS);
    assert_eq!(
        cluster.leader(),
        Some(old),
        "a slow disk is not a stalled one"
    );
    assert_eq!(cluster.answers.get(&open), None);
    cluster.run(10 * ELECTION_TICKS);
    let unknown = Answer::Rejected(ProposeError::OutcomeUnknown);
    assert_eq!(cluster.answers.get(&open), Some(&unknown));
    assert_ne!(cluster.status(old).role, Role::Leader);
    let new = cluster.leader().expect("the others elect");
    assert_ne!(new, old);
    cluster.commit(b"without it");
    assert_eq!(cluster.state(new), ["before", "in flight", "without it"]);
    // It stays out of the way for as long as the disk stalls.
    let term = cluster.status(new).term;
    cluster.run(2 * STALL_TICKS);
    assert_eq!(
        (cluster.leader(), cluster.status(new).term),
        (Some(new), term)
    );
    resume(&mut cluster, old);
    cluster.converge();
    assert_eq!(cluster.state(old), ["before", "in flight", "without it"]);
    assert_eq!(
        (cluster.leader(), cluster.status(new).term),
        (Some(new), term)
    );
    assert!(cluster.status(old).elections_started <= elections + 1);
}

pub fn a_replica_whose_disk_stalls_starts_no_election(factory: Factory) {
    for stalled in (1..=5).map(ReplicaId) {
        let mut cluster = Cluster::new(factory, 5, 0);
        let leader = cluster.elect();
        if leader == stalled {
            continue;
        }
        cluster.converge();
        cluster.set_manual_sync(stalled, true);
        cluster.commit(b"not durable there");
        cluster.run(STALL_TICKS);
        let elections = cluster.status(stalled).elections_started;
        assert_eq!(cluster.leader(), Some(leader), "its leader is undisturbed");
        cluster.isolate(leader, true);
        cluster.run(20 * ELECTION_TICKS);
        let new = cluster.leader().expect("the other three elect");
        assert!(new != leader && new != stalled, "{new} leads");
        assert_eq!(cluster.status(stalled).elections_started, elections);
        cluster.commit(b"without both");
        cluster.isolate(leader, false);
        resume(&mut cluster, stalled);
        cluster.converge();
        assert_eq!(
            cluster.state(stalled),
            ["not durable there", "without both"]
        );
    }
}

/// There is none that could lead in its place.
pub fn a_single_node_outlasts_a_stalled_disk(factory: Factory) {
    let mut cluster = Cluster::new(factory, 1, 0);
    let only = cluster.elect();
    cluster.set_manual_sync(only, true);
    let open = cluster.propose(only, b"late");
    cluster.run(3 * STALL_TICKS);
    assert_eq!(cluster.status(only).role, Role::Leader);
    resume(&mut cluster, only);
    let answer = cluster.answers.get(&open);
    assert!(matches!(answer, Some(Answer::Committed(_))), "{answer:?}");
}
