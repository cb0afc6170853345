//! From bodies to [`Request`]s.

use bytes::Bytes;
use iggy_binary_protocol::codes::*;
use iggy_binary_protocol::consensus::Operation;
use iggy_binary_protocol::primitives::consumer::KIND_CONSUMER_GROUP;
use iggy_binary_protocol::requests::consumer_offsets::{
    DeleteConsumerOffsetRequest, GetConsumerOffsetRequest, StoreConsumerOffsetRequest,
};
use iggy_binary_protocol::requests::messages::{PollMessagesRequest, SendMessagesHeader};
use iggy_binary_protocol::requests::partitions::{
    CreatePartitionsRequest, DeletePartitionsRequest,
};
use iggy_binary_protocol::requests::segments::DeleteSegmentsRequest;
use iggy_binary_protocol::requests::streams::{
    CreateStreamRequest, DeleteStreamRequest, GetStreamRequest, PurgeStreamRequest,
    UpdateStreamRequest,
};
use iggy_binary_protocol::requests::system::{
    AttachConsumerSessionRequest, DescribeOptionsRequest, GetClientRequest, GetSnapshotRequest,
};
use iggy_binary_protocol::requests::topics::{
    CreateTopicRequest, DeleteTopicRequest, GetTopicRequest, GetTopicsRequest, PurgeTopicRequest,
    UpdateTopicRequest,
};
use iggy_binary_protocol::requests::users::{LoginRegisterRequest, LoginRegisterWithPatRequest};
use iggy_binary_protocol::version::ClientVersionInfo;
use iggy_binary_protocol::{
    WireConsumer, WireDecode, WireIdentifier, WirePartitioning, lookup_command,
};
use iggy_common::calculate_32;
use secrecy::ExposeSecret;

use super::fields::{Result, identifier, name, read};
use super::frame::RequestHeader;
use super::options::{
    check_partitions_change, create_stream_options, create_topic_options, update_topic_options,
};
use super::{groups, users};
use crate::error_code::code;
use crate::metadata::{ClientOperation, PartitionCount};
use crate::wire::request::{
    ArchiveSection, Consumer, Credentials, OffsetTarget, PartitionTarget, Partitioning,
    PollRequest, PollStart, Request, SendRequest,
};

/// The request in a body.
///
/// # Errors
/// Iggy's code when the body does not decode, or breaks a rule that needs no
/// state to check.
pub fn decode(header: &RequestHeader, body: &Bytes) -> Result<Request> {
    check_command(header)?;
    Ok(match header.code {
        PING_CODE => Request::Ping,
        GET_STATS_CODE => Request::Stats,
        GET_CLUSTER_METADATA_CODE => Request::ClusterMetadata,
        DESCRIBE_OPTIONS_CODE => Request::DescribeOptions {
            scope: read::<DescribeOptionsRequest>(body)?.scope,
        },
        ATTACH_CONSUMER_SESSION_CODE => {
            let attach: AttachConsumerSessionRequest = read(body)?;
            Request::AttachConsumerSession {
                client: attach.client_id,
                session: attach.session,
                watermark: attach.metadata_watermark,
            }
        }
        GET_ME_CODE => Request::Me,
        GET_CLIENT_CODE => Request::Client {
            id: read::<GetClientRequest>(body)?.client_id,
        },
        GET_CLIENTS_CODE => Request::Clients,
        LOGIN_REGISTER_CODE => login(body)?,
        LOGIN_USER_CODE | LOGIN_WITH_PERSONAL_ACCESS_TOKEN_CODE => Request::LegacyLogin,
        LOGOUT_USER_CODE => Request::Logout,
        GET_STREAM_CODE => Request::Stream(identifier(&read::<GetStreamRequest>(body)?.stream_id)?),
        GET_STREAMS_CODE => Request::Streams,
        GET_TOPIC_CODE => {
            let get: GetTopicRequest = read(body)?;
            Request::Topic {
                stream: identifier(&get.stream_id)?,
                topic: identifier(&get.topic_id)?,
            }
        }
        GET_TOPICS_CODE => Request::Topics(identifier(&read::<GetTopicsRequest>(body)?.stream_id)?),
        SEND_MESSAGES_CODE => send(body)?,
        POLL_MESSAGES_CODE => Request::Poll(poll(body)?),
        POLL_MESSAGES_ON_PRIMARY_CODE => Request::PollOnPrimary(poll(body)?),
        GET_POLL_ROUTING_CODE => match poll(body)? {
            poll if poll.auto_commit => Request::PollRouting(poll.target),
            // A client that commits by itself polls through the node it is connected to.
            _ => return Err(code::INVALID_COMMAND),
        },
        GET_CONSUMER_OFFSET_CODE => {
            let get: GetConsumerOffsetRequest = read(body)?;
            let partition = get.partition_id.or(Some(0));
            Request::Offset(target(
                &get.consumer,
                &get.stream_id,
                &get.topic_id,
                partition,
            )?)
        }
        GET_CONSUMER_OFFSET_ROUTING_CODE => Request::OffsetRouting(offset_target(body)?),
        STORE_CONSUMER_OFFSET_CODE => {
            let store: StoreConsumerOffsetRequest = read(body)?;
            Request::StoreOffset {
                target: target(
                    &store.consumer,
                    &store.stream_id,
                    &store.topic_id,
                    store.partition_id,
                )?,
                offset: store.offset,
            }
        }
        DELETE_CONSUMER_OFFSET_CODE => {
            let delete: DeleteConsumerOffsetRequest = read(body)?;
            Request::DeleteOffset(target(
                &delete.consumer,
                &delete.stream_id,
                &delete.topic_id,
                delete.partition_id,
            )?)
        }
        GET_SNAPSHOT_FILE_CODE => archive(body)?,
        DELETE_SEGMENTS_CODE => {
            let delete: DeleteSegmentsRequest = read(body)?;
            Request::DeleteSegments {
                target: PartitionTarget {
                    stream: identifier(&delete.stream_id)?,
                    topic: identifier(&delete.topic_id)?,
                    partition: delete.partition_id,
                },
                count: delete.segments_count,
            }
        }
        _ => match change(header.code, body)? {
            Some(operation) => Request::Change(operation),
            None => match groups::decode(header.code, body)? {
                Some(request) => request,
                None => users::decode(header.code, body)?.ok_or(code::FEATURE_UNAVAILABLE)?,
            },
        },
    })
}

