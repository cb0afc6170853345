//! Clients that do not read what they request, and what others notice of them.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use iggy::prelude::*;
use iggy_binary_protocol::requests::messages::PollMessagesRequest;
use iggy_binary_protocol::{WireConsumer, WireIdentifier, WirePollingStrategy};
use iggy_cluster::config::HumanDuration;
use integration_tests::{Backend, Cluster, PinnedClient, on_each_backend, readers};

const NODE: &str = env!("CARGO_BIN_EXE_node");
const SLOW: usize = 20;
/// Together 60 MB.
const MESSAGES: u32 = 600;
const MESSAGE_BYTES: usize = 100_000;
/// The partitions of a new topic are placed on the nodes in their order.
const OWNER: u8 = 0;
const OTHER: u8 = 1;
const PASSWORD: &str = "a password";

fn poll(partition: u32, count: u32) -> PollMessagesRequest {
    PollMessagesRequest {
        consumer: WireConsumer::consumer(WireIdentifier::Numeric(1)),
        stream_id: WireIdentifier::named("s").unwrap(),
        topic_id: WireIdentifier::named("t").unwrap(),
        partition_id: Some(partition),
        strategy: WirePollingStrategy::first(),
        count,
        auto_commit: false,
    }
}

/// A cluster with one partition on each of three nodes, each with 60 MB of messages.
async fn filled(backend: Backend) -> Cluster {
    let cluster = Cluster::start_with(NODE, backend, 3, |config| {
        // No client is disconnected during the test.
        config.tcp.frame_timeout = HumanDuration::from_millis(3_600_000);
    })
    .await
    .unwrap();
    let admin = cluster.client(0).await.unwrap();
    readers::create_topic(&admin, 3).await.unwrap();
    admin
        .create_user("other", PASSWORD, UserStatus::Active, Some(everything()))
        .await
        .unwrap();
    for node in 0..3 {
        let mut producer = PinnedClient::connect(&cluster, node).await.unwrap();
        let payload = vec![b'x'; MESSAGE_BYTES];
        for _ in 0..MESSAGES {
            let partition = u32::from(node);
            let sent = producer.send_payload(partition, &payload).await.unwrap();
            assert_eq!(sent, 0);
        }
    }
    cluster
}

fn everything() -> Permissions {
    let global = GlobalPermissions {
        poll_messages: true,
        send_messages: true,
        ..GlobalPermissions::default()
    };
    Permissions {
        global,
        streams: None,
    }
}

/// Short and long polls and sends are served through these nodes, for partitions of all nodes.
async fn others_are_served(cluster: &Cluster) {
    for node in [OWNER, OTHER] {
        let mut same_user = PinnedClient::connect(cluster, node).await.unwrap();
        let other = PinnedClient::connect_as(cluster, node, "other", PASSWORD);
        let mut other = other.await.unwrap();
        let payload = vec![b'y'; MESSAGE_BYTES];
        for partition in 0..3 {
            for client in [&mut same_user, &mut other] {
                for _ in 0..5 {
                    let (status, body) = client.poll(&poll(partition, 1)).await.unwrap();
                    assert_eq!((status, body.len() > MESSAGE_BYTES), (0, true));
                    let sent = client.send_payload(partition, &payload).await.unwrap();
                    assert_eq!(sent, 0);
                    assert_eq!(client.send(partition).await.unwrap(), 0);
                }
            }
            let (status, body) = other.poll(&poll(partition, 100)).await.unwrap();
            assert_eq!((status, body.len() > 100 * MESSAGE_BYTES), (0, true));
        }
    }
}

/// The replies wait in the memory of a node that does not own the partition.
async fn unread_long_polls_through_another_node_keep_no_other_client_waiting(backend: Backend) {
    let cluster = filled(backend).await;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut client = PinnedClient::connect(&cluster, OTHER).await.unwrap();
        client
            .poll_unread(&poll(u32::from(OWNER), MESSAGES))
            .await
            .unwrap();
        slow.push(client);
    }
    others_are_served(&cluster).await;
    assert_eq!(slow.len(), SLOW);
}

/// The same at the owner of the partition.
async fn unread_long_polls_at_the_owner_keep_no_other_client_waiting(backend: Backend) {
    let cluster = filled(backend).await;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut client = PinnedClient::connect(&cluster, OWNER).await.unwrap();
        client
            .poll_unread(&poll(u32::from(OWNER), MESSAGES))
            .await
            .unwrap();
        slow.push(client);
    }
    others_are_served(&cluster).await;
    assert_eq!(slow.len(), SLOW);
}

on_each_backend! {
    unread_long_polls_through_another_node_keep_no_other_client_waiting
    unread_long_polls_at_the_owner_keep_no_other_client_waiting
}
