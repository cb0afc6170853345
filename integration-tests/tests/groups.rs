//! Consumer groups of stock clients, with partitions on all nodes.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use iggy::prelude::*;
use integration_tests::readers::{self, Readers};
use integration_tests::{Backend, Cluster, on_each_backend};

const NODE: &str = env!("CARGO_BIN_EXE_node");
const PARTITIONS: u32 = 6;

fn named(name: &str) -> Identifier {
    Identifier::named(name).unwrap()
}

async fn topic(client: &IggyClient) {
    client.create_stream("s").await.unwrap();
    let options = TopicCreateOptions {
        partitions_count: Some(PARTITIONS),
        ..TopicCreateOptions::default()
    };
    client
        .create_topic(&named("s"), "t", &options)
        .await
        .unwrap();
}

async fn send(client: &IggyClient, partition: u32, from: u32, count: u32) {
    let mut messages: Vec<_> = (from..from + count)
        .map(|number| IggyMessage::from_str(&format!("{partition}/{number}")).unwrap())
        .collect();
    client
        .send_messages(
            &named("s"),
            &named("t"),
            &Partitioning::partition_id(partition),
            &mut messages,
        )
        .await
        .unwrap();
}

async fn join(client: &IggyClient) {
    client
        .join_consumer_group(&named("s"), &named("t"), &named("g"))
        .await
        .unwrap();
}

async fn group(client: &IggyClient) -> ConsumerGroupDetails {
    client
        .get_consumer_group(&named("s"), &named("t"), &named("g"))
        .await
        .unwrap()
        .unwrap()
}

/// How many partitions each member has. No partition has two members.
fn shares(group: &ConsumerGroupDetails) -> Vec<u32> {
    let all: Vec<u32> = group
        .members
        .iter()
        .flat_map(|member| member.partitions.iter().copied())
        .collect();
    let distinct: BTreeSet<u32> = all.iter().copied().collect();
    assert_eq!(distinct.len(), all.len(), "two members have one partition");
    let mut shares: Vec<_> = group.members.iter().map(|m| m.partitions_count).collect();
    shares.sort_unstable();
    shares
}

/// Polls as a member until it has this many messages.
async fn drain(client: &IggyClient, auto_commit: bool, count: usize) -> BTreeMap<u32, Vec<u64>> {
    let mut read: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut total = 0;
    while total < count {
        let polled = client
            .poll_messages(
                &named("s"),
                &named("t"),
                None,
                &Consumer::group(named("g")),
                &PollingStrategy::next(),
                1000,
                auto_commit,
            )
            .await
            .unwrap();
        total += polled.messages.len();
        let offsets = polled.messages.iter().map(|m| m.header.offset);
        read.entry(polled.partition_id).or_default().extend(offsets);
    }
    read.retain(|_, offsets| !offsets.is_empty());
    read
}

async fn members_share_the_partitions(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let admin = cluster.client(0).await.unwrap();
    topic(&admin).await;
    let created = admin
        .create_consumer_group(&named("s"), &named("t"), "g")
        .await
        .unwrap();
    assert_eq!((created.id, created.members_count), (0, 0));
    assert_eq!(created.partitions_count, PARTITIONS);
    let again = admin
        .create_consumer_group(&named("s"), &named("t"), "g")
        .await;
    let taken = IggyError::ConsumerGroupNameAlreadyExists(String::new(), Identifier::default());
    assert_eq!(again.unwrap_err().as_code(), taken.as_code());

    let mut members = Vec::new();
    for node in 0..3 {
        let member = cluster.client(node).await.unwrap();
        join(&member).await;
        members.push(member);
        let expected: &[u32] = match node {
            0 => &[6],
            1 => &[3, 3],
            _ => &[2, 2, 2],
        };
        assert_eq!(shares(&group(&admin).await), expected);
    }
    join(&members[0]).await;
    assert_eq!(shares(&group(&admin).await), [2, 2, 2]);
    let me = members[0].get_me().await.unwrap();
    assert_eq!(me.consumer_groups_count, 1);

    // Each message is served to one member, on whatever node its partition is.
    for partition in 0..PARTITIONS {
        send(&admin, partition, 0, 10).await;
    }
    let mut read = BTreeMap::new();
    for member in &members {
        let mine = drain(member, true, 20).await;
        assert_eq!(mine.len(), 2);
        for (partition, offsets) in mine {
            assert_eq!(offsets, (0..10).collect::<Vec<_>>());
            assert!(read.insert(partition, offsets).is_none());
        }
    }
    assert_eq!(read.len() as u32, PARTITIONS);

    // The other members continue with the partitions of one that has left or logged out.
    for partition in 0..PARTITIONS {
        send(&admin, partition, 10, 10).await;
    }
    members[2]
        .leave_consumer_group(&named("s"), &named("t"), &named("g"))
        .await
        .unwrap();
    assert_eq!(shares(&group(&admin).await), [3, 3]);
    members[1].logout_user().await.unwrap();
    assert_eq!(shares(&group(&admin).await), [6]);
    let rest = drain(&members[0], true, 60).await;
    assert_eq!(rest.len() as u32, PARTITIONS);
    for offsets in rest.values() {
        assert_eq!(offsets, &(10..20).collect::<Vec<_>>());
    }

    admin
        .delete_consumer_group(&named("s"), &named("t"), &named("g"))
        .await
        .unwrap();
    let gone = admin
        .get_consumer_group(&named("s"), &named("t"), &named("g"))
        .await;
    assert!(gone.unwrap().is_none());
    // A group with the same name starts without offsets.
    let recreated = admin
        .create_consumer_group(&named("s"), &named("t"), "g")
        .await
        .unwrap();
    assert_eq!(recreated.id, 1);
    join(&members[0]).await;
    assert_eq!(drain(&members[0], true, 120).await.len() as u32, PARTITIONS);
}

