//! Consumer groups on the wire.

use bytes::Bytes;
use iggy_binary_protocol::codes::*;
use iggy_binary_protocol::requests::consumer_groups::{
    CreateConsumerGroupRequest, DeleteConsumerGroupRequest, GetConsumerGroupRequest,
    GetConsumerGroupsRequest, JoinConsumerGroupRequest, LeaveConsumerGroupRequest,
    SyncConsumerGroupRequest,
};
use iggy_binary_protocol::responses::clients::ConsumerGroupInfoResponse;
use iggy_binary_protocol::responses::consumer_groups::{
    ConsumerGroupDetailsResponse, ConsumerGroupMemberResponse, ConsumerGroupResponse,
    GetConsumerGroupsResponse, SyncConsumerGroupResponse,
};
use iggy_binary_protocol::{WireEncode, WireIdentifier};

use partitions::PolledBatches;

use super::fields::{Result, identifier, name, read, wire_text};
use super::messages::polled;
use crate::metadata::{
    ClientOperation, Group, GroupChange, GroupKey, GroupOperation, Member, Name, PartitionCount,
    Topic,
};
use crate::wire::request::{GroupTarget, Request};

/// No partition has this id: a poll of a partition that another member holds is answered
/// with it, and the client requests its assignment.
const UNASSIGNED_PARTITION: u32 = u32::MAX;

/// A query about groups, or a request to join one; `None` for other commands.
pub(super) fn decode(command: u32, body: &[u8]) -> Result<Option<Request>> {
    Ok(Some(match command {
        GET_CONSUMER_GROUP_CODE => {
            let get: GetConsumerGroupRequest = read(body)?;
            Request::Group(target(&get.stream_id, &get.topic_id, &get.group_id)?)
        }
        GET_CONSUMER_GROUPS_CODE => {
            let get: GetConsumerGroupsRequest = read(body)?;
            Request::Groups {
                stream: identifier(&get.stream_id)?,
                topic: identifier(&get.topic_id)?,
            }
        }
        JOIN_CONSUMER_GROUP_CODE => {
            let join: JoinConsumerGroupRequest = read(body)?;
            Request::JoinGroup(target(&join.stream_id, &join.topic_id, &join.group_id)?)
        }
        SYNC_CONSUMER_GROUP_CODE => {
            let sync: SyncConsumerGroupRequest = read(body)?;
            Request::SyncGroup(target(&sync.stream_id, &sync.topic_id, &sync.group_id)?)
        }
        _ => return Ok(None),
    }))
}

/// A change of groups; `None` for other commands.
pub(super) fn change(command: u32, body: &[u8]) -> Result<Option<ClientOperation<PartitionCount>>> {
    let (stream, topic, change) = match command {
        CREATE_CONSUMER_GROUP_CODE => {
            let create: CreateConsumerGroupRequest = read(body)?;
            let change = GroupChange::Create(name(&create.name)?);
            (create.stream_id, create.topic_id, change)
        }
        DELETE_CONSUMER_GROUP_CODE => {
            let delete: DeleteConsumerGroupRequest = read(body)?;
            let change = GroupChange::Delete(identifier(&delete.group_id)?);
            (delete.stream_id, delete.topic_id, change)
        }
        LEAVE_CONSUMER_GROUP_CODE => {
            let leave: LeaveConsumerGroupRequest = read(body)?;
            let change = GroupChange::Leave(identifier(&leave.group_id)?);
            (leave.stream_id, leave.topic_id, change)
        }
        _ => return Ok(None),
    };
    Ok(Some(ClientOperation::Group(GroupOperation {
        stream: identifier(&stream)?,
        topic: identifier(&topic)?,
        change,
    })))
}

fn target(
    stream: &WireIdentifier,
    topic: &WireIdentifier,
    group: &WireIdentifier,
) -> Result<GroupTarget> {
    Ok(GroupTarget {
        stream: identifier(stream)?,
        topic: identifier(topic)?,
        group: identifier(group)?,
    })
}

/// One group with its members.
#[must_use]
pub fn group(topic: &Topic, group: &Group) -> Bytes {
    ConsumerGroupDetailsResponse {
        group: header(topic, group),
        members: group.members().map(member).collect(),
    }
    .to_bytes()
}

/// All groups of a topic.
#[must_use]
pub fn groups(topic: &Topic) -> Bytes {
    let groups = topic.groups().map(|group| header(topic, group));
    GetConsumerGroupsResponse {
        groups: groups.collect(),
    }
    .to_bytes()
}

/// A group as created: without members.
#[must_use]
pub fn created_group(id: u32, partitions: u32, name: &Name) -> Bytes {
    ConsumerGroupDetailsResponse {
        group: ConsumerGroupResponse {
            id,
            partitions_count: partitions,
            members_count: 0,
            name: wire_text(name.as_str()),
        },
        members: Vec::new(),
    }
    .to_bytes()
}

/// The partitions that a member may read, of those that are available.
#[must_use]
pub fn assignment(group: &Group, member: &Member, is_available: impl Fn(u32) -> bool) -> Bytes {
    SyncConsumerGroupResponse {
        generation: group.generation,
        partitions: member.readable().filter(|id| is_available(*id)).collect(),
    }
    .to_bytes()
}

/// The reply to a poll of a partition that the member does not hold.
#[must_use]
pub fn fenced() -> Vec<Bytes> {
    polled(UNASSIGNED_PARTITION, PolledBatches::default())
}

pub(super) fn membership(key: &GroupKey) -> ConsumerGroupInfoResponse {
    ConsumerGroupInfoResponse {
        stream_id: key.stream_id,
        topic_id: key.topic_id,
        group_id: key.group_id,
    }
}

fn header(topic: &Topic, group: &Group) -> ConsumerGroupResponse {
    ConsumerGroupResponse {
        id: group.id,
        partitions_count: topic.partitions.len() as u32,
        members_count: group.members().len() as u32,
        name: wire_text(group.name.as_str()),
    }
}

fn member((slot, member): (u32, &Member)) -> ConsumerGroupMemberResponse {
    ConsumerGroupMemberResponse {
        id: slot,
        partitions_count: member.owned.len() as u32,
        partitions: member.owned.iter().copied().collect(),
    }
}
