//! A stock client's session, end to end, through each node in turn.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::str::FromStr;

use iggy::prelude::*;
use iggy_cluster::ClusterConfig;
use integration_tests::{Backend, Cluster, on_each_backend};

const NODE: &str = env!("CARGO_BIN_EXE_node");
const MESSAGES: u32 = 100;
const PARTITIONS: u32 = 3;

fn named(name: &str) -> Identifier {
    Identifier::named(name).unwrap()
}

async fn create_topic(client: &IggyClient, stream: &str, topic: &str) -> TopicDetails {
    let options = TopicCreateOptions {
        partitions_count: Some(PARTITIONS),
        ..TopicCreateOptions::default()
    };
    client
        .create_topic(&named(stream), topic, &options)
        .await
        .unwrap()
}

async fn send(
    client: &IggyClient,
    stream: &str,
    topic: &str,
    partition: u32,
    from: u32,
    count: u32,
) {
    let mut messages: Vec<_> = (from..from + count)
        .map(|number| IggyMessage::from_str(&format!("{partition}/{number}")).unwrap())
        .collect();
    client
        .send_messages(
            &named(stream),
            &named(topic),
            &Partitioning::partition_id(partition),
            &mut messages,
        )
        .await
        .unwrap();
}

/// A partition of a topic.
struct At<'a>(&'a str, &'a str, u32);

async fn poll(
    client: &IggyClient,
    At(stream, topic, partition): At<'_>,
    consumer: &Consumer,
    strategy: PollingStrategy,
    count: u32,
    auto_commit: bool,
) -> Vec<(u64, String)> {
    let polled = client
        .poll_messages(
            &named(stream),
            &named(topic),
            Some(partition),
            consumer,
            &strategy,
            count,
            auto_commit,
        )
        .await
        .unwrap();
    assert_eq!(polled.partition_id, partition);
    polled
        .messages
        .iter()
        .map(|message| {
            let text = String::from_utf8(message.payload.to_vec()).unwrap();
            (message.header.offset, text)
        })
        .collect()
}

fn expected(partition: u32, from: u32, to: u32) -> Vec<(u64, String)> {
    (from..to)
        .map(|n| (u64::from(n), format!("{partition}/{n}")))
        .collect()
}

async fn a_stock_client_works_through_every_node(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    for node in 0..3 {
        let client = cluster.client(node).await.unwrap();
        let stream = format!("stream-{node}");
        one_session(&client, &stream).await;
    }
    let client = cluster.client(0).await.unwrap();
    let names: Vec<_> = client
        .get_streams()
        .await
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    assert_eq!(names, ["stream-0", "stream-1", "stream-2"]);
    let stats = client.get_stats().await.unwrap();
    assert_eq!((stats.streams_count, stats.partitions_count), (3, 9));
    assert_eq!(stats.messages_count, 3 * 3 * u64::from(MESSAGES));
    let roster = client.get_cluster_metadata().await.unwrap();
    assert_eq!(roster.nodes.len(), 3);
    assert_eq!(
        roster
            .nodes
            .iter()
            .filter(|n| n.role == ClusterNodeRole::Leader)
            .count(),
        1
    );
    assert!(
        roster
            .nodes
            .iter()
            .all(|node| node.status == ClusterNodeStatus::Healthy)
    );
    let me = client.get_me().await.unwrap();
    assert_eq!(me.user_id, Some(0));
}

