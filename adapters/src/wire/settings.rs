//! The meaning of a topic's options.

use iggy_common::{
    DEFAULT_MAX_TOPIC_SIZE, DEFAULT_MESSAGE_EXPIRY, DEFAULT_SEGMENT_SIZE, TopicCreateOptions,
};

use super::option_block::to_wire;
use crate::metadata::Options;
use partitions::{Durability, PartitionOptions};

/// A topic's options as the cluster understands them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// When messages expire, in microseconds after they were appended; `u64::MAX` for never.
    pub message_expiry_micros: u64,
    /// The most bytes of the topic; `u64::MAX` for no bound.
    pub max_topic_bytes: u64,
    /// Iggy's number of the compression algorithm.
    pub compression: u8,
    /// How the partitions are kept.
    pub partitions: PartitionOptions,
}

impl TopicSettings {
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
            },
        }
    }
}