async fn what_is_not_committed_stays_with_its_reader(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let admin = cluster.client(0).await.unwrap();
    topic(&admin).await;
    for partition in 0..PARTITIONS {
        send(&admin, partition, 0, 10).await;
    }
    admin
        .create_consumer_group(&named("s"), &named("t"), "g")
        .await
        .unwrap();
    let slow = cluster.client(1).await.unwrap();
    join(&slow).await;
    let mut read = BTreeMap::new();
    while read.len() < PARTITIONS as usize {
        read.extend(drain(&slow, false, 10).await);
    }
    let next = cluster.client(2).await.unwrap();
    join(&next).await;
    let before = group(&admin).await;
    assert_eq!(
        shares(&before),
        [0, 6],
        "the revocation waits for the commit"
    );
    // The slow member may still commit what it has read, also of revoked partitions.
    let consumer = Consumer::group(named("g"));
    for partition in 0..PARTITIONS {
        slow.store_consumer_offset(&consumer, &named("s"), &named("t"), Some(partition), 9)
            .await
            .unwrap();
    }
    let mut shared = shares(&group(&admin).await);
    while shared != [3, 3] {
        assert_eq!(shared.iter().sum::<u32>(), 6);
        tokio::task::yield_now().await;
        shared = shares(&group(&admin).await);
    }
    for partition in 0..PARTITIONS {
        send(&admin, partition, 10, 1).await;
    }
    let mut all = drain(&slow, true, 3).await;
    all.extend(drain(&next, true, 3).await);
    assert_eq!(all.len() as u32, PARTITIONS);
    assert!(all.values().all(|offsets| offsets == &[10]));
    // Revoked partitions can be neither polled nor committed any more.
    let lost: Vec<u32> = {
        let state = group(&admin).await;
        let of = |slot: u32| {
            let member = state.members.iter().find(|member| member.id == slot);
            member.unwrap().partitions.clone()
        };
        of(1)
    };
    let refused = slow
        .store_consumer_offset(&consumer, &named("s"), &named("t"), Some(lost[0]), 10)
        .await;
    assert_eq!(refused.unwrap_err().as_code(), 5009);
}

/// A user who may manage the topic sets a group back, through any node, without joining it,
/// while the group has no members. A user who may only poll does not.
async fn an_administrator_sets_a_group_back(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let admin = cluster.client(0).await.unwrap();
    readers::create_topic(&admin, PARTITIONS).await.unwrap();
    let (s, t, g) = (&named("s"), &named("t"), &named("g"));
    admin.create_consumer_group(s, t, "g").await.unwrap();
    let may_poll = Permissions {
        global: GlobalPermissions {
            poll_messages: true,
            ..GlobalPermissions::default()
        },
        streams: None,
    };
    admin
        .create_user("reader", "a password", UserStatus::Active, Some(may_poll))
        .await
        .unwrap();
    let group = Consumer::group(named("g"));
    for node in 0..3 {
        let root = cluster.client(node).await.unwrap();
        let address = cluster.tcp(node);
        let reader =
            IggyClient::from_connection_string(&format!("iggy://reader:a password@{address}"))
                .unwrap();
        reader.connect().await.unwrap();
        for partition in (0..PARTITIONS).map(Some) {
            send(&admin, partition.unwrap(), 0, 10).await;
            root.store_consumer_offset(&group, s, t, partition, 5)
                .await
                .unwrap();
            let stored = root.get_consumer_offset(&group, s, t, partition).await;
            assert_eq!(stored.unwrap().unwrap().stored_offset, 5);
            let refused = reader.store_consumer_offset(&group, s, t, partition, 0);
            assert_eq!(refused.await.unwrap_err().as_code(), 5009);
            root.delete_consumer_offset(&group, s, t, partition)
                .await
                .unwrap();
            let deleted = root.get_consumer_offset(&group, s, t, partition).await;
            assert!(deleted.unwrap().is_none());
        }
    }
    // A member stores its own offsets, and nothing else does.
    let member = cluster.client(1).await.unwrap();
    member.join_consumer_group(s, t, g).await.unwrap();
    let refused = admin.store_consumer_offset(&group, s, t, Some(0), 0).await;
    assert_eq!(refused.unwrap_err().as_code(), 5009);
    member
        .store_consumer_offset(&group, s, t, Some(0), 1)
        .await
        .unwrap();
}

