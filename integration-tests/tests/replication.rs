//! Messages on several nodes: what is acknowledged survives the loss of a node.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::time::{Duration, Instant};

use iggy::prelude::*;
use integration_tests::{Backend, Cluster, PATIENCE, PinnedClient, on_each_backend, readers};

const NODE: &str = env!("CARGO_BIN_EXE_node");
const PARTITIONS: u32 = 3;

fn named(name: &str) -> Identifier {
    Identifier::named(name).unwrap()
}

/// A producer that repeats a request until its outcome is known: the numbers that are
/// acknowledged, by partition.
struct Producer {
    client: PinnedClient,
    next: u64,
    acknowledged: Vec<Vec<u64>>,
    worst: Duration,
}

impl Producer {
    async fn connect(cluster: &Cluster, node: u8, first: u64) -> Self {
        Self {
            client: PinnedClient::connect(cluster, node).await.unwrap(),
            next: first,
            acknowledged: vec![Vec::new(); PARTITIONS as usize],
            worst: Duration::ZERO,
        }
    }

    async fn send(&mut self, messages: u32) {
        for number in 0..messages {
            let partition = number % PARTITIONS;
            let payload = self.next.to_string();
            let started = Instant::now();
            let sent = self.client.send_payload(partition, payload.as_bytes());
            let mut status = sent.await.unwrap();
            while status != 0 {
                assert!(started.elapsed() < PATIENCE, "refused with {status}");
                status = self.client.repeat().await.unwrap();
            }
            self.worst = self.worst.max(started.elapsed());
            self.acknowledged[partition as usize].push(self.next);
            self.next += 1;
        }
    }
}

/// All messages of a partition: their offsets and numbers.
async fn all(client: &IggyClient, partition: u32) -> Vec<(u64, u64)> {
    let consumer = Consumer::new(named("c"));
    let mut found: Vec<(u64, u64)> = Vec::new();
    loop {
        let next = found.last().map_or(0, |(offset, _)| offset + 1);
        let polled = client
            .poll_messages(
                &named("s"),
                &named("t"),
                Some(partition),
                &consumer,
                &PollingStrategy::offset(next),
                1_000,
                false,
            )
            .await
            .unwrap();
        if polled.messages.is_empty() {
            return found;
        }
        found.extend(polled.messages.iter().map(|message| {
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            (message.header.offset, payload.parse::<u64>().unwrap())
        }));
    }
}

/// Every acknowledged number is there once, and offsets have no gap.
async fn check(cluster: &Cluster, node: u8, producers: &[&Producer]) {
    let client = cluster.client(node).await.unwrap();
    for partition in 0..PARTITIONS {
        let found = all(&client, partition).await;
        let offsets = found.iter().map(|(offset, _)| *offset);
        assert!(offsets.eq(0..found.len() as u64), "offsets have a gap");
        let mut numbers: Vec<_> = found.into_iter().map(|(_, number)| number).collect();
        numbers.sort_unstable();
        let of_partition = producers
            .iter()
            .flat_map(|it| it.acknowledged[partition as usize].clone());
        let mut acknowledged: Vec<_> = of_partition.collect();
        acknowledged.sort_unstable();
        assert_eq!(numbers, acknowledged, "partition {partition}");
    }
}

async fn nothing_acknowledged_is_lost_when_each_node_is_killed(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let admin = cluster.client(0).await.unwrap();
    readers::create_topic(&admin, PARTITIONS).await.unwrap();
    let mut done = Vec::new();
    for killed in 0..3 {
        let survivor = (killed + 1) % 3;
        let first = u64::from(killed) * 1_000_000;
        let mut producer = Producer::connect(&cluster, survivor, first).await;
        producer.send(100).await;
        cluster.kill(killed).unwrap();
        producer.send(300).await;
        eprintln!(
            "node {killed} was killed: longest send {:?}",
            producer.worst
        );
        cluster.start(killed).unwrap();
        cluster.ready().await.unwrap();
        producer.send(100).await;
        done.push(producer);
        check(&cluster, survivor, &done.iter().collect::<Vec<_>>()).await;
    }
}

async fn nothing_acknowledged_is_lost_when_all_nodes_are_killed(backend: Backend) {
    let mut cluster = Cluster::start(NODE, backend, 3).await.unwrap();
    let admin = cluster.client(0).await.unwrap();
    readers::create_topic(&admin, PARTITIONS).await.unwrap();
    let mut done = Vec::new();
    for round in 0..2 {
        let mut producer = Producer::connect(&cluster, 0, round * 1_000_000).await;
        producer.send(200).await;
        done.push(producer);
        for node in 0..3 {
            cluster.kill(node).unwrap();
        }
        for node in 0..3 {
            cluster.start(node).unwrap();
        }
        cluster.ready().await.unwrap();
        check(&cluster, 1, &done.iter().collect::<Vec<_>>()).await;
    }
}

on_each_backend! {
    nothing_acknowledged_is_lost_when_each_node_is_killed
    nothing_acknowledged_is_lost_when_all_nodes_are_killed
}
