//! When the feature level rises, and what is refused then.

use super::*;

fn node(id: u64, incarnation: u64, version: &str) -> NodeInfo {
    NodeInfo {
        version: version.into(),
        ..node_info(id, incarnation)
    }
}

/// Three nodes of version 0.1.
fn bench() -> Bench {
    let bench = Bench::new();
    assert_eq!(level(&bench), FeatureLevel::V0_1);
    bench
}

fn level(bench: &Bench) -> FeatureLevel {
    bench.reader.read().feature_level()
}

fn raise(bench: &mut Bench) -> FeatureLevel {
    bench.apply(&Command::RaiseFeatureLevel(FeatureLevel::V0_2));
    level(bench)
}

fn upgrade(bench: &mut Bench, id: u64, version: &str) -> Reply {
    let info = node(id, bench.index + 2, version);
    bench.apply(&Command::RegisterNode(info))
}

#[test]
fn the_level_rises_when_the_last_node_of_a_rolling_upgrade_registers() {
    let mut bench = bench();
    for id in 1..NODES {
        upgrade(&mut bench, id, "0.2.0");
        assert_eq!(bench.reader.read().next_feature_level(), None, "node {id}");
        assert_eq!(raise(&mut bench), FeatureLevel::V0_1, "node {id}");
    }
    let registration = bench.reader.read().node(ReplicaId(3)).unwrap().registration;
    bench.apply(&Command::FenceNode {
        node: ReplicaId(3),
        registration,
    });
    // A node that is down will start with its old version.
    assert_eq!(raise(&mut bench), FeatureLevel::V0_1);
    upgrade(&mut bench, 3, "0.3.1");
    let next = bench.reader.read().next_feature_level();
    assert_eq!(next, Some(FeatureLevel::V0_2));
    assert_eq!(raise(&mut bench), FeatureLevel::V0_2);
    assert_eq!(bench.reader.read().next_feature_level(), None);
}

#[test]
fn a_node_of_a_lower_version_is_not_registered_once_the_level_is_raised() {
    let mut bench = bench();
    for id in 1..=NODES {
        upgrade(&mut bench, id, "0.2.0");
    }
    // Until then it may go back.
    let back = upgrade(&mut bench, 2, "0.1.0");
    assert!(matches!(back, Reply::NodeRegistered { .. }), "{back:?}");
    upgrade(&mut bench, 2, "0.2.0");
    raise(&mut bench);

    let before = bench.reader.read().node(ReplicaId(2)).cloned();
    for version in ["0.1.9", "no version"] {
        let refused = Reply::from(MetadataError::VersionTooLow);
        assert_eq!(upgrade(&mut bench, 2, version), refused);
        let intent = Intent::RegisterNode(node(2, 99, version));
        let decided = decide(intent, &bench.reader, &BTreeMap::new());
        assert!(matches!(decided, Err(DecisionError::VersionTooLow { .. })));
    }
    assert_eq!(bench.reader.read().node(ReplicaId(2)).cloned(), before);
}

#[test]
fn a_level_that_this_version_does_not_know_stops_the_replica() {
    let mut bench = bench();
    let mut bytes = Command::RaiseFeatureLevel(FeatureLevel::V0_2)
        .encode()
        .to_vec();
    let last = bytes.len() - 2;
    bytes[last] = 99;
    assert!(bench.try_bytes(&bytes).is_err());
}

/// Version 0.1 restores snapshots of level 0.1 only.
#[test]
fn a_snapshot_names_the_level_unless_it_is_that_of_version_0_1() {
    let mut bench = bench();
    let version = |bench: &Bench| bench.machine.freeze().encode()[0];
    assert_eq!(version(&bench), 2);
    for id in 1..=NODES {
        upgrade(&mut bench, id, "0.2.0");
    }
    assert_eq!(version(&bench), 2);
    raise(&mut bench);
    assert_eq!(version(&bench), 3);

    let snapshot = bench.machine.freeze().encode();
    let mut restored = Bench::empty();
    restored.machine.restore(&snapshot).unwrap();
    assert_eq!(level(&restored), FeatureLevel::V0_2);
    assert_eq!(restored.machine.freeze().encode(), snapshot);

    let at = 4 + 8 + 8 + 2;
    for unknown in [1, 3] {
        let mut snapshot = snapshot.clone();
        snapshot[at] = unknown;
        assert!(restored.machine.restore(&snapshot).is_err(), "{unknown}");
    }
}
