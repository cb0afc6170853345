//! Bodies of replies about clients, options and the whole system.

use bytes::Bytes;
use iggy_binary_protocol::responses::clients::{
    ClientDetailsResponse, ClientResponse, GetClientsResponse,
};
use iggy_binary_protocol::responses::system::{
    DescribeOptionsResponse, OptionDescriptor, StatsResponse,
};
use iggy_binary_protocol::responses::users::LoginRegisterResponse;
use iggy_binary_protocol::version::IGGY_PROTOCOL_VERSION;
use iggy_binary_protocol::{WireEncode, WireOptions};
use iggy_common::SemanticVersion;

use super::fields::wire_text;
use super::groups;
use super::options::create_topic_options;
use super::replication;
use super::reply::SERVER_VERSION;
use crate::error_code::{ErrorCode, code};
use crate::metadata::{GroupKey, MIN_IN_SYNC_REPLICAS, MetadataState, REPLICATION_FACTOR};
use crate::wire::facts::{ConnectedClient, StatsOf, SystemStats};

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

/// The options that a resource of this scope can have. `default_factor` is the number of
/// copies of a partition by default.
///
/// # Errors
/// Iggy's code when there is no such scope.
pub fn describe_options(scope: u8, default_factor: u32) -> Result<Bytes, ErrorCode> {
    let entries = match scope {
        1 => topic_options(default_factor),
        2 | 3 => Vec::new(),
        _ => return Err(code::INVALID_COMMAND),
    };
    Ok(DescribeOptionsResponse { entries }.to_bytes())
}

fn topic_options(default_factor: u32) -> Vec<OptionDescriptor> {
    let mut defaults = create_topic_options(&WireOptions::empty(), 0).unwrap_or_default();
    defaults.set_number(REPLICATION_FACTOR, default_factor, false);
    let least = defaults.min_in_sync(default_factor as usize);
    defaults.set_number(MIN_IN_SYNC_REPLICAS, least as u32, false);
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
            "When a send is acknowledged: replicated (written) or persisted (fsynced)",
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
        .chain(replication::DESCRIBED)
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

/// The version as one number, three decimal digits for each part, as Iggy's server states it.
fn server_semver() -> Option<u32> {
    let version = SemanticVersion::parse_const(SERVER_VERSION);
    version.get_numeric_version().ok()
}

/// Figures of the whole cluster, and of the machine that answers.
#[must_use]
pub fn stats(state: &MetadataState, system: SystemStats, stats: StatsOf<'_>) -> Bytes {
    let (mut topics, mut segments, mut groups) = (0, 0, 0);
    let (mut bytes, mut messages) = (0, 0);
    for stream in state.streams() {
        for topic in stream.topics() {
            topics += 1;
            groups += topic.groups().len() as u32;
            for key in topic.keys(stream.id) {
                let stats = stats(&key);
                segments += stats.segments.max(1);
                bytes += stats.bytes;
                messages += stats.messages;
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
        messages_size_bytes: bytes,
        streams_count: state.streams().len() as u32,
        topics_count: topics,
        partitions_count: state.partitions_count() as u32,
        segments_count: segments,
        messages_count: messages,
        clients_count: system.clients,
        consumer_groups_count: groups,
        hostname: system.hostname,
        os_name: system.os_name,
        os_version: system.os_version,
        kernel_version: system.kernel_version,
        iggy_server_version: SERVER_VERSION.to_owned(),
        iggy_server_semver: server_semver(),
        cache_metrics: Vec::new(),
        threads_count: system.threads,
        free_disk_space: system.free_disk_bytes,
        total_disk_space: system.total_disk_bytes,
    }
    .to_bytes()
}