async fn one_session(client: &IggyClient, stream: &str) {
    let created = client.create_stream(stream).await.unwrap();
    assert_eq!(created.name, stream);
    let topic = create_topic(client, stream, "topic").await;
    assert_eq!(topic.partitions_count, PARTITIONS);
    for partition in 0..PARTITIONS {
        send(client, stream, "topic", partition, 0, MESSAGES).await;
    }
    let consumer = Consumer::new(named("reader"));
    for partition in 0..PARTITIONS {
        let poll = async |strategy, count, commit| {
            poll(
                client,
                At(stream, "topic", partition),
                &consumer,
                strategy,
                count,
                commit,
            )
            .await
        };
        assert_eq!(
            poll(PollingStrategy::first(), 1_000, false).await,
            expected(partition, 0, 100)
        );
        assert_eq!(
            poll(PollingStrategy::offset(42), 3, false).await,
            expected(partition, 42, 45)
        );
        assert_eq!(
            poll(PollingStrategy::last(), 5, false).await,
            expected(partition, 95, 100)
        );
        // Auto-commit advances the offset, also on the connection to the owner.
        assert_eq!(
            poll(PollingStrategy::next(), 30, true).await,
            expected(partition, 0, 30)
        );
        assert_eq!(
            poll(PollingStrategy::next(), 30, true).await,
            expected(partition, 30, 60)
        );
    }
    offsets(client, stream, &consumer).await;
    errors(client, stream).await;
    let details = client
        .get_topic(&named(stream), &named("topic"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(details.messages_count, u64::from(PARTITIONS * MESSAGES));
    assert!(
        details
            .partitions
            .iter()
            .all(|p| p.current_offset == u64::from(MESSAGES) - 1)
    );
}

async fn offsets(client: &IggyClient, stream: &str, consumer: &Consumer) {
    let (stream, topic) = (named(stream), named("topic"));
    for partition in 0..PARTITIONS {
        let get = async || {
            client
                .get_consumer_offset(consumer, &stream, &topic, Some(partition))
                .await
                .unwrap()
        };
        assert_eq!(get().await.unwrap().stored_offset, 59);
        client
            .store_consumer_offset(consumer, &stream, &topic, Some(partition), 7)
            .await
            .unwrap();
        let stored = get().await.unwrap();
        assert_eq!((stored.stored_offset, stored.current_offset), (7, 99));
        let beyond = client
            .store_consumer_offset(consumer, &stream, &topic, Some(partition), 100)
            .await;
        assert!(
            matches!(beyond, Err(IggyError::InvalidOffset(_))),
            "{beyond:?}"
        );
        client
            .delete_consumer_offset(consumer, &stream, &topic, Some(partition))
            .await
            .unwrap();
        assert!(get().await.is_none());
        let again = client
            .delete_consumer_offset(consumer, &stream, &topic, Some(partition))
            .await;
        assert!(
            matches!(again, Err(IggyError::ConsumerOffsetNotFound(_))),
            "{again:?}"
        );
    }
}

async fn errors(client: &IggyClient, stream: &str) {
    let twice = client.create_stream(stream).await;
    assert!(
        matches!(twice, Err(IggyError::StreamNameAlreadyExists(_))),
        "{twice:?}"
    );
    let options = TopicCreateOptions::default();
    let twice = client.create_topic(&named(stream), "topic", &options).await;
    assert!(
        matches!(twice, Err(IggyError::TopicNameAlreadyExists(..))),
        "{twice:?}"
    );
    assert!(client.get_stream(&named("gone")).await.unwrap().is_none());
    assert!(
        client
            .get_topic(&named(stream), &named("gone"))
            .await
            .unwrap()
            .is_none()
    );
    let gone = client.delete_stream(&named("gone")).await;
    assert!(
        matches!(gone, Err(IggyError::StreamIdNotFound(_))),
        "{gone:?}"
    );
    let gone = client.delete_topic(&named(stream), &named("gone")).await;
    assert!(
        matches!(gone, Err(IggyError::TopicIdNotFound(..))),
        "{gone:?}"
    );
    let consumer = Consumer::default();
    let strategy = PollingStrategy::first();
    let gone = client
        .poll_messages(
            &named(stream),
            &named("topic"),
            Some(9),
            &consumer,
            &strategy,
            1,
            false,
        )
        .await;
    assert!(
        matches!(gone, Err(IggyError::PartitionNotFound(..))),
        "{gone:?}"
    );
}

async fn streams_and_topics_are_renamed_grown_shrunk_and_deleted(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let client = cluster.client(1).await.unwrap();
    client.create_stream("old").await.unwrap();
    client
        .update_stream(&named("old"), "new", &StreamUpdateOptions::default())
        .await
        .unwrap();
    assert!(client.get_stream(&named("old")).await.unwrap().is_none());
    let options = TopicCreateOptions {
        partitions_count: Some(2),
        message_expiry: Some(IggyExpiry::from(3_600_000_000)),
        segment_size: Some(IggyByteSize::from(1 << 20)),
        durability: Durability::Persisted,
        ..TopicCreateOptions::default()
    };
    client
        .create_topic(&named("new"), "t", &options)
        .await
        .unwrap();
    let get = async || {
        client
            .get_topic(&named("new"), &named("t"))
            .await
            .unwrap()
            .unwrap()
    };
    let topic = get().await;
    assert_eq!(u64::from(topic.message_expiry), 3_600_000_000);
    send(&client, "new", "t", 1, 0, 10).await;
    client
        .create_partitions(&named("new"), &named("t"), 3)
        .await
        .unwrap();
    assert_eq!(get().await.partitions_count, 5);
    client
        .delete_partitions(&named("new"), &named("t"), 3)
        .await
        .unwrap();
    assert_eq!(get().await.partitions_count, 2);
    let read = poll(
        &client,
        At("new", "t", 1),
        &Consumer::default(),
        PollingStrategy::first(),
        100,
        false,
    )
    .await;
    assert_eq!(read, expected(1, 0, 10));
    // A topic that is created again under the same name is empty.
    client
        .delete_topic(&named("new"), &named("t"))
        .await
        .unwrap();
    create_topic(&client, "new", "t").await;
    let read = poll(
        &client,
        At("new", "t", 1),
        &Consumer::default(),
        PollingStrategy::first(),
        100,
        false,
    )
    .await;
    assert_eq!(read, []);
    client.delete_stream(&named("new")).await.unwrap();
    assert!(client.get_streams().await.unwrap().is_empty());
}

async fn wrong_credentials_are_refused(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 1).await.unwrap();
    for (user, password) in [("iggy", "wrong"), ("unknown", "iggy")] {
        let address = cluster.tcp(0);
        let client = TcpClient::create(std::sync::Arc::new(TcpClientConfig {
            server_address: address,
            ..TcpClientConfig::default()
        }))
        .unwrap();
        Client::connect(&client).await.unwrap();
        let refused = client.login_user(user, password).await;
        assert!(
            matches!(refused, Err(IggyError::InvalidCredentials)),
            "{refused:?}"
        );
    }
}

/// Messages and offsets are removed on every node, and offsets start at 0 again.
async fn a_purged_topic_is_empty_and_accepts_messages(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let client = cluster.client(0).await.unwrap();
    client.create_stream("s").await.unwrap();
    for topic in ["t", "u"] {
        create_topic(&client, "s", topic).await;
        for partition in 0..PARTITIONS {
            send(&client, "s", topic, partition, 0, 10).await;
        }
    }
    let consumer = Consumer::default();
    let (stream, topic) = (named("s"), named("t"));
    client
        .store_consumer_offset(&consumer, &stream, &topic, Some(0), 5)
        .await
        .unwrap();
    client.purge_topic(&stream, &topic).await.unwrap();
    let read = async |topic: &str, partition| {
        let first = PollingStrategy::first();
        poll(
            &client,
            At("s", topic, partition),
            &consumer,
            first,
            100,
            false,
        )
        .await
    };
    for partition in 0..PARTITIONS {
        assert_eq!(read("t", partition).await, []);
        assert_eq!(read("u", partition).await, expected(partition, 0, 10));
    }
    let offset = client
        .get_consumer_offset(&consumer, &stream, &topic, Some(0))
        .await
        .unwrap();
    assert!(offset.is_none());
    let topic = client.get_topic(&stream, &topic).await.unwrap().unwrap();
    assert_eq!(topic.messages_count, 0);
    send(&client, "s", "t", 1, 0, 3).await;
    assert_eq!(read("t", 1).await, expected(1, 0, 3));
    client.purge_stream(&stream).await.unwrap();
    assert_eq!(read("t", 1).await, []);
    assert_eq!(read("u", 0).await, []);
}

/// With a certificate that each node has created for itself, and that the client trusts.
async fn a_stock_client_works_over_tls(backend: Backend) {
    let tls = |config: &mut ClusterConfig| config.tcp.tls.enabled = true;
    let cluster = Cluster::start_with(NODE, backend, 1, tls).await.unwrap();
    let certificate = cluster.data(0).join("tls/iggy_cert.pem");
    let trusting = format!(
        "iggy://iggy:iggy@{}?tls=true&tls_ca_file={}",
        cluster.tcp(0),
        certificate.display()
    );
    let client = IggyClient::from_connection_string(&trusting).unwrap();
    client.connect().await.unwrap();
    client.create_stream("s").await.unwrap();
    assert_eq!(client.get_streams().await.unwrap().len(), 1);
    // Without TLS there is no reply.
    let plain = TcpClient::create(std::sync::Arc::new(TcpClientConfig {
        server_address: cluster.tcp(0),
        ..TcpClientConfig::default()
    }))
    .unwrap();
    Client::connect(&plain).await.unwrap();
    assert!(plain.login_user("iggy", "iggy").await.is_err());
    let refused = cluster.counter(0, "connections_refused").await.unwrap();
    assert_ne!(refused, 0);
}

on_each_backend! {
    a_stock_client_works_through_every_node
    a_stock_client_works_over_tls
    a_purged_topic_is_empty_and_accepts_messages
    streams_and_topics_are_renamed_grown_shrunk_and_deleted
    wrong_credentials_are_refused
}
