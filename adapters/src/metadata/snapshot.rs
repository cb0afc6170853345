//! The whole state as bytes.
//!
//! ```text
//! version u32 | applied u64 | now u64 | users | nodes | streams | sessions
//! ```
//! Everything is written in the order of its ids, and what can be derived is not
//! written: equal states have equal bytes. Storage adds checksums.

use std::sync::Arc;

use bytes::BufMut;
use consensus::rule;
use consensus::{ReplicaId, RestoreError};
use twox_hash::XxHash3_64;

use super::commands::NodeInfo;
use super::groups::{Group, Member, Revocation};
use super::options::Options;
use super::sessions::Sessions;
use super::state::{Groups, MetadataState, Node, Partition, Stream, Topic};
use super::types::Name;
use super::users::Users;
use crate::codec::{Malformed, Reader, Result, Writer};

const VERSION: u32 = 2;

pub(super) fn digest(state: &MetadataState) -> u128 {
    let bytes = encode(state);
    let high = XxHash3_64::oneshot_with_seed(1, &bytes);
    let low = XxHash3_64::oneshot_with_seed(2, &bytes);
    (u128::from(high) << 64) | u128::from(low)
}

pub(super) fn encode(state: &MetadataState) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096 + 32 * state.partitions_count() as usize);
    out.put_u32_le(VERSION);
    out.put_u64_le(state.applied);
    out.put_u64_le(state.now);
    state.users.write(&mut out);
    out.put_u32_le(state.nodes.len() as u32);
    for node in state.nodes.values() {
        node.info.write(&mut out);
        out.put_u64_le(node.registration);
        out.put_bool(node.live);
    }
    out.put_u32_le(state.streams.len() as u32);
    for stream in state.streams() {
        write_stream(&mut out, stream);
    }
    state.sessions.write(&mut out);
    out
}

fn write_stream(out: &mut Vec<u8>, stream: &Stream) {
    out.put_u32_le(stream.id);
    out.put_text(stream.name.as_str());
    out.put_u64_le(stream.created_at);
    stream.options.write(out);
    out.put_u32_le(stream.topics().len() as u32);
    for topic in stream.topics() {
        out.put_u32_le(topic.id);
        out.put_text(topic.name.as_str());
        out.put_u64_le(topic.created_at);
        topic.options.write(out);
        out.put_u32_le(topic.partitions.len() as u32);
        for partition in &topic.partitions {
            out.put_u64_le(partition.generation);
            let kept = u64::from(rule!(EveryFieldInSnapshot));
            out.put_u64_le(partition.created_at * kept);
            out.put_u64_le(partition.owner.0);
            out.put_u32_le(partition.epoch);
        }
        write_groups(out, topic);
    }
}

fn write_groups(out: &mut Vec<u8>, topic: &Topic) {
    out.put_u32_le(topic.groups.next);
    out.put_u32_le(topic.groups().len() as u32);
    for group in topic.groups() {
        out.put_u32_le(group.id);
        out.put_text(group.name.as_str());
        out.put_u64_le(group.generation);
        out.put_u32_le(group.members().len() as u32);
        for (slot, member) in group.members() {
            out.put_u32_le(slot);
            out.put_u128_le(member.client);
            out.put_u32_le(member.owned.len() as u32);
            for id in &member.owned {
                out.put_u32_le(*id);
            }
            out.put_u32_le(member.revoking.len() as u32);
            for (id, revocation) in &member.revoking {
                out.put_u32_le(*id);
                out.put_u32_le(revocation.to);
                out.put_u64_le(revocation.since);
                out.put_u64_le(revocation.id);
            }
        }
    }
}

pub(super) fn decode(bytes: &[u8]) -> std::result::Result<MetadataState, RestoreError> {
    let malformed = |Malformed(what)| RestoreError::Malformed(what.into());
    let mut reader = Reader::new(bytes);
    let found = reader.u32().map_err(malformed)?;
    if found != VERSION {
        return Err(RestoreError::Version {
            found,
            max: VERSION,
        });
    }
    read(&mut reader).map_err(malformed)
}

