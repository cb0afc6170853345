use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use consensus::{ApplyContext, Index, ReplicaId, StateMachine};
use proptest::prelude::*;

use super::*;

mod users;

const NODES: u64 = 3;

/// A machine with three nodes, the root user, and a client in session.
struct Bench {
    machine: MetadataMachine,
    reader: MetadataReader,
    events: Arc<Mutex<Vec<MetadataEvent>>>,
    index: u64,
    position: u32,
    session: u64,
    request: u64,
    /// The session of a second client.
    other: u64,
}

const OTHER: u128 = 78;
const CLIENT: u128 = 77;

impl Bench {
    fn new() -> Self {
        let mut bench = Self::empty();
        for node in 1..=NODES {
            let reply = bench.apply(&Command::RegisterNode(node_info(node, 1)));
            assert!(matches!(reply, Reply::NodeRegistered { .. }));
        }
        bench.apply(&Command::BootstrapRoot {
            username: name("iggy"),
            password_hash: "hash".into(),
        });
        match bench.apply(&register(CLIENT, 1, 1)) {
            Reply::Registered { session } => bench.session = session,
            other => panic!("{other:?}"),
        }
        bench
    }

    fn empty() -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let (machine, reader) =
            MetadataMachine::new(Box::new(move |event| sink.lock().unwrap().push(event)));
        Self {
            machine,
            reader,
            events,
            index: 0,
            position: 0,
            session: 0,
            request: 0,
            other: 0,
        }
    }

    fn apply(&mut self, command: &Command) -> Reply {
        let bytes = command.encode();
        assert_eq!(&Command::decode(&bytes).unwrap(), command);
        self.apply_bytes(&bytes)
    }

    fn apply_bytes(&mut self, bytes: &[u8]) -> Reply {
        self.index += 1;
        let context = ApplyContext {
            index: Index(self.index),
            position: self.position,
            timestamp_micros: 1_000 * self.index,
        };
        let reply = self.machine.apply(context, bytes);
        let decoded = Reply::decode(&reply).unwrap();
        assert_eq!(decoded.encode(), reply);
        decoded
    }

    /// A client's request with the next number, its partitions placed.
    fn client(&mut self, operation: ClientOperation) -> Reply {
        self.request_of(CLIENT, self.session, operation)
    }

    fn request_of(&mut self, client: u128, session: u64, mut operation: ClientOperation) -> Reply {
        if let Some((count, owners)) = operation.placement() {
            *owners = place(&self.reader.read(), &BTreeMap::new(), count).unwrap();
        }
        self.request += 1;
        self.apply(&Command::Client(ClientRequest {
            client,
            session,
            request: self.request,
            checksum: self.request,
            operation,
        }))
    }

    /// A request that shares its entry with the one before.
    fn client_in_same_entry(&mut self, operation: ClientOperation) -> Reply {
        self.index -= 1;
        self.position += 1;
        self.client(operation)
    }

    fn happen(&mut self, happening: Happening) -> Reply {
        match happening {
            Happening::Operation { operation, other } if other && self.other > 0 => {
                self.request_of(OTHER, self.other, operation)
            }
            Happening::Operation { operation, .. } => self.client(operation),
            Happening::Login => {
                let reply = self.apply(&register(OTHER, 1, 1));
                if let Reply::Registered { session } = reply {
                    self.other = session;
                }
                reply
            }
            Happening::HandOver => {
                let found = {
                    let state = self.reader.read();
                    let mut groups = state.revoking_groups();
                    groups.next().map(|key| {
                        let (_, group) = state.group(key).unwrap();
                        (*key, group.revocations().next().unwrap())
                    })
                };
                match found {
                    Some((group, (partition, _, revocation))) => {
                        self.apply(&Command::CompleteRevocation {
                            group,
                            partition,
                            id: revocation.id,
                        })
                    }
                    None => Reply::Done,
                }
            }
            Happening::Expire(timeout_micros) => {
                self.apply(&Command::ExpireRevocations { timeout_micros })
            }
        }
    }

    fn change_group(&mut self, change: GroupChange) -> Reply {
        self.client(ClientOperation::Group(GroupOperation {
            stream: named("s"),
            topic: named("t"),
            change,
        }))
    }

    fn create_stream(&mut self, text: &str) -> Reply {
        self.client(ClientOperation::CreateStream {
            name: name(text),
            options: Options::default(),
        })
    }

    fn create_topic(&mut self, stream: Identifier, text: &str, partitions: u32) -> Reply {
        self.client(ClientOperation::CreateTopic {
            stream,
            name: name(text),
            options: Options::default(),
            partitions,
            owners: Vec::new(),
        })
    }
}

