//! Nodes of this version open the data of the version before.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use integration_tests::{Backend, Cluster, fixture, on_each_backend};

const NODE: &str = env!("CARGO_BIN_EXE_node");

on_each_backend! {
    a_node_serves_the_data_of_version_0_1
}

async fn a_node_serves_the_data_of_version_0_1(backend: Backend) {
    let mut cluster = Cluster::prepare(NODE, backend, 1, fixture::configure).unwrap();
    fixture::copy_whole(&fixture::dir("0.1", backend), &cluster.data(0)).unwrap();
    cluster.start(0).unwrap();
    cluster.ready().await.unwrap();
    fixture::check(&cluster).await.unwrap();
    // And once more, from what this version has written.
    cluster.kill(0).unwrap();
    cluster.start(0).unwrap();
    cluster.ready().await.unwrap();
    let streams = cluster.client(0).await.unwrap();
    let streams = iggy::prelude::StreamClient::get_streams(&streams).await;
    assert!(streams.unwrap().iter().any(|stream| stream.name == "new"));
}
