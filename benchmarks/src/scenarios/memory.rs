//! Memory: of the metadata, and under commands that do not commit.

use std::time::{Duration, Instant};

use replicated_log::{Backend, HumanDuration, HumanSize};

use super::{BACKENDS, Bench, Scenario};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::iggy::IggyClient;
use crate::nodes::Nodes;
use crate::replica::{Durability, Memory};
use crate::results::{ObjectMemory, Pushback, Results};
use crate::wire;

const STREAMS: u32 = 20_000;
const TOPICS: u32 = 20_000;
/// A stream has room for this many topics only.
const TOPICS_OF_STREAM: u32 = 1_000;
const PARTITIONS: u32 = 100_000;
const PARTITIONS_OF_TOPIC: u32 = 1_000;
const GROUPS: u32 = 10_000;
/// A quick run creates a tenth of everything.
const QUICK_DIVISOR: u32 = 10;
/// The bound of uncommitted commands, and the size of those that are sent while none
/// commits.
const BOUND_MIB: u64 = 16;
const OFFERED_MIB: u64 = 512;
const OFFERED_MIB_QUICK: u64 = 64;
const FRAME_COMMANDS: usize = 1_024;
const PATIENCE: Duration = Duration::from_secs(30);
/// A leader without followers keeps leading for about this time.
const ELECTION_TIMEOUT: HumanDuration = HumanDuration::from_millis(3_000);

pub(super) fn steps() -> usize {
    1 + BACKENDS.len()
}

pub(super) async fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    bench.report(Scenario::Memory, "objects");
    results.objects = objects(bench).await?;
    bench.step();
    for backend in BACKENDS {
        let what = format!("without a majority, {}", backend.name());
        bench.report(Scenario::Memory, &what);
        results.pushback.push(pushback(bench, backend).await?);
        bench.step();
    }
    Ok(())
}

/// Creates objects at a cluster of one node, and observes the memory of its process.
async fn objects(bench: &Bench) -> anyhow::Result<Vec<ObjectMemory>> {
    let divisor = if bench.options.quick {
        QUICK_DIVISOR
    } else {
        1
    };
    // Memory that the allocator keeps after a login would count for the objects.
    let cluster = Nodes::start(&bench.binary, Backend::Vr, 1, Memory::Returned).await?;
    let mut client = IggyClient::connect(&cluster.leader_address().await?).await?;
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
    for number in 0..STREAMS / divisor {
        client.create_stream(&format!("stream-{number}")).await?;
    }
    note("stream", STREAMS / divisor, &cluster);
    for number in 0..TOPICS / divisor {
        let stream = format!("stream-{}", number / TOPICS_OF_STREAM);
        let topic = format!("topic-{number}");
        client.create_topic(&stream, &topic, 0).await?;
    }
    note("topic without partitions", TOPICS / divisor, &cluster);
    let stream = "stream-1999";
    for number in 0..PARTITIONS / PARTITIONS_OF_TOPIC / divisor {
        let topic = format!("topic-{number}");
        let partitions = PARTITIONS_OF_TOPIC;
        client.create_topic(stream, &topic, partitions).await?;
    }
    note("partition", PARTITIONS / divisor, &cluster);
    for number in 0..GROUPS / divisor {
        let group = format!("group-{number}");
        client.create_group(stream, "topic-0", &group).await?;
    }
    note("consumer group", GROUPS / divisor, &cluster);
    Ok(all)
}

/// Sends far more than the bound of uncommitted commands while the followers are
/// suspended.
async fn pushback(bench: &Bench, backend: Backend) -> anyhow::Result<Pushback> {
    let mut setup = bench.setup(backend, Durability::Fsync);
    setup.settings.uncommitted_size_max = HumanSize::from_mib(BOUND_MIB);
    setup.settings.election_timeout = ELECTION_TIMEOUT;
    let mut cluster = Cluster::start(&setup).await?;
    let leader = cluster.leader().await?;
    cluster.caught_up().await?;
    let followers = cluster.processes.running().filter(|n| *n != leader);
    let followers: Vec<u8> = followers.collect();
    for follower in &followers {
        cluster.processes.pause(*follower)?;
    }
    let bytes = bench.options.command_size;
    let offered_mib = match bench.options.quick {
        true => OFFERED_MIB_QUICK,
        false => OFFERED_MIB,
    };
    let mut client = Client::connect(&cluster.address(leader), bytes).await?;
    let before = cluster.processes.memory_bytes(leader);
    let (mut peak, mut refused, mut offered) = (before, 0, 0_u64);
    while offered < offered_mib << 20 {
        client.send(FRAME_COMMANDS).await?;
        offered += (FRAME_COMMANDS * bytes) as u64;
        refused += drain(&mut client).await?;
        peak = peak.max(cluster.processes.memory_bytes(leader));
    }
    for follower in &followers {
        cluster.processes.resume(*follower)?;
    }
    let resumed = Instant::now();
    let mut client = Client::connect(&cluster.address(leader), bytes).await?;
    // The commands that wait are executed first.
    while !matches!(
        tokio::time::timeout(PATIENCE, client.execute(1, 1)).await,
        Ok(Ok(()))
    ) {
        anyhow::ensure!(
            resumed.elapsed() < PATIENCE,
            "the leader executes no command after {} s",
            PATIENCE.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(Pushback {
        system: backend.name().into(),
        bound_bytes: BOUND_MIB << 20,
        offered_bytes: offered,
        refused,
        before_bytes: before,
        peak_bytes: peak,
        back_millis: resumed.elapsed().as_secs_f64() * 1e3,
    })
}

/// Receives the outcomes that have arrived; returns how many commands were refused.
async fn drain(client: &mut Client) -> anyhow::Result<u64> {
    let mut refused = 0;
    loop {
        let outcomes = tokio::select! {
            biased;
            outcomes = client.outcomes() => outcomes?,
            () = tokio::task::yield_now() => return Ok(refused),
        };
        for (_, code) in outcomes {
            anyhow::ensure!(
                code != wire::NOT_LEADER,
                "the leader lost leadership too early"
            );
            refused += u64::from(code == wire::OVERLOADED);
        }
    }
}