/// Members have sessions, memberships are what the groups say, and so are the
/// groups with hand-overs.
fn check_groups(state: &MetadataState) {
    let mut members: BTreeMap<u128, Vec<GroupKey>> = BTreeMap::new();
    let mut revoking = Vec::new();
    for stream in state.streams() {
        for topic in stream.topics() {
            for group in topic.groups() {
                let key = GroupKey {
                    stream_id: stream.id,
                    topic_id: topic.id,
                    group_id: group.id,
                };
                if group.revocations().next().is_some() {
                    revoking.push(key);
                }
                for (_, member) in group.members() {
                    assert!(state.sessions().get(member.client).is_some());
                    members.entry(member.client).or_default().push(key);
                }
                assert!(group.is_sound(topic.partitions.len() as u32));
            }
        }
    }
    assert_eq!(
        state.revoking_groups().copied().collect::<Vec<_>>(),
        revoking
    );
    for client in [CLIENT, OTHER] {
        let known: Vec<_> = state.memberships(client).copied().collect();
        assert_eq!(known, members.remove(&client).unwrap_or_default());
    }
    assert!(members.is_empty());
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn named(text: &str) -> Identifier {
    Identifier::Name(name(text))
}

fn node_info(node: u64, incarnation: u64) -> NodeInfo {
    NodeInfo {
        node: ReplicaId(node),
        name: format!("node-{node}"),
        incarnation,
        host: "127.0.0.1".into(),
        tcp_port: 8090,
        admin: "127.0.0.1:3300".into(),
        version: "0.1.0".into(),
    }
}

fn register(client: u128, node: u64, registration: u64) -> Command {
    Command::Register {
        client,
        user_id: 0,
        proof: Proof::Password(1),
        node: ReplicaId(node),
        registration,
    }
}

#[test]
fn ids_are_the_lowest_free_and_names_are_unique() {
    let mut bench = Bench::new();
    let id = |reply| match reply {
        Reply::StreamCreated { id, .. } => id,
        other => panic!("{other:?}"),
    };
    for (expected, text) in [(0, "a"), (1, "b"), (2, "c")] {
        assert_eq!(id(bench.create_stream(text)), expected);
    }
    assert_eq!(bench.create_stream("b"), Reply::Refused(1012));
    bench.client(ClientOperation::DeleteStream { stream: named("b") });
    assert_eq!(id(bench.create_stream("d")), 1);
    assert_eq!(id(bench.create_stream("b")), 3);
}

#[test]
fn refusals_carry_the_codes_of_iggys_server() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 3);
    bench.create_topic(named("s"), "u", 1);
    let (s, t, gone) = (named("s"), named("t"), named("gone"));
    let options = Options::default;
    let cases = [
        (
            1009,
            ClientOperation::DeleteStream {
                stream: Identifier::Id(9),
            },
        ),
        (
            1009,
            ClientOperation::DeleteStream {
                stream: gone.clone(),
            },
        ),
        (
            1009,
            ClientOperation::UpdateStream {
                stream: gone.clone(),
                name: name("x"),
                options: options(),
            },
        ),
        (
            1009,
            ClientOperation::CreateTopic {
                stream: gone.clone(),
                name: name("x"),
                options: options(),
                partitions: 1,
                owners: vec![],
            },
        ),
        (
            2013,
            ClientOperation::CreateTopic {
                stream: s.clone(),
                name: name("t"),
                options: options(),
                partitions: 1,
                owners: vec![],
            },
        ),
        (
            2010,
            ClientOperation::UpdateTopic {
                stream: s.clone(),
                topic: gone.clone(),
                name: name("x"),
                options: options(),
            },
        ),
        (
            2013,
            ClientOperation::UpdateTopic {
                stream: s.clone(),
                topic: t.clone(),
                name: name("u"),
                options: options(),
            },
        ),
        (
            2010,
            ClientOperation::DeleteTopic {
                stream: s.clone(),
                topic: gone.clone(),
            },
        ),
        (
            2010,
            ClientOperation::CreatePartitions {
                stream: s.clone(),
                topic: gone.clone(),
                partitions: 1,
                owners: vec![],
            },
        ),
        (
            2019,
            ClientOperation::DeletePartitions {
                stream: s,
                topic: t.clone(),
                partitions: 4,
            },
        ),
        (
            1009,
            ClientOperation::DeletePartitions {
                stream: gone,
                topic: t,
                partitions: 1,
            },
        ),
    ];
    let before = bench
        .reader
        .read()
        .streams()
        .map(|s| (**s).clone())
        .collect::<Vec<_>>();
    for (code, operation) in cases {
        let reply = bench.client(operation.clone());
        assert_eq!(reply, Reply::Refused(code), "{operation:?}");
    }
    let after = bench
        .reader
        .read()
        .streams()
        .map(|s| (**s).clone())
        .collect::<Vec<_>>();
    assert_eq!(before, after, "a refused command changed something");
}

