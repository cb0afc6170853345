//! Users, their permissions and tokens, through stock clients on all nodes.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::BTreeMap;
use std::str::FromStr;

use iggy::prelude::*;
use integration_tests::{Backend, Cluster, on_each_backend};

const NODE: &str = env!("CARGO_BIN_EXE_node");
const PASSWORD: &str = "a password";
const UNAUTHORIZED: u32 = 41;

fn named(name: &str) -> Identifier {
    Identifier::named(name).unwrap()
}

async fn log_in(cluster: &Cluster, node: u8, name: &str) -> Result<IggyClient, IggyError> {
    let address = cluster.tcp(node);
    let client =
        IggyClient::from_connection_string(&format!("iggy://{name}:{PASSWORD}@{address}"))?;
    client.connect().await?;
    Ok(client)
}

/// Every command that requires a permission.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Stats,
    Client,
    Clients,
    Snapshot,
    User,
    Users,
    CreateUser,
    DeleteUser,
    UpdateUser,
    UpdatePermissions,
    ChangePassword,
    Stream,
    Streams,
    CreateStream,
    UpdateStream,
    PurgeStream,
    DeleteStream,
    Topic,
    Topics,
    CreateTopic,
    UpdateTopic,
    PurgeTopic,
    DeleteTopic,
    CreatePartitions,
    DeletePartitions,
    DeleteSegments,
    Group,
    Groups,
    CreateGroup,
    JoinGroup,
    LeaveGroup,
    DeleteGroup,
    Send,
    Poll,
    PollAndCommit,
    Offset,
    StoreOffset,
    DeleteOffset,
}

/// Permissions of which each alone is sufficient: of the server, the stream, the topic.
/// Written down from the rules of Iggy's server, independently for each command.
const TABLE: [(Ask, &str, &str, &str); 38] = {
    use Ask::*;
    const SERVERS: &str = "manage_servers read_servers";
    const LIST: &str = "manage_streams read_streams";
    const TOPICS: &str = "manage_streams read_streams manage_topics read_topics";
    const OF_STREAM: &str = "manage_stream read_stream manage_topics read_topics";
    const OF_TOPIC: &str = "manage_topic read_topic";
    const MANAGE: &str = "manage_streams manage_topics";
    const MANAGE_OF_STREAM: &str = "manage_stream manage_topics";
    const POLL: &str = "manage_streams read_streams manage_topics read_topics poll_messages";
    const POLL_STREAM: &str = "manage_stream read_stream manage_topics read_topics poll_messages";
    const POLL_TOPIC: &str = "manage_topic read_topic poll_messages";
    [
        (Stats, SERVERS, "", ""),
        (Client, SERVERS, "", ""),
        (Clients, SERVERS, "", ""),
        (Snapshot, SERVERS, "", ""),
        (User, "manage_users read_users", "", ""),
        (Users, "manage_users read_users", "", ""),
        (CreateUser, "manage_users", "", ""),
        (DeleteUser, "manage_users", "", ""),
        (UpdateUser, "manage_users", "", ""),
        (UpdatePermissions, "manage_users", "", ""),
        (ChangePassword, "manage_users", "", ""),
        (Stream, LIST, "manage_stream read_stream", ""),
        (Streams, LIST, "", ""),
        (CreateStream, "manage_streams", "", ""),
        (UpdateStream, "manage_streams", "manage_stream", ""),
        (PurgeStream, "manage_streams", "manage_stream", ""),
        (DeleteStream, "manage_streams", "manage_stream", ""),
        (Topic, TOPICS, OF_STREAM, OF_TOPIC),
        (Topics, TOPICS, OF_STREAM, ""),
        (CreateTopic, MANAGE, MANAGE_OF_STREAM, ""),
        (UpdateTopic, MANAGE, MANAGE_OF_STREAM, "manage_topic"),
        (PurgeTopic, MANAGE, MANAGE_OF_STREAM, "manage_topic"),
        (DeleteTopic, MANAGE, MANAGE_OF_STREAM, "manage_topic"),
        (CreatePartitions, MANAGE, MANAGE_OF_STREAM, "manage_topic"),
        (DeletePartitions, MANAGE, MANAGE_OF_STREAM, "manage_topic"),
        (DeleteSegments, MANAGE, MANAGE_OF_STREAM, "manage_topic"),
        (Group, TOPICS, OF_STREAM, OF_TOPIC),
        (Groups, TOPICS, OF_STREAM, OF_TOPIC),
        (CreateGroup, TOPICS, OF_STREAM, OF_TOPIC),
        (JoinGroup, TOPICS, OF_STREAM, OF_TOPIC),
        (LeaveGroup, TOPICS, OF_STREAM, OF_TOPIC),
        (DeleteGroup, TOPICS, OF_STREAM, OF_TOPIC),
        (
            Send,
            "manage_streams manage_topics send_messages",
            "manage_stream manage_topics send_messages",
            "manage_topic send_messages",
        ),
        (Poll, POLL, POLL_STREAM, POLL_TOPIC),
        (PollAndCommit, POLL, POLL_STREAM, POLL_TOPIC),
        (Offset, POLL, POLL_STREAM, POLL_TOPIC),
        (StoreOffset, POLL, POLL_STREAM, POLL_TOPIC),
        (DeleteOffset, POLL, POLL_STREAM, POLL_TOPIC),
    ]
};

