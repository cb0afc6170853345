//! Nodes that are killed.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

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

/// Creates streams until `count` are acknowledged, whatever happens meanwhile.
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
        cluster.run(leader).unwrap();
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
        cluster.run(node).unwrap();
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

/// Its log ends before those of the others begin.
async fn a_node_that_was_away_for_long_comes_back_by_snapshot_and_log(backend: Backend) {
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
    // Snapshots are stored beside the commands, in their own time.
    for other in [leader, (leader + 2) % 3] {
        cluster
            .counted(other, "snapshots_taken")
            .await
            .expect("a snapshot that cuts the log");
    }
    cluster.run(away).unwrap();
    cluster.ready().await.unwrap();
    let client = cluster.client(away).await.unwrap();
    assert_eq!(stream_names(&client).await, created);
    let installed = cluster.counter(away, "snapshots_installed").await.unwrap();
    assert_ne!(installed, 0);
}

/// It has acknowledged what it does not remember any more.
async fn a_node_whose_disk_is_gone_is_refused_until_it_is_back(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let client = cluster.client(0).await.unwrap();
    let created = create(&client, "kept", 3).await;
    cluster.kill(2).unwrap();
    let (data, aside) = (cluster.data(2), cluster.data(9));
    std::fs::rename(&data, &aside).unwrap();
    cluster.run(2).unwrap();
    let said = cluster.refused(2).await.unwrap();
    assert!(said.contains("its disk is lost"), "{said}");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&aside, &data).unwrap();
    cluster.run(2).unwrap();
    cluster.ready().await.unwrap();
    let client = cluster.client(2).await.unwrap();
    assert_eq!(stream_names(&client).await, created);
}

/// The others go on meanwhile; it is told apart from one whose disk is gone.
async fn a_node_that_comes_late_for_the_first_time_begins(backend: Backend) {
    let mut cluster = Cluster::prepare(NODE, backend, 3, |_| {}).unwrap();
    for early in 0..2 {
        cluster.format(early).unwrap();
        cluster.run(early).unwrap();
    }
    cluster.ready().await.unwrap();
    let client = cluster.client(0).await.unwrap();
    let created = create(&client, "early", 3).await;
    cluster.run(2).unwrap();
    cluster.ready().await.unwrap();
    let client = cluster.client(2).await.unwrap();
    assert_eq!(stream_names(&client).await, created);
}

/// Messages are on one node: while it is away, nothing looks empty.
async fn partitions_of_a_dead_node_answer_with_a_transient_error_and_come_back(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
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
    // Partitions were dealt in the order of the nodes' numbers.
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
    cluster.run(away).unwrap();
    cluster.ready().await.unwrap();
    assert_eq!(poll(away).await.unwrap().messages.len(), 1);
}

/// The roster, when it says this of a node. A client that was at a node that died
/// reports that once and goes to another.
async fn roster_once(
    client: &IggyClient,
    node: usize,
    status: ClusterNodeStatus,
) -> Vec<ClusterNode> {
    let asked = async {
        loop {
            if let Ok(roster) = client.get_cluster_metadata().await
                && roster.nodes[node].status == status
            {
                return roster.nodes;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asked)
        .await
        .unwrap_or_else(|_| panic!("node {node} is never {status}"))
}

async fn the_roster_tells_who_is_away_and_who_leads(backend: Backend) {
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
    cluster.run(dead).unwrap();
    roster_once(&client, dead.into(), ClusterNodeStatus::Healthy).await;
}

/// A client that is told an address for its network, and reaches the others by it.
async fn a_client_is_told_the_addresses_for_its_network(backend: Backend) {
    let cluster = Cluster::start_with(NODE, backend, 3, |config| {
        for node in &mut config.cluster.nodes {
            // Nobody is there.
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
    the_roster_tells_who_is_away_and_who_leads
    a_client_is_told_the_addresses_for_its_network
    a_killed_leader_loses_nothing_acknowledged
    the_whole_cluster_is_killed_and_comes_back_with_everything
    a_node_that_was_away_for_long_comes_back_by_snapshot_and_log
    a_node_whose_disk_is_gone_is_refused_until_it_is_back
    a_node_that_comes_late_for_the_first_time_begins
    partitions_of_a_dead_node_answer_with_a_transient_error_and_come_back
}