#[test]
fn a_rename_keeps_the_id_and_frees_the_name() {
    let mut bench = Bench::new();
    bench.create_stream("old");
    bench.create_topic(named("old"), "topic", 1);
    bench.client(ClientOperation::UpdateStream {
        stream: named("old"),
        name: name("new"),
        options: Options::default(),
    });
    let state = bench.reader.read();
    assert!(state.stream(&named("old")).is_none());
    assert_eq!(state.stream(&named("new")).unwrap().id, 0);
    assert!(state.topic(&named("new"), &named("topic")).is_ok());
}

#[test]
fn options_are_patched_never_replaced() {
    let option = |value: &[u8], explicit| OptionEntry {
        kind: 2,
        value: value.into(),
        explicit,
    };
    let mut bench = Bench::new();
    bench.create_stream("s");
    let mut options = Options::default();
    options.set("a", option(b"1", true));
    options.set("b", option(b"2", false));
    let created = bench.client(ClientOperation::CreateTopic {
        stream: named("s"),
        name: name("t"),
        options: options.clone(),
        partitions: 1,
        owners: vec![],
    });
    assert!(
        matches!(created, Reply::TopicCreated(TopicInfo { options: kept, .. }) if kept == options)
    );
    let mut change = Options::default();
    change.set("b", option(b"3", true));
    bench.client(ClientOperation::UpdateTopic {
        stream: named("s"),
        topic: named("t"),
        name: name("t"),
        options: change,
    });
    let state = bench.reader.read();
    let (_, topic) = state.topic(&named("s"), &named("t")).unwrap();
    assert_eq!(topic.options.get("a"), Some(&option(b"1", true)));
    assert_eq!(topic.options.get("b"), Some(&option(b"3", true)));
}

#[test]
fn a_repeated_request_takes_effect_once() {
    let mut bench = Bench::new();
    let request = Command::Client(ClientRequest {
        client: CLIENT,
        session: bench.session,
        request: 5,
        checksum: 9,
        operation: ClientOperation::CreateStream {
            name: name("once"),
            options: Options::default(),
        },
    });
    let first = bench.apply(&request);
    assert!(matches!(first, Reply::StreamCreated { .. }));
    for _ in 0..3 {
        assert_eq!(bench.apply(&request), first);
    }
    assert_eq!(bench.reader.read().streams().len(), 1);
}