const GLOBAL: [&str; 10] = [
    "manage_servers",
    "read_servers",
    "manage_users",
    "read_users",
    "manage_streams",
    "read_streams",
    "manage_topics",
    "read_topics",
    "poll_messages",
    "send_messages",
];
const OF_STREAM: [&str; 6] = [
    "manage_stream",
    "read_stream",
    "manage_topics",
    "read_topics",
    "poll_messages",
    "send_messages",
];
const OF_TOPIC: [&str; 4] = [
    "manage_topic",
    "read_topic",
    "poll_messages",
    "send_messages",
];

/// The scope of a permission.
#[derive(Clone, Copy, Debug)]
enum Scope {
    Server,
    Stream,
    Topic,
}

/// A single permission, for the stream and topic with id 0.
fn grant(scope: Scope, name: &str) -> Permissions {
    let is = |one| name == one;
    let global = GlobalPermissions::default();
    match scope {
        Scope::Server => Permissions {
            global: GlobalPermissions {
                manage_servers: is("manage_servers"),
                read_servers: is("read_servers"),
                manage_users: is("manage_users"),
                read_users: is("read_users"),
                manage_streams: is("manage_streams"),
                read_streams: is("read_streams"),
                manage_topics: is("manage_topics"),
                read_topics: is("read_topics"),
                poll_messages: is("poll_messages"),
                send_messages: is("send_messages"),
            },
            streams: None,
        },
        Scope::Stream => Permissions {
            global,
            streams: Some(BTreeMap::from([(
                0,
                StreamPermissions {
                    manage_stream: is("manage_stream"),
                    read_stream: is("read_stream"),
                    manage_topics: is("manage_topics"),
                    read_topics: is("read_topics"),
                    poll_messages: is("poll_messages"),
                    send_messages: is("send_messages"),
                    topics: None,
                },
            )])),
        },
        Scope::Topic => {
            let topic = TopicPermissions {
                manage_topic: is("manage_topic"),
                read_topic: is("read_topic"),
                poll_messages: is("poll_messages"),
                send_messages: is("send_messages"),
            };
            let stream = StreamPermissions {
                topics: Some(BTreeMap::from([(0, topic)])),
                ..StreamPermissions::default()
            };
            Permissions {
                global,
                streams: Some(BTreeMap::from([(0, stream)])),
            }
        }
    }
}