/// A frame without a replicated operation names its command. The session in such a frame was
/// not compared with the connection's, so it may not name a replicated command.
fn check_command(header: &RequestHeader) -> Result<()> {
    if header.operation != Operation::NonReplicated {
        return Ok(());
    }
    match lookup_command(header.code) {
        Some(command) if command.is_replicated() => Err(code::FEATURE_UNAVAILABLE),
        Some(_) => Ok(()),
        None => Err(code::INVALID_COMMAND),
    }
}

fn change(command: u32, body: &[u8]) -> Result<Option<ClientOperation<PartitionCount>>> {
    Ok(Some(match command {
        CREATE_STREAM_CODE => {
            let create: CreateStreamRequest = read(body)?;
            ClientOperation::CreateStream {
                name: name(&create.name)?,
                options: create_stream_options(&create.options)?,
            }
        }
        UPDATE_STREAM_CODE => {
            let update: UpdateStreamRequest = read(body)?;
            ClientOperation::UpdateStream {
                stream: identifier(&update.stream_id)?,
                name: name(&update.name)?,
                options: create_stream_options(&update.options)?,
            }
        }
        DELETE_STREAM_CODE => ClientOperation::DeleteStream {
            stream: identifier(&read::<DeleteStreamRequest>(body)?.stream_id)?,
        },
        PURGE_STREAM_CODE => ClientOperation::PurgeStream {
            stream: identifier(&read::<PurgeStreamRequest>(body)?.stream_id)?,
        },
        CREATE_TOPIC_CODE => {
            let create: CreateTopicRequest = read(body)?;
            ClientOperation::CreateTopic {
                stream: identifier(&create.stream_id)?,
                name: name(&create.name)?,
                options: create_topic_options(&create.options, create.partitions_count)?,
                partitions: PartitionCount(create.partitions_count),
            }
        }
        UPDATE_TOPIC_CODE => {
            let update: UpdateTopicRequest = read(body)?;
            ClientOperation::UpdateTopic {
                stream: identifier(&update.stream_id)?,
                topic: identifier(&update.topic_id)?,
                name: name(&update.name)?,
                options: update_topic_options(&update.options)?,
            }
        }
        DELETE_TOPIC_CODE => {
            let delete: DeleteTopicRequest = read(body)?;
            ClientOperation::DeleteTopic {
                stream: identifier(&delete.stream_id)?,
                topic: identifier(&delete.topic_id)?,
            }
        }
        PURGE_TOPIC_CODE => {
            let purge: PurgeTopicRequest = read(body)?;
            ClientOperation::PurgeTopic {
                stream: identifier(&purge.stream_id)?,
                topic: identifier(&purge.topic_id)?,
            }
        }
        CREATE_PARTITIONS_CODE => {
            let create: CreatePartitionsRequest = read(body)?;
            check_partitions_change(create.partitions_count)?;
            ClientOperation::CreatePartitions {
                stream: identifier(&create.stream_id)?,
                topic: identifier(&create.topic_id)?,
                partitions: PartitionCount(create.partitions_count),
            }
        }
        DELETE_PARTITIONS_CODE => {
            let delete: DeletePartitionsRequest = read(body)?;
            check_partitions_change(delete.partitions_count)?;
            ClientOperation::DeletePartitions {
                stream: identifier(&delete.stream_id)?,
                topic: identifier(&delete.topic_id)?,
                partitions: delete.partitions_count,
            }
        }
        _ => {
            return match groups::change(command, body)? {
                None => users::change(command, body),
                change => Ok(change),
            };
        }
    }))
}

