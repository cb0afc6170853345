//! The metadata state machine.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adapters::metadata::{
    AlterInSync, ClientOperation, ClientRequest, Command, CopiesCommand, FeatureLevel, Identifier,
    InSyncChange, Intent, LogState, MetadataMachine, MetadataReader, Name, NodeInfo, NodeStart,
    Options, PartitionCount, Placement, Proof, Reply, decide, place,
};
use bytes::Bytes;
use consensus::{ApplyContext, Index, ReplicaId, StateMachine};
use criterion::{BenchmarkId, Criterion, Throughput};

const CLIENT: u128 = 77;
const NODES: u64 = 3;
const PARTITIONS: u32 = 10;

pub(crate) fn benchmark(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine/apply");
    group.throughput(Throughput::Elements(2));
    for streams in [10, 1_000] {
        let mut metadata = Metadata::new(streams);
        let id = BenchmarkId::new("create and delete a stream beside", streams);
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                metadata.create_stream("orders");
                metadata.client(ClientOperation::DeleteStream {
                    stream: named("orders"),
                })
            });
        });
        let id = BenchmarkId::new("create and delete a topic beside", streams);
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                metadata.create_topic("stream-0", "orders");
                metadata.client(ClientOperation::DeleteTopic {
                    stream: named("stream-0"),
                    topic: named("orders"),
                })
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("machine/snapshot");
    for streams in [10, 1_000] {
        let mut metadata = Metadata::new(streams);
        group.throughput(Throughput::Elements(streams));
        group.bench_function(BenchmarkId::new("freeze", streams), |bencher| {
            bencher.iter(|| metadata.machine.freeze());
        });
        let frozen = metadata.machine.freeze();
        group.bench_function(BenchmarkId::new("encode", streams), |bencher| {
            bencher.iter(|| frozen.encode());
        });
        let encoded = frozen.encode();
        group.bench_function(BenchmarkId::new("restore", streams), |bencher| {
            bencher.iter(|| metadata.machine.restore(&encoded).expect("it was encoded"));
        });
    }
    group.finish();

    for (topics, partitions) in [(1, 1_000_000), (1_000, 1_000), (100_000, 10)] {
        copies(criterion, topics, partitions);
    }
}

/// A million partitions with three copies each on three nodes: nodes stop and start, while
/// a snapshot shares the state or not.
fn copies(criterion: &mut Criterion, topics: u32, partitions: u32) {
    let before = resident_bytes();
    let mut metadata = Metadata::with_copies(topics, partitions);
    let bytes = resident_bytes().saturating_sub(before);
    let count = u64::from(topics) * u64::from(partitions);
    eprintln!(
        "{topics} topics with {partitions} partitions of three copies: {} bytes per partition",
        bytes / count
    );
    let mut group = criterion.benchmark_group(format!("machine/{topics}x{partitions}"));
    group.sample_size(10);
    group.bench_function("freeze", |bencher| {
        bencher.iter(|| metadata.machine.freeze());
    });
    for shared in [false, true] {
        let beside = if shared { " beside a snapshot" } else { "" };
        let mut measure = |name: &str, measured: fn(&mut Metadata) -> Duration| {
            let id = format!("{name}{beside}");
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|iterations| {
                    let run = |_| {
                        metadata.start_node(ReplicaId(1));
                        let frozen = shared.then(|| metadata.machine.freeze());
                        let elapsed = measured(&mut metadata);
                        drop(frozen);
                        elapsed
                    };
                    (0..iterations).map(run).sum()
                });
            });
        };
        measure("a node stops", |metadata| {
            metadata.timed(|metadata| metadata.fence(ReplicaId(1)))
        });
        measure("a node starts", |metadata| {
            metadata.timed(|metadata| metadata.start_node(ReplicaId(1)))
        });
        measure("an in-sync set changes", |metadata| {
            let command = metadata.next_in_sync_set();
            metadata.timed(|metadata| metadata.apply(&command))
        });
        measure("a topic is created", |metadata| {
            let options = Options::default();
            let placed = place(&metadata.reader.read(), &BTreeMap::new(), PARTITIONS, 3);
            let partitions = placed.expect("three nodes");
            let create = |metadata: &mut Metadata| {
                metadata.command(ClientOperation::CreateTopic {
                    stream: named("stream-0"),
                    name: name("measured"),
                    options,
                    partitions,
                })
            };
            let elapsed = metadata.timed(create);
            metadata.client(ClientOperation::DeleteTopic {
                stream: named("stream-0"),
                topic: named("measured"),
            });
            elapsed
        });
    }
    group.finish();
}

/// Memory of this process.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|it| it.parse().ok());
    pages.unwrap_or(0_u64) * 4096
}

/// A state machine with the session of a client.
struct Metadata {
    machine: MetadataMachine,
    reader: MetadataReader,
    index: u64,
    session: u64,
    request: u64,
}

impl Metadata {
    /// This many streams, with a topic each.
    fn new(streams: u64) -> Self {
        let (machine, reader) = MetadataMachine::new(Box::new(|_| {}));
        let mut metadata = Self {
            machine,
            reader,
            index: 0,
            session: 0,
            request: 0,
        };
        for node in (1..=NODES).map(ReplicaId) {
            metadata.apply(&Command::RegisterNode(node_info(node, 1)));
        }
        metadata.apply(&Command::BootstrapRoot {
            username: name("iggy"),
            password_hash: "hash".into(),
        });
        metadata.log_in(ReplicaId(1), 1);
        for stream in 0..streams {
            let stream = format!("stream-{stream}");
            metadata.create_stream(&stream);
            metadata.create_topic(&stream, "topic");
        }
        metadata
    }

