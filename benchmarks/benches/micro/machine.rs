//! The metadata state machine.

use std::collections::BTreeMap;

use adapters::metadata::{
    ClientOperation, ClientRequest, Command, Identifier, Intent, MetadataMachine, MetadataReader,
    Name, NodeInfo, Options, PartitionCount, Proof, Reply, decide,
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
            metadata.apply(&Command::RegisterNode(NodeInfo {
                node,
                name: format!("node-{node}"),
                incarnation: 1,
                host: "127.0.0.1".into(),
                tcp_port: 8090,
                admin: "127.0.0.1:3300".into(),
                version: "0.1.0".into(),
            }));
        }
        metadata.apply(&Command::BootstrapRoot {
            username: name("iggy"),
            password_hash: "hash".into(),
        });
        let registered = metadata.apply(&Command::Register {
            client: CLIENT,
            user_id: 0,
            proof: Proof::Password(1),
            node: ReplicaId(1),
            registration: 1,
        });
        let Ok(Reply::Registered { session }) = Reply::decode(&registered) else {
            panic!("no session");
        };
        metadata.session = session;
        for stream in 0..streams {
            let stream = format!("stream-{stream}");
            metadata.create_stream(&stream);
            metadata.create_topic(&stream, "topic");
        }
        metadata
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