/// Stock consumers whose nodes die and return, and a member that joins late.
async fn a_group_reads_everything_while_nodes_die(backend: Backend) {
    const MESSAGES: u32 = 1_000;
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let admin = cluster.client(0).await.unwrap();
    readers::create_topic(&admin, PARTITIONS).await.unwrap();
    let mut group = Readers::start(&cluster, &[0, 1, 2]).await.unwrap();
    let round = || async {
        for partition in 0..PARTITIONS {
            readers::produce(&admin, partition, 1, MESSAGES)
                .await
                .unwrap();
        }
        readers::message_count(&admin).await.unwrap()
    };
    group.have_received(round().await).await.unwrap();
    for follower in [true, false] {
        let leader = cluster.leader().await.unwrap();
        let victim = match follower {
            true => (leader + 1) % 3,
            false => leader,
        };
        cluster.kill(victim).unwrap();
        cluster.start(victim).unwrap();
        let stored = round().await;
        let received = group.have_received(stored).await.unwrap();
        assert_eq!(received.missing, 0, "{received:?}");
    }
    let late = cluster.client(1).await.unwrap();
    group.add(late).await.unwrap();
    let stored = round().await;
    group.have_received(stored).await.unwrap();
    let received = group.stop().await.unwrap();
    assert_eq!((received.distinct, received.missing), (stored, 0));
}

/// A member polls its partitions in turn: one whose owner stays down must not stop the others.
async fn a_member_reads_on_while_one_owner_is_down(backend: Backend) {
    const MESSAGES: u32 = 100;
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let admin = cluster.client(0).await.unwrap();
    // Partitions are placed on the nodes in turn.
    readers::create_topic(&admin, PARTITIONS).await.unwrap();
    let group = Readers::start(&cluster, &[0]).await.unwrap();
    for partition in 0..PARTITIONS {
        readers::produce(&admin, partition, 1, MESSAGES)
            .await
            .unwrap();
    }
    let mut expected = u64::from(PARTITIONS * MESSAGES);
    group.have_received(expected).await.unwrap();
    let victim = (cluster.leader().await.unwrap() + 1) % 3;
    cluster.kill(victim).unwrap();
    for partition in (0..PARTITIONS).filter(|partition| partition % 3 != u32::from(victim)) {
        readers::produce(&admin, partition, 1, MESSAGES)
            .await
            .unwrap();
        expected += u64::from(MESSAGES);
    }
    group.have_received(expected).await.unwrap();
    cluster.start(victim).unwrap();
    for partition in 0..PARTITIONS {
        readers::produce(&admin, partition, 1, MESSAGES)
            .await
            .unwrap();
        expected += u64::from(MESSAGES);
    }
    let received = group.have_received(expected).await.unwrap();
    assert_eq!(received.missing, 0, "{received:?}");
}

/// No other member could read the partitions of a silent member. Clients without a group may
/// be silent.
async fn a_silent_member_is_removed(backend: Backend) {
    let cluster = Cluster::start_with(NODE, backend, 3, |config| {
        // Clients send something every five seconds.
        config.heartbeat.interval = "100ms".parse().unwrap();
    })
    .await
    .unwrap();
    let admin = cluster.client(0).await.unwrap();
    let idle = cluster.client(1).await.unwrap();
    let me = idle.get_me().await.unwrap().client_id;
    topic(&admin).await;
    admin
        .create_consumer_group(&named("s"), &named("t"), "g")
        .await
        .unwrap();
    let silent = cluster.client(2).await.unwrap();
    join(&silent).await;
    while group(&admin).await.members_count > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(idle.get_me().await.unwrap().client_id, me);
    // The client notices with its next request, logs in again, and may join again.
    silent.get_me().await.unwrap();
    join(&silent).await;
}

on_each_backend! {
    an_administrator_sets_a_group_back
    a_group_reads_everything_while_nodes_die
    a_member_reads_on_while_one_owner_is_down
    a_silent_member_is_removed
    members_share_the_partitions
    what_is_not_committed_stays_with_its_reader
}