    /// This many topics with this many partitions, which have copies on all nodes.
    fn with_copies(topics: u32, partitions: u32) -> Self {
        let mut metadata = Self::new(0);
        metadata.apply(&Command::RaiseFeatureLevel(FeatureLevel::V0_2));
        for node in (1..=NODES).map(ReplicaId) {
            metadata.start_node(node);
        }
        let registration = metadata.registration(ReplicaId(3));
        metadata.log_in(ReplicaId(3), registration);
        for topic in 0..topics {
            let stream = format!("stream-{}", topic / 1_000);
            if topic.is_multiple_of(1_000) {
                metadata.create_stream(&stream);
            }
            let topic = format!("topic-{topic}");
            metadata.client(ClientOperation::CreateTopic {
                stream: named(&stream),
                name: name(&topic),
                options: Options::default(),
                partitions: PartitionCount(0),
            });
            for first in (0..partitions).step_by(1_000) {
                let count = (partitions - first).min(1_000);
                let placed = place(&metadata.reader.read(), &BTreeMap::new(), count, 3);
                metadata.command(ClientOperation::CreatePartitions {
                    stream: named(&stream),
                    topic: named(&topic),
                    partitions: placed.expect("three nodes"),
                });
            }
        }
        metadata
    }

    fn log_in(&mut self, node: ReplicaId, registration: u64) {
        let registered = self.apply(&Command::Register {
            client: CLIENT,
            user_id: 0,
            proof: Proof::Password(1),
            node,
            registration,
        });
        let Ok(Reply::Registered { session }) = Reply::decode(&registered) else {
            panic!("no session");
        };
        self.session = session;
    }

    fn registration(&self, node: ReplicaId) -> u64 {
        let state = self.reader.read();
        state.node(node).map_or(0, |node| node.registration)
    }

    /// A node starts, and leads a third of the partitions again.
    fn start_node(&mut self, node: ReplicaId) -> Bytes {
        let start = NodeStart {
            info: node_info(node, self.index + 1),
            storage_id: node.0.into(),
            log: LogState::Intact,
        };
        self.apply(&Command::Copies(CopiesCommand::StartNode(start)))
    }

    fn fence(&mut self, node: ReplicaId) -> Bytes {
        let registration = self.registration(node);
        self.apply(&Command::FenceNode { node, registration })
    }

    /// The leader of the first partition proposes the set that it has.
    fn next_in_sync_set(&self) -> Command {
        let state = self.reader.read();
        let (stream, topic) = state
            .topic(&named("stream-0"), &named("topic-0"))
            .expect("it was created");
        let key = topic.key(stream.id, 0).expect("it was created");
        let assigned = state.assignment(&key).expect("it was created");
        let from = assigned.leader.expect("all nodes run");
        let partition = state.partition(&key).expect("it was created");
        Command::Copies(CopiesCommand::AlterInSync(AlterInSync {
            from,
            incarnation: assigned.members[&from].registration,
            changes: vec![InSyncChange {
                key,
                epoch: assigned.epoch,
                version: assigned.version,
                in_sync: partition.replicas,
                replicas: partition.replicas,
            }],
        }))
    }

    fn timed(&mut self, measured: impl FnOnce(&mut Self) -> Bytes) -> Duration {
        let start = Instant::now();
        measured(self);
        start.elapsed()
    }

    fn apply(&mut self, command: &Command) -> Bytes {
        self.index += 1;
        let context = ApplyContext {
            index: Index(self.index),
            position: 0,
            timestamp_micros: self.index,
        };
        self.machine
            .apply(context, &command.encode())
            .expect("this program encoded it")
    }

    fn client(&mut self, operation: ClientOperation<PartitionCount>) -> Bytes {
        self.request += 1;
        let intent = Intent::Client(ClientRequest {
            client: CLIENT,
            session: self.session,
            request: self.request,
            checksum: self.request,
            operation,
        });
        let command = decide(intent, &self.reader, &BTreeMap::new()).expect("nodes run");
        self.apply(&command)
    }

    /// A request whose partitions are placed.
    fn command(&mut self, operation: ClientOperation<Placement>) -> Bytes {
        self.request += 1;
        let command = Command::Client(ClientRequest {
            client: CLIENT,
            session: self.session,
            request: self.request,
            checksum: self.request,
            operation,
        });
        self.apply(&command)
    }

    fn create_stream(&mut self, stream: &str) -> Bytes {
        self.client(ClientOperation::CreateStream {
            name: name(stream),
            options: Options::default(),
        })
    }

    fn create_topic(&mut self, stream: &str, topic: &str) -> Bytes {
        self.client(ClientOperation::CreateTopic {
            stream: named(stream),
            name: name(topic),
            options: Options::default(),
            partitions: PartitionCount(PARTITIONS),
        })
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn named(text: &str) -> Identifier {
    Identifier::Name(name(text))
}

fn node_info(node: ReplicaId, incarnation: u64) -> NodeInfo {
    NodeInfo {
        node,
        name: format!("node-{node}"),
        incarnation,
        host: "127.0.0.1".into(),
        tcp_port: 8090,
        admin: "127.0.0.1:3300".into(),
        version: "0.2.0".into(),
    }
}
