//! Owners of partitions and other nodes, as clients that stay at one node see them.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use iggy::prelude::*;
use integration_tests::{Backend, Cluster, PinnedClient, on_each_backend, readers};

const NODE: &str = env!("CARGO_BIN_EXE_node");
const PARTITIONS: u32 = 3;
const ROUNDS: u32 = 10;

fn named(name: &str) -> Identifier {
    Identifier::named(name).unwrap()
}

/// Sends a message to each partition through each node; all of them have to be there.
async fn send_everywhere(admin: &IggyClient, clients: &mut [PinnedClient]) {
    for client in clients.iter_mut() {
        for partition in 0..PARTITIONS {
            assert_eq!(client.send(partition).await.unwrap(), 0);
        }
    }
    let sent = u64::from(PARTITIONS) * clients.len() as u64;
    assert_eq!(readers::message_count(admin).await.unwrap(), sent);
}

/// Followers learn of a committed change with the next message of the leader. Before that, a
/// node may look up a partition that was purged, and its owner may still have it.
async fn what_is_sent_after_a_purge_or_a_deletion_stays(backend: Backend) {
    let cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let admin = cluster.client(0).await.unwrap();
    let mut clients = Vec::new();
    for node in 0..3 {
        clients.push(PinnedClient::connect(&cluster, node).await.unwrap());
    }
    readers::create_topic(&admin, PARTITIONS).await.unwrap();
    for _ in 0..ROUNDS {
        admin.purge_topic(&named("s"), &named("t")).await.unwrap();
        send_everywhere(&admin, &mut clients).await;
    }
    for _ in 0..ROUNDS {
        admin.delete_stream(&named("s")).await.unwrap();
        readers::create_topic(&admin, PARTITIONS).await.unwrap();
        send_everywhere(&admin, &mut clients).await;
    }
}

on_each_backend! {
    what_is_sent_after_a_purge_or_a_deletion_stays
}
