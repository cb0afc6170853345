//! How much of a client's latency is consensus: a whole cluster, as operators run it.

use std::sync::Arc;

use tokio::sync::Mutex;

use replicated_log::Backend;

use super::{BACKENDS, Bench, Scenario};
use crate::iggy::IggyClient;
use crate::load::Load;
use crate::nodes::Nodes;
use crate::replica::Memory;
use crate::results::{Results, Share};

const STREAM: &str = "bench";
const TOPIC: &str = "t";
/// Batches in each partition before anything is measured, for the polls.
const BATCHES: usize = 10;
const BATCH_MESSAGES: u32 = 100;
const PAYLOAD: [u8; 1_000] = [b'x'; 1_000];

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    Metadata,
    Send,
    Poll,
}

impl Workload {
    const ALL: [Self; 3] = [Self::Metadata, Self::Send, Self::Poll];

    fn name(self) -> &'static str {
        match self {
            Self::Metadata => "create and delete streams",
            Self::Send => "send messages",
            Self::Poll => "poll messages",
        }
    }

    fn clients(self) -> usize {
        match self {
            Self::Metadata => 64,
            Self::Send | Self::Poll => 16,
        }
    }

    /// Requests of one step of a client.
    fn requests(self) -> f64 {
        match self {
            Self::Metadata => 2.0,
            Self::Send | Self::Poll => 1.0,
        }
    }

    /// Operations of one request; each message counts.
    fn operations(self) -> f64 {
        match self {
            Self::Metadata => 1.0,
            Self::Send | Self::Poll => f64::from(BATCH_MESSAGES),
        }
    }

    async fn step(
        self,
        client: &mut IggyClient,
        number: usize,
        partition: u32,
    ) -> anyhow::Result<()> {
        let partition = (STREAM, TOPIC, partition);
        match self {
            Self::Metadata => {
                let name = format!("bench-{number}");
                client.create_stream(&name).await?;
                client.delete_stream(&name).await
            }
            Self::Send => client.send(partition, BATCH_MESSAGES, &PAYLOAD).await,
            Self::Poll => client.poll(partition, BATCH_MESSAGES).await,
        }
    }
}

pub(super) fn steps() -> usize {
    BACKENDS.len() * Workload::ALL.len()
}

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    let nodes = bench.options.replicas;
    for backend in BACKENDS {
        let cluster = Nodes::start(&bench.binary, backend, nodes, Memory::Kept).await?;
        create_topic(&cluster, u32::from(nodes)).await?;
        for workload in Workload::ALL {
            let what = format!("{}, {}", workload.name(), backend.name());
            bench.report(Scenario::Share, &what);
            let share = measure(&cluster, bench, backend, workload).await?;
            results.share.push(share);
            bench.step();
        }
    }
    Ok(())
}

/// A stream with a topic that has a partition at every node, and messages in each.
async fn create_topic(cluster: &Nodes, partitions: u32) -> anyhow::Result<()> {
    let mut client = IggyClient::connect(&cluster.leader_address().await?).await?;
    client.create_stream(STREAM).await?;
    client.create_topic(STREAM, TOPIC, partitions).await?;
    for partition in 0..partitions {
        for _ in 0..BATCHES {
            let partition = (STREAM, TOPIC, partition);
            client.send(partition, BATCH_MESSAGES, &PAYLOAD).await?;
        }
    }
    Ok(())
}

async fn measure(
    cluster: &Nodes,
    bench: &Bench,
    backend: Backend,
    workload: Workload,
) -> anyhow::Result<Share> {
    let count = workload.clients();
    let address = cluster.leader_address().await?;
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(Mutex::new(IggyClient::connect(&address).await?));
    }
    let clients = Arc::new(clients);
    let load = Load {
        in_flight: count,
        ..bench.load(count)
    };
    let partitions = usize::from(bench.options.replicas);
    let before = cluster.committed().await?;
    let measured = load
        .closed_with(move |number| {
            let clients = Arc::clone(&clients);
            async move {
                let mut client = clients[number].lock().await;
                let partition = (number % partitions) as u32;
                workload.step(&mut client, number, partition).await
            }
        })
        .await?;
    let after = cluster.committed().await?;
    // The sums include the commands of the warm-up: they are scaled to the part that
    // was measured.
    let total = bench.options.warm_up() + load.measured;
    let part = load.measured.as_secs_f64() / total.as_secs_f64();
    let commands = (after.commands - before.commands) * part;
    let seconds = (after.seconds - before.seconds) * part;
    let requests = measured.commands as f64 * workload.requests();
    let elapsed = measured.elapsed.as_secs_f64();
    Ok(Share {
        system: backend.name().into(),
        client: "minimal clients of the benchmark".into(),
        workload: workload.name().into(),
        clients: count,
        per_second: requests * workload.operations() / elapsed,
        commands_per_second: commands / elapsed,
        client_micros: measured.latency.mean() / workload.requests(),
        consensus_micros: seconds * 1e6 / requests.max(1.0),
    })
}
