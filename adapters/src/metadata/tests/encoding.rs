//! Commands and snapshots as bytes, whole and damaged.

use proptest::prelude::*;

use super::*;

/// A newer leader has written them. Replicas that know them have another state from there
/// on, so the others must not continue.
#[test]
fn bytes_that_are_no_command_are_an_error_and_change_nothing() {
    let mut bench = Bench::new();
    let before = bench.reader.digest();
    for bytes in [&b""[..], b"\x01", b"\x02\x01", b"\x01\xff", &[0xff; 64]] {
        assert!(bench.try_bytes(bytes).is_err());
    }
    assert_eq!(bench.reader.digest(), before);
}

/// The encoding of version 1, written down: what is on disks must stay readable.
#[test]
fn version_1_commands_stay_as_they_are() {
    let command = Command::Client(ClientRequest {
        client: 1,
        session: 2,
        request: 3,
        checksum: 4,
        operation: ClientOperation::CreatePartitions {
            stream: Identifier::Id(5),
            topic: named("t"),
            partitions: Placement::single(&[ReplicaId(6)]).unwrap(),
        },
    });
    let hex: String = command
        .encode()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(
        hex,
        "010101000000000000000000000000000000020000000000000003000000000000000400000000000000\
         0701050000000201000000740100000001000000 0600000000000000"
            .replace(' ', "")
    );
}

/// Nodes of version 0.1 forward a client's request as a command without owners, and expect
/// the same of other nodes.
#[test]
fn version_1_forwards_an_intent_as_a_command_without_owners() {
    let intent = |partitions| {
        Intent::Client(ClientRequest {
            client: 1,
            session: 2,
            request: 3,
            checksum: 4,
            operation: ClientOperation::CreatePartitions {
                stream: Identifier::Id(5),
                topic: named("t"),
                partitions: PartitionCount(partitions),
            },
        })
    };
    let bytes = intent(2).encode();
    assert_eq!(
        hex(&bytes),
        "010101000000000000000000000000000000020000000000000003000000000000000400000000000000\
         0701050000000201000000740200000000000000"
            .replace(' ', "")
    );
    assert_eq!(Intent::decode(&bytes), Ok(intent(2)));
    assert!(Command::decode(&bytes).is_err(), "nothing is decided yet");
    // The leader decides, whatever a node has sent.
    let command = decide(intent(2), &Bench::new().reader, &BTreeMap::new()).unwrap();
    assert_eq!(command.placement().len(), 2);
    assert_eq!(Intent::decode(&command.encode()), Ok(intent(2)));
}

/// Version 0.1 fences a registration that does not exist where a command without effect
/// is needed, and does not know another one.
#[test]
fn version_1_has_a_noop_by_another_name() {
    let noop = "010500000000000000000000000000000000";
    assert_eq!(hex(&Command::Noop.encode()), noop);
    assert_eq!(hex(&Intent::Noop.encode()), noop);
    let mut sent = Command::Noop.encode().to_vec();
    sent[2] = 3; // the node that version 0.1 names
    assert_eq!(Command::decode(&sent), Ok(Command::Noop));
    assert_eq!(Intent::decode(&sent), Ok(Intent::Noop));
    let mut bench = Bench::new();
    let mut before = bench.reader.read().clone();
    assert_eq!(bench.apply_bytes(&sent), Reply::Done);
    let after = bench.reader.read().clone();
    (before.applied, before.now) = (after.applied, after.now);
    assert_eq!(before, after);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_snapshot_with_an_id_that_is_never_given_is_refused() {
    let mut bench = Bench::new();
    bench.create_stream("the-stream");
    let mut bytes = bench.machine.freeze().encode();
    let named = bytes.windows(10).position(|text| text == b"the-stream");
    let id_at = named.unwrap() - 8;
    for id in [STREAMS_MAX, u32::MAX] {
        bytes[id_at..id_at + 4].copy_from_slice(&id.to_le_bytes());
        assert!(bench.machine.restore(&bytes).is_err());
    }
}

fn group_change() -> impl Strategy<Value = GroupChange> {
    let group = || {
        prop_oneof![
            (0..3_u32).prop_map(Identifier::Id),
            "[a-b]".prop_map(|n| named(&n))
        ]
    };
    let busy = prop::collection::btree_set(0..6_u32, 0..6);
    prop_oneof![
        2 => "[a-b]".prop_map(|n| GroupChange::Create(name(&n))),
        1 => group().prop_map(GroupChange::Delete),
        3 => (group(), busy).prop_map(|(group, busy)| GroupChange::Join { group, busy }),
        1 => group().prop_map(GroupChange::Leave),
    ]
}

/// What one of two clients does, or what happens to the groups.
fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => (operation(), any::<bool>()).prop_map(|(operation, other)| Happening::Operation { operation, other }),
        1 => Just(Happening::Login),
        1 => Just(Happening::Logout),
        1 => Just(Happening::CompleteRevocation),
        1 => (0..10_000_u64).prop_map(Happening::Expire),
    ]
}

