//! Replicas that lag.

use crate::conformance::factory::{Cluster, Factory};
use crate::testing::ELECTION_TICKS;
use crate::{Limits, ReplicaId};

fn small_tail() -> Limits {
    Limits {
        log_tail_entries: 2,
        ..Limits::default()
    }
}

/// A cluster in which one follower sleeps while so many commands commit.
fn with_a_sleeper(factory: Factory, limits: &Limits, commands: u32) -> (Cluster, ReplicaId) {
    let mut cluster = Cluster::with_limits(factory, 3, 0, limits);
    let leader = cluster.elect();
    cluster.commit(b"first");
    cluster.converge();
    let sleeper = ReplicaId(leader.0 % 3 + 1);
    cluster.crash(sleeper);
    for number in 0..commands {
        cluster.commit(&number.to_le_bytes());
    }
    (cluster, sleeper)
}

pub fn a_lagging_replica_catches_up_by_log(factory: Factory) {
    let (mut cluster, sleeper) = with_a_sleeper(factory, &Limits::default(), 500);
    cluster.restart(sleeper);
    cluster.run(5 * ELECTION_TICKS);
    cluster.converge();
    assert_eq!(cluster.state(sleeper).len(), 501);
}

pub fn a_long_log_travels_in_messages_of_bounded_size(factory: Factory) {
    const PAYLOAD_BYTES: usize = 1_500;
    let limits = Limits {
        message_bytes_max: 5_000,
        entry_bytes_max: PAYLOAD_BYTES,
        ..Limits::default()
    };
    // What stands around a message and around each of its entries.
    let bytes_max = limits.message_bytes_max + 512;
    let (mut cluster, sleeper) = with_a_sleeper(factory, &limits, 10);
    for _ in 0..200 {
        cluster.commit(&[7; PAYLOAD_BYTES]);
    }
    cluster.network.record = Some(Vec::new());
    cluster.restart(sleeper);
    cluster.run(20 * ELECTION_TICKS);
    cluster.converge();
    assert_eq!(cluster.state(sleeper).len(), 211);
    // So do many that are proposed together.
    let leader = cluster.elect();
    cluster.propose_together(leader, &[8; PAYLOAD_BYTES], 200);
    cluster.converge();
    assert_eq!(cluster.state(sleeper).len(), 411);
    let sent = cluster.network.record.take().unwrap_or_default();
    let largest = sent.iter().map(|packet| packet.message.len()).max();
    assert!(
        largest.is_some_and(|bytes| bytes <= bytes_max),
        "{largest:?}"
    );
}

fn snapshot_everywhere(cluster: &mut Cluster) {
    for id in cluster.ids() {
        if cluster.is_up(id) {
            cluster.snapshot(id);
        }
    }
}

pub fn a_lagging_replica_catches_up_by_snapshot(factory: Factory) {
    let (mut cluster, sleeper) = with_a_sleeper(factory, &small_tail(), 100);
    snapshot_everywhere(&mut cluster);
    cluster.commit(b"after the snapshot");
    cluster.restart(sleeper);
    cluster.converge();
    assert_eq!(cluster.state(sleeper).len(), 102);
    // What was installed is durable, and the log continues after it.
    cluster.crash(sleeper);
    cluster.restart(sleeper);
    cluster.commit(b"after");
    cluster.converge();
    assert_eq!(cluster.state(sleeper).len(), 103);
}

pub fn a_fetch_that_fails_is_tried_again(factory: Factory) {
    let (mut cluster, sleeper) = with_a_sleeper(factory, &small_tail(), 100);
    snapshot_everywhere(&mut cluster);
    cluster.fetches_work = false;
    cluster.restart(sleeper);
    cluster.run(10 * ELECTION_TICKS);
    assert!(cluster.state(sleeper).len() < 100);
    cluster.fetches_work = true;
    cluster.run(60 * ELECTION_TICKS);
    cluster.converge();
    assert_eq!(cluster.state(sleeper).len(), 101);
}

/// The sleeper installs a snapshot; the batch that resets its log is not durable.
fn install_without_sync(cluster: &mut Cluster, sleeper: ReplicaId) {
    snapshot_everywhere(cluster);
    cluster.restart(sleeper);
    cluster.set_manual_sync(sleeper, true);
    for _ in 0..20 * ELECTION_TICKS {
        cluster.tick();
        if cluster.state(sleeper).len() > 50 {
            return;
        }
        // Only what precedes the snapshot becomes durable.
        cluster.sync(sleeper);
        cluster.settle();
    }
    panic!("no snapshot was installed");
}

/// The snapshot is on disk; the batch that resets the log is not.
pub fn a_replica_that_crashes_while_it_installs_a_snapshot_recovers(factory: Factory) {
    let (mut cluster, sleeper) = with_a_sleeper(factory, &small_tail(), 100);
    install_without_sync(&mut cluster, sleeper);
    cluster.crash(sleeper);
    cluster.set_manual_sync(sleeper, false);
    cluster.restart(sleeper);
    cluster.commit(b"after");
    cluster.converge();
    assert_eq!(cluster.state(sleeper).len(), 102);
}

pub fn an_election_while_a_snapshot_becomes_durable_does_no_harm(factory: Factory) {
    let (mut cluster, sleeper) = with_a_sleeper(factory, &small_tail(), 100);
    install_without_sync(&mut cluster, sleeper);
    let leader = cluster.elect();
    cluster.crash(leader);
    cluster.run(5 * ELECTION_TICKS);
    assert_eq!(cluster.leader(), None, "a quorum needs the sleeper's disk");
    cluster.set_manual_sync(sleeper, false);
    while cluster.sync(sleeper) {}
    cluster.commit(b"after");
    cluster.restart(leader);
    cluster.converge();
    assert_eq!(cluster.state(sleeper).len(), 102);
}

pub fn the_log_window_stays_bounded(factory: Factory) {
    let mut cluster = Cluster::with_limits(factory, 3, 0, &small_tail());
    cluster.elect();
    for round in 0..20_u32 {
        for number in 0..20_u32 {
            cluster.commit(&(round * 100 + number).to_le_bytes());
        }
        cluster.converge();
        snapshot_everywhere(&mut cluster);
        for id in cluster.ids() {
            let status = cluster.status(id);
            let entries = status.last.0 + 1 - status.first.0;
            assert!(entries <= 3, "replica {id} keeps {entries} entries");
        }
    }
    for id in cluster.ids() {
        cluster.crash(id);
        cluster.restart(id);
    }
    cluster.commit(b"after");
    cluster.converge();
    assert_eq!(cluster.state(ReplicaId(1)).len(), 401);
}