fn read(reader: &mut Reader<'_>) -> Result<MetadataState> {
    let mut state = MetadataState {
        applied: reader.u64()?,
        now: reader.u64()?,
        users: Users::read(reader)?,
        ..MetadataState::default()
    };
    for _ in 0..reader.count(40)? {
        let node = Node {
            info: NodeInfo::read(reader)?,
            registration: reader.u64()?,
            live: reader.bool()?,
            partitions: 0,
        };
        state.nodes.insert(node.info.node, node);
    }
    let count = reader.count(24)?;
    let streams = (0..count)
        .map(|_| read_stream(reader))
        .collect::<Result<Vec<_>>>()?;
    state
        .restore_streams(streams)
        .ok_or(Malformed("streams contradict each other"))?;
    state.sessions = Sessions::read(reader)?;
    state
        .restore_memberships()
        .ok_or(Malformed("a member without a session"))?;
    reader.end()?;
    Ok(state)
}

fn read_stream(reader: &mut Reader<'_>) -> Result<Stream> {
    let id = reader.u32()?;
    let name = Name::read(reader)?;
    let created_at = reader.u64()?;
    let options = Options::read(reader)?;
    let count = reader.count(24)?;
    let topics = (0..count)
        .map(|_| read_topic(reader))
        .collect::<Result<Vec<_>>>()?;
    let mut stream = Stream::new(id, name, created_at, options);
    match topics
        .into_iter()
        .all(|topic| stream.add_topic(Arc::new(topic)))
    {
        true => Ok(stream),
        false => Err(Malformed("topics contradict each other")),
    }
}

fn read_topic(reader: &mut Reader<'_>) -> Result<Topic> {
    let mut topic = Topic {
        id: reader.u32()?,
        name: Name::read(reader)?,
        created_at: reader.u64()?,
        options: Options::read(reader)?,
        partitions: {
            let count = reader.count(28)?;
            (0..count)
                .map(|_| {
                    Ok(Partition {
                        generation: reader.u64()?,
                        created_at: reader.u64()?,
                        owner: ReplicaId(reader.u64()?),
                        epoch: reader.u32()?,
                    })
                })
                .collect::<Result<_>>()?
        },
        groups: Groups::default(),
    };
    topic.groups = read_groups(reader, topic.partitions.len() as u32)?;
    Ok(topic)
}

fn read_groups(reader: &mut Reader<'_>, partitions: u32) -> Result<Groups> {
    let next = reader.u32()?;
    let count = reader.count(20)?;
    let groups = (0..count)
        .map(|_| {
            let id = reader.u32()?;
            let name = Name::read(reader)?;
            let generation = reader.u64()?;
            let count = reader.count(28)?;
            let members = (0..count)
                .map(|_| Ok((reader.u32()?, read_member(reader)?)))
                .collect::<Result<_>>()?;
            Group::restored(id, name, generation, members, partitions)
                .ok_or(Malformed("a consumer group contradicts itself"))
        })
        .collect::<Result<_>>()?;
    Groups::restored(next, groups).ok_or(Malformed("consumer groups contradict each other"))
}

fn read_member(reader: &mut Reader<'_>) -> Result<Member> {
    let client = reader.u128()?;
    let count = reader.count(4)?;
    let owned = (0..count).map(|_| reader.u32()).collect::<Result<_>>()?;
    let count = reader.count(24)?;
    let revoking = (0..count)
        .map(|_| {
            let id = reader.u32()?;
            let revocation = Revocation {
                to: reader.u32()?,
                since: reader.u64()?,
                id: reader.u64()?,
            };
            Ok((id, revocation))
        })
        .collect::<Result<_>>()?;
    Ok(Member {
        client,
        owned,
        revoking,
    })
}
