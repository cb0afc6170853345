//! Owners of partitions that do not know yet what was acknowledged, or know it first.

use ::partitions::{ByKey, PartitionKey, PartitionOptions, PartitionStorage};
use adapters::metadata::{GroupChange, GroupOperation};
use adapters::wire::{GroupTarget, TopicSettings};
use consensus::ReplicaId;
use iggy_binary_protocol::WireDecode;
use iggy_binary_protocol::responses::consumer_groups::SyncConsumerGroupResponse;
use tokio::time::Instant;

use super::*;
use crate::partitions::tests::batch;

const OTHER: ReplicaId = ReplicaId(2);

fn named(text: &str) -> Identifier {
    Identifier::Name(Name::new(text).unwrap())
}

fn options() -> PartitionOptions {
    TopicSettings::of(&Options::default()).partitions
}

fn purge<P>() -> ClientOperation<P> {
    ClientOperation::PurgeTopic {
        stream: named("s"),
        topic: named("t"),
    }
}

impl Bench {
    /// Creates a topic whose partitions have these owners.
    fn create_topic(&self, owners: &[ReplicaId]) {
        let create_stream = ClientOperation::CreateStream {
            name: Name::new("s").unwrap(),
            options: Options::default(),
        };
        self.log.apply(&self.by_root(1, create_stream));
        let create_topic = ClientOperation::CreateTopic {
            stream: named("s"),
            name: Name::new("t").unwrap(),
            options: Options::default(),
            partitions: Placement::single(owners).unwrap(),
        };
        self.log.apply(&self.by_root(2, create_topic));
    }

    fn key(&self) -> PartitionKey {
        let state = self.connection.server.metadata.reader.read();
        let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
        topic.key(stream.id, 0).unwrap()
    }

    fn fence_other(&self) {
        let registration = {
            let state = self.connection.server.metadata.reader.read();
            state.node(OTHER).unwrap().registration
        };
        self.log.apply(&Command::FenceNode {
            node: OTHER,
            registration,
        });
    }

    /// The client becomes the only member of a group.
    fn join(&self) {
        let changes = [
            GroupChange::Create(Name::new("g").unwrap()),
            GroupChange::Join {
                group: named("g"),
                busy: Default::default(),
            },
        ];
        for (request, change) in (3..).zip(changes) {
            let operation = ClientOperation::Group(GroupOperation {
                stream: named("s"),
                topic: named("t"),
                change,
            });
            self.log.apply(&self.by_root(request, operation));
        }
    }

    /// The partitions that the client polls as a member.
    async fn assignment(&mut self) -> Vec<u32> {
        let target = GroupTarget {
            stream: named("s"),
            topic: named("t"),
            group: named("g"),
        };
        let body = self.ask(Request::SyncGroup(target)).await.unwrap().concat();
        let (synced, _) = SyncConsumerGroupResponse::decode(&body).unwrap();
        synced.partitions
    }

    /// Purges the topic; returns how long the answer takes.
    async fn purged_after(&mut self, request: u64) -> Duration {
        let header = RequestHeader {
            request,
            ..self.header()
        };
        let started = Instant::now();
        let Outcome::Reply(reply) = self.connection.change(&header, purge()).await else {
            panic!("no reply");
        };
        let done = Reply::ok(&header, self.connection.watermark, Vec::new());
        assert_eq!(reply.joined(), done.joined());
        started.elapsed()
    }
}

/// With this lease a test has to wait for its end.
const LEASE: Duration = Duration::from_millis(20);

impl Bench {
    fn with_lease(lease: Duration) -> Self {
        Self::with(FakeLog::start_with_lease(Duration::from_secs(5), lease))
    }
}

/// A send that follows the answer would be stored in the former generation by an owner that
/// has not applied the purge, and deleted.
#[tokio::test]
async fn a_purge_is_answered_when_no_owner_may_serve_without_it() {
    let mut bench = Bench::with_lease(LEASE);
    let lease_over = bench.connection.server.metadata.lease_over();
    assert!(lease_over > LEASE);
    bench.log.register_node(OTHER);
    bench.create_topic(&[ME, OTHER]);
    assert!(bench.purged_after(3).await >= lease_over);
    // The owner may have renewed its lease before it was fenced.
    bench.fence_other();
    assert!(bench.purged_after(4).await >= lease_over);
}

