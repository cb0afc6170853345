//! Retention of messages, with stock clients.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::io::Cursor;
use std::time::Instant;

use iggy::prelude::*;
use integration_tests::{Backend, Cluster, PATIENCE, on_each_backend};
use local_cluster::get;
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_node");
const SEGMENT_BYTES: u64 = 1 << 20;
/// A few of these fill a segment.
const MESSAGE_BYTES: usize = 300_000;

fn named(name: &str) -> Identifier {
    Identifier::named(name).unwrap()
}

async fn cluster(backend: Backend) -> Cluster {
    Cluster::start_with(NODE, backend, 3, |config| {
        config.data_maintenance.messages.interval = "50ms".parse().unwrap();
    })
    .await
    .unwrap()
}

async fn topic(client: &IggyClient, name: &str, message_expiry: Option<IggyExpiry>) {
    if client.get_stream(&named("s")).await.unwrap().is_none() {
        client.create_stream("s").await.unwrap();
    }
    let options = TopicCreateOptions {
        partitions_count: Some(1),
        message_expiry,
        segment_size: Some(IggyByteSize::from(SEGMENT_BYTES)),
        ..TopicCreateOptions::default()
    };
    client
        .create_topic(&named("s"), name, &options)
        .await
        .unwrap();
}

/// Sends one message at a time, so that segments are sealed between them.
async fn send(client: &IggyClient, topic: &str, count: usize) {
    for _ in 0..count {
        let payload = bytes::Bytes::from(vec![b'x'; MESSAGE_BYTES]);
        let mut messages = [IggyMessage::builder().payload(payload).build().unwrap()];
        let to = Partitioning::partition_id(0);
        client
            .send_messages(&named("s"), &named(topic), &to, &mut messages)
            .await
            .unwrap();
    }
}

async fn first_offset(client: &IggyClient, topic: &str) -> u64 {
    let polled = client
        .poll_messages(
            &named("s"),
            &named(topic),
            Some(0),
            &Consumer::new(named("looks")),
            &PollingStrategy::first(),
            1,
            false,
        )
        .await
        .unwrap();
    polled.messages[0].header.offset
}

/// Waits until the partition starts at or after this offset.
async fn starts_at(client: &IggyClient, topic: &str, offset: u64) {
    let started = Instant::now();
    while first_offset(client, topic).await < offset {
        assert!(started.elapsed() < PATIENCE, "nothing was removed");
        tokio::task::yield_now().await;
    }
}

async fn expired_messages_are_removed_when_every_consumer_has_read_them(backend: Backend) {
    let mut cluster = cluster(backend).await;
    let client = cluster.client(0).await.unwrap();
    let expiry = IggyExpiry::ExpireDuration(IggyDuration::from(1_000));
    topic(&client, "keeps", None).await;
    topic(&client, "expires", Some(expiry)).await;
    let reader = Consumer::new(named("reader"));
    // A consumer has read the first message, and nothing else.
    send(&client, "expires", 1).await;
    client
        .store_consumer_offset(&reader, &named("s"), &named("expires"), Some(0), 0)
        .await
        .unwrap();
    for name in ["keeps", "expires"] {
        send(&client, name, 20).await;
    }
    assert_eq!(first_offset(&client, "expires").await, 0);
    client
        .store_consumer_offset(&reader, &named("s"), &named("expires"), Some(0), 20)
        .await
        .unwrap();
    starts_at(&client, "expires", 15).await;
    assert_eq!(first_offset(&client, "keeps").await, 0);
    // Offsets continue, also after a restart of all nodes.
    for node in 0..3 {
        cluster.kill(node).unwrap();
    }
    for node in 0..3 {
        cluster.start(node).unwrap();
    }
    cluster.ready().await.unwrap();
    let client = cluster.client(1).await.unwrap();
    send(&client, "expires", 1).await;
    let polled = client
        .poll_messages(
            &named("s"),
            &named("expires"),
            Some(0),
            &Consumer::new(named("looks")),
            &PollingStrategy::last(),
            1,
            false,
        )
        .await
        .unwrap();
    assert_eq!(polled.messages[0].header.offset, 21);
}

async fn segments_are_deleted_on_request(backend: Backend) {
    let cluster = cluster(backend).await;
    let client = cluster.client(0).await.unwrap();
    topic(&client, "t", None).await;
    // A segment that is full is sealed with its last message: one more is in the next.
    send(&client, "t", 21).await;
    let delete = |count| {
        let (s, t) = (named("s"), named("t"));
        let client = &client;
        async move { client.delete_segments(&s, &t, 0, count).await }
    };
    delete(0).await.unwrap();
    assert_eq!(first_offset(&client, "t").await, 0);
    delete(1).await.unwrap();
    let second = first_offset(&client, "t").await;
    assert!((2..=4).contains(&second), "{second}");
    delete(1_000).await.unwrap();
    let last = first_offset(&client, "t").await;
    assert!(
        last > second && last <= 20,
        "the segment in use stays: {last}"
    );
    let missing = client.delete_segments(&named("s"), &named("t"), 7, 1).await;
    assert_eq!(missing.unwrap_err().as_code(), 3007);
    let flush = client
        .flush_unsaved_buffer(&named("s"), &named("t"), 0, true)
        .await;
    assert_eq!(
        flush.unwrap_err().as_code(),
        5,
        "as Iggy's own server has it"
    );
}

