//! Removes messages that a topic does not retain.
//!
//! Whole segments are removed, the oldest first: those whose newest message has expired,
//! and those that make a partition larger than its share of the topic's maximum size, except
//! for the newest message. A segment that a consumer or a group has not read to its end
//! stays, regardless of age and size: an abandoned consumer keeps everything that it has not
//! read. It is named in the log, and each pass and each request that keeps segments for a
//! consumer is counted.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ::partitions::replication::OffsetChange;
use ::partitions::{ConsumerKey, PartitionOptions, Trim, Trimmed};
use adapters::metadata::{ErrorCode, Identifier, PartitionKey, code};
use adapters::wire::TopicSettings;
use tracing::{debug, error, warn};

use super::local::{LocalPartitions, now_micros};
use super::messages::DataReply;
use super::readers::{group_of, name_of};

/// The most segments of a partition that one pass removes.
const SEGMENTS_PER_PASS: u32 = 16;
/// A partition with limited retention.
struct Bounded {
    key: PartitionKey,
    options: PartitionOptions,
    expiry_micros: Option<u64>,
    sealed_bytes_max: Option<u64>,
}

/// Runs until the task is aborted.
pub(crate) async fn run(local: Arc<LocalPartitions>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        while pass(&local, now_micros()).await {}
    }
}

/// Checks each partition of this node once. Returns whether there is more to remove.
pub(super) async fn pass(local: &LocalPartitions, now: u64) -> bool {
    // By an old state, messages would be removed that are retained by now, and offsets of
    // groups that it does not contain yet.
    if local.metadata.barrier().await.is_err() {
        return false;
    }
    let mut more = false;
    let mut kept = Vec::new();
    for bounded in bounded(local) {
        let Bounded {
            key,
            options,
            expiry_micros,
            sealed_bytes_max,
        } = bounded;
        let trimmed = async {
            local.forget_deleted_groups(key, options).await?;
            let trim = Trim {
                segments_max: SEGMENTS_PER_PASS,
                sealed_bytes_max,
                not_after: expiry_micros.and_then(|expiry| now.checked_sub(expiry)),
                ..Trim::default()
            };
            local.log(key, options).await?.trim(trim).await
        };
        match trimmed.await {
            Ok(Trimmed { segments, kept_for }) => {
                if segments > 0 {
                    debug!(
                        ?key,
                        segments, "removed segments that the topic does not retain"
                    );
                }
                more |= segments == SEGMENTS_PER_PASS;
                kept.extend(kept_for.map(|(consumer, offset)| Kept {
                    key,
                    consumer,
                    offset,
                }));
            }
            // Purged or deleted in the meantime, another node leads, or other copies lack it.
            Err(code::TRANSIENT_NOT_ACCEPTED | code::PARTITION_NOT_FOUND) => {}
            Err(error) => error!(?key, %error, "cannot remove old messages"),
        }
    }
    local.report_kept(&kept);
    more
}

/// A partition of which segments are kept for a consumer.
struct Kept {
    key: PartitionKey,
    consumer: ConsumerKey,
    offset: u64,
}

/// The partitions of this node with limited retention.
fn bounded(local: &LocalPartitions) -> Vec<Bounded> {
    let state = local.metadata.reader.read();
    let mut found = Vec::new();
    for stream in state.streams() {
        for topic in stream.topics() {
            let settings = TopicSettings::of(&topic.options);
            let finite = |value: u64| (value != u64::MAX).then_some(value);
            let expiry_micros = finite(settings.message_expiry_micros);
            let options = settings.partition_options(topic.partitions.len());
            // The rest of the share is for the segment that is written to.
            let sealed_bytes_max = settings
                .share(topic.partitions.len())
                .map(|share| share.saturating_sub(options.segment_bytes_max));
            if expiry_micros.is_none() && sealed_bytes_max.is_none() {
                continue;
            }
            for key in topic.keys(stream.id) {
                let partition = topic.partitions.get(key.partition_id);
                if partition.is_some_and(|it| it.owner() == local.metadata.me) {
                    found.push(Bounded {
                        key,
                        options,
                        expiry_micros,
                        sealed_bytes_max,
                    });
                }
            }
        }
    }
    found
}

impl LocalPartitions {
    /// Counts partitions of which segments are kept for a consumer, and names one of them in
    /// the log, at a bounded rate.
    fn report_kept(&self, kept: &[Kept]) {
        self.retention_blocked.inc_by(kept.len() as u64);
        let Some(Kept {
            key,
            consumer,
            offset,
        }) = kept.first()
        else {
            return;
        };
        let throttle = self.blocked_logged.lock();
        let due = throttle
            .unwrap_or_else(PoisonError::into_inner)
            .due(Instant::now());
        let Some(suppressed) = due else {
            return;
        };
        let state = self.metadata.reader.read();
        let stream = state.stream(&Identifier::Id(key.stream_id));
        let topic = stream.and_then(|stream| stream.topic(&Identifier::Id(key.topic_id)));
        let (Some(stream), Some(topic)) = (stream, topic) else {
            return;
        };
        warn!(
            stream = %stream.name,
            topic = %topic.name,
            partition = key.partition_id,
            consumer = name_of(&state, key, *consumer),
            offset,
            partitions = kept.len(),
            suppressed,
            "kept old segments for a consumer that has not read them; if it does not return, delete its offset"
        );
    }

    /// Removes the offsets of deleted groups, which would retain segments for no consumer.
    async fn forget_deleted_groups(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<(), ErrorCode> {
        let log = self.log(key, options).await?;
        let stored = log.offsets().await?;
        let deleted: Vec<ConsumerKey> = {
            let state = self.metadata.reader.read();
            let groups = stored.into_iter().map(|(consumer, _)| consumer);
            groups
                .filter(|it| it.group && state.group(&group_of(&key, it.id)).is_none())
                .collect()
        };
        for consumer in deleted {
            let deleted = log.change_offset(consumer, OffsetChange::Delete, None);
            match deleted.await {
                Ok(()) | Err(code::OFFSET_NOT_FOUND) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The last offset of the oldest sealed segments.
    pub(super) async fn sealed_end(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        count: u32,
    ) -> Result<DataReply, ErrorCode> {
        let log = self.log(key, options).await?;
        log.sealed_end(count).await.map(DataReply::SealedEnd)
    }

    /// Removes segments that end at or before this offset and that no consumer needs.
    pub(super) async fn trim_through(
        &self,
        key: PartitionKey,
        through: u64,
    ) -> Result<DataReply, ErrorCode> {
        let current = self.metadata.barrier().await;
        current.map_err(|failure| failure.code())?;
        let options = self.owned_now(key)?;
        self.forget_deleted_groups(key, options).await?;
        let trim = Trim {
            segments_max: u32::MAX,
            through: Some(through),
            ..Trim::default()
        };
        let trimmed = self.log(key, options).await?.trim(trim).await?;
        let Trimmed { kept_for, .. } = trimmed;
        if let Some((consumer, offset)) = kept_for {
            self.report_kept(&[Kept {
                key,
                consumer,
                offset,
            }]);
        }
        Ok(DataReply::Done)
    }
}