#[test]
fn partitions_are_balanced_over_live_nodes() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 9);
    let owned = |bench: &Bench| {
        let state = bench.reader.read();
        state
            .nodes()
            .map(|node| node.partitions)
            .collect::<Vec<_>>()
    };
    assert_eq!(owned(&bench), [3, 3, 3]);
    bench.apply(&Command::FenceNode {
        node: ReplicaId(2),
        registration: 2,
    });
    bench.create_topic(named("s"), "u", 4);
    assert_eq!(owned(&bench), [5, 3, 5]);
    bench.client(ClientOperation::DeleteTopic {
        stream: named("s"),
        topic: named("t"),
    });
    assert_eq!(owned(&bench), [2, 0, 2]);
    for node in [1, 3] {
        bench.apply(&Command::FenceNode {
            node: ReplicaId(node),
            registration: node,
        });
    }
    let placed = place(&bench.reader.read(), &BTreeMap::new(), 1);
    assert_eq!(placed, Err(PlacementError::NoLiveNode));
}

/// The partitions stay where they are, and what was in them is gone.
#[test]
fn a_purge_gives_partitions_another_life_and_leaves_the_rest() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 2);
    bench.create_topic(named("s"), "u", 1);
    let keys = |bench: &Bench, topic: &str| -> Vec<PartitionKey> {
        let state = bench.reader.read();
        let (stream, topic) = state.topic(&named("s"), &named(topic)).unwrap();
        topic.keys(stream.id).collect()
    };
    let lives = |bench: &Bench| (keys(bench, "t"), keys(bench, "u"));
    let owners = |bench: &Bench| {
        let state = bench.reader.read();
        let nodes = state.nodes().map(|node| node.partitions);
        (nodes.collect::<Vec<_>>(), state.partitions_count())
    };
    let (before, (t, u)) = (owners(&bench), lives(&bench));
    let purged = bench.client(ClientOperation::PurgeTopic {
        stream: named("s"),
        topic: named("t"),
    });
    assert_eq!(purged, Reply::Done);
    let (t2, u2) = lives(&bench);
    assert_eq!((&u2, owners(&bench)), (&u, before.clone()));
    for (old, new) in t.iter().zip(&t2) {
        assert!(bench.reader.read().partition(old).is_none());
        assert!(new.created_at > old.created_at);
    }
    let removed = bench.events.lock().unwrap().pop();
    assert_eq!(removed, Some(MetadataEvent::PartitionsRemoved(t)));
    bench.client(ClientOperation::PurgeStream { stream: named("s") });
    let gone = [t2, u2].concat();
    let removed = bench.events.lock().unwrap().pop();
    assert_eq!(removed, Some(MetadataEvent::PartitionsRemoved(gone)));
    assert_eq!(owners(&bench), before);
    let missing = bench.client(ClientOperation::PurgeTopic {
        stream: named("s"),
        topic: named("none"),
    });
    assert_eq!(missing, Reply::Refused(2010));
}

#[test]
fn unplaced_or_misplaced_partitions_are_refused() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    for owners in [vec![], vec![ReplicaId(9)], vec![ReplicaId(1); 2]] {
        bench.request += 1;
        let reply = bench.apply(&Command::Client(ClientRequest {
            client: CLIENT,
            session: bench.session,
            request: bench.request,
            checksum: 0,
            operation: ClientOperation::CreateTopic {
                stream: named("s"),
                name: name("t"),
                options: Options::default(),
                partitions: 1,
                owners,
            },
        }));
        assert_eq!(reply, Reply::Refused(3));
    }
}

#[test]
fn a_partition_of_another_life_is_not_found() {
    let mut bench = Bench::new();
    let mut keys = Vec::new();
    for _ in 0..2 {
        bench.create_stream("s");
        bench.create_topic(named("s"), "t", 1);
        let key = {
            let state = bench.reader.read();
            let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
            topic.key(stream.id, 0).unwrap()
        };
        keys.push(key);
        if keys.len() == 1 {
            bench.client(ClientOperation::DeleteStream { stream: named("s") });
        }
    }
    assert_ne!(keys[0], keys[1]);
    assert!(bench.reader.read().partition(&keys[0]).is_none());
    assert!(bench.reader.read().partition(&keys[1]).is_some());
    let events = bench.events.lock().unwrap();
    assert!(events.contains(&MetadataEvent::PartitionsRemoved(vec![keys[0]])));
}

