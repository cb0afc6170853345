//! Who belongs to a cluster: nodes with other lists, other disks or older ones.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::path::Path;

use iggy::prelude::*;
use iggy_cluster::Node;
use iggy_cluster::config::ClusterConfig;
use integration_tests::{Backend, Cluster, on_each_backend};

const NODE: &str = env!("CARGO_BIN_EXE_node");

on_each_backend! {
    a_node_that_has_run_does_not_start_with_another_list
    a_new_node_with_another_list_does_not_join
    a_disk_that_was_formatted_again_is_refused_by_all_and_stops
    a_lost_disk_is_refused_after_the_only_start_too
    the_format_of_a_node_that_the_others_know_is_refused
}

async fn create(client: &IggyClient, name: &str) {
    client.create_stream(name).await.unwrap();
}

async fn streams(client: &IggyClient) -> Vec<String> {
    let streams = client.get_streams().await.unwrap();
    let mut names: Vec<_> = streams.into_iter().map(|stream| stream.name).collect();
    names.sort_unstable();
    names
}

/// The file that all nodes read from now on.
fn write(cluster: &Cluster, config: &ClusterConfig) {
    std::fs::write(cluster.config_file(), config.to_toml().unwrap()).unwrap();
}

/// The file of a cluster, with only so many of its nodes.
fn write_list(cluster: &Cluster, nodes: usize) -> ClusterConfig {
    let mut config = cluster.config().clone();
    config.cluster.nodes.truncate(nodes);
    write(cluster, &config);
    config
}

/// Alone, it would lead and acknowledge while the others do.
async fn a_node_that_has_run_does_not_start_with_another_list(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    create(&cluster.client(1).await.unwrap(), "before").await;
    cluster.kill(0).unwrap();
    let whole = cluster.config().clone();
    write_list(&cluster, 1);
    cluster.start(0).unwrap();
    let text = cluster.refused(0).await.unwrap();
    assert!(
        text.contains("of the replicas 0, 1, 2, but the configuration lists 0;"),
        "{text}"
    );
    create(&cluster.client(1).await.unwrap(), "meanwhile").await;
    // Corrected, it is whole.
    write(&cluster, &whole);
    cluster.start(0).unwrap();
    cluster.ready().await.unwrap();
    let client = cluster.client(0).await.unwrap();
    assert_eq!(streams(&client).await, ["before", "meanwhile"]);
}

async fn a_new_node_with_another_list_does_not_join(backend: Backend) {
    let mut cluster = Cluster::prepare(NODE, backend, 4, |_| {}).unwrap();
    let four = cluster.config().clone();
    let mut three = write_list(&cluster, 3);
    for node in 0..2 {
        three.storage.path = cluster.data(node);
        Node::format(&three, node).unwrap();
        cluster.start(node).unwrap();
    }
    cluster.ready().await.unwrap();
    write(&cluster, &four);
    for (node, expected) in [
        (
            2,
            "is configured with the replicas 0, 1, 2, this node with 0, 1, 2, 3;",
        ),
        (3, "which lists 0, 1, 2; give all nodes the same list"),
    ] {
        cluster.start(node).unwrap();
        let text = cluster.refused(node).await.unwrap();
        assert!(text.contains(expected), "{text}");
    }
}

fn remove(path: &Path) {
    std::fs::remove_dir_all(path).unwrap();
}

/// It has forgotten what it has acknowledged, and its incarnation with it.
async fn a_disk_that_was_formatted_again_is_refused_by_all_and_stops(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    create(&cluster.client(0).await.unwrap(), "kept").await;
    // A later start than the first of a new disk.
    cluster.kill(2).unwrap();
    cluster.start(2).unwrap();
    cluster.ready().await.unwrap();
    cluster.kill(2).unwrap();
    let (data, aside) = (cluster.data(2), cluster.data(9));
    std::fs::rename(&data, &aside).unwrap();
    // As `format --skip-peer-check` does.
    cluster.format(2).unwrap();
    cluster.start(2).unwrap();
    let text = cluster.refused(2).await.unwrap();
    let expected = "replica 2 presents incarnation 1, but has run as incarnation 2";
    assert!(text.contains(expected), "{text}");
    create(&cluster.client(0).await.unwrap(), "without it").await;
    // The right directory is not affected by that.
    remove(&data);
    std::fs::rename(&aside, &data).unwrap();
    cluster.start(2).unwrap();
    cluster.ready().await.unwrap();
    let client = cluster.client(2).await.unwrap();
    assert_eq!(streams(&client).await, ["kept", "without it"]);
}

/// The number of its start is the registered one, and higher after a supervisor has started
/// it again. It is on another disk.
async fn a_lost_disk_is_refused_after_the_only_start_too(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    create(&cluster.client(0).await.unwrap(), "kept").await;
    cluster.kill(2).unwrap();
    let (data, aside) = (cluster.data(2), cluster.data(9));
    std::fs::rename(&data, &aside).unwrap();
    // As `format --skip-peer-check` does.
    cluster.format(2).unwrap();
    for _ in 0..2 {
        cluster.start(2).unwrap();
        let text = cluster.refused(2).await.unwrap();
        let expected = "replica 2 runs on disk ";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains(", but has had disk "), "{text}");
        create(&cluster.client(0).await.unwrap(), "without it").await;
        let client = cluster.client(0).await.unwrap();
        client
            .delete_stream(&"without it".try_into().unwrap())
            .await
            .unwrap();
    }
    remove(&data);
    std::fs::rename(&aside, &data).unwrap();
    cluster.start(2).unwrap();
    cluster.ready().await.unwrap();
    let client = cluster.client(2).await.unwrap();
    assert_eq!(streams(&client).await, ["kept"]);
}

async fn the_format_of_a_node_that_the_others_know_is_refused(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    cluster.kill(2).unwrap();
    remove(&cluster.data(2));
    let mut config = cluster.config().clone();
    config.storage.path = cluster.data(2);
    let refused = Node::format_unless_known(&config, 2).await.unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("knows this replica as one that has run"),
        "{text}"
    );
    // Without one that can be reached, nothing contradicts it.
    cluster.kill(0).unwrap();
    cluster.kill(1).unwrap();
    let unconfirmed = Node::format_unless_known(&config, 2).await.unwrap();
    assert_eq!(unconfirmed, [0, 1]);
    // It asks again when it starts: here its only start so far has the number of the next.
    for node in 0..3 {
        cluster.start(node).unwrap();
    }
    let text = cluster.refused(2).await.unwrap();
    assert!(text.contains("was initialized anew, but replica"), "{text}");
}
