//! What a stock client receives where it could expect something else: the answers of Iggy's
//! own server, or those that `docs/reference/compatibility.md` names.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::sync::Arc;

use bytes::Bytes;
use iggy::prelude::*;
use iggy_binary_protocol::COMMAND_TABLE;
use iggy_common::{BinaryTransport, SemanticVersion};
use integration_tests::{Backend, Cluster, on_each_backend};

const NODE: &str = env!("CARGO_BIN_EXE_node");

fn named(name: &str) -> Identifier {
    Identifier::named(name).unwrap()
}

/// A client that can send commands by their codes.
async fn raw(cluster: &Cluster) -> TcpClient {
    let client = TcpClient::create(Arc::new(TcpClientConfig {
        server_address: cluster.tcp(0),
        ..TcpClientConfig::default()
    }))
    .unwrap();
    Client::connect(&client).await.unwrap();
    client.login_user("iggy", "iggy").await.unwrap();
    client
}

/// What does not exist is not an error of a query, except for the groups of a topic.
async fn what_does_not_exist_is_empty_or_none(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 1).await.unwrap();
    let client = cluster.client(0).await.unwrap();
    let (no_stream, s, t) = (&named("none"), &named("s"), &named("t"));
    client.create_stream("s").await.unwrap();
    let options = TopicCreateOptions::default();
    client.create_topic(s, "t", &options).await.unwrap();
    assert!(client.get_topics(no_stream).await.unwrap().is_empty());
    assert!(client.get_stream(no_stream).await.unwrap().is_none());
    for stream in [no_stream, s] {
        let topic = client.get_topic(stream, &named("none")).await.unwrap();
        assert!(topic.is_none());
    }
    let group = client.get_consumer_group(s, t, &named("none")).await;
    assert!(group.unwrap().is_none());
    let no_groups = client.get_consumer_groups(no_stream, t).await;
    assert_eq!(no_groups.unwrap_err().as_code(), 1009);
    let no_groups = client.get_consumer_groups(s, &named("none")).await;
    assert_eq!(no_groups.unwrap_err().as_code(), 2010);
    assert!(client.get_user(&named("none")).await.unwrap().is_none());
    assert!(client.get_client(9_999).await.unwrap().is_none());
}

/// The code of every command that no version of the protocol has is invalid, and the
/// connection serves the next request.
async fn unknown_commands_are_invalid_and_a_flush_is_unavailable(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 1).await.unwrap();
    let client = raw(&cluster).await;
    for code in (0..700).chain([9_999, u32::MAX]) {
        if COMMAND_TABLE.iter().all(|command| command.code != code) {
            let refused = client.send_raw_with_response(code, Bytes::new()).await;
            assert_eq!(refused.unwrap_err().as_code(), 3, "{code}");
        }
    }
    let (s, t) = (&named("s"), &named("t"));
    let flush = client.flush_unsaved_buffer(s, t, 0, true).await;
    assert_eq!(flush.unwrap_err().as_code(), 5);
    assert!(client.get_streams().await.unwrap().is_empty());
}

/// The version in the statistics, as a text and as a number.
async fn statistics_state_the_version(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 1).await.unwrap();
    let client = cluster.client(0).await.unwrap();
    let stats = client.get_stats().await.unwrap();
    let version: SemanticVersion = stats.iggy_server_version.parse().unwrap();
    let number = version.get_numeric_version().unwrap();
    assert_eq!(stats.iggy_server_semver, Some(number));
}

on_each_backend! {
    what_does_not_exist_is_empty_or_none
    unknown_commands_are_invalid_and_a_flush_is_unavailable
    statistics_state_the_version
}
