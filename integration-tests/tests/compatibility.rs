//! What a stock client receives where it could expect something else: the answers of Iggy's
//! own server, or those that `docs/reference/compatibility.md` names.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use iggy::prelude::*;
use iggy_binary_protocol::codes::{
    GET_ME_CODE, GET_POLL_ROUTING_CODE, GET_STREAMS_CODE, LOGIN_USER_CODE,
    LOGIN_WITH_PERSONAL_ACCESS_TOKEN_CODE,
};
use iggy_binary_protocol::consensus::{EvictionReason, Operation};
use iggy_binary_protocol::requests::messages::PollMessagesRequest;
use iggy_binary_protocol::requests::streams::CreateStreamRequest;
use iggy_binary_protocol::requests::users::CreateUserRequest;
use iggy_binary_protocol::version::pack_protocol_version;
use iggy_binary_protocol::{
    COMMAND_TABLE, KIND_CONSUMER, WireConsumer, WireEncode, WireIdentifier, WireName, WireOptions,
    WirePollingStrategy,
};
use iggy_cluster::config::HumanDuration;
use iggy_common::{BinaryTransport, SemanticVersion};
use integration_tests::{Answer, Backend, Cluster, PATIENCE, RawClient, on_each_backend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NODE: &str = env!("CARGO_BIN_EXE_node");
const PASSWORD: &str = "a password";
const DONE: Answer = Answer::Code(0);

fn named(name: &str) -> Identifier {
    Identifier::named(name).unwrap()
}

/// A client of exactly this node, which can also send commands by their codes. An
/// `IggyClient` moves to the leader when it has logged in.
async fn at(cluster: &Cluster, node: u8) -> TcpClient {
    let client = TcpClient::create(Arc::new(TcpClientConfig {
        server_address: cluster.tcp(node),
        ..TcpClientConfig::default()
    }))
    .unwrap();
    Client::connect(&client).await.unwrap();
    client.login_user("iggy", "iggy").await.unwrap();
    client
}

async fn raw(cluster: &Cluster, node: u8, id: u128) -> RawClient {
    RawClient::connect(&cluster.tcp(node), id).await.unwrap()
}

/// A user who may create streams.
async fn create_user(root: &IggyClient, name: &str) {
    let permissions = Permissions {
        global: GlobalPermissions {
            manage_streams: true,
            ..GlobalPermissions::default()
        },
        streams: None,
    };
    root.create_user(name, PASSWORD, UserStatus::Active, Some(permissions))
        .await
        .unwrap();
}

fn stream_of(name: &str) -> Bytes {
    CreateStreamRequest {
        name: WireName::new(name).unwrap(),
        options: WireOptions::empty(),
    }
    .to_bytes()
}

async fn create_topic(client: &impl TopicClient, options: &TopicCreateOptions) {
    client
        .create_topic(&named("s"), "t", options)
        .await
        .unwrap();
}

async fn send(client: &impl MessageClient, partition: u32) {
    let mut messages = [IggyMessage::from_str("message").unwrap()];
    let to = Partitioning::partition_id(partition);
    client
        .send_messages(&named("s"), &named("t"), &to, &mut messages)
        .await
        .unwrap();
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
    let client = at(&cluster, 0).await;
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

/// Clients choose their ids: an id ends a session of its own user only.
async fn a_login_does_not_end_the_session_of_another_user(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let root = cluster.client(0).await.unwrap();
    create_user(&root, "bob").await;
    let mut victim = raw(&cluster, 0, 77).await;
    assert_eq!(victim.log_in("iggy", "iggy").await.unwrap(), DONE);
    let refused = Answer::evicted(EvictionReason::SessionError);
    for node in 0..3 {
        let mut other = raw(&cluster, node, 77).await;
        assert_eq!(other.log_in("bob", PASSWORD).await.unwrap(), refused);
        let stream = stream_of(&format!("s-{node}"));
        let created = victim.change(Operation::CreateStream, &stream).await;
        assert_eq!(created.unwrap(), DONE, "the session continues");
    }
    // The same user may replace its session, and an id is free when its session has ended.
    let mut again = raw(&cluster, 1, 77).await;
    assert_eq!(again.log_in("iggy", "iggy").await.unwrap(), DONE);
    let ended = victim
        .change(Operation::CreateStream, &stream_of("s"))
        .await;
    let no_session = Answer::evicted(EvictionReason::NoSession);
    assert_eq!(ended.unwrap(), no_session);
    assert_eq!(again.log_in("bob", PASSWORD).await.unwrap(), DONE);
}

/// Its connection is still open, has ended, or its node was killed.
async fn a_restarted_client_repeats_its_last_change_and_gets_the_first_reply(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let raised = "all nodes know this feature level";
    cluster.logged(leader, raised).await.unwrap();
    let other = (leader + 1) % 3;
    let exists = Answer::Code(1012);
    for way in ["open", "ended", "killed"] {
        let stream = stream_of(way);
        let mut before = raw(&cluster, other, 77).await;
        assert_eq!(before.log_in("iggy", "iggy").await.unwrap(), DONE);
        before.number_next(7);
        let created = before.change(Operation::CreateStream, &stream).await;
        assert_eq!(created.unwrap(), DONE, "{way}");
        match way {
            "ended" => drop(before),
            "killed" => cluster.kill(other).unwrap(),
            _ => {}
        }
        let mut after = raw(&cluster, leader, 77).await;
        assert_eq!(after.log_in("iggy", "iggy").await.unwrap(), DONE, "{way}");
        after.number_next(7);
        let again = after.change(Operation::CreateStream, &stream).await;
        assert_eq!(again.unwrap(), DONE, "{way}: executed again");
        let next = after.change(Operation::CreateStream, &stream).await;
        assert_eq!(next.unwrap(), exists, "{way}");
    }
}

/// Reads are answered with a code, and changes with an eviction. A stock client then logs in
/// again, and reports what it receives for that.
async fn requests_of_a_deleted_user_are_unauthenticated(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 1).await.unwrap();
    let root = cluster.client(0).await.unwrap();
    create_user(&root, "bob").await;
    let (mut reads, mut changes) = (raw(&cluster, 0, 7).await, raw(&cluster, 0, 8).await);
    for client in [&mut reads, &mut changes] {
        assert_eq!(client.log_in("bob", PASSWORD).await.unwrap(), DONE);
    }
    let stock = TcpClient::create(Arc::new(TcpClientConfig {
        server_address: cluster.tcp(0),
        ..TcpClientConfig::default()
    }))
    .unwrap();
    Client::connect(&stock).await.unwrap();
    stock.login_user("bob", PASSWORD).await.unwrap();
    root.delete_user(&named("bob")).await.unwrap();
    // What every user may do, and what requires a permission.
    for code in [GET_ME_CODE, GET_STREAMS_CODE] {
        let refused = reads.read(code, &[]).await.unwrap();
        assert_eq!(refused, Answer::Code(40), "{code}");
    }
    let refused = changes
        .change(Operation::CreateStream, &stream_of("s"))
        .await;
    let no_session = Answer::evicted(EvictionReason::NoSession);
    assert_eq!(refused.unwrap(), no_session);
    assert_eq!(stock.get_me().await.unwrap_err().as_code(), 42);
    // With the credentials that it remembered it does not try again.
    assert_eq!(stock.get_me().await.unwrap_err().as_code(), 40);
}

/// Iggy's server stores a password of any length from a client that does not check it, and
/// refuses every login with it.
async fn passwords_that_no_login_accepts_are_refused(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 1).await.unwrap();
    let mut root = raw(&cluster, 0, 7).await;
    assert_eq!(root.log_in("iggy", "iggy").await.unwrap(), DONE);
    let long = "x".repeat(101);
    for (username, password, code) in [
        ("user", "ab", 44),
        ("user", long.as_str(), 44),
        ("us", PASSWORD, 43),
        ("user", &long[..100], 0),
    ] {
        let create = CreateUserRequest {
            username: WireName::new(username).unwrap(),
            password: password.into(),
            status: 1,
            permissions: None,
            options: WireOptions::empty(),
        };
        let body = create.to_bytes();
        let answer = root.change(Operation::CreateUser, &body).await;
        assert_eq!(answer.unwrap(), Answer::Code(code), "{username}");
    }
}