#[test]
fn a_fenced_node_opens_no_sessions_until_it_registers_again() {
    let mut bench = Bench::new();
    bench.apply(&Command::FenceNode {
        node: ReplicaId(1),
        registration: 99,
    });
    assert!(
        bench.reader.read().node(ReplicaId(1)).unwrap().live,
        "another registration"
    );
    bench.apply(&Command::FenceNode {
        node: ReplicaId(1),
        registration: 1,
    });
    assert_eq!(
        bench.create_stream("s"),
        Reply::Refused(40),
        "its sessions ended"
    );
    assert_eq!(bench.apply(&register(8, 1, 1)), Reply::Refused(58));
    let again = bench.apply(&Command::RegisterNode(node_info(1, 1)));
    let Reply::NodeRegistered { registration } = again else {
        panic!("{again:?}");
    };
    assert_eq!(
        bench.apply(&register(8, 1, 1)),
        Reply::Refused(58),
        "the old one"
    );
    assert!(matches!(
        bench.apply(&register(8, 1, registration)),
        Reply::Registered { .. }
    ));
    assert_eq!(
        bench.apply(&Command::RegisterNode(node_info(1, 0))),
        Reply::Refused(58),
        "an earlier incarnation"
    );
}

/// The files of the first are removed while the second is in use.
#[test]
fn a_partition_that_is_created_again_in_the_same_entry_is_another() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    let create = || ClientOperation::CreateTopic {
        stream: named("s"),
        name: name("t"),
        options: Options::default(),
        partitions: 1,
        owners: Vec::new(),
    };
    let key = |bench: &Bench| {
        let state = bench.reader.read();
        let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
        topic.key(stream.id, 0).unwrap()
    };
    bench.client(create());
    let first = key(&bench);
    let deleted = bench.client_in_same_entry(ClientOperation::DeleteTopic {
        stream: named("s"),
        topic: named("t"),
    });
    assert_eq!(deleted, Reply::Done);
    bench.client_in_same_entry(create());
    let removed = MetadataEvent::PartitionsRemoved(vec![first]);
    assert_eq!(bench.events.lock().unwrap().last(), Some(&removed));
    assert_ne!(key(&bench), first);
    assert!(bench.reader.read().partition(&first).is_none());
}

#[test]
fn a_login_with_outdated_credentials_opens_no_session() {
    let mut bench = Bench::new();
    for (user_id, credential_version) in [(1, 1), (0, 2)] {
        let reply = bench.apply(&Command::Register {
            client: 8,
            user_id,
            proof: Proof::Password(credential_version),
            node: ReplicaId(1),
            registration: 1,
        });
        assert_eq!(reply, Reply::Refused(42));
    }
}

#[test]
fn bytes_that_are_no_command_are_refused_and_change_nothing() {
    let mut bench = Bench::new();
    let before = bench.reader.read().streams().len();
    for bytes in [&b""[..], b"\x01", b"\x02\x01", b"\x01\xff", &[0xff; 64]] {
        assert_eq!(bench.apply_bytes(bytes), Reply::Refused(3));
    }
    assert_eq!(bench.reader.read().streams().len(), before);
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
            partitions: 1,
            owners: vec![ReplicaId(6)],
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

#[test]
fn a_membership_ends_with_its_session() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 4);
    bench.change_group(GroupChange::Create(name("g")));
    let join = || GroupChange::Join {
        group: named("g"),
        busy: Default::default(),
    };
    let members = |bench: &Bench| {
        let state = bench.reader.read();
        let (_, topic) = state.topic(&named("s"), &named("t")).unwrap();
        topic.group(&named("g")).unwrap().members().len()
    };
    bench.change_group(join());
    assert_eq!(members(&bench), 1);
    let session = bench.session;
    bench.apply(&Command::Unregister {
        client: CLIENT,
        session,
    });
    assert_eq!(members(&bench), 0);

    // A login anew replaces the session.
    for _ in 0..2 {
        let Reply::Registered { session } = bench.apply(&register(CLIENT, 1, 1)) else {
            panic!("not registered");
        };
        bench.session = session;
        assert_eq!(members(&bench), 0);
        bench.change_group(join());
        assert_eq!(members(&bench), 1);
    }

    bench.apply(&Command::FenceNode {
        node: ReplicaId(1),
        registration: 1,
    });
    assert_eq!(members(&bench), 0);
}

