//! Bodies of replies.

use bytes::{BufMut, Bytes, BytesMut};
use iggy_binary_protocol::requests::system::AttachConsumerSessionRequest;
use iggy_binary_protocol::responses::clients::{
    ClientDetailsResponse, ClientResponse, GetClientsResponse,
};
use iggy_binary_protocol::responses::consumer_offsets::ConsumerOffsetResponse;
use iggy_binary_protocol::responses::messages::{
    PollRoutingResponse, SendMessagesConfirmationResponse, SendMessagesResponse,
};
use iggy_binary_protocol::responses::streams::{
    GetStreamResponse, GetStreamsResponse, StreamResponse, TopicHeader,
};
use iggy_binary_protocol::responses::system::{
    ClusterMetadataResponse, ClusterNodeResponse, DescribeOptionsResponse, OptionDescriptor,
    StatsResponse,
};
use iggy_binary_protocol::responses::topics::get_topic::{GetTopicResponse, PartitionResponse};
use iggy_binary_protocol::responses::topics::get_topics::GetTopicsResponse;
use iggy_binary_protocol::responses::users::LoginRegisterResponse;
use iggy_binary_protocol::version::IGGY_PROTOCOL_VERSION;
use iggy_binary_protocol::{WireEncode, WireName, WireOptions};

use super::groups;
use super::options;
use super::reply::SERVER_VERSION;
use crate::metadata::{
    GroupKey, MetadataState, Name, Options, PartitionKey, Stream, Topic, TopicInfo, code,
};
use crate::wire::{ConnectedClient, NodeView, StatsOf, SystemStats, TopicSettings};
use partitions::{Appended, PartitionStats, PolledBatches};

/// Iggy's numbers for roles and states of nodes.
const LEADER: u8 = 0;
const FOLLOWER: u8 = 1;
const HEALTHY: u8 = 0;
const UNREACHABLE: u8 = 3;
/// Iggy's number of the TCP transport.
const TCP: u8 = 1;

/// The body of a successful login.
#[must_use]
pub fn login(user_id: u32, session: u64) -> Bytes {
    LoginRegisterResponse {
        user_id,
        session,
        server_protocol_version: IGGY_PROTOCOL_VERSION,
        server_version: wire_text(SERVER_VERSION),
    }
    .to_bytes()
}

/// The roster.
#[must_use]
pub fn cluster(name: &str, nodes: &[NodeView]) -> Bytes {
    ClusterMetadataResponse {
        name: name.to_owned(),
        nodes: nodes.iter().map(node).collect(),
    }
    .to_bytes()
}

fn node(view: &NodeView) -> ClusterNodeResponse {
    ClusterNodeResponse {
        name: view.name.clone(),
        ip: view.host.clone(),
        tcp_port: view.tcp_port,
        quic_port: 0,
        http_port: 0,
        websocket_port: 0,
        role: if view.leader { LEADER } else { FOLLOWER },
        status: if view.healthy { HEALTHY } else { UNREACHABLE },
    }
}

/// The node that owns a partition, and for whose session it is asked.
#[must_use]
pub fn routing(client: u128, session: u64, watermark: u64, owner: &NodeView) -> Bytes {
    PollRoutingResponse {
        consumer_session: AttachConsumerSessionRequest {
            client_id: client,
            session,
            metadata_watermark: watermark,
        },
        primary: node(owner),
    }
    .to_bytes()
}

/// One client, with its groups.
#[must_use]
pub fn client(state: &MetadataState, client: &ConnectedClient) -> Bytes {
    ClientDetailsResponse {
        client: client_response(state, client),
        consumer_groups: memberships(state, client).map(groups::membership).collect(),
    }
    .to_bytes()
}

/// All clients.
#[must_use]
pub fn clients(state: &MetadataState, clients: &[ConnectedClient]) -> Bytes {
    let clients = clients.iter().map(|client| client_response(state, client));
    GetClientsResponse {
        clients: clients.collect(),
    }
    .to_bytes()
}

fn memberships<'a>(
    state: &'a MetadataState,
    client: &ConnectedClient,
) -> impl Iterator<Item = &'a GroupKey> {
    let client = client.client.into_iter();
    client.flat_map(|client| state.memberships(client))
}

fn client_response(state: &MetadataState, client: &ConnectedClient) -> ClientResponse {
    ClientResponse {
        client_id: client.id,
        user_id: client.user_id.unwrap_or(u32::MAX),
        transport: TCP,
        address: client.address.clone(),
        consumer_groups_count: memberships(state, client).count() as u32,
    }
}

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
        options: options::to_wire(options, |entry| entry.explicit),
        derived_options: options::to_wire(options, |entry| !entry.explicit),
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

/// Where a batch went.
#[must_use]
pub fn sent(key: &PartitionKey, appended: Appended) -> Bytes {
    SendMessagesResponse {
        confirmations: vec![SendMessagesConfirmationResponse {
            stream_id: key.stream_id,
            topic_id: key.topic_id,
            partition_id: key.partition_id,
            base_offset: appended.base_offset,
        }],
    }
    .to_bytes()
}

