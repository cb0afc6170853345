//! What consensus takes of the latency that stock clients see: a whole cluster, as
//! operators run it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use iggy::prelude::*;
use iggy_cluster::admin;
use iggy_cluster::config::Backend;
use local_cluster::{Processes, Program};

use super::{BACKENDS, Bench, Scenario};
use crate::advise::metric;
use crate::load::Load;
use crate::replica::Memory;
use crate::results::{Results, Share};

const CLIENTS: usize = 64;
const PRODUCERS: usize = 16;
const BATCH_MESSAGES: u32 = 100;
const MESSAGE_BYTES: usize = 1_000;
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const WORKLOADS: [&str; 3] = [
    "create and delete streams",
    "send messages",
    "poll messages",
];

pub(super) fn steps() -> usize {
    BACKENDS.len() * WORKLOADS.len()
}

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    for backend in BACKENDS {
        let cluster = Nodes::start(bench, backend).await?;
        let admin = cluster.client(0).await?;
        create_topics(&admin, cluster.nodes).await?;
        for workload in WORKLOADS {
            bench.says(Scenario::Share, &format!("{workload}, {}", backend.name()));
            let share = cluster.measure(bench, backend, workload).await?;
            results.share.push(share);
            bench.step();
        }
    }
    Ok(())
}

/// A stream with a topic that has a partition at every node.
async fn create_topics(client: &IggyClient, nodes: u8) -> anyhow::Result<()> {
    client.create_stream("bench").await?;
    let options = TopicCreateOptions {
        partitions_count: Some(u32::from(nodes)),
        ..TopicCreateOptions::default()
    };
    let stream = Identifier::named("bench")?;
    client.create_topic(&stream, "t", &options).await?;
    // What is polled.
    for partition in 0..u32::from(nodes) {
        for _ in 0..10 {
            send(client, partition).await?;
        }
    }
    Ok(())
}

/// The processes of a real cluster.
pub(super) struct Nodes {
    pub(super) processes: Processes,
    nodes: u8,
}

/// How much the replicated log has done for the clients of all nodes.
#[derive(Clone, Copy)]
struct Committed {
    commands: f64,
    seconds: f64,
}

impl Nodes {
    pub(super) async fn start(bench: &Bench, backend: Backend) -> anyhow::Result<Self> {
        let nodes = bench.options.replicas;
        Self::start_with(bench, backend, nodes, Memory::Kept).await
    }

