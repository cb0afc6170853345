//! Memory: of the metadata, and under commands that do not commit.

use std::time::{Duration, Instant};

use iggy::prelude::*;
use iggy_cluster::config::{Backend, HumanDuration, HumanSize};

use super::share::Nodes;
use super::{BACKENDS, Bench, Scenario};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::replica::{Durability, Memory};
use crate::results::{ObjectMemory, Pushback, Results};
use crate::wire;

const STREAMS: u32 = 20_000;
const TOPICS: u32 = 20_000;
const TOPICS_OF_STREAM: u32 = 1_000;
const PARTITIONS: u32 = 100_000;
const PARTITIONS_OF_TOPIC: u32 = 1_000;
const GROUPS: u32 = 10_000;
/// How much may wait, and how much is offered, while nothing commits.
const BOUND_MIB: u64 = 16;
const OFFERED_MIB: u64 = 512;
const FRAME_COMMANDS: usize = 1_024;
const PATIENCE: Duration = Duration::from_secs(30);
/// The leader goes on for so long without the others.
const ELECTION_TIMEOUT: HumanDuration = HumanDuration::from_millis(3_000);
const FENCING_TIMEOUT: HumanDuration = HumanDuration::from_millis(10_000);

pub(super) fn steps() -> usize {
    1 + BACKENDS.len()
}

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    bench.says(Scenario::Memory, "objects");
    results.objects = objects(bench).await?;
    bench.step();
    for backend in BACKENDS {
        bench.says(
            Scenario::Memory,
            &format!("without a majority, {}", backend.name()),
        );
        results.pushback.push(pushback(bench, backend).await?);
        bench.step();
    }
    Ok(())
}

/// Creates objects at a cluster of one node, and looks what its process needs.
async fn objects(bench: &Bench) -> anyhow::Result<Vec<ObjectMemory>> {
    let few = if bench.options.quick { 10 } else { 1 };
    // What the allocator keeps of a login would be taken for the objects' memory.
    let cluster = Nodes::start_with(bench, Backend::Vr, 1, Memory::Returned).await?;
    let client = cluster.client(0).await?;
    let mut all = Vec::new();
    let mut before = cluster.processes.memory_bytes(0);
    let mut note = |object: &str, count: u32, cluster: &Nodes| {
        let after = cluster.processes.memory_bytes(0);
        all.push(ObjectMemory {
            object: object.into(),
            count: u64::from(count),
            bytes: after.saturating_sub(before) as f64 / f64::from(count),
        });
        before = after;
    };
    for number in 0..STREAMS / few {
        client.create_stream(&format!("stream-{number}")).await?;
    }
    note("stream", STREAMS / few, &cluster);
    let options = |partitions| TopicCreateOptions {
        partitions_count: Some(partitions),
        ..TopicCreateOptions::default()
    };
    for number in 0..TOPICS / few {
        // A stream has room for so many only.
        let stream = Identifier::named(&format!("stream-{}", number / TOPICS_OF_STREAM))?;
        let name = format!("topic-{number}");
        client.create_topic(&stream, &name, &options(0)).await?;
    }
    note("topic without partitions", TOPICS / few, &cluster);
    let stream = Identifier::named("stream-1999")?;
    for number in 0..PARTITIONS / PARTITIONS_OF_TOPIC / few {
        let (name, options) = (format!("topic-{number}"), options(PARTITIONS_OF_TOPIC));
        client.create_topic(&stream, &name, &options).await?;
    }
    note("partition", PARTITIONS / few, &cluster);
    let topic = Identifier::named("topic-0")?;
    for number in 0..GROUPS / few {
        let name = format!("group-{number}");
        client.create_consumer_group(&stream, &topic, &name).await?;
    }
    note("consumer group", GROUPS / few, &cluster);
    Ok(all)
}

/// Sends far more than may wait while the other replicas stand still.
async fn pushback(bench: &Bench, backend: Backend) -> anyhow::Result<Pushback> {
    let setup = bench.setup(backend, Durability::Fsync);
    let mut cluster = Cluster::start(&setup, |config| {
        let consensus = &mut config.cluster.consensus;
        consensus.uncommitted_size_max = HumanSize::from_mib(BOUND_MIB);
        consensus.election_timeout = ELECTION_TIMEOUT;
        config.cluster.fencing_timeout = FENCING_TIMEOUT;
    })
    .await?;
    let leader = cluster.leader().await?;
    cluster.current().await?;
    let others: Vec<u8> = cluster
        .processes
        .running()
        .filter(|n| *n != leader)
        .collect();
    for other in &others {
        cluster.processes.pause(*other, true)?;
    }
    let bytes = bench.options.command_size;
    let mut client = Client::connect(&cluster.address(leader), bytes).await?;
    let before = cluster.processes.memory_bytes(leader);
    let (mut peak, mut refused, mut offered) = (before, 0, 0_u64);
    while offered < OFFERED_MIB << 20 {
        client.send(FRAME_COMMANDS).await?;
        offered += (FRAME_COMMANDS * bytes) as u64;
        refused += drain(&mut client).await?;
        peak = peak.max(cluster.processes.memory_bytes(leader));
    }
    for other in &others {
        cluster.processes.pause(*other, false)?;
    }
    let back = Instant::now();
    let mut client = Client::connect(&cluster.address(leader), bytes).await?;
    // What waits is carried out first.
    while !matches!(
        tokio::time::timeout(PATIENCE, client.carry_out(1, 1)).await,
        Ok(Ok(()))
    ) {
        anyhow::ensure!(back.elapsed() < PATIENCE, "the leader does not come back");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(Pushback {
        system: backend.name().into(),
        bound_bytes: BOUND_MIB << 20,
        offered_bytes: offered,
        refused,
        before_bytes: before,
        peak_bytes: peak,
        back_millis: back.elapsed().as_secs_f64() * 1e3,
    })
}

/// Takes the answers that are there; returns how many commands were refused.
async fn drain(client: &mut Client) -> anyhow::Result<u64> {
    let mut refused = 0;
    loop {
        let outcomes = tokio::select! {
            biased;
            outcomes = client.outcomes() => outcomes?,
            () = tokio::task::yield_now() => return Ok(refused),
        };
        for (_, code) in outcomes {
            anyhow::ensure!(code != wire::NOT_LEADER, "the leader gave up too early");
            refused += u64::from(code == wire::OVERLOADED);
        }
    }
}