fn operation() -> impl Strategy<Value = ClientOperation<PartitionCount>> {
    let stream = || {
        prop_oneof![
            (0..4_u32).prop_map(Identifier::Id),
            "[a-d]".prop_map(|n| named(&n))
        ]
    };
    let text = || "[a-d]".prop_map(|n| name(&n));
    let options = Options::default;
    prop_oneof![
        3 => text().prop_map(move |name| ClientOperation::CreateStream { name, options: options() }),
        1 => stream().prop_map(|stream| ClientOperation::DeleteStream { stream }),
        1 => (stream(), text()).prop_map(move |(stream, name)| ClientOperation::UpdateStream { stream, name, options: options() }),
        3 => (stream(), text(), 0..5_u32).prop_map(move |(stream, name, partitions)| ClientOperation::CreateTopic { stream, name, options: options(), partitions: PartitionCount(partitions) }),
        1 => (stream(), stream()).prop_map(|(stream, topic)| ClientOperation::DeleteTopic { stream, topic }),
        1 => stream().prop_map(|stream| ClientOperation::PurgeStream { stream }),
        1 => (stream(), stream()).prop_map(|(stream, topic)| ClientOperation::PurgeTopic { stream, topic }),
        1 => (stream(), stream(), text()).prop_map(move |(stream, topic, name)| ClientOperation::UpdateTopic { stream, topic, name, options: options() }),
        1 => (stream(), stream(), 0..4_u32).prop_map(|(stream, topic, partitions)| ClientOperation::CreatePartitions { stream, topic, partitions: PartitionCount(partitions) }),
        1 => (stream(), stream(), 0..4_u32).prop_map(|(stream, topic, partitions)| ClientOperation::DeletePartitions { stream, topic, partitions }),
        4 => (stream(), stream(), group_change()).prop_map(|(stream, topic, change)| ClientOperation::Group(GroupOperation { stream, topic, change })),
    ]
}

proptest! {
    /// A replica that was restored from a snapshot in the middle ends where the
    /// others do, and incremental counts are equal to the counted sums.
    #[test]
    fn snapshots_change_nothing(
        before in prop::collection::vec(happening(), 0..60),
        after in prop::collection::vec(happening(), 0..40),
        raised in any::<bool>(),
    ) {
        let mut bench = if raised { Bench::at_level_0_2() } else { Bench::new() };
        for happening in before {
            bench.happen(happening);
        }
        let snapshot = bench.machine.freeze().encode();
        let mut restored = Bench::empty();
        restored.machine.restore(&snapshot).unwrap();
        prop_assert_eq!(restored.reader.digest(), bench.reader.digest());
        (restored.index, restored.session, restored.request) = (bench.index, bench.session, bench.request);
        restored.other = bench.other;
        for happening in after {
            let first = bench.happen(happening.clone());
            prop_assert_eq!(first, restored.happen(happening));
        }
        check_groups(&bench.reader.read());
        prop_assert_eq!(restored.machine.freeze().encode(), bench.machine.freeze().encode());
        let state = bench.reader.read();
        check_counts(&state);
    }

    /// A damaged snapshot is refused or decodes; it never panics, and the state
    /// stays when it is refused.
    #[test]
    fn damaged_snapshots_do_no_harm(at in any::<prop::sample::Index>(), mask in 1..=255_u8, cut in any::<bool>()) {
        let mut bench = Bench::new();
        bench.create_stream("s");
        bench.create_topic(named("s"), "t", 3);
        let digest = bench.reader.digest();
        let mut bytes = bench.machine.freeze().encode();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= mask }
        if bench.machine.restore(&bytes).is_err() {
            prop_assert_eq!(bench.reader.digest(), digest);
        }
    }

    /// Neither random nor mutated commands panic.
    #[test]
    fn damaged_commands_do_no_harm(operation in operation(), at in any::<prop::sample::Index>(), mask in 1..=255_u8) {
        let mut bench = Bench::new();
        let mut bytes = Intent::Client(ClientRequest {
            client: CLIENT, session: bench.session, request: 1, checksum: 0, operation,
        }).encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        let _ = Intent::decode(&bytes);
        let known = Command::decode(&bytes).is_ok();
        prop_assert_eq!(bench.try_bytes(&bytes).is_ok(), known);
    }
}