/// The sections of an archive: "all" stands alone. Any reader of ZIP accepts files that are
/// stored without compression, so the requested compression only has to exist.
fn archive(body: &[u8]) -> Result<Request> {
    const COMPRESSIONS: std::ops::RangeInclusive<u8> = 1..=6;
    const ALL: u8 = 100;
    let get: GetSnapshotRequest = read(body)?;
    let section = |number: &u8| match number {
        1 => Ok(ArchiveSection::Filesystem),
        2 => Ok(ArchiveSection::Processes),
        3 => Ok(ArchiveSection::Resources),
        4 => Ok(ArchiveSection::Test),
        5 => Ok(ArchiveSection::Logs),
        6 => Ok(ArchiveSection::Config),
        _ => Err(code::INVALID_COMMAND),
    };
    if !COMPRESSIONS.contains(&get.compression) {
        return Err(code::INVALID_COMMAND);
    }
    let numbers: &[u8] = match get.snapshot_types.as_slice() {
        [ALL] => &[1, 2, 3, 5, 6],
        numbers => numbers,
    };
    let sections = numbers.iter().map(section).collect::<Result<_>>()?;
    Ok(Request::Archive(sections))
}

/// A login with a password and one with a token share a command: the shape of
/// the body distinguishes them.
fn login(body: &[u8]) -> Result<Request> {
    let (version, prefix) = ClientVersionInfo::decode(body).map_err(|_| code::INVALID_COMMAND)?;
    let tail = &body[prefix..];
    let protocol = version.protocol_version;
    if let Ok((login, used)) = LoginRegisterRequest::decode_after_prefix(version.clone(), tail)
        && used == tail.len()
    {
        return Ok(Request::Login {
            version: protocol,
            credentials: Credentials::Password {
                username: login.username.to_string(),
                password: login.password,
            },
        });
    }
    let (login, used) = LoginRegisterWithPatRequest::decode_after_prefix(version, tail)
        .map_err(|_| code::INVALID_COMMAND)?;
    if used != tail.len() {
        return Err(code::INVALID_COMMAND);
    }
    Ok(Request::Login {
        version: protocol,
        credentials: Credentials::Token(login.token.expose_secret().into()),
    })
}

/// `[metadata length u32] [stream, topic, partitioning, count] [batch]`
fn send(body: &Bytes) -> Result<Request> {
    let length = body
        .get(..4)
        .and_then(|length| length.try_into().ok())
        .map(u32::from_le_bytes)
        .ok_or(code::INVALID_COMMAND)? as usize;
    let metadata = body
        .get(4..)
        .and_then(|rest| rest.get(..length))
        .ok_or(code::INVALID_COMMAND)?;
    let header: SendMessagesHeader = read(metadata)?;
    Ok(Request::Send(SendRequest {
        stream: identifier(&header.stream_id)?,
        topic: identifier(&header.topic_id)?,
        partitioning: match header.partitioning {
            WirePartitioning::Balanced => Partitioning::Balanced,
            WirePartitioning::PartitionId(id) => Partitioning::Partition(id),
            WirePartitioning::MessagesKey(key) => Partitioning::Key(key),
        },
        batch: body.slice(4 + length..),
    }))
}

fn poll(body: &[u8]) -> Result<PollRequest> {
    let poll: PollMessagesRequest = read(body)?;
    let start = match poll.strategy.kind {
        1 => PollStart::Offset(poll.strategy.value),
        2 => PollStart::Timestamp(poll.strategy.value),
        3 => PollStart::First,
        4 => PollStart::Last,
        5 => PollStart::Next,
        _ => return Err(code::INVALID_COMMAND),
    };
    Ok(PollRequest {
        target: target(
            &poll.consumer,
            &poll.stream_id,
            &poll.topic_id,
            poll.partition_id,
        )?,
        start,
        count: poll.count,
        auto_commit: poll.auto_commit,
    })
}

fn offset_target(body: &[u8]) -> Result<OffsetTarget> {
    // A longer body is the write that is about to be routed.
    let (get, _) = GetConsumerOffsetRequest::decode(body).map_err(|_| code::INVALID_COMMAND)?;
    target(
        &get.consumer,
        &get.stream_id,
        &get.topic_id,
        get.partition_id,
    )
}

/// An omitted partition is partition 0, as on Iggy's server; a member of a group
/// must name one, because only the member knows which partitions it holds.
fn target(
    consumer: &WireConsumer,
    stream: &WireIdentifier,
    topic: &WireIdentifier,
    partition: Option<u32>,
) -> Result<OffsetTarget> {
    let group = consumer.kind == KIND_CONSUMER_GROUP;
    Ok(OffsetTarget {
        stream: identifier(stream)?,
        topic: identifier(topic)?,
        partition: match partition {
            None if group => return Err(code::INVALID_IDENTIFIER),
            partition => partition.unwrap_or(0),
        },
        consumer: match &consumer.id {
            id if group => Consumer::Group(identifier(id)?),
            WireIdentifier::Numeric(id) => Consumer::Single(*id),
            WireIdentifier::String(name) => Consumer::Single(calculate_32(name.as_bytes())),
        },
    })
}