/// What a poll found: a prefix, and the batches as they are.
#[must_use]
pub fn polled(partition_id: u32, polled: PolledBatches) -> Vec<Bytes> {
    let mut prefix = BytesMut::with_capacity(16);
    prefix.put_u32_le(partition_id);
    prefix.put_u64_le(polled.current_offset);
    prefix.put_u32_le(polled.messages);
    let mut parts = Vec::with_capacity(1 + polled.batches.len());
    parts.push(prefix.freeze());
    parts.extend(polled.batches);
    parts
}

/// A consumer's offset.
#[must_use]
pub fn offset(partition_id: u32, current: u64, stored: u64) -> Bytes {
    ConsumerOffsetResponse {
        partition_id,
        current_offset: current,
        stored_offset: stored,
    }
    .to_bytes()
}

/// The options that a resource of this scope can have.
///
/// # Errors
/// Iggy's code when there is no such scope.
pub fn describe_options(scope: u8) -> Result<Bytes, u32> {
    let entries = match scope {
        1 => topic_options(),
        2 | 3 => Vec::new(),
        _ => return Err(code::INVALID_COMMAND),
    };
    Ok(DescribeOptionsResponse { entries }.to_bytes())
}

fn topic_options() -> Vec<OptionDescriptor> {
    let defaults = options::create_topic_options(&WireOptions::empty(), 0).unwrap_or_default();
    let described = [
        (
            "compression_algorithm",
            "How messages are compressed: none or gzip",
        ),
        ("message_expiry", "Microseconds, or a text such as 7 days"),
        (
            "max_topic_size",
            "Bytes, or a text such as 1 GiB; at least one segment",
        ),
        (
            "segment_size",
            "Bytes, or a text such as 128 MiB; a multiple of 512, 1 MiB to 1 GiB",
        ),
        (
            "durability",
            "When a send is acknowledged: replicated (written) or persisted (synced)",
        ),
        (
            "consumer_offset_durability",
            "The same for consumer offsets",
        ),
        (
            "messages_required_to_save",
            "Kept and returned; every send is written before it is acknowledged",
        ),
        (
            "size_of_messages_required_to_save",
            "Kept and returned; every send is written before it is acknowledged",
        ),
        (
            "preallocate_segments",
            "Kept and returned; segments grow as they are written",
        ),
    ];
    described
        .into_iter()
        .filter_map(|(key, description)| {
            let default = defaults.get(key)?;
            Some(OptionDescriptor {
                key: wire_text(key),
                kind: default.kind,
                default_value: Bytes::copy_from_slice(&default.value),
                description: description.to_owned(),
            })
        })
        .collect()
}

/// Figures of the whole cluster, and of the machine that answers.
#[must_use]
pub fn stats(state: &MetadataState, system: SystemStats, stats: StatsOf<'_>) -> Bytes {
    let (mut topics, mut segments, mut groups) = (0, 0, 0);
    let mut total = Sum::default();
    for stream in state.streams() {
        for topic in stream.topics() {
            topics += 1;
            groups += topic.groups().len() as u32;
            for key in topic.keys(stream.id) {
                let stats = stats(&key);
                segments += stats.segments.max(1);
                total.bytes += stats.bytes;
                total.messages += stats.messages;
            }
        }
    }
    StatsResponse {
        process_id: system.process_id,
        cpu_usage: system.cpu_usage,
        total_cpu_usage: system.total_cpu_usage,
        memory_usage: system.memory_bytes,
        total_memory: system.total_memory_bytes,
        available_memory: system.available_memory_bytes,
        run_time: system.run_time_micros,
        start_time: system.start_time_micros,
        read_bytes: system.read_bytes,
        written_bytes: system.written_bytes,
        messages_size_bytes: total.bytes,
        streams_count: state.streams().len() as u32,
        topics_count: topics,
        partitions_count: state.partitions_count() as u32,
        segments_count: segments,
        messages_count: total.messages,
        clients_count: system.clients,
        consumer_groups_count: groups,
        hostname: system.hostname,
        os_name: system.os_name,
        os_version: system.os_version,
        kernel_version: system.kernel_version,
        iggy_server_version: SERVER_VERSION.to_owned(),
        iggy_server_semver: None,
        cache_metrics: Vec::new(),
        threads_count: system.threads,
        free_disk_space: system.free_disk_bytes,
        total_disk_space: system.total_disk_bytes,
    }
    .to_bytes()
}

fn all(options: &Options) -> WireOptions {
    options::to_wire(options, |_| true)
}

fn wire_name(name: &Name) -> WireName {
    wire_text(name.as_str())
}

pub(super) fn wire_text(text: &str) -> WireName {
    WireName::new(text).expect("names have 1 to 255 bytes")
}