/// Codes of logins before the sessions of this protocol, other versions of the protocol, and
/// the frames before it.
async fn older_clients_are_refused(backend: Backend) {
    let cluster = Cluster::start_with(NODE, backend, 1, |config| {
        config.tcp.frame_timeout = HumanDuration::from_millis(200);
    })
    .await
    .unwrap();
    let malformed = Answer::evicted(EvictionReason::MalformedLogin);
    for code in [LOGIN_USER_CODE, LOGIN_WITH_PERSONAL_ACCESS_TOKEN_CODE] {
        let mut client = raw(&cluster, 0, 7).await;
        assert_eq!(client.read(code, &[]).await.unwrap(), malformed, "{code}");
        assert_eq!(client.log_in("iggy", "iggy").await.unwrap(), DONE);
        assert_eq!(client.read(code, &[]).await.unwrap(), malformed, "{code}");
    }
    for version in [pack_protocol_version(0, 10, 0), u32::MAX] {
        let mut client = raw(&cluster, 0, 7).await;
        let refused = client.log_in_with(version, "iggy", "iggy").await;
        let incompatible = Answer::evicted(EvictionReason::IncompatibleProtocol);
        assert_eq!(refused.unwrap(), incompatible, "{version}");
    }
    // The frames of versions before 0.11: length, code, body.
    let mut former = TcpStream::connect(cluster.tcp(0)).await.unwrap();
    let body = b"\x04iggy\x04iggy";
    let mut login = (4 + body.len() as u32).to_le_bytes().to_vec();
    login.extend_from_slice(&LOGIN_USER_CODE.to_le_bytes());
    login.extend_from_slice(body);
    former.write_all(&login).await.unwrap();
    assert_eq!(former.read(&mut [0; 16]).await.unwrap_or(0), 0);
}

