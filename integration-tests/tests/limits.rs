//! Limits of what a client may use or try.

#![expect(
    clippy::unwrap_used,
    reason = "a panic shows which line of a test failed"
)]

use std::sync::Arc;
use std::time::Duration;

use iggy::prelude::*;
use iggy_binary_protocol::consensus::Operation;
use iggy_cluster::config::{HumanDuration, HumanSize};
use integration_tests::{Backend, Cluster, on_each_backend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Waits until the node closes the connection, which it does without sending anything.
async fn closed(mut stream: TcpStream) {
    // A reset is an end as well.
    let read = stream.read(&mut [0; 16]).await.unwrap_or(0);
    assert_eq!(read, 0);
}

async fn an_address_has_a_limited_number_of_connections(backend: Backend) {
    let cluster = Cluster::start_with(NODE, backend, 1, |config| {
        config.tcp.connections_per_address_max = 2;
    })
    .await
    .unwrap();
    let client = cluster.client(0).await.unwrap();
    let second = TcpStream::connect(cluster.tcp(0)).await.unwrap();
    closed(TcpStream::connect(cluster.tcp(0)).await.unwrap()).await;
    // Open connections are still served.
    client.create_stream("one").await.unwrap();
    // A connection that is closed makes room.
    drop(second);
    loop {
        let mut next = TcpStream::connect(cluster.tcp(0)).await.unwrap();
        let mut byte = [0; 1];
        let read = tokio::time::timeout(Duration::from_millis(100), next.read(&mut byte));
        if read.await.is_err() {
            break;
        }
    }
}

async fn connections_without_a_login_are_closed_and_others_stay(backend: Backend) {
    let cluster = Cluster::start_with(NODE, backend, 1, |config| {
        config.tcp.login_timeout = HumanDuration::from_millis(200);
    })
    .await
    .unwrap();
    let client = cluster.client(0).await.unwrap();
    closed(TcpStream::connect(cluster.tcp(0)).await.unwrap()).await;
    client.create_stream("still-here").await.unwrap();
}

/// Pings before a login are answered, and do not replace it.
async fn pings_do_not_replace_a_login(backend: Backend) {
    let cluster = Cluster::start_with(NODE, backend, 1, |config| {
        config.tcp.login_timeout = HumanDuration::from_millis(200);
    })
    .await
    .unwrap();
    let mut stream = TcpStream::connect(cluster.tcp(0)).await.unwrap();
    let mut ping = [0; 256];
    ping[48..52].copy_from_slice(&256_u32.to_le_bytes());
    ping[60] = 5;
    ping[128] = 7;
    ping[176] = Operation::NonReplicated as u8;
    ping[196] = 1;
    let pings = async {
        while stream.write_all(&ping).await.is_ok() {
            if stream.read_exact(&mut [0; 256]).await.is_err() {
                break;
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), pings).await;
    assert!(ended.is_ok(), "a connection with only pings stays open");
}

/// Frames that are too long for a login are not even read before one.
async fn long_frames_require_a_login(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 1).await.unwrap();
    let mut stream = TcpStream::connect(cluster.tcp(0)).await.unwrap();
    let mut frame = vec![0; 1 << 20];
    frame[48..52].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    frame[60] = 5;
    frame[128] = 7;
    frame[176] = Operation::NonReplicated as u8;
    frame[196] = 101;
    stream.write_all(&frame).await.unwrap();
    let mut reply = [0; 256];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(u32::from_le_bytes(reply[216..220].try_into().unwrap()), 40);
}

/// The client receives the error although it is still sending the frame.
async fn a_frame_that_is_too_large_is_answered_with_the_limit(backend: Backend) {
    let cluster = Cluster::start_with(NODE, backend, 1, |config| {
        config.tcp.frame_size_max = HumanSize::from_mib(1);
    })
    .await
    .unwrap();
    let client = cluster.client(0).await.unwrap();
    let named = |name| Identifier::named(name).unwrap();
    client.create_stream("s").await.unwrap();
    let options = TopicCreateOptions::default();
    client
        .create_topic(&named("s"), "t", &options)
        .await
        .unwrap();
    let message = IggyMessage::builder()
        .payload(vec![7; 20 << 20].into())
        .build();
    let sent = client
        .send_messages(
            &named("s"),
            &named("t"),
            &Partitioning::partition_id(0),
            &mut [message.unwrap()],
        )
        .await;
    assert_eq!(sent.unwrap_err(), IggyError::TooBigMessagePayload);
}

async fn wrong_passwords_are_counted_and_right_ones_still_work(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 1).await.unwrap();
    let refused = cluster.counter(0, "logins_refused").await.unwrap();
    for _ in 0..3 {
        let client = TcpClient::create(Arc::new(TcpClientConfig {
            server_address: cluster.tcp(0),
            ..TcpClientConfig::default()
        }))
        .unwrap();
        Client::connect(&client).await.unwrap();
        client.login_user("iggy", "wrong").await.unwrap_err();
    }
    let now = cluster.counter(0, "logins_refused").await.unwrap();
    assert_eq!(now, refused + 3);
    cluster.client(0).await.unwrap();
}

on_each_backend! {
    an_address_has_a_limited_number_of_connections
    connections_without_a_login_are_closed_and_others_stay
    pings_do_not_replace_a_login
    long_frames_require_a_login
    a_frame_that_is_too_large_is_answered_with_the_limit
    wrong_passwords_are_counted_and_right_ones_still_work
}
