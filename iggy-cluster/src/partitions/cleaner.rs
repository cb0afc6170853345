//! Removes messages that a topic does not keep.
//!
//! Whole segments go, the oldest first: those whose newest message has expired, and
//! those that make a partition larger than its share of the topic's size. A segment
//! that a consumer or a group has not read to its end stays, however old or large,
//! so a consumer that was forgotten keeps what it has not read.

use std::sync::Arc;
use std::time::Duration;

use ::partitions::{ConsumerKey, PartitionOptions, StorageError, Trim};
use adapters::metadata::{ErrorCode, PartitionKey};
use adapters::wire::TopicSettings;
use tracing::{debug, error};

use super::local::{now_micros, refusal};
use super::readers::group_of;
use super::{DataReply, LocalPartitions};

/// Segments that go at once; what is left goes in the next pass.
const SEGMENTS_AT_ONCE: u32 = 16;
/// A partition may always hold this much beside a segment: the largest frame.
const ROOM_BYTES: u64 = 64 << 20;

/// A partition that keeps less than everything.
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

/// Looks at each partition of this node once. Returns whether there is more to do.
pub(super) async fn pass(local: &LocalPartitions, now: u64) -> bool {
    // A state from before would lose what is kept by now, and offsets of groups that
    // it does not know yet.
    if local.metadata.barrier().await.is_err() {
        return false;
    }
    let mut more = false;
    for bounded in bounded(local) {
        let Bounded {
            key,
            options,
            expiry_micros,
            sealed_bytes_max,
        } = bounded;
        let trimmed = async {
            local.forget_gone_groups(key, options).await?;
            let trim = Trim {
                segments_max: SEGMENTS_AT_ONCE,
                sealed_bytes_max,
                not_after: expiry_micros.and_then(|expiry| now.checked_sub(expiry)),
                ..Trim::default()
            };
            local.storage.trim(key, options, trim).await
        };
        match trimmed.await {
            Ok(0) => {}
            Ok(segments) => {
                debug!(?key, segments, "removed what the topic does not keep");
                more |= segments == SEGMENTS_AT_ONCE;
            }
            // Purged or deleted meanwhile.
            Err(StorageError::Closed | StorageError::Removed) => {}
            Err(error) => error!(?key, %error, "cannot remove old messages"),
        }
    }
    more
}

/// The partitions of this node whose topics keep less than everything.
fn bounded(local: &LocalPartitions) -> Vec<Bounded> {
    let state = local.metadata.reader.read();
    let mut found = Vec::new();
    for stream in state.streams() {
        for topic in stream.topics() {
            let settings = TopicSettings::of(&topic.options);
            let finite = |value: u64| (value != u64::MAX).then_some(value);
            let expiry_micros = finite(settings.message_expiry_micros);
            let share = finite(settings.max_topic_bytes)
                .map(|bytes| share(bytes, topic.partitions.len() as u64, &settings));
            if expiry_micros.is_none() && share.is_none() {
                continue;
            }
            for key in topic.keys(stream.id) {
                let owner = topic.partitions[key.partition_id as usize].owner;
                if owner == local.metadata.me {
                    found.push(Bounded {
                        key,
                        options: settings.partitions,
                        expiry_micros,
                        sealed_bytes_max: share,
                    });
                }
            }
        }
    }
    found
}

/// What one of so many partitions may hold of a topic's size.
fn share(topic_bytes: u64, partitions: u64, settings: &TopicSettings) -> u64 {
    let least = settings
        .partitions
        .segment_bytes_max
        .saturating_add(ROOM_BYTES);
    (topic_bytes / partitions.max(1)).max(least)
}

impl LocalPartitions {
    /// Offsets of groups that are gone would keep segments for nobody.
    async fn forget_gone_groups(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<(), StorageError> {
        for (consumer, _) in self.storage.offsets(key, options).await? {
            if self.is_gone(&key, consumer) {
                self.storage.delete_offset(key, options, consumer).await?;
            }
        }
        Ok(())
    }

    fn is_gone(&self, key: &PartitionKey, consumer: ConsumerKey) -> bool {
        let state = self.metadata.reader.read();
        consumer.group && state.group(&group_of(key, consumer.id)).is_none()
    }

    /// Where the oldest segments end that nothing is written to any more.
    pub(super) async fn sealed_end(
        &self,
        key: PartitionKey,
        count: u32,
    ) -> Result<DataReply, ErrorCode> {
        let options = self.owned(&key).await?;
        let end = self.storage.sealed_end(key, options, count).await;
        end.map(DataReply::SealedEnd)
            .map_err(|error| refusal(&key, &error))
    }

    /// Removes segments that end at this offset or before, as far as no consumer
    /// needs them.
    pub(super) async fn trim_through(
        &self,
        key: PartitionKey,
        through: u64,
    ) -> Result<DataReply, ErrorCode> {
        let current = self.metadata.barrier().await;
        current.map_err(|failure| failure.code())?;
        let options = self.owned(&key).await?;
        let failed = |error: StorageError| refusal(&key, &error);
        let forgotten = self.forget_gone_groups(key, options).await;
        forgotten.map_err(failed)?;
        let trim = Trim {
            segments_max: u32::MAX,
            through: Some(through),
            ..Trim::default()
        };
        let trimmed = self.storage.trim(key, options, trim).await;
        trimmed.map(|_| DataReply::Done).map_err(failed)
    }
}