/// As on Iggy's server, the message that fills a segment seals it: what was sent can be
/// deleted completely, without another message after it.
async fn a_segment_is_deleted_with_the_message_that_filled_it(backend: Backend) {
    let cluster = cluster(backend).await;
    let client = cluster.client(0).await.unwrap();
    topic(&client, "t", None).await;
    let per_segment = SEGMENT_BYTES.div_ceil(MESSAGE_BYTES as u64) as usize;
    send(&client, "t", 2 * per_segment).await;
    let (s, t) = (&named("s"), &named("t"));
    client.delete_segments(s, t, 0, 1).await.unwrap();
    assert_eq!(first_offset(&client, "t").await, per_segment as u64);
    client.delete_segments(s, t, 0, 1).await.unwrap();
    let topic = client.get_topic(s, t).await.unwrap().unwrap();
    assert_eq!(topic.messages_count, 0);
    assert_eq!(topic.partitions[0].segments_count, 1);
    // Offsets continue.
    send(&client, "t", 1).await;
    assert_eq!(first_offset(&client, "t").await, 2 * per_segment as u64);
}

/// A deletion that a consumer prevents succeeds as on Iggy's server. It is counted, the log
/// names the consumer, and an administrator finds and removes its offset.
async fn a_consumer_that_keeps_segments_is_named_and_can_be_removed(backend: Backend) {
    let cluster = cluster(backend).await;
    let client = cluster.client(0).await.unwrap();
    topic(&client, "t", None).await;
    // Three segments, and one message in the next.
    send(&client, "t", 13).await;
    let (s, t) = (&named("s"), &named("t"));
    let made_up = Consumer::new(named("made-up"));
    client
        .store_consumer_offset(&made_up, s, t, Some(0), 0)
        .await
        .unwrap();
    client.delete_segments(s, t, 0, 1_000).await.unwrap();
    assert_eq!(first_offset(&client, "t").await, 0);
    let mut listed = Vec::new();
    for node in 0..3 {
        let offsets = get(&cluster.admin(node), "/offsets/s/t").await.unwrap();
        let offsets: Value = serde_json::from_slice(&offsets).unwrap();
        let blocked = cluster.counter(node, "retention_blocked").await.unwrap();
        let Some(partition) = offsets["partitions"].get(0) else {
            assert_eq!(blocked, 0, "node {node} does not own the partition");
            continue;
        };
        let id = partition["offsets"][0]["id"].as_u64().unwrap() as u32;
        assert_eq!(blocked, 1);
        let log = cluster.last_lines(node);
        assert!(log.contains(&format!("consumer {id}")), "{log}");
        listed.push(id);
    }
    let [id] = listed[..] else {
        panic!("listed on several nodes: {listed:?}");
    };
    // The number means the same consumer as the name.
    let by_number = Consumer::new(Identifier::numeric(id).unwrap());
    client
        .delete_consumer_offset(&by_number, s, t, Some(0))
        .await
        .unwrap();
    client.delete_segments(s, t, 0, 1_000).await.unwrap();
    assert_ne!(first_offset(&client, "t").await, 0);
    let missing = get(&cluster.admin(0), "/offsets/s/none").await;
    assert!(missing.is_err(), "404");
}

async fn the_archive_describes_this_node(backend: Backend) {
    let cluster = cluster(backend).await;
    let client = cluster.client(0).await.unwrap();
    let archive = client
        .snapshot(SnapshotCompression::Deflated, vec![SystemSnapshotType::All])
        .await
        .unwrap();
    let mut archive = zip::ZipArchive::new(Cursor::new(archive.0)).unwrap();
    let stored = archive.by_index(0).unwrap().compression();
    assert_eq!(stored, zip::CompressionMethod::Stored);
    let mut text = |name: &str| {
        let file = archive.by_name(name).unwrap();
        std::io::read_to_string(file).unwrap()
    };
    assert!(text("filesystem_overview.txt").contains("meta/superblock"));
    assert!(text("resource_usage.txt").contains("VmRSS"));
    assert!(text("server_config.txt").contains("tcp_replica"));
    assert!(text("server_logs.txt").contains("registered"));
    assert!(!text("process_list.txt").is_empty());
    let two = vec![SystemSnapshotType::All, SystemSnapshotType::Test];
    let refused = client.snapshot(SnapshotCompression::Stored, two).await;
    assert!(refused.is_err(), "all stands alone");
}

on_each_backend! {
    expired_messages_are_removed_when_every_consumer_has_read_them
    segments_are_deleted_on_request
    a_segment_is_deleted_with_the_message_that_filled_it
    a_consumer_that_keeps_segments_is_named_and_can_be_removed
    the_archive_describes_this_node
}
