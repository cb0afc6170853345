//! Nodes that are killed.

#![expect(
    clippy::unwrap_used,
    reason = "a panic shows which line of a test failed"
)]

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use iggy::prelude::*;
use iggy_cluster::config::AdvertisedAddress;
use integration_tests::{Backend, Cluster, on_each_backend};

const NODE: &str = env!("CARGO_BIN_EXE_node");

fn named(name: &str) -> Identifier {
    Identifier::named(name).expect("a name")
}

async fn stream_names(client: &IggyClient) -> BTreeSet<String> {
    let streams = client.get_streams().await.expect("a list");
    streams.into_iter().map(|stream| stream.name).collect()
}

/// Creates streams until `count` are acknowledged, whatever fails in the meantime.
async fn create(client: &IggyClient, prefix: &str, count: usize) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for number in 0.. {
        if acknowledged.len() == count {
            break;
        }
        let name = format!("{prefix}-{number}");
        if client.create_stream(&name).await.is_ok() {
            acknowledged.insert(name);
        }
    }
    acknowledged
}

async fn a_killed_leader_loses_nothing_acknowledged(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        let leader = cluster.leader().await.unwrap();
        let client = cluster.client(leader).await.unwrap();
        let before = create(&client, &format!("before-{round}"), 50).await;
        acknowledged.extend(before);
        let load =
            tokio::spawn(async move { create(&client, &format!("during-{round}"), 200).await });
        cluster.kill(leader).unwrap();
        acknowledged.extend(load.await.unwrap());
        cluster.start(leader).unwrap();
        cluster.ready().await.unwrap();
        for node in 0..3 {
            let client = cluster.client(node).await.unwrap();
            let names = stream_names(&client).await;
            let lost: Vec<_> = acknowledged.difference(&names).collect();
            assert!(lost.is_empty(), "node {node} lost {lost:?}");
        }
    }
}

async fn the_whole_cluster_is_killed_and_comes_back_with_everything(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let client = cluster.client(0).await.unwrap();
    let streams = create(&client, "s", 100).await;
    let options = TopicCreateOptions {
        partitions_count: Some(3),
        ..TopicCreateOptions::default()
    };
    client
        .create_topic(&named("s-0"), "t", &options)
        .await
        .unwrap();
    let consumer = Consumer::new(named("c"));
    for partition in 0..3 {
        let mut messages: Vec<_> = (0..50)
            .map(|n| IggyMessage::from_str(&format!("{n}")).unwrap())
            .collect();
        let to = Partitioning::partition_id(partition);
        client
            .send_messages(&named("s-0"), &named("t"), &to, &mut messages)
            .await
            .unwrap();
        client
            .store_consumer_offset(&consumer, &named("s-0"), &named("t"), Some(partition), 20)
            .await
            .unwrap();
    }
    for node in 0..3 {
        cluster.kill(node).unwrap();
    }
    for node in 0..3 {
        cluster.start(node).unwrap();
    }
    cluster.ready().await.unwrap();
    let client = cluster.client(2).await.unwrap();
    assert_eq!(stream_names(&client).await, streams);
    for partition in 0..3 {
        let polled = client
            .poll_messages(
                &named("s-0"),
                &named("t"),
                Some(partition),
                &consumer,
                &PollingStrategy::next(),
                100,
                false,
            )
            .await
            .unwrap();
        let offsets: Vec<_> = polled.messages.iter().map(|m| m.header.offset).collect();
        assert_eq!(offsets, (21..50).collect::<Vec<_>>());
    }
}

/// Its log ends before the logs of the others start.
async fn a_node_that_was_down_for_long_returns_by_snapshot_and_log(backend: Backend) {
    let mut cluster = Cluster::start_with(NODE, backend, 3, |config| {
        config.cluster.consensus.snapshot_entries = 50;
        config.cluster.consensus.log_tail_entries = 10;
    })
    .await
    .unwrap();
    let leader = cluster.leader().await.unwrap();
    let away = (leader + 1) % 3;
    cluster.kill(away).unwrap();
    let client = cluster.client(leader).await.unwrap();
    let created = create(&client, "while-away", 130).await;
    // Snapshots are stored concurrently with commands.
    for other in [leader, (leader + 2) % 3] {
        cluster
            .counted(other, "snapshots_taken")
            .await
            .expect("a snapshot that cuts the log");
    }
    cluster.start(away).unwrap();
    cluster.ready().await.unwrap();
    let client = cluster.client(away).await.unwrap();
    assert_eq!(stream_names(&client).await, created);
    let installed = cluster.counter(away, "snapshots_installed").await.unwrap();
    assert_ne!(installed, 0);
}

/// It does not have what it has acknowledged any more.
async fn a_node_whose_disk_is_lost_is_refused_until_it_is_back(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let client = cluster.client(0).await.unwrap();
    let created = create(&client, "kept", 3).await;
    cluster.kill(2).unwrap();
    let (data, aside) = (cluster.data(2), cluster.data(9));
    std::fs::rename(&data, &aside).unwrap();
    cluster.start(2).unwrap();
    let text = cluster.refused(2).await.unwrap();
    assert!(text.contains("its disk is lost"), "{text}");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&aside, &data).unwrap();
    cluster.start(2).unwrap();
    cluster.ready().await.unwrap();
    let client = cluster.client(2).await.unwrap();
    assert_eq!(stream_names(&client).await, created);
}