/// The owner has confirmed nothing to the node that applied the request the first time.
#[tokio::test]
async fn a_repeated_purge_waits_for_the_owners_again() {
    let mut bench = Bench::with_lease(LEASE);
    let lease_over = bench.connection.server.metadata.lease_over();
    bench.log.register_node(OTHER);
    bench.create_topic(&[OTHER]);
    let started = Instant::now();
    bench.log.apply(&bench.by_root(3, purge()));
    bench.purged_after(3).await;
    assert!(started.elapsed() >= lease_over);
}

/// The lease does not end within a test.
#[tokio::test]
async fn a_change_that_affects_no_other_owner_waits_for_none() {
    let mut bench = Bench::new(Duration::from_secs(5));
    bench.log.register_node(OTHER);
    bench.create_topic(&[ME]);
    bench.purged_after(3).await;
}

/// The owner has applied the purge, the node that looks the partition up has not.
#[tokio::test]
async fn a_send_to_a_partition_that_was_purged_meanwhile_reaches_it() {
    let mut bench = Bench::new(Duration::from_secs(5));
    bench.create_topic(&[ME]);
    let former = bench.key();
    bench.storage.remove(former).await.unwrap();
    bench.log.commit_unseen(bench.by_root(3, purge()));
    let send = Request::Send(SendRequest {
        stream: named("s"),
        topic: named("t"),
        partitioning: Partitioning::Partition(0),
        batch: batch(1),
    });
    bench.ask(send).await.unwrap();
    let key = bench.key();
    assert_ne!(key.generation, former.generation);
    let stats = bench.storage.stats(key, options()).await.unwrap();
    assert_eq!(stats.messages, 1);
}

fn target(consumer: Consumer, partition: u32) -> OffsetTarget {
    OffsetTarget {
        stream: named("s"),
        topic: named("t"),
        partition,
        consumer,
    }
}

fn poll(target: OffsetTarget) -> Request {
    Request::Poll(PollRequest {
        target,
        start: PollStart::Next,
        count: 1,
        auto_commit: true,
    })
}

/// A stock client polls its partitions in turn, and waits for each.
#[tokio::test]
async fn a_member_is_not_assigned_a_partition_whose_owner_is_down() {
    let mut bench = Bench::new(Duration::from_secs(5));
    bench.log.register_node(OTHER);
    bench.create_topic(&[ME, OTHER]);
    bench.join();
    assert_eq!(bench.assignment().await, [0, 1]);
    bench.fence_other();
    assert_eq!(bench.assignment().await, [0]);
    let member = |partition| target(Consumer::Group(named("g")), partition);
    // The client requests its assignment.
    assert_eq!(bench.ask(poll(member(1))).await, Ok(wire::fenced()));
    let not_owned = Failure::Refused(code::PARTITION_NOT_OWNED);
    assert_ne!(bench.ask(poll(member(0))).await, Ok(wire::fenced()));
    // Consumers that commit at intervals try every partition that they have read.
    for request in [
        Request::PollRouting(member(1)),
        Request::OffsetRouting(member(1)),
        Request::StoreOffset {
            target: member(1),
            offset: 0,
        },
    ] {
        assert_eq!(bench.ask(request).await, Err(not_owned));
    }
    // Consumers without a group wait for the owner.
    let single = target(Consumer::Single(1), 1);
    assert_eq!(bench.ask(poll(single)).await, Err(Failure::NotAccepted));
    bench.log.register_node(OTHER);
    assert_eq!(bench.assignment().await, [0, 1]);
}

#[tokio::test]
async fn balanced_sends_skip_partitions_whose_owner_is_down() {
    let mut bench = Bench::new(Duration::from_secs(5));
    bench.log.register_node(OTHER);
    bench.create_topic(&[ME, OTHER]);
    bench.fence_other();
    for _ in 0..4 {
        let send = Request::Send(SendRequest {
            stream: named("s"),
            topic: named("t"),
            partitioning: Partitioning::Balanced,
            batch: batch(1),
        });
        bench.ask(send).await.unwrap();
    }
    let stats = bench.storage.stats(bench.key(), options()).await;
    assert_eq!(stats.unwrap().messages, 4);
}