/// The numbers are of the whole cluster, clients and process of the node that answers.
async fn statistics_are_of_the_cluster_and_of_the_node_that_answers(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let client = at(&cluster, 0).await;
    client.create_stream("s").await.unwrap();
    let options = TopicCreateOptions {
        partitions_count: Some(3),
        ..TopicCreateOptions::default()
    };
    create_topic(&client, &options).await;
    for partition in 0..3 {
        send(&client, partition).await;
    }
    let mut bytes = BTreeSet::new();
    let mut processes = BTreeSet::new();
    for node in 0..3 {
        let client = at(&cluster, node).await;
        let stats = client.get_stats().await.unwrap();
        let counts = (stats.streams_count, stats.topics_count);
        assert_eq!(counts, (1, 1));
        assert_eq!((stats.partitions_count, stats.segments_count), (3, 3));
        assert_eq!(stats.messages_count, 3);
        bytes.insert(stats.messages_size_bytes.as_bytes_u64());
        processes.insert(stats.process_id);
        // Only those of this node, of which the client's own is one.
        let me = client.get_me().await.unwrap();
        let clients = client.get_clients().await.unwrap();
        assert!(clients.iter().any(|one| one.client_id == me.client_id));
        assert_eq!(clients.len() as u32, stats.clients_count);
        assert_eq!(clients.len(), if node == 0 { 2 } else { 1 });
        let found = client.get_client(me.client_id).await.unwrap().unwrap();
        assert_eq!(found.address, me.address);
    }
    assert_eq!(bytes.len(), 1, "{bytes:?}");
    assert_eq!(processes.len(), 3);
    for node in client.get_cluster_metadata().await.unwrap().nodes {
        let TransportEndpoints {
            quic,
            http,
            websocket,
            ..
        } = node.endpoints;
        assert_eq!((quic, http, websocket), (0, 0, 0), "not served");
    }
}

/// All options are stored and returned, also those without a meaning here; values outside of
/// the server's bounds are refused.
async fn options_of_topics_are_returned(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 1).await.unwrap();
    let client = at(&cluster, 0).await;
    client.create_stream("s").await.unwrap();
    let options = TopicCreateOptions {
        partitions_count: Some(1),
        compression_algorithm: Some(CompressionAlgorithm::Gzip),
        message_expiry: Some(IggyExpiry::ExpireDuration(IggyDuration::from(7_000_000))),
        max_topic_size: Some(MaxTopicSize::Custom(IggyByteSize::from(1 << 30))),
        segment_size: Some(IggyByteSize::from(2 << 20)),
        durability: Durability::Persisted,
        consumer_offset_durability: Durability::Persisted,
        messages_required_to_save: Some(7),
        size_of_messages_required_to_save: Some(IggyByteSize::from(4_096)),
        preallocate_segments: Some(true),
        ..TopicCreateOptions::default()
    };
    create_topic(&client, &options).await;
    let topic = client.get_topic(&named("s"), &named("t")).await;
    let topic = topic.unwrap().unwrap();
    let explicit = topic.options.iter().filter(|(_, value)| value.explicit);
    let explicit: BTreeSet<_> = explicit.map(|(key, _)| key.as_str().unwrap()).collect();
    let keys = [
        "compression_algorithm",
        "consumer_offset_durability",
        "durability",
        "max_topic_size",
        "message_expiry",
        "messages_required_to_save",
        "preallocate_segments",
        "segment_size",
        "size_of_messages_required_to_save",
    ];
    assert_eq!(explicit, BTreeSet::from(keys));
    let value = |key: &str| {
        let found = topic
            .options
            .iter()
            .find(|(name, _)| name.as_str() == Ok(key));
        found.unwrap().1.value.to_string_value()
    };
    assert_eq!(value("messages_required_to_save"), "7");
    assert_eq!(value("preallocate_segments"), "true");
    let too_small = TopicCreateOptions {
        segment_size: Some(IggyByteSize::from(4_096)),
        ..TopicCreateOptions::default()
    };
    let refused = client.create_topic(&named("s"), "u", &too_small).await;
    refused.unwrap_err();
}

