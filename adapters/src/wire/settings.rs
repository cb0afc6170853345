//! The meaning of a topic's options.

use iggy_common::{
    DEFAULT_MAX_TOPIC_SIZE, DEFAULT_MESSAGE_EXPIRY, DEFAULT_SEGMENT_SIZE, TopicCreateOptions,
};

use super::option_block::to_wire;
use crate::metadata::Options;
use partitions::{Durability, PartitionOptions};

/// Segments that the share of a partition in its topic's maximum size consists of, at least:
/// retention removes whole ones.
const SEGMENTS_PER_SHARE: u64 = 4;
/// Segments are not made smaller than this for a small topic: they are files.
const SEGMENT_BYTES_LEAST: u64 = 64 << 10;

/// A topic's options as the cluster understands them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// When messages expire, in microseconds after they were appended; `u64::MAX` for never.
    pub message_expiry_micros: u64,
    /// The most bytes of the topic; `u64::MAX` for no bound.
    pub max_topic_bytes: u64,
    /// Iggy's number of the compression algorithm.
    pub compression: u8,
    /// How a partition is kept, with the configured size of segments.
    pub partitions: PartitionOptions,
}

impl TopicSettings {
    /// The share of one of so many partitions in the topic's maximum size, in bytes; `None`
    /// for no bound.
    #[must_use]
    pub fn share(&self, partitions: usize) -> Option<u64> {
        let bounded = self.max_topic_bytes != u64::MAX;
        bounded.then(|| self.max_topic_bytes / (partitions.max(1) as u64))
    }

    /// How each of so many partitions is kept. Segments are no larger than a quarter of the
    /// partition's share in the topic's maximum size, or 64 KiB if that is more.
    #[must_use]
    pub fn partition_options(&self, partitions: usize) -> PartitionOptions {
        let of_share = self
            .share(partitions)
            .map(|share| (share / SEGMENTS_PER_SHARE).max(SEGMENT_BYTES_LEAST));
        let configured = self.partitions.segment_bytes_max;
        PartitionOptions {
            segment_bytes_max: of_share.map_or(configured, |bytes| bytes.min(configured)),
            ..self.partitions
        }
    }

    /// The meaning of a topic's options. Options that this version does not know are
    /// ignored: a node that knows them has accepted them.
    #[must_use]
    pub fn of(options: &Options) -> Self {
        let parsed = TopicCreateOptions::parse_committed(&to_wire(options, |_| true));
        let durability = |policy: iggy_common::Durability| match policy.is_persisted() {
            true => Durability::Synced,
            false => Durability::Written,
        };
        Self {
            message_expiry_micros: parsed
                .message_expiry
                .map_or(DEFAULT_MESSAGE_EXPIRY, u64::from),
            max_topic_bytes: parsed
                .max_topic_size
                .map_or(DEFAULT_MAX_TOPIC_SIZE, u64::from),
            compression: parsed.compression_algorithm.unwrap_or_default().as_code(),
            partitions: PartitionOptions {
                segment_bytes_max: parsed
                    .segment_size
                    .map_or(DEFAULT_SEGMENT_SIZE, |size| size.as_bytes_u64()),
                durability: durability(parsed.durability),
                offset_durability: durability(parsed.consumer_offset_durability),
                repairable: false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(max_topic_bytes: u64, segment_bytes_max: u64) -> TopicSettings {
        TopicSettings {
            max_topic_bytes,
            partitions: PartitionOptions {
                segment_bytes_max,
                durability: Durability::Synced,
                offset_durability: Durability::Written,
                repairable: false,
            },
            ..TopicSettings::of(&Options::default())
        }
    }

    #[test]
    fn segments_are_at_most_a_quarter_of_a_partitions_share() {
        const MIB: u64 = 1 << 20;
        let gib = 1 << 30;
        for (topic, segment, partitions, expected) in [
            (u64::MAX, gib, 3, gib),
            (100 * gib, gib, 3, gib),
            (6 * gib, gib, 3, gib / 2),
            (6 * MIB, MIB, 3, MIB / 2),
            (6 * MIB, 100, 3, 100),
            (6 * MIB, MIB, 1_000, SEGMENT_BYTES_LEAST),
            (6 * MIB, MIB, 0, MIB),
        ] {
            let settings = settings(topic, segment);
            let options = settings.partition_options(partitions);
            assert_eq!(options.segment_bytes_max, expected, "{settings:?}");
            assert_eq!(options.durability, Durability::Synced);
        }
    }
}