/// The others serve clients in the meantime. It is distinguished from a node whose disk is
/// lost.
async fn a_node_that_starts_late_for_the_first_time_joins(backend: Backend) {
    let mut cluster = Cluster::prepare(NODE, backend, 3, |_| {}).unwrap();
    for early in 0..2 {
        cluster.format(early).unwrap();
        cluster.start(early).unwrap();
    }
    cluster.ready().await.unwrap();
    let client = cluster.client(0).await.unwrap();
    let created = create(&client, "early", 3).await;
    cluster.start(2).unwrap();
    cluster.ready().await.unwrap();
    let client = cluster.client(2).await.unwrap();
    assert_eq!(stream_names(&client).await, created);
}

/// Messages are on one node: while it is down, its partitions do not look empty.
async fn partitions_of_a_dead_node_answer_with_a_transient_error_and_come_back(backend: Backend) {
    let started = Cluster::start_with(NODE, backend, 3, |config| {
        config.cluster.default_replication_factor = 1;
    });
    let mut cluster = started.await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let client = cluster.client(leader).await.unwrap();
    client.create_stream("s").await.unwrap();
    let options = TopicCreateOptions {
        partitions_count: Some(3),
        ..TopicCreateOptions::default()
    };
    client
        .create_topic(&named("s"), "t", &options)
        .await
        .unwrap();
    for partition in 0..3 {
        let mut messages = vec![IggyMessage::from_str("kept").unwrap()];
        let to = Partitioning::partition_id(partition);
        client
            .send_messages(&named("s"), &named("t"), &to, &mut messages)
            .await
            .unwrap();
    }
    let away = (leader + 1) % 3;
    cluster.kill(away).unwrap();
    // Partitions were placed in the order of the nodes' replica ids.
    let poll = async |partition: u8| {
        let consumer = Consumer::default();
        client
            .poll_messages(
                &named("s"),
                &named("t"),
                Some(partition.into()),
                &consumer,
                &PollingStrategy::first(),
                10,
                false,
            )
            .await
    };
    let refused = poll(away).await;
    assert!(
        matches!(refused, Err(IggyError::TransientNotAccepted)),
        "{refused:?}"
    );
    assert_eq!(poll(leader).await.unwrap().messages.len(), 1);
    cluster.start(away).unwrap();
    cluster.ready().await.unwrap();
    assert_eq!(poll(away).await.unwrap().messages.len(), 1);
}

/// Waits until the roster has this status for a node. A client whose node has died returns
/// an error once, and then connects to another node.
async fn roster_once(
    client: &IggyClient,
    node: usize,
    status: ClusterNodeStatus,
) -> Vec<ClusterNode> {
    let found = async {
        loop {
            if let Ok(roster) = client.get_cluster_metadata().await
                && roster.nodes[node].status == status
            {
                return roster.nodes;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found)
        .await
        .unwrap_or_else(|_| panic!("node {node} is never {status}"))
}

async fn the_roster_shows_dead_nodes_and_the_leader(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let dead = cluster.leader().await.unwrap();
    let client = cluster.client((dead + 1) % 3).await.unwrap();
    cluster.kill(dead).unwrap();
    let roster = roster_once(&client, dead.into(), ClusterNodeStatus::Unreachable).await;
    let leaders = roster
        .iter()
        .enumerate()
        .filter(|(_, node)| node.role == ClusterNodeRole::Leader);
    let leaders: Vec<_> = leaders.map(|(number, _)| number).collect();
    assert_eq!(leaders, [usize::from(cluster.leader().await.unwrap())]);
    assert_ne!(leaders, [usize::from(dead)]);
    cluster.start(dead).unwrap();
    roster_once(&client, dead.into(), ClusterNodeStatus::Healthy).await;
}

/// A client receives the addresses for its network, and reaches the other nodes at them.
async fn a_client_receives_the_addresses_for_its_network(backend: Backend) {
    let cluster = Cluster::start_with(NODE, backend, 3, |config| {
        for node in &mut config.cluster.nodes {
            // No host has this address.
            node.advertised_address = Some("192.0.2.1".into());
            node.advertised_addresses = vec![AdvertisedAddress {
                client_cidr: "127.0.0.0/8".parse().unwrap(),
                address: "localhost".into(),
            }];
        }
    })
    .await
    .unwrap();
    for node in 0..3 {
        let client = cluster.client(node).await.unwrap();
        for other in client.get_cluster_metadata().await.unwrap().nodes {
            assert_eq!(other.ip, "localhost");
        }
    }
}

on_each_backend! {
    the_roster_shows_dead_nodes_and_the_leader
    a_client_receives_the_addresses_for_its_network
    a_killed_leader_loses_nothing_acknowledged
    the_whole_cluster_is_killed_and_comes_back_with_everything
    a_node_that_was_down_for_long_returns_by_snapshot_and_log
    a_node_whose_disk_is_lost_is_refused_until_it_is_back
    a_node_that_starts_late_for_the_first_time_joins
    partitions_of_a_dead_node_answer_with_a_transient_error_and_come_back
}
