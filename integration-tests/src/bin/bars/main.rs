//! Measures what users of a cluster notice, with stock clients and processes on this
//! machine: commands per second, the gap when the leader is killed, what a returning node
//! costs the others, and message throughput.
//!
//! ```sh
//! cargo run --release -p integration-tests --bin bars -- commands
//! cargo run --release -p integration-tests --bin bars -- failover --trials 20
//! cargo run --release -p integration-tests --bin bars -- lagging
//! cargo run --release -p integration-tests --bin bars -- messages
//! cargo run --release -p integration-tests --bin bars -- garbage
//! ```

#![expect(clippy::print_stdout, reason = "a tool whose output is figures")]

mod load;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use iggy::prelude::*;
use integration_tests::readers::{self, Readers};
use integration_tests::{Backend, Cluster, Garbage, PATIENCE, sibling};
use load::{Expected, Load};

#[derive(Parser)]
struct Args {
    /// The consensus backend
    #[arg(long, default_value = "raft", global = true)]
    backend: Backend,
    #[command(subcommand)]
    bar: Bar,
}

#[derive(Subcommand)]
enum Bar {
    /// Clients that create and delete streams
    Commands {
        /// How many clients
        #[arg(long, default_value_t = 64)]
        clients: usize,
        /// For how many seconds
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// The leader is killed under the same load
    Failover {
        /// How often
        #[arg(long, default_value_t = 20)]
        trials: usize,
        /// How many clients
        #[arg(long, default_value_t = 64)]
        clients: usize,
    },
    /// A node is down for many commands and returns, by snapshot and log, while the others
    /// serve the same load
    Lagging {
        /// How many commands it misses
        #[arg(long, default_value_t = 100_000)]
        missed: u64,
        /// How many clients
        #[arg(long, default_value_t = 64)]
        clients: usize,
    },
    /// One producer into a partition of the node that it talks to, and one
    /// consumer that reads it back
    Messages {
        /// Batches of 1,000 messages of 1 KB
        #[arg(long, default_value_t = 2_000)]
        batches: usize,
    },
    /// A group of three stock consumers reads six partitions while a follower and
    /// the leader are killed and return
    Groups {
        /// How many messages
        #[arg(long, default_value_t = 1_000_000)]
        messages: u64,
    },
    /// Connections that are logged in and idle, beside others that are not
    Idle {
        /// How many idle connections
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// How many clients create and delete streams
        #[arg(long, default_value_t = 500)]
        clients: usize,
    },
    /// Random and mutated frames against the ports for clients, for nodes and for
    /// administration: memory and file descriptors stay as they were, and the leader leads
    Garbage {
        /// How many frames, over the three ports
        #[arg(long, default_value_t = 1_000_000)]
        frames: u64,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args { backend, bar } = Args::parse();
    match bar {
        Bar::Commands { clients, seconds } => commands(backend, clients, seconds).await,
        Bar::Failover { trials, clients } => failover(backend, trials, clients).await,
        Bar::Lagging { missed, clients } => lagging(backend, missed, clients).await,
        Bar::Messages { batches } => messages(backend, batches).await,
        Bar::Groups { messages } => groups(backend, messages).await,
        Bar::Idle {
            connections,
            clients,
        } => idle(backend, connections, clients).await,
        Bar::Garbage { frames } => garbage(backend, frames).await,
    }
}

async fn commands(backend: Backend, clients: usize, seconds: u64) -> anyhow::Result<()> {
    let cluster = Cluster::start(sibling("node")?, backend, 3).await?;
    let load = Load::start(&cluster, clients, &[0, 1, 2]).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, started) = (load.done(), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let rate = (load.done() - before) as f64 / started.elapsed().as_secs_f64();
    load.stop().await;
    println!("{clients} clients: {rate:.0} commands/s");
    Ok(())
}

async fn failover(backend: Backend, trials: usize, clients: usize) -> anyhow::Result<()> {
    let mut gaps = Vec::new();
    let mut next_in_order = 0;
    for trial in 1..=trials {
        let mut cluster = Cluster::start(sibling("node")?, backend, 3).await?;
        let load = Load::start(&cluster, clients, &[0, 1, 2]).await?;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let leader = cluster.leader().await?;
        cluster.kill(leader)?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let gap = load.worst_gap();
        let successor = cluster.leader().await?;
        next_in_order += usize::from(successor == (leader + 1) % 3);
        let expected = load.stop().await;
        cluster.start(leader)?;
        cluster.ready().await?;
        let lost = check(&cluster, &expected).await?;
        println!(
            "trial {trial}: worst gap {} ms, {} acknowledged, {lost} lost",
            gap.as_millis(),
            expected.acknowledged
        );
        anyhow::ensure!(lost == 0, "acknowledged commands are lost");
        gaps.push(gap);
    }
    gaps.sort();
    let at = |q: f64| gaps[((gaps.len() - 1) as f64 * q) as usize].as_millis();
    println!(
        "worst gap: p50 {} ms, maximum {} ms of {trials} trials",
        at(0.5),
        at(1.0)
    );
    println!("the next node in order led in {next_in_order} of {trials} trials");
    Ok(())
}

async fn lagging(backend: Backend, missed: u64, clients: usize) -> anyhow::Result<()> {
    const WINDOW: Duration = Duration::from_secs(3);
    // Short logs, so that it needs a snapshot and the log after it.
    let mut cluster = Cluster::start_with(sibling("node")?, backend, 3, |config| {
        config.cluster.consensus.snapshot_entries = 500;
        config.cluster.consensus.log_tail_entries = 100;
    })
    .await?;
    let leader = cluster.leader().await?;
    let laggard = (leader + 1) % 3;
    let others = [leader, (leader + 2) % 3];
    let load = Load::start(&cluster, clients, &others).await?;
    cluster.kill(laggard)?;
    let start = load.done();
    while load.done() < start + missed {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (before, started) = (load.done(), Instant::now());
    tokio::time::sleep(WINDOW).await;
    let alone = (load.done() - before) as f64 / started.elapsed().as_secs_f64();
    let (before, started) = (load.done(), Instant::now());
    cluster.start(laggard)?;
    let mut back = None;
    while started.elapsed() < WINDOW || back.is_none() {
        let report = cluster.report().await?;
        let node = report.nodes.iter().find(|node| node.replica_id == laggard);
        if back.is_none() && node.is_some_and(|node| node.healthy && node.lag < 100) {
            back = Some(started.elapsed());
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "it does not return");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let with_it = (load.done() - before) as f64 / started.elapsed().as_secs_f64();
    load.stop().await;
    let installed = cluster.counter(laggard, "snapshots_installed").await?;
    println!(
        "without it: {alone:.0} commands/s; back after {} ms ({installed} snapshots installed); with it: {with_it:.0} commands/s, {:.0}%",
        back.unwrap_or_default().as_millis(),
        100.0 * with_it / alone
    );
    Ok(())
}

/// Streams that must exist, or must not: those whose last command was
/// acknowledged.
async fn check(cluster: &Cluster, expected: &Expected) -> anyhow::Result<usize> {
    let node = cluster.leader().await?;
    let client = cluster.client(node).await?;
    let streams = client.get_streams().await?;
    let names: std::collections::BTreeSet<_> = streams.into_iter().map(|s| s.name).collect();
    let wrong = expected
        .streams
        .iter()
        .filter(|(name, exists)| names.contains(*name) != **exists);
    Ok(wrong.count())
}

async fn messages(backend: Backend, batches: usize) -> anyhow::Result<()> {
    const MESSAGES: u32 = 1_000;
    const BYTES: usize = 1_000;
    let cluster = Cluster::start(sibling("node")?, backend, 3).await?;
    let node = cluster.leader().await?;
    let client = cluster.client(node).await?;
    let (stream, topic) = (Identifier::named("bars")?, Identifier::named("t")?);
    client.create_stream("bars").await?;
    let options = TopicCreateOptions {
        partitions_count: Some(3),
        ..TopicCreateOptions::default()
    };
    client.create_topic(&stream, "t", &options).await?;
    // Partitions are placed in the order of the nodes' replica ids.
    let partitioning = Partitioning::partition_id(u32::from(node));
    let payload = bytes::Bytes::from(vec![b'x'; BYTES]);
    let started = Instant::now();
    for _ in 0..batches {
        let mut batch = (0..MESSAGES)
            .map(|_| IggyMessage::builder().payload(payload.clone()).build())
            .collect::<Result<Vec<_>, _>>()?;
        client
            .send_messages(&stream, &topic, &partitioning, &mut batch)
            .await?;
    }
    report("sent", batches, MESSAGES, BYTES, started);
    let started = Instant::now();
    for batch in 0..batches {
        let offset = batch as u64 * u64::from(MESSAGES);
        let polled = client
            .poll_messages(
                &stream,
                &topic,
                Some(u32::from(node)),
                &Consumer::default(),
                &PollingStrategy::offset(offset),
                MESSAGES,
                false,
            )
            .await?;
        anyhow::ensure!(
            polled.messages.len() == MESSAGES as usize,
            "messages are missing"
        );
        anyhow::ensure!(polled.messages[0].header.offset == offset, "out of order");
    }
    report("polled", batches, MESSAGES, BYTES, started);
    Ok(())
}

async fn groups(backend: Backend, messages: u64) -> anyhow::Result<()> {
    const PARTITIONS: u32 = 6;
    const BATCH: u32 = 1_000;
    let mut cluster = Cluster::start(sibling("node")?, backend, 3).await?;
    let admin = cluster.client(0).await?;
    readers::create_topic(&admin, PARTITIONS).await?;
    let group = Readers::start(&cluster, &[0, 1, 2]).await?;
    let batches = u32::try_from(messages.div_ceil(u64::from(PARTITIONS * BATCH)))?;
    let started = Instant::now();
    let mut producers = tokio::task::JoinSet::new();
    for partition in 0..PARTITIONS {
        let client = cluster.client((partition % 3) as u8).await?;
        producers.spawn(async move { readers::produce(&client, partition, batches, BATCH).await });
    }
    for (third, follower) in [(1, true), (2, false)] {
        group.have_received(third * messages / 3).await?;
        let leader = cluster.leader().await?;
        let victim = match follower {
            true => (leader + 1) % 3,
            false => leader,
        };
        cluster.kill(victim)?;
        println!(
            "killed node {victim}, which {}, after {:.1} s",
            if follower { "followed" } else { "led" },
            started.elapsed().as_secs_f64()
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.start(victim)?;
        cluster.ready().await?;
    }
    while let Some(producer) = producers.join_next().await {
        producer??;
    }
    let stored = readers::message_count(&admin).await?;
    group.have_received(stored).await?;
    let seconds = started.elapsed().as_secs_f64();
    let received = group.stop().await?;
    println!(
        "{stored} messages stored, {} received in {seconds:.1} s, {} missing, {} received again, {} errors reported and survived",
        received.distinct, received.missing, received.repeated, received.errors
    );
    anyhow::ensure!(
        received.missing == 0 && received.distinct == stored,
        "a gap"
    );
    Ok(())
}

async fn idle(backend: Backend, connections: usize, clients: usize) -> anyhow::Result<()> {
    let cluster = Cluster::start(sibling("node")?, backend, 3).await?;
    let before: Vec<_> = (0..3).map(|node| cluster.memory_bytes(node)).collect();
    // The high-level client sends heartbeats; this one is silent.
    let mut idle = Vec::with_capacity(connections);
    for number in 0..connections {
        let config = TcpClientConfig {
            server_address: cluster.tcp((number % 3) as u8),
            ..TcpClientConfig::default()
        };
        let client = TcpClient::create(Arc::new(config))?;
        Client::connect(&client).await?;
        client.login_user("iggy", "iggy").await?;
        idle.push(client);
    }
    let mut total = 0;
    for node in 0..3 {
        let after = cluster.memory_bytes(node);
        total += after.saturating_sub(before[usize::from(node)]);
    }
    println!(
        "{connections} idle sessions: {:.1} KiB each over all nodes",
        total as f64 / connections as f64 / 1024.0
    );
    let term = cluster
        .report()
        .await?
        .nodes
        .iter()
        .map(|node| node.term)
        .max();
    let load = Load::start(&cluster, clients, &[0, 1, 2]).await?;
    let (done, started) = (load.done(), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let rate = (load.done() - done) as f64 / started.elapsed().as_secs_f64();
    load.stop().await;
    let after = cluster
        .report()
        .await?
        .nodes
        .iter()
        .map(|node| node.term)
        .max();
    println!("{clients} active clients beside them: {rate:.0} commands/s");
    anyhow::ensure!(term == after, "an election: term {term:?}, then {after:?}");
    println!("no election");
    Ok(())
}

fn report(what: &str, batches: usize, messages: u32, bytes: usize, started: Instant) {
    let total = (batches * messages as usize * bytes) as f64;
    let rate = total / started.elapsed().as_secs_f64() / 1e6;
    println!("{what} {batches} batches: {rate:.0} MB/s");
}

async fn garbage(backend: Backend, frames: u64) -> anyhow::Result<()> {
    const SENDERS: u64 = 16;
    let mut cluster = Cluster::start(sibling("node")?, backend, 3).await?;
    let warm_up = Garbage::send(&cluster, 1, 20_000).await?;
    let usage = |cluster: &Cluster| -> Vec<_> {
        (0..3)
            .map(|node| (cluster.memory_bytes(node), cluster.open_files(node)))
            .collect()
    };
    let before = usage(&cluster);
    let terms = terms(&cluster).await?;
    let started = Instant::now();
    let mut sent = warm_up;
    let mut round = 2;
    while sent < frames {
        let each = (frames - sent).div_ceil(SENDERS).min(10_000);
        let senders = (0..SENDERS).map(|sender| Garbage::send(&cluster, round + sender, each));
        for sender in senders.collect::<Vec<_>>() {
            sent += sender.await?;
        }
        round += SENDERS;
    }
    println!("{sent} frames in {:.0} s", started.elapsed().as_secs_f64());
    for node in 0..3 {
        anyhow::ensure!(
            cluster.is_running(node),
            "node {node} died:\n{}",
            cluster.last_lines(node)
        );
    }
    // Connections are closed within 30 s, whatever was sent on them.
    tokio::time::sleep(Duration::from_secs(35)).await;
    for (node, (before, after)) in before.into_iter().zip(usage(&cluster)).enumerate() {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "node {node}: {:.1} MiB and {} open files before, {:.1} MiB and {} after",
            mib(before.0),
            before.1,
            mib(after.0),
            after.1
        );
        anyhow::ensure!(
            after.1 <= before.1 + 8,
            "node {node} loses file descriptors"
        );
        anyhow::ensure!(
            mib(after.0) <= mib(before.0) * 1.25 + 16.0,
            "the memory of node {node} grows"
        );
    }
    let elected = self::terms(&cluster).await?;
    anyhow::ensure!(elected == terms, "elections: {terms:?} became {elected:?}");
    let client = cluster.client(0).await?;
    client.create_stream("still-here").await?;
    println!("still serving");
    Ok(())
}

/// The term or view of each node.
async fn terms(cluster: &Cluster) -> anyhow::Result<Vec<u64>> {
    let report = cluster.report().await?;
    Ok(report.nodes.iter().map(|node| node.term).collect())
}
