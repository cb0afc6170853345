//! Owners of partitions and other nodes, as clients that stay at one node see them.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use iggy::prelude::*;
use iggy_binary_protocol::codes::PING_CODE;
use iggy_binary_protocol::requests::messages::PollMessagesRequest;
use iggy_binary_protocol::{WireConsumer, WireIdentifier, WirePollingStrategy};
use integration_tests::{Backend, Cluster, PinnedClient, on_each_backend, readers};

const NODE: &str = env!("CARGO_BIN_EXE_node");
const PARTITIONS: u32 = 3;
const ROUNDS: u32 = 10;

fn named(name: &str) -> Identifier {
    Identifier::named(name).unwrap()
}

/// Sends a message to each partition through each node; all of them have to be there.
async fn send_everywhere(admin: &IggyClient, clients: &mut [PinnedClient]) {
    for client in clients.iter_mut() {
        for partition in 0..PARTITIONS {
            assert_eq!(client.send(partition).await.unwrap(), 0);
        }
    }
    let sent = u64::from(PARTITIONS) * clients.len() as u64;
    assert_eq!(readers::message_count(admin).await.unwrap(), sent);
}

/// Followers learn of a committed change with the next message of the leader. Before that, a
/// node may look up a partition that was purged, and its owner may still have it.
async fn what_is_sent_after_a_purge_or_a_deletion_stays(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let admin = cluster.client(0).await.unwrap();
    let mut clients = Vec::new();
    for node in 0..3 {
        clients.push(PinnedClient::connect(&cluster, node).await.unwrap());
    }
    readers::create_topic(&admin, PARTITIONS).await.unwrap();
    for _ in 0..ROUNDS {
        admin.purge_topic(&named("s"), &named("t")).await.unwrap();
        send_everywhere(&admin, &mut clients).await;
    }
    for _ in 0..ROUNDS {
        admin.delete_stream(&named("s")).await.unwrap();
        readers::create_topic(&admin, PARTITIONS).await.unwrap();
        send_everywhere(&admin, &mut clients).await;
    }
}

/// A client that polls the only partition through a node that does not own it, and does not
/// read the reply, which is larger than what the sockets buffer.
async fn a_poll_through_another_node_is_committed_when_its_reply_is_read(backend: Backend) {
    const MESSAGES: u64 = 24;
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let admin = cluster.client(0).await.unwrap();
    // The first partition of a cluster is placed on the node with the lowest id.
    readers::create_topic(&admin, 1).await.unwrap();
    for _ in 0..MESSAGES {
        let payload = vec![b'x'; 1 << 20];
        let message = IggyMessage::builder().payload(payload.into()).build();
        admin
            .send_messages(
                &named("s"),
                &named("t"),
                &Partitioning::partition_id(0),
                &mut [message.unwrap()],
            )
            .await
            .unwrap();
    }
    let poll = |consumer, count| PollMessagesRequest {
        consumer: WireConsumer::consumer(WireIdentifier::Numeric(consumer)),
        stream_id: WireIdentifier::named("s").unwrap(),
        topic_id: WireIdentifier::named("t").unwrap(),
        partition_id: Some(0),
        strategy: WirePollingStrategy::next(),
        count,
        auto_commit: true,
    };
    let stored = async |consumer| {
        let consumer = Consumer::new(Identifier::numeric(consumer).unwrap());
        let (stream, topic) = (named("s"), named("t"));
        let offset = admin.get_consumer_offset(&consumer, &stream, &topic, Some(0));
        offset.await.unwrap().map(|offset| offset.stored_offset)
    };
    for node in [1, 2] {
        let consumer = u32::from(node);
        let mut client = PinnedClient::connect(&cluster, node).await.unwrap();
        client
            .poll_unread(&poll(consumer, MESSAGES as u32))
            .await
            .unwrap();
        assert_eq!(stored(consumer).await, None);
        drop(client);
        let mut client = PinnedClient::connect(&cluster, node).await.unwrap();
        for last in [0, 1] {
            let (status, body) = client.poll(&poll(consumer, 1)).await.unwrap();
            assert_eq!(status, 0);
            assert!(body.len() > 1 << 20);
            // The next request of the client shows that it has the messages.
            client.request(PING_CODE, &[]).await.unwrap();
            assert_eq!(stored(consumer).await, Some(last));
        }
    }
}

on_each_backend! {
    a_poll_through_another_node_is_committed_when_its_reply_is_read
    what_is_sent_after_a_purge_or_a_deletion_stays
}