/// The commands of a whole session, through the node that was named: no client moves to the
/// leader.
async fn commands_work_through_every_node(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let (s, t, g) = (&named("s"), &named("t"), &named("g"));
    for node in 0..3 {
        let client = at(&cluster, node).await;
        client.create_stream("s").await.unwrap();
        let options = TopicCreateOptions {
            partitions_count: Some(2),
            ..TopicCreateOptions::default()
        };
        create_topic(&client, &options).await;
        client.create_partitions(s, t, 1).await.unwrap();
        for partition in 0..3 {
            send(&client, partition).await;
            let consumer = Consumer::new(named("c"));
            let first = PollingStrategy::first();
            let polled = client
                .poll_messages(s, t, Some(partition), &consumer, &first, 1, true)
                .await
                .unwrap();
            assert_eq!(polled.messages.len(), 1);
            client
                .store_consumer_offset(&consumer, s, t, Some(partition), 0)
                .await
                .unwrap();
            let stored = client
                .get_consumer_offset(&consumer, s, t, Some(partition))
                .await
                .unwrap();
            assert_eq!(stored.unwrap().stored_offset, 0);
            client
                .delete_consumer_offset(&consumer, s, t, Some(partition))
                .await
                .unwrap();
            client.delete_segments(s, t, partition, 1).await.unwrap();
        }
        client.create_consumer_group(s, t, "g").await.unwrap();
        client.join_consumer_group(s, t, g).await.unwrap();
        let group = client.get_consumer_group(s, t, g).await.unwrap().unwrap();
        assert_eq!(group.members_count, 1);
        client.leave_consumer_group(s, t, g).await.unwrap();
        client.delete_consumer_group(s, t, g).await.unwrap();
        client
            .create_user("user", PASSWORD, UserStatus::Active, None)
            .await
            .unwrap();
        client
            .update_permissions(&named("user"), None)
            .await
            .unwrap();
        client.delete_user(&named("user")).await.unwrap();
        let never = PersonalAccessTokenExpiry::NeverExpire;
        client
            .create_personal_access_token("token", never)
            .await
            .unwrap();
        client.delete_personal_access_token("token").await.unwrap();
        client.delete_partitions(s, t, 1).await.unwrap();
        client.purge_topic(s, t).await.unwrap();
        client.purge_stream(s).await.unwrap();
        client.delete_topic(s, t).await.unwrap();
        client.delete_stream(s).await.unwrap();
        client.ping().await.unwrap();
        client.logout_user().await.unwrap();
    }
}

/// The client does not wait for a node that does not return.
async fn a_route_to_a_fenced_owner_is_refused_immediately(backend: Backend) {
    let mut cluster = Cluster::start_with(NODE, backend, 3, |config| {
        config.cluster.default_replication_factor = 1;
    })
    .await
    .unwrap();
    let leader = cluster.leader().await.unwrap();
    let client = at(&cluster, leader).await;
    client.create_stream("s").await.unwrap();
    let options = TopicCreateOptions {
        partitions_count: Some(3),
        ..TopicCreateOptions::default()
    };
    create_topic(&client, &options).await;
    let mut reader = raw(&cluster, leader, 7).await;
    assert_eq!(reader.log_in("iggy", "iggy").await.unwrap(), DONE);
    // Partitions were placed in the order of the nodes' replica ids.
    let owner = (leader + 1) % 3;
    let route = PollMessagesRequest {
        consumer: WireConsumer {
            kind: KIND_CONSUMER,
            id: WireIdentifier::numeric(1),
        },
        stream_id: WireIdentifier::named("s").unwrap(),
        topic_id: WireIdentifier::named("t").unwrap(),
        partition_id: Some(owner.into()),
        strategy: WirePollingStrategy { kind: 5, value: 0 },
        count: 1,
        auto_commit: true,
    };
    let route = route.to_bytes();
    let answer = reader.read(GET_POLL_ROUTING_CODE, &route).await;
    assert_eq!(answer.unwrap(), DONE);
    cluster.kill(owner).unwrap();
    let started = Instant::now();
    while reader.read(GET_POLL_ROUTING_CODE, &route).await.unwrap() != Answer::Code(58) {
        assert!(started.elapsed() < PATIENCE, "it is never fenced");
        tokio::task::yield_now().await;
    }
}

on_each_backend! {
    what_does_not_exist_is_empty_or_none
    unknown_commands_are_invalid_and_a_flush_is_unavailable
    statistics_state_the_version
    a_login_does_not_end_the_session_of_another_user
    a_restarted_client_repeats_its_last_change_and_gets_the_first_reply
    requests_of_a_deleted_user_are_unauthenticated
    older_clients_are_refused
    passwords_that_no_login_accepts_are_refused
    statistics_are_of_the_cluster_and_of_the_node_that_answers
    options_of_topics_are_returned
    commands_work_through_every_node
    a_route_to_a_fenced_owner_is_refused_immediately
}