/// Whether a client has the permission to do this to an existing stream or topic. Other
/// refusals do not count: what it deletes may have been deleted before.
async fn ask(ask: Ask, client: &IggyClient, me: &str) -> bool {
    let (s, t, g) = (&named("s"), &named("t"), &named("g"));
    let gone = &named("gone");
    let (reader, mine) = (&Consumer::new(named("reader")), format!("of-{me}"));
    let first = &PollingStrategy::first();
    let poll = |commit| client.poll_messages(s, t, Some(0), reader, first, 1, commit);
    let done = match ask {
        Ask::Stats => client.get_stats().await.map(drop),
        Ask::Client => client.get_client(1).await.map(drop),
        Ask::Clients => client.get_clients().await.map(drop),
        Ask::Snapshot => client
            .snapshot(SnapshotCompression::Stored, vec![SystemSnapshotType::Test])
            .await
            .map(drop),
        Ask::User => client.get_user(&named("iggy")).await.map(drop),
        Ask::Users => client.get_users().await.map(drop),
        Ask::CreateUser => client
            .create_user(&mine, PASSWORD, UserStatus::Active, None)
            .await
            .map(drop),
        Ask::DeleteUser => client.delete_user(gone).await,
        Ask::UpdateUser => {
            let options = UserUpdateOptions::default();
            client
                .update_user(gone, Some("other"), None, &options)
                .await
        }
        Ask::UpdatePermissions => client.update_permissions(gone, None).await,
        Ask::ChangePassword => {
            let root = named("iggy");
            client.change_password(&root, "not it", PASSWORD).await
        }
        Ask::Stream => client.get_stream(s).await.map(drop),
        Ask::Streams => client.get_streams().await.map(drop),
        Ask::CreateStream => client.create_stream(&mine).await.map(drop),
        Ask::UpdateStream => {
            let options = StreamUpdateOptions::default();
            client.update_stream(s, "s", &options).await
        }
        Ask::PurgeStream => client.purge_stream(s).await,
        Ask::DeleteStream => client.delete_stream(s).await,
        Ask::Topic => client.get_topic(s, t).await.map(drop),
        Ask::Topics => client.get_topics(s).await.map(drop),
        Ask::CreateTopic => client
            .create_topic(s, &mine, &TopicCreateOptions::default())
            .await
            .map(drop),
        Ask::UpdateTopic => {
            let options = TopicUpdateOptions::default();
            client.update_topic(s, t, "t", &options).await
        }
        Ask::PurgeTopic => client.purge_topic(s, t).await,
        Ask::DeleteTopic => client.delete_topic(s, t).await,
        Ask::CreatePartitions => client.create_partitions(s, t, 1).await,
        Ask::DeletePartitions => client.delete_partitions(s, t, 1).await,
        Ask::DeleteSegments => client.delete_segments(s, t, 0, 1).await,
        Ask::Group => client.get_consumer_group(s, t, g).await.map(drop),
        Ask::Groups => client.get_consumer_groups(s, t).await.map(drop),
        Ask::CreateGroup => client.create_consumer_group(s, t, &mine).await.map(drop),
        Ask::JoinGroup => client.join_consumer_group(s, t, g).await,
        Ask::LeaveGroup => client.leave_consumer_group(s, t, g).await,
        Ask::DeleteGroup => client.delete_consumer_group(s, t, gone).await,
        Ask::Send => {
            let mut messages = [IggyMessage::from_str("message").unwrap()];
            let to = Partitioning::partition_id(0);
            client
                .send_messages(s, t, &to, &mut messages)
                .await
                .map(drop)
        }
        Ask::Poll => poll(false).await.map(drop),
        Ask::PollAndCommit => poll(true).await.map(drop),
        Ask::Offset => client
            .get_consumer_offset(reader, s, t, Some(0))
            .await
            .map(drop),
        Ask::StoreOffset => client.store_consumer_offset(reader, s, t, Some(0), 0).await,
        Ask::DeleteOffset => client.delete_consumer_offset(reader, s, t, Some(0)).await,
    };
    done.err()
        .is_none_or(|error| error.as_code() != UNAUTHORIZED)
}

/// Creates the stream and the topic with id 0, a group and a message again, if they were
/// deleted.
async fn restore(root: &IggyClient) {
    let (s, t) = (named("s"), named("t"));
    if root.get_stream(&s).await.unwrap().is_none() {
        assert_eq!(root.create_stream("s").await.unwrap().id, 0);
    }
    if root.get_topic(&s, &t).await.unwrap().is_none() {
        let options = TopicCreateOptions {
            partitions_count: Some(3),
            ..TopicCreateOptions::default()
        };
        let topic = root.create_topic(&s, "t", &options).await.unwrap();
        assert_eq!(topic.id, 0);
        root.create_consumer_group(&s, &t, "g").await.unwrap();
    }
    let mut messages = [IggyMessage::from_str("message").unwrap()];
    let to = Partitioning::partition_id(0);
    root.send_messages(&s, &t, &to, &mut messages)
        .await
        .unwrap();
}

async fn each_permission_is_required_and_sufficient(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let root = cluster.client(0).await.unwrap();
    restore(&root).await;
    let scopes = [
        (Scope::Server, GLOBAL.as_slice()),
        (Scope::Stream, OF_STREAM.as_slice()),
        (Scope::Topic, OF_TOPIC.as_slice()),
    ];
    let mut checked = 0;
    for (scope, grants) in scopes {
        for (number, name) in grants.iter().copied().enumerate() {
            let user = format!("{scope:?}-{name}");
            root.create_user(&user, PASSWORD, UserStatus::Active, None)
                .await
                .unwrap();
            let client = log_in(&cluster, (number % 3) as u8, &user).await.unwrap();
            for (what, server, stream, topic) in TABLE {
                let enough = match scope {
                    Scope::Server => server,
                    Scope::Stream => stream,
                    Scope::Topic => topic,
                };
                let enough = enough.split(' ').any(|one| one == name);
                // Permissions end with the stream or topic that they are for.
                let permissions = grant(scope, name);
                root.update_permissions(&named(&user), Some(permissions))
                    .await
                    .unwrap();
                let served = ask(what, &client, &user).await;
                assert_eq!(served, enough, "{what:?} with {name} of the {scope:?}");
                if enough {
                    restore(&root).await;
                }
                checked += 1;
            }
            // A permission that is revoked ends immediately, in the same session.
            root.update_permissions(&named(&user), None).await.unwrap();
            for (what, ..) in TABLE {
                assert!(!ask(what, &client, &user).await, "{what:?} without");
            }
        }
    }
    assert_eq!(checked, 20 * TABLE.len());
}

