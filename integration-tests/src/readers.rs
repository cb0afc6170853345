//! A consumer group of stock high-level consumers, and the messages for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use iggy::prelude::*;
use tokio::task::JoinSet;

use crate::{Cluster, PATIENCE, POLL};

const STREAM: &str = "s";
const TOPIC: &str = "t";
const GROUP: &str = "readers";
/// Between two attempts of a producer whose partition is unavailable.
const PAUSE: Duration = Duration::from_millis(50);

/// How often each offset of each partition was received.
type Seen = BTreeMap<u32, Vec<u32>>;

/// Members of one group, each with a client of its own and the defaults of the high-level
/// consumer: offsets are committed by polls.
pub struct Readers {
    seen: Arc<Mutex<Seen>>,
    errors: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    members: JoinSet<()>,
}

/// What the members have received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Messages, each counted once.
    pub distinct: u64,
    /// Messages received again.
    pub repeated: u64,
    /// Messages that were not received, although a later one of their partition was.
    pub missing: u64,
    /// Errors that consumers reported before they continued.
    pub errors: u64,
}

/// Creates the topic of the group.
///
/// # Errors
/// When the cluster refuses.
pub async fn create_topic(client: &IggyClient, partitions: u32) -> anyhow::Result<()> {
    client.create_stream(STREAM).await?;
    let options = TopicCreateOptions {
        partitions_count: Some(partitions),
        ..TopicCreateOptions::default()
    };
    let stream = Identifier::named(STREAM)?;
    client.create_topic(&stream, TOPIC, &options).await?;
    Ok(())
}

/// Sends `batches` of `messages` each to a partition. A batch whose outcome is
/// unknown is sent again, so the partition may contain more.
///
/// # Errors
/// When the batch cannot be built.
pub async fn produce(
    client: &IggyClient,
    partition: u32,
    batches: u32,
    messages: u32,
) -> anyhow::Result<()> {
    let (stream, topic) = (Identifier::named(STREAM)?, Identifier::named(TOPIC)?);
    let partitioning = Partitioning::partition_id(partition);
    for _ in 0..batches {
        loop {
            let mut batch = (0..messages)
                .map(|_| IggyMessage::builder().payload("payload".into()).build())
                .collect::<Result<Vec<_>, _>>()?;
            let sent = client.send_messages(&stream, &topic, &partitioning, &mut batch);
            if sent.await.is_ok() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// How many messages the partitions contain.
///
/// # Errors
/// When the cluster does not reply.
pub async fn message_count(client: &IggyClient) -> anyhow::Result<u64> {
    let (stream, topic) = (Identifier::named(STREAM)?, Identifier::named(TOPIC)?);
    let details = client.get_topic(&stream, &topic).await?;
    Ok(details.map_or(0, |topic| topic.messages_count))
}

impl Readers {
    /// Starts a member through each of these nodes.
    ///
    /// # Errors
    /// When a member cannot connect or join.
    pub async fn start(cluster: &Cluster, nodes: &[u8]) -> anyhow::Result<Self> {
        let mut readers = Self {
            seen: Arc::default(),
            errors: Arc::default(),
            stop: Arc::default(),
            members: JoinSet::new(),
        };
        for node in nodes {
            let client = cluster.client(*node).await?;
            readers.add(client).await?;
        }
        Ok(readers)
    }

    /// Adds a member.
    ///
    /// # Errors
    /// When it cannot join.
    pub async fn add(&mut self, client: IggyClient) -> anyhow::Result<()> {
        let mut consumer = client
            .consumer_group(GROUP, STREAM, TOPIC)?
            .create_consumer_group_if_not_exists()
            .auto_join_consumer_group()
            .polling_strategy(PollingStrategy::next())
            .batch_length(1_000)
            .build();
        consumer.init().await?;
        let seen = Arc::clone(&self.seen);
        let errors = Arc::clone(&self.errors);
        let stop = Arc::clone(&self.stop);
        self.members.spawn(async move {
            // The connection ends the consumer: its own shutdown would wait for the lock that
            // its unfinished poll holds.
            let _client = client;
            while !stop.load(Ordering::Relaxed) {
                let next = tokio::time::timeout(PAUSE, consumer.next()).await;
                match next {
                    Ok(Some(Ok(message))) => {
                        let offset = message.message.header.offset;
                        note(&seen, message.partition_id, offset);
                    }
                    Ok(Some(Err(_))) => drop(errors.fetch_add(1, Ordering::Relaxed)),
                    Ok(None) => break,
                    Err(_) => {}
                }
            }
        });
        Ok(())
    }

    /// What the members have received so far.
    #[must_use]
    pub fn received(&self) -> Received {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut received = Received {
            errors: self.errors.load(Ordering::Relaxed),
            ..Received::default()
        };
        for count in seen.values().flatten() {
            match count {
                0 => received.missing += 1,
                _ => received.distinct += 1,
            }
            received.repeated += u64::from(count.saturating_sub(1));
        }
        received
    }

    /// Waits until this many messages were received, each at least once.
    ///
    /// # Errors
    /// When no more messages are received.
    pub async fn have_received(&self, messages: u64) -> anyhow::Result<Received> {
        let (mut last, mut since) = (Received::default(), Instant::now());
        loop {
            let received = self.received();
            if received.distinct >= messages {
                return Ok(received);
            }
            if received.distinct > last.distinct {
                (last, since) = (received, Instant::now());
            }
            anyhow::ensure!(
                since.elapsed() < PATIENCE,
                "no more messages are received: {received:?} of {messages}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops the members.
    ///
    /// # Errors
    /// When a member panicked.
    pub async fn stop(mut self) -> anyhow::Result<Received> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(member) = self.members.join_next().await {
            member?;
        }
        Ok(self.received())
    }
}

fn note(seen: &Mutex<Seen>, partition: u32, offset: u64) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = seen.entry(partition).or_default();
    let at = offset as usize;
    if counts.len() <= at {
        counts.resize(at + 1, 0);
    }
    counts[at] += 1;
}