    pub(super) async fn start_with(
        bench: &Bench,
        backend: Backend,
        nodes: u8,
        memory: Memory,
    ) -> anyhow::Result<Self> {
        let program = Program {
            environment: memory.environment(),
            ..Program::serve(&bench.binary)
        };
        let mut processes = Processes::prepare(program, backend, nodes, |_| {})?;
        for node in 0..nodes {
            processes.run(node)?;
        }
        let cluster = Self { processes, nodes };
        let begun = Instant::now();
        for node in 0..nodes {
            while !admin::is_ready(&cluster.admin(node)).await {
                anyhow::ensure!(
                    begun.elapsed() < READY_TIMEOUT,
                    "node {node} is not ready:\n{}",
                    cluster.processes.last_lines(node)
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(cluster)
    }

    fn admin(&self, node: u8) -> String {
        let port = self.processes.section(node).ports.admin;
        format!("127.0.0.1:{port}")
    }

    pub(super) async fn client(&self, node: u8) -> anyhow::Result<IggyClient> {
        let address = self.processes.section(node).client_address();
        let client = IggyClient::from_connection_string(&format!("iggy://iggy:iggy@{address}"))?;
        client.connect().await?;
        Ok(client)
    }

    async fn clients(&self, count: usize) -> anyhow::Result<Vec<IggyClient>> {
        let mut clients = Vec::with_capacity(count);
        for number in 0..count {
            clients.push(
                self.client((number % usize::from(self.nodes)) as u8)
                    .await?,
            );
        }
        Ok(clients)
    }

    async fn committed(&self) -> anyhow::Result<Committed> {
        let mut committed = Committed {
            commands: 0.0,
            seconds: 0.0,
        };
        for node in 0..self.nodes {
            let metrics = admin::fetch(&self.admin(node), "/metrics").await?;
            let metrics = String::from_utf8(metrics)?;
            committed.commands += required(&metrics, "iggy_cluster_commit_seconds_count")?;
            committed.seconds += required(&metrics, "iggy_cluster_commit_seconds_sum")?;
        }
        Ok(committed)
    }

    async fn measure(
        &self,
        bench: &Bench,
        backend: Backend,
        workload: &str,
    ) -> anyhow::Result<Share> {
        let metadata = workload == WORKLOADS[0];
        let count = if metadata { CLIENTS } else { PRODUCERS };
        let clients = Arc::new(self.clients(count).await?);
        let load = Load {
            in_flight: count,
            ..bench.load(count)
        };
        let (nodes, which) = (self.nodes, workload.to_owned());
        let before = self.committed().await?;
        let measured = load
            .closed_with(move |number| {
                let (clients, which) = (Arc::clone(&clients), which.clone());
                async move {
                    let client = &clients[number];
                    let partition = (number % usize::from(nodes)) as u32;
                    match which.as_str() {
                        "send messages" => send(client, partition).await,
                        "poll messages" => poll(client, partition).await,
                        _ => churn(client, number).await,
                    }
                }
            })
            .await?;
        let after = self.committed().await?;
        // Commands of the warm-up are in the sums too: scale to what was measured.
        let part =
            load.measured.as_secs_f64() / (bench.options.warm_up() + load.measured).as_secs_f64();
        let requests = measured.commands as f64 * if metadata { 2.0 } else { 1.0 };
        let each = if metadata {
            1.0
        } else {
            f64::from(BATCH_MESSAGES)
        };
        let seconds = (after.seconds - before.seconds) * part;
        let commands = (after.commands - before.commands) * part;
        Ok(Share {
            system: backend.name().into(),
            workload: workload.into(),
            clients: count,
            per_second: requests * each / measured.elapsed.as_secs_f64(),
            commands_per_second: commands / measured.elapsed.as_secs_f64(),
            client_micros: measured.latency.mean() / if metadata { 2.0 } else { 1.0 },
            consensus_micros: seconds * 1e6 / requests.max(1.0),
        })
    }
}

fn required(metrics: &str, name: &str) -> anyhow::Result<f64> {
    metric(metrics, name).with_context(|| format!("the node has no metric {name}"))
}

/// Creates a stream and deletes it.
async fn churn(client: &IggyClient, number: usize) -> anyhow::Result<()> {
    let name = format!("bench-{number}");
    client.create_stream(&name).await?;
    client.delete_stream(&Identifier::named(&name)?).await?;
    Ok(())
}

async fn send(client: &IggyClient, partition: u32) -> anyhow::Result<()> {
    let payload = Bytes::from_static(&[b'x'; MESSAGE_BYTES]);
    let mut messages = (0..BATCH_MESSAGES)
        .map(|_| IggyMessage::builder().payload(payload.clone()).build())
        .collect::<Result<Vec<_>, _>>()?;
    let (stream, topic) = (Identifier::named("bench")?, Identifier::named("t")?);
    let partitioning = Partitioning::partition_id(partition);
    client
        .send_messages(&stream, &topic, &partitioning, &mut messages)
        .await?;
    Ok(())
}

async fn poll(client: &IggyClient, partition: u32) -> anyhow::Result<()> {
    let (stream, topic) = (Identifier::named("bench")?, Identifier::named("t")?);
    let polled = client
        .poll_messages(
            &stream,
            &topic,
            Some(partition),
            &Consumer::default(),
            &PollingStrategy::offset(0),
            BATCH_MESSAGES,
            false,
        )
        .await?;
    anyhow::ensure!(!polled.messages.is_empty(), "nothing was polled");
    Ok(())
}