#[test]
fn group_commands_are_refused_with_the_codes_of_iggy() {
    let mut bench = Bench::new();
    let create = || GroupChange::Create(name("g"));
    assert_eq!(bench.change_group(create()), Reply::Refused(1009));
    bench.create_stream("s");
    assert_eq!(bench.change_group(create()), Reply::Refused(2010));
    bench.create_topic(named("s"), "t", 2);
    assert!(matches!(
        bench.change_group(create()),
        Reply::GroupCreated {
            id: 0,
            partitions: 2,
            ..
        }
    ));
    assert_eq!(bench.change_group(create()), Reply::Refused(5004));
    for change in [
        GroupChange::Delete(named("other")),
        GroupChange::Leave(Identifier::Id(1)),
        GroupChange::Join {
            group: named("other"),
            busy: Default::default(),
        },
    ] {
        assert_eq!(bench.change_group(change), Reply::Refused(5000));
    }
    assert_eq!(
        bench.change_group(GroupChange::Leave(named("g"))),
        Reply::Refused(5006)
    );
    assert_eq!(
        bench.change_group(GroupChange::Delete(Identifier::Id(0))),
        Reply::Done
    );
    // Ids are not given again while the topic lives.
    assert!(matches!(
        bench.change_group(create()),
        Reply::GroupCreated { id: 1, .. }
    ));
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
        1 => Just(Happening::HandOver),
        1 => (0..10_000_u64).prop_map(Happening::Expire),
    ]
}

#[derive(Clone, Debug)]
enum Happening {
    Operation {
        operation: ClientOperation,
        other: bool,
    },
    Login,
    HandOver,
    Expire(u64),
}

fn operation() -> impl Strategy<Value = ClientOperation> {
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
        3 => (stream(), text(), 0..5_u32).prop_map(move |(stream, name, partitions)| ClientOperation::CreateTopic { stream, name, options: options(), partitions, owners: vec![] }),
        1 => (stream(), stream()).prop_map(|(stream, topic)| ClientOperation::DeleteTopic { stream, topic }),
        1 => stream().prop_map(|stream| ClientOperation::PurgeStream { stream }),
        1 => (stream(), stream()).prop_map(|(stream, topic)| ClientOperation::PurgeTopic { stream, topic }),
        1 => (stream(), stream(), text()).prop_map(move |(stream, topic, name)| ClientOperation::UpdateTopic { stream, topic, name, options: options() }),
        1 => (stream(), stream(), 0..4_u32).prop_map(|(stream, topic, partitions)| ClientOperation::CreatePartitions { stream, topic, partitions, owners: vec![] }),
        1 => (stream(), stream(), 0..4_u32).prop_map(|(stream, topic, partitions)| ClientOperation::DeletePartitions { stream, topic, partitions }),
        4 => (stream(), stream(), group_change()).prop_map(|(stream, topic, change)| ClientOperation::Group(GroupOperation { stream, topic, change })),
    ]
}

proptest! {
    /// A replica that was restored from a snapshot in the middle ends where the
    /// others do, and what is counted incrementally is what counting gives.
    #[test]
    fn snapshots_change_nothing(
        before in prop::collection::vec(happening(), 0..60),
        after in prop::collection::vec(happening(), 0..40),
    ) {
        let mut bench = Bench::new();
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
        let mut owned = BTreeMap::new();
        for topic in state.streams().flat_map(|stream| stream.topics()) {
            for partition in &topic.partitions {
                *owned.entry(partition.owner).or_insert(0) += 1;
            }
        }
        for node in state.nodes() {
            prop_assert_eq!(node.partitions, owned.get(&node.info.node).copied().unwrap_or(0));
        }
        prop_assert_eq!(state.partitions_count(), owned.values().sum::<u64>());
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
        let mut bytes = Command::Client(ClientRequest {
            client: CLIENT, session: bench.session, request: 1, checksum: 0, operation,
        }).encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        bench.apply_bytes(&bytes);
    }
}
