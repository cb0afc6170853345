//! Bodies of replies about streams, topics and partitions.

use bytes::Bytes;
use iggy_binary_protocol::responses::streams::{
    GetStreamResponse, GetStreamsResponse, StreamResponse, TopicHeader,
};
use iggy_binary_protocol::responses::topics::get_topic::{GetTopicResponse, PartitionResponse};
use iggy_binary_protocol::responses::topics::get_topics::GetTopicsResponse;
use iggy_binary_protocol::{WireEncode, WireName, WireOptions};
use partitions::PartitionStats;

use super::fields::wire_text;
use crate::metadata::{MetadataState, Name, Options, Stream, Topic, TopicInfo};
use crate::wire::facts::StatsOf;
use crate::wire::option_block::to_wire;
use crate::wire::settings::TopicSettings;

/// One stream with its topics.
#[must_use]
pub fn stream(stream: &Stream, stats: StatsOf<'_>) -> Bytes {
    GetStreamResponse {
        stream: stream_response(stream, stats),
        topics: stream
            .topics()
            .map(|topic| topic_header(topic, sum(topic, stream.id, stats)))
            .collect(),
    }
    .to_bytes()
}

/// All streams.
#[must_use]
pub fn streams(state: &MetadataState, stats: StatsOf<'_>) -> Bytes {
    GetStreamsResponse {
        streams: state
            .streams()
            .map(|stream| stream_response(stream, stats))
            .collect(),
    }
    .to_bytes()
}

/// One topic with its partitions.
#[must_use]
pub fn topic(stream: &Stream, topic: &Topic, stats: StatsOf<'_>) -> Bytes {
    let partitions = topic
        .keys(stream.id)
        .zip(&topic.partitions)
        .map(|(key, partition)| {
            let stats = stats(&key);
            partition_response(key.partition_id, partition.created_at, stats)
        })
        .collect();
    GetTopicResponse {
        topic: topic_header(topic, sum(topic, stream.id, stats)),
        partitions,
    }
    .to_bytes()
}

/// All topics of a stream.
#[must_use]
pub fn topics(stream: &Stream, stats: StatsOf<'_>) -> Bytes {
    GetTopicsResponse {
        topics: stream
            .topics()
            .map(|topic| topic_header(topic, sum(topic, stream.id, stats)))
            .collect(),
    }
    .to_bytes()
}

/// The topics of a stream that does not exist.
#[must_use]
pub fn no_topics() -> Bytes {
    GetTopicsResponse { topics: Vec::new() }.to_bytes()
}

/// A stream that was just created.
#[must_use]
pub fn created_stream(id: u32, created_at: u64, name: &Name, options: &Options) -> Bytes {
    GetStreamResponse {
        stream: StreamResponse {
            id,
            created_at,
            topics_count: 0,
            size_bytes: 0,
            messages_count: 0,
            name: wire_name(name),
            options: all(options),
        },
        topics: Vec::new(),
    }
    .to_bytes()
}

/// A topic that was just created.
#[must_use]
pub fn created_topic(created: &TopicInfo) -> Bytes {
    GetTopicResponse {
        topic: header_of(
            created.id,
            created.created_at,
            created.partitions.len() as u32,
            &created.name,
            &created.options,
            Sum::default(),
        ),
        partitions: created
            .partitions
            .iter()
            .map(|id| partition_response(*id, created.created_at, PartitionStats::default()))
            .collect(),
    }
    .to_bytes()
}

/// Sizes of several partitions.
#[derive(Clone, Copy, Default)]
struct Sum {
    bytes: u64,
    messages: u64,
}

fn sum(topic: &Topic, stream_id: u32, stats: StatsOf<'_>) -> Sum {
    topic.keys(stream_id).fold(Sum::default(), |sum, key| {
        let stats = stats(&key);
        Sum {
            bytes: sum.bytes + stats.bytes,
            messages: sum.messages + stats.messages,
        }
    })
}

fn stream_response(stream: &Stream, stats: StatsOf<'_>) -> StreamResponse {
    let total = stream.topics().fold(Sum::default(), |total, topic| {
        let sum = sum(topic, stream.id, stats);
        Sum {
            bytes: total.bytes + sum.bytes,
            messages: total.messages + sum.messages,
        }
    });
    StreamResponse {
        id: stream.id,
        created_at: stream.created_at,
        topics_count: stream.topics().len() as u32,
        size_bytes: total.bytes,
        messages_count: total.messages,
        name: wire_name(&stream.name),
        options: all(&stream.options),
    }
}

fn topic_header(topic: &Topic, sum: Sum) -> TopicHeader {
    header_of(
        topic.id,
        topic.created_at,
        topic.partitions.len() as u32,
        &topic.name,
        &topic.options,
        sum,
    )
}

fn header_of(
    id: u32,
    created_at: u64,
    partitions_count: u32,
    name: &Name,
    options: &Options,
    sum: Sum,
) -> TopicHeader {
    let settings = TopicSettings::of(options);
    TopicHeader {
        id,
        created_at,
        partitions_count,
        message_expiry: settings.message_expiry_micros,
        compression_algorithm: settings.compression,
        max_topic_size: settings.max_topic_bytes,
        size_bytes: sum.bytes,
        messages_count: sum.messages,
        name: wire_name(name),
        options: to_wire(options, |entry| entry.explicit),
        derived_options: to_wire(options, |entry| !entry.explicit),
    }
}

fn partition_response(id: u32, created_at: u64, stats: PartitionStats) -> PartitionResponse {
    PartitionResponse {
        id,
        created_at,
        // A partition that was never written counts as one empty segment.
        segments_count: stats.segments.max(1),
        current_offset: stats.current_offset(),
        size_bytes: stats.bytes,
        messages_count: stats.messages,
    }
}

fn all(options: &Options) -> WireOptions {
    to_wire(options, |_| true)
}

fn wire_name(name: &Name) -> WireName {
    wire_text(name.as_str())
}
