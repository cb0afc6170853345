use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use consensus::{ApplyContext, Index, ReplicaId, StateMachine, UnknownCommand};

use super::*;

mod copies;
mod encoding;
mod feature_level;
mod groups;
mod partitions;
mod resources;
mod sessions;
mod users;
mod version_1;

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

/// Storage ids are this and the node's id.
const STORAGE: u128 = 1_000;
const OTHER: u128 = 78;
const CLIENT: u128 = 77;

/// What one of the two clients does, or what happens to the groups.
#[derive(Clone, Debug)]
enum Happening {
    Operation {
        operation: ClientOperation<PartitionCount>,
        other: bool,
    },
    Login,
    Logout,
    CompleteRevocation,
    Expire(u64),
}

impl Bench {
    fn new() -> Self {
        Self::of_version("0.1.0")
    }

    /// At feature level 0.2.
    fn at_level_0_2() -> Self {
        let bench = Self::of_version("0.2.0");
        let level = bench.reader.read().feature_level();
        assert_eq!(level, FeatureLevel::V0_2);
        bench
    }

    /// At the level of that version of all nodes.
    fn of_version(version: &str) -> Self {
        let mut bench = Self::empty();
        for node in 1..=NODES {
            let mut info = node_info(node, 1);
            info.version = version.into();
            let reply = bench.apply(&Command::RegisterNode(info));
            assert!(matches!(reply, Reply::NodeRegistered { .. }));
        }
        let next = bench.reader.read().next_feature_level();
        if let Some(level) = next {
            bench.apply(&Command::RaiseFeatureLevel(level));
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
        self.try_bytes(bytes).unwrap()
    }

    fn try_bytes(&mut self, bytes: &[u8]) -> Result<Reply, UnknownCommand> {
        self.index += 1;
        let context = ApplyContext {
            index: Index(self.index),
            position: self.position,
            timestamp_micros: 1_000 * self.index,
        };
        let reply = self.machine.apply(context, bytes)?;
        let decoded = Reply::decode(&reply).unwrap();
        assert_eq!(decoded.encode(), reply);
        Ok(decoded)
    }

    /// A client's request with the next number, as the leader decides it.
    fn client(&mut self, operation: ClientOperation<PartitionCount>) -> Reply {
        self.request_of(CLIENT, self.session, operation)
    }

    fn request_of(
        &mut self,
        client: u128,
        session: u64,
        operation: ClientOperation<PartitionCount>,
    ) -> Reply {
        self.request += 1;
        let intent = Intent::Client(ClientRequest {
            client,
            session,
            request: self.request,
            checksum: self.request,
            operation,
        });
        let bytes = intent.encode();
        assert_eq!(Intent::decode(&bytes).unwrap(), intent);
        let command = decide(intent, &self.reader, &BTreeMap::new()).unwrap();
        self.apply(&command)
    }

    /// A request that shares its entry with the one before.
    fn client_in_same_entry(&mut self, operation: ClientOperation<PartitionCount>) -> Reply {
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
            Happening::Logout => {
                let (client, session) = (OTHER, std::mem::take(&mut self.other));
                self.apply(&Command::Unregister { client, session })
            }
            Happening::CompleteRevocation => {
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

    fn raise_level(&mut self) {
        self.apply(&Command::RaiseFeatureLevel(FeatureLevel::V0_2));
    }

    /// This many nodes of version 0.2 have started for the second time, and there is a
    /// stream.
    fn start_all(&mut self, nodes: u64) {
        for id in 1..=nodes {
            self.apply(&Command::RegisterNode(new_node(id, 2)));
        }
        self.raise_level();
        for id in 1..=nodes {
            self.apply(&Command::Copies(CopiesCommand::StartNode(NodeStart {
                info: new_node(id, 2),
                storage_id: STORAGE + u128::from(id),
                log: LogState::Intact,
            })));
        }
        assert!(self.log_in_anywhere());
        self.create_stream("s");
    }

    /// Opens another session of the client, at any live node; whether there is one.
    fn log_in_anywhere(&mut self) -> bool {
        let live = {
            let state = self.reader.read();
            let mut live = state.nodes().filter(|node| node.live);
            live.next().map(|it| (it.info.node.0, it.registration))
        };
        let Some((node, registration)) = live else {
            return false;
        };
        match self.apply(&register(CLIENT, node, registration)) {
            Reply::Registered { session } => self.session = session,
            other => panic!("{other:?}"),
        }
        true
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
            partitions: PartitionCount(partitions),
        })
    }
}

/// Members have sessions, and the indexes of memberships and of groups with pending
/// revocations agree with the groups.
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

/// What is counted as commands are applied, counted again.
fn check_counts(state: &MetadataState) {
    let (mut copies, mut leads, mut count) = (BTreeMap::new(), BTreeMap::new(), 0);
    for topic in state.streams().flat_map(|stream| stream.topics()) {
        for partition in &topic.partitions {
            count += 1;
            for node in partition.replicas.iter() {
                *copies.entry(node).or_insert(0) += 1;
            }
            if let Some(leader) = partition.leader() {
                *leads.entry(leader).or_insert(0) += 1;
            }
        }
    }
    for node in state.nodes() {
        let of = |counts: &BTreeMap<ReplicaId, u64>| counts.get(&node.info.node).copied();
        assert_eq!(node.partitions, of(&copies).unwrap_or(0));
        assert_eq!(node.leads, of(&leads).unwrap_or(0));
    }
    assert_eq!(state.partitions_count(), count);
}

fn refused(code: u32) -> Reply {
    Reply::Refused(ErrorCode::from_number(code))
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

/// A node that knows copies.
fn new_node(node: u64, incarnation: u64) -> NodeInfo {
    NodeInfo {
        version: "0.2.0".into(),
        ..node_info(node, incarnation)
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
