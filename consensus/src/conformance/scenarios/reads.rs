//! Linearizable reads.

use crate::conformance::factory::{Cluster, Factory};
use crate::testing::ELECTION_TICKS;
use crate::{Limits, ReplicaId};

pub fn a_read_sees_everything_acknowledged_before_it(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    cluster.elect();
    for number in 0..20_u8 {
        let committed = cluster.commit(&[number]);
        for id in cluster.ids() {
            let read = cluster.read(id);
            cluster.run(ELECTION_TICKS);
            let index = cluster.read_ready(id, read).expect("confirmed");
            assert!(index >= committed, "replica {id} reads the past");
        }
    }
}

pub fn a_deposed_leader_serves_no_read(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    let old = cluster.elect();
    cluster.commit(b"before");
    cluster.isolate(old, true);
    // It may still believe that it leads.
    let early = cluster.read(old);
    cluster.run(10 * ELECTION_TICKS);
    cluster.commit(b"after");
    let late = cluster.read(old);
    cluster.run(10 * ELECTION_TICKS);
    for read in [early, late] {
        assert_eq!(cluster.read_ready(old, read), None, "a stale read");
        assert!(cluster.read_rejected(old, read), "dropped in silence");
    }
}

pub fn reads_across_a_leader_change_are_answered(factory: Factory) {
    for crash_after in 0..8 {
        let mut cluster = Cluster::new(factory, 3, 0);
        let leader = cluster.elect();
        let committed = cluster.commit(b"one");
        cluster.converge();
        let reader = ReplicaId(leader.0 % 3 + 1);
        let read = cluster.read(reader);
        for _ in 0..crash_after {
            if let Some(packet) = cluster.network.in_flight.pop_front() {
                cluster.deliver(&packet);
            }
        }
        cluster.crash(leader);
        cluster.run(20 * ELECTION_TICKS);
        match cluster.read_ready(reader, read) {
            Some(index) => assert!(index >= committed),
            None => assert!(cluster.read_rejected(reader, read), "never answered"),
        }
        let again = cluster.read(reader);
        cluster.run(2 * ELECTION_TICKS);
        assert!(cluster.read_ready(reader, again).is_some());
    }
}

pub fn a_read_without_a_quorum_is_rejected(factory: Factory) {
    let mut cluster = Cluster::new(factory, 3, 0);
    let leader = cluster.elect();
    cluster.crash(ReplicaId(leader.0 % 3 + 1));
    cluster.crash(ReplicaId((leader.0 + 1) % 3 + 1));
    let read = cluster.read(leader);
    cluster.run(10 * ELECTION_TICKS);
    assert_eq!(cluster.read_ready(leader, read), None);
    assert!(cluster.read_rejected(leader, read));
}

pub fn too_many_reads_are_pushed_back(factory: Factory) {
    let limits = Limits {
        pending_reads_max: 8,
        ..Limits::default()
    };
    let mut cluster = Cluster::with_limits(factory, 3, 0, &limits);
    let leader = cluster.elect();
    cluster.isolate(leader, true);
    let reads: Vec<_> = (0..9).map(|_| cluster.read(leader)).collect();
    assert!(
        cluster.read_rejected(leader, reads[8]),
        "the ninth of eight"
    );
    assert!(!cluster.read_rejected(leader, reads[7]));
}
