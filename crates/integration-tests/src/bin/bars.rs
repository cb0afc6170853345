//! Measures what users of a cluster feel, with stock clients against processes
//! on this machine: commands per second, the gap when the leader is killed, and
//! message throughput.
//!
//! ```sh
//! cargo run --release -p integration-tests --bin bars -- commands
//! cargo run --release -p integration-tests --bin bars -- failover --trials 20
//! cargo run --release -p integration-tests --bin bars -- messages
//! cargo run --release -p integration-tests --bin bars -- garbage
//! ```

#![expect(clippy::print_stdout, reason = "a tool whose output is figures")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use iggy::prelude::*;
use integration_tests::{Backend, Cluster, Garbage, sibling};

#[derive(Parser)]
struct Args {
    /// Who orders the metadata
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
    /// One producer into a partition of the node that it talks to, and one
    /// consumer that reads it back
    Messages {
        /// Batches of 1,000 messages of 1 KB
        #[arg(long, default_value_t = 2_000)]
        batches: usize,
    },
    /// Random and mutated frames against the client port and the replica port
    Garbage {
        /// How many frames, over both ports
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
        Bar::Messages { batches } => messages(backend, batches).await,
        Bar::Garbage { frames } => garbage(backend, frames).await,
    }
}

async fn commands(backend: Backend, clients: usize, seconds: u64) -> anyhow::Result<()> {
    let cluster = Cluster::start(sibling("node")?, backend, 3).await?;
    let load = Load::start(&cluster, clients).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, begun) = (load.done(), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let rate = (load.done() - before) as f64 / begun.elapsed().as_secs_f64();
    load.stop().await;
    println!("{clients} clients: {rate:.0} commands/s");
    Ok(())
}

async fn failover(backend: Backend, trials: usize, clients: usize) -> anyhow::Result<()> {
    let mut gaps = Vec::new();
    for trial in 1..=trials {
        let mut cluster = Cluster::start(sibling("node")?, backend, 3).await?;
        let load = Load::start(&cluster, clients).await?;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let leader = cluster.leader().await?;
        cluster.kill(leader)?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let gap = load.worst_gap();
        let expected = load.stop().await;
        cluster.run(leader)?;
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
        "worst gap: median {} ms, maximum {} ms of {trials} trials",
        at(0.5),
        at(1.0)
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

struct Expected {
    streams: BTreeMap<String, bool>,
    acknowledged: u64,
}

/// Stock clients that create and delete streams of their own.
struct Load {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<Vec<Instant>>>,
    clients: tokio::task::JoinSet<BTreeMap<String, bool>>,
}

impl Load {
    async fn start(cluster: &Cluster, clients: usize) -> anyhow::Result<Self> {
        let mut load = Self {
            done: Arc::default(),
            stop: Arc::default(),
            answered: Arc::default(),
            clients: tokio::task::JoinSet::new(),
        };
        let mut connected = Vec::new();
        for number in 0..clients {
            connected.push(cluster.client((number % 3) as u8).await?);
        }
        for (number, client) in connected.into_iter().enumerate() {
            let done = Arc::clone(&load.done);
            let stop = Arc::clone(&load.stop);
            let answered = Arc::clone(&load.answered);
            load.clients
                .spawn(async move { churn(number, &client, &done, &stop, &answered).await });
        }
        Ok(load)
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// The longest time in which nobody was answered.
    fn worst_gap(&self) -> Duration {
        let mut answered = self.answered.lock().expect("no client panics").clone();
        answered.push(Instant::now());
        answered.sort();
        let gaps = answered.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    async fn stop(mut self) -> Expected {
        self.stop.store(true, Ordering::Relaxed);
        let mut streams = BTreeMap::new();
        while let Some(joined) = self.clients.join_next().await {
            streams.extend(joined.unwrap_or_default());
        }
        Expected {
            streams,
            acknowledged: self.done(),
        }
    }
}

/// Returns, of each stream whose last command was acknowledged, whether it
/// exists.
async fn churn(
    number: usize,
    client: &IggyClient,
    done: &AtomicU64,
    stop: &AtomicBool,
    answered: &Mutex<Vec<Instant>>,
) -> BTreeMap<String, bool> {
    let mut known = BTreeMap::new();
    let acknowledge = || {
        done.fetch_add(1, Ordering::Relaxed);
        answered
            .lock()
            .expect("no client panics")
            .push(Instant::now());
    };
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Every eighth stream stays, so that a loss of either kind is seen.
        let name = format!("s-{number}-{round}");
        let Ok(id) = Identifier::named(&name) else {
            break;
        };
        match client.create_stream(&name).await {
            Ok(_) => {
                acknowledge();
                known.insert(name.clone(), true);
            }
            Err(_) => continue,
        }
        if round % 8 == 0 {
            continue;
        }
        known.remove(&name);
        if client.delete_stream(&id).await.is_ok() {
            acknowledge();
            known.insert(name, false);
        }
        if known.len() > 64 {
            // Only what stays needs to be remembered for long.
            known.retain(|_, exists| *exists);
        }
    }
    known
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
    // Partitions are dealt in the order of the nodes' numbers.
    let partitioning = Partitioning::partition_id(u32::from(node));
    let payload = bytes::Bytes::from(vec![b'x'; BYTES]);
    let begun = Instant::now();
    for _ in 0..batches {
        let mut batch = (0..MESSAGES)
            .map(|_| IggyMessage::builder().payload(payload.clone()).build())
            .collect::<Result<Vec<_>, _>>()?;
        client
            .send_messages(&stream, &topic, &partitioning, &mut batch)
            .await?;
    }
    report("sent", batches, MESSAGES, BYTES, begun);
    let begun = Instant::now();
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
    report("polled", batches, MESSAGES, BYTES, begun);
    Ok(())
}

fn report(what: &str, batches: usize, messages: u32, bytes: usize, begun: Instant) {
    let total = (batches * messages as usize * bytes) as f64;
    let rate = total / begun.elapsed().as_secs_f64() / 1e6;
    println!("{what} {batches} batches: {rate:.0} MB/s");
}

async fn garbage(backend: Backend, frames: u64) -> anyhow::Result<()> {
    const SENDERS: u64 = 16;
    let mut cluster = Cluster::start(sibling("node")?, backend, 3).await?;
    let warm_up = Garbage::send(&cluster, 1, 20_000).await?;
    let before: Vec<_> = (0..3).map(|node| cluster.memory_bytes(node)).collect();
    let begun = Instant::now();
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
    println!("{sent} frames in {:.0} s", begun.elapsed().as_secs_f64());
    for node in 0..3 {
        anyhow::ensure!(
            cluster.runs(node),
            "node {node} died:\n{}",
            cluster.last_lines(node)
        );
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let after = cluster.memory_bytes(node);
        println!(
            "node {node}: {:.1} MiB before, {:.1} MiB after",
            mib(before[usize::from(node)]),
            mib(after)
        );
    }
    let client = cluster.client(0).await?;
    client.create_stream("still-here").await?;
    println!("still serving");
    Ok(())
}