async fn users_log_in_on_every_node_while_they_may(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let root = cluster.client(0).await.unwrap();
    let created = root
        .create_user("alice", PASSWORD, UserStatus::Active, None)
        .await
        .unwrap();
    assert_eq!((created.id, created.permissions), (1, None));
    for node in 0..3 {
        let alice = log_in(&cluster, node, "alice").await.unwrap();
        // Every user may read its own entry.
        let me = alice.get_user(&named("alice")).await.unwrap().unwrap();
        assert_eq!(me.id, created.id);
        assert_eq!(alice.get_me().await.unwrap().user_id, Some(created.id));
    }
    let wrong = log_in(&cluster, 1, "bob").await;
    assert_eq!(wrong.unwrap_err().as_code(), 42);

    // A change of a password requires the current one, and does not end sessions.
    let alice = log_in(&cluster, 2, "alice").await.unwrap();
    let refused = alice
        .change_password(&named("alice"), "wrong", "other one")
        .await;
    assert_eq!(refused.unwrap_err().as_code(), 42);
    alice
        .change_password(&named("alice"), PASSWORD, "other one")
        .await
        .unwrap();
    assert!(alice.get_me().await.is_ok());
    let former = log_in(&cluster, 0, "alice").await;
    assert_eq!(former.unwrap_err().as_code(), 42);
    alice
        .change_password(&named("alice"), "other one", PASSWORD)
        .await
        .unwrap();

    // The sessions of a user that becomes inactive end.
    let options = UserUpdateOptions::default();
    root.update_user(&named("alice"), None, Some(UserStatus::Inactive), &options)
        .await
        .unwrap();
    assert_eq!(alice.get_me().await.unwrap_err().as_code(), 42);
    root.update_user(&named("alice"), None, Some(UserStatus::Active), &options)
        .await
        .unwrap();
    let alice = log_in(&cluster, 1, "alice").await.unwrap();
    root.delete_user(&named("alice")).await.unwrap();
    assert!(alice.get_me().await.is_err());
    let again = root
        .create_user("alice", PASSWORD, UserStatus::Active, None)
        .await
        .unwrap();
    assert_eq!(again.id, 2, "ids are not given again");

    let itself = root.delete_user(&named("iggy")).await;
    assert_eq!(itself.unwrap_err().as_code(), 48);
    let itself = root.update_permissions(&named("iggy"), None).await;
    assert_eq!(itself.unwrap_err().as_code(), 49);
}

async fn tokens_stand_for_their_users(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let root = cluster.client(0).await.unwrap();
    let never = PersonalAccessTokenExpiry::NeverExpire;
    let token = root
        .create_personal_access_token("t", never)
        .await
        .unwrap()
        .token;
    let again = root.create_personal_access_token("t", never).await;
    assert_eq!(again.unwrap_err().as_code(), 51);
    let short = PersonalAccessTokenExpiry::ExpireDuration(IggyDuration::from(1));
    let expired = root
        .create_personal_access_token("short", short)
        .await
        .unwrap()
        .token;
    let with = |token: String, address: String| async move {
        let client = IggyClient::builder()
            .with_tcp()
            .with_server_address(address)
            .build()?;
        client.connect().await?;
        client.login_with_personal_access_token(&token).await?;
        Ok::<_, IggyError>(client)
    };
    for node in 0..3 {
        let client = with(token.clone(), cluster.tcp(node)).await;
        let me = client.unwrap().get_me().await.unwrap();
        assert_eq!(me.user_id, Some(0));
        let refused = with(expired.clone(), cluster.tcp(node)).await;
        assert_eq!(refused.unwrap_err().as_code(), 53);
    }
    // All nodes are killed: only what was replicated is left.
    for node in 0..3 {
        cluster.kill(node).unwrap();
    }
    for node in 0..3 {
        cluster.start(node).unwrap();
    }
    cluster.ready().await.unwrap();
    let client = with(token.clone(), cluster.tcp(1)).await;
    let client = client.unwrap();
    let names: Vec<_> = client
        .get_personal_access_tokens()
        .await
        .unwrap()
        .into_iter()
        .map(|token| token.name)
        .collect();
    assert!(names.contains(&"t".to_owned()), "{names:?}");
    client.delete_personal_access_token("t").await.unwrap();
    let refused = with(token.clone(), cluster.tcp(2)).await;
    assert_eq!(refused.unwrap_err().as_code(), 53);
}

on_each_backend! {
    each_permission_is_required_and_sufficient
    users_log_in_on_every_node_while_they_may
    tokens_stand_for_their_users
}
