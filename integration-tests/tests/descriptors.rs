//! Nodes that may have few files and connections open.

#![expect(
    clippy::unwrap_used,
    reason = "a panic shows which line of a test failed"
)]

use std::time::Duration;

use iggy::prelude::*;
use iggy_cluster::config::{ClusterConfig, HumanSize};
use integration_tests::{Backend, Cluster, on_each_backend};
use tokio::net::TcpStream;

const NODE: &str = env!("CARGO_BIN_EXE_node");
/// Commands that fill more than one segment of the log: each is written in whole blocks.
const COMMANDS: u32 = 150;

fn small_segments(config: &mut ClusterConfig) {
    let consensus = &mut config.cluster.consensus;
    consensus.batch_size_max = "64 KiB".parse::<HumanSize>().unwrap();
    consensus.wal_segment_size = "256 KiB".parse::<HumanSize>().unwrap();
}

async fn create_streams(client: &IggyClient, name: &str) {
    for number in 0..COMMANDS {
        client
            .create_stream(&format!("{name}-{number}"))
            .await
            .unwrap();
    }
}

/// More connections on every port of two nodes than they have descriptors for; nothing is sent
/// on them. The log opens segments meanwhile, and a client can log in.
async fn idle_connections_on_every_port_stop_no_node(backend: Backend) {
    let open_files = 144;
    let start = Cluster::start_with_open_files(NODE, backend, 3, open_files, small_segments);
    let mut cluster = start.await.unwrap();
    let mut idle = Vec::new();
    for node in [1, 2] {
        for address in [
            cluster.tcp(node),
            cluster.replica(node),
            cluster.admin(node),
        ] {
            for _ in 0..150 {
                // The queue of connections that are not accepted may be full.
                let connect = TcpStream::connect(address.clone());
                let connected = tokio::time::timeout(Duration::from_secs(1), connect);
                idle.extend(connected.await.ok().and_then(Result::ok));
            }
        }
    }
    assert!(idle.len() > 2 * 150, "the connections were not even opened");
    for node in 0..3 {
        let client = cluster.client(node).await.unwrap();
        create_streams(&client, &format!("node-{node}")).await;
    }
    for node in 0..3 {
        assert!(cluster.is_running(node), "{}", cluster.last_lines(node));
    }
    drop(idle);
}

/// As if another part of the process had all descriptors, for as long as the log waits.
async fn a_log_without_a_descriptor_waits_for_one(backend: Backend) {
    let mut cluster = Cluster::start_with(NODE, backend, 1, small_segments)
        .await
        .unwrap();
    let client = cluster.client(0).await.unwrap();
    cluster.limit_open_files(0, 8).unwrap();
    let creating = tokio::spawn(async move { create_streams(&client, "stream").await });
    cluster
        .logged(0, "the log waits for a file descriptor")
        .await
        .unwrap();
    assert!(cluster.is_running(0), "{}", cluster.last_lines(0));
    cluster.limit_open_files(0, 1_000).unwrap();
    creating.await.unwrap();
    assert!(cluster.is_running(0), "{}", cluster.last_lines(0));
}

on_each_backend! {
    idle_connections_on_every_port_stop_no_node
    a_log_without_a_descriptor_waits_for_one
}
