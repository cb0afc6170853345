//! The whole state as bytes.
//!
//! ```text
//! version u32 | applied u64 | now u64 | [feature level u16 u16 |] users | nodes | streams
//! | sessions
//! ```
//! Version 2 is that of release 0.1, and of feature level 0.1: a partition has an owner and
//! an epoch. Version 3 has the copies of each. A state at level 0.1 is written as version
//! 2, so that nodes of both releases can install each other's snapshots while a cluster is
//! upgraded.
//!
//! Everything is written in the order of its ids, and what can be derived is not
//! written: equal states have equal bytes. Storage adds checksums.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BufMut;
use consensus::rule;
use consensus::{ReplicaId, RestoreError};
use partitions::replication::{Epoch, Recovery};
use twox_hash::XxHash3_64;

use super::commands::{LogState, NodeInfo};
use super::feature_level::FeatureLevel;
use super::groups::{Group, Member, Revocation};
use super::options::Options;
use super::replicas::{Replicas, is_node_id};
use super::sessions::Sessions;
use super::state::{
    Groups, MetadataState, Node, Partition, Partitions, Restored, Stream, Topic, all_in_sync,
};
use super::types::Name;
use super::users::Users;
use crate::codec::{Malformed, Reader, Result, Writer};

/// Without copies of partitions.
const VERSION_0_1: u32 = 2;
const VERSION: u32 = 3;

pub(super) fn digest(state: &MetadataState) -> u128 {
    let bytes = encode(state);
    let high = XxHash3_64::oneshot_with_seed(1, &bytes);
    let low = XxHash3_64::oneshot_with_seed(2, &bytes);
    (u128::from(high) << 64) | u128::from(low)
}

pub(super) fn encode(state: &MetadataState) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096 + 32 * state.partitions_count() as usize);
    let copies = state.feature_level > FeatureLevel::V0_1;
    out.put_u32_le(if copies { VERSION } else { VERSION_0_1 });
    out.put_u64_le(state.applied);
    out.put_u64_le(state.now);
    if copies {
        state.feature_level.write(&mut out);
    }
    state.users.write(&mut out);
    out.put_u32_le(state.nodes.len() as u32);
    for node in state.nodes.values() {
        node.info.write(&mut out);
        out.put_u64_le(node.registration);
        out.put_bool(node.live);
        if copies {
            out.put_u128_le(node.storage_id);
            node.log.write(&mut out);
        }
    }
    out.put_u32_le(state.streams.len() as u32);
    for stream in state.streams() {
        write_stream(&mut out, stream, copies);
    }
    state.sessions.write(&mut out);
    out
}

fn write_stream(out: &mut Vec<u8>, stream: &Stream, copies: bool) {
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
            write_partition(out, &partition, copies);
        }
        if copies {
            write_recoveries(out, topic);
        }
        write_groups(out, topic);
    }
}

fn write_partition(out: &mut Vec<u8>, partition: &Partition, copies: bool) {
    out.put_u64_le(partition.generation);
    let kept = u64::from(rule!(EveryFieldInSnapshot));
    out.put_u64_le(partition.created_at * kept);
    let leadership = partition.leadership;
    if !copies {
        out.put_u64_le(partition.owner().0);
        out.put_u32_le(leadership.epoch);
        return;
    }
    partition.replicas.write(out);
    out.put_u16_le(partition.leader().map_or(0, |leader| leader.0 as u16));
    out.put_u8(leadership.in_sync_bits());
    out.put_u32_le(leadership.epoch);
    out.put_u32_le(leadership.version);
}

fn write_recoveries(out: &mut Vec<u8>, topic: &Topic) {
    out.put_u32_le(topic.recoveries.len() as u32);
    for (partition, recovery) in &topic.recoveries {
        out.put_u32_le(*partition);
        out.put_u64_le(recovery.epoch.0);
        out.put_u64_le(recovery.offset_gap);
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
    if found != VERSION && found != VERSION_0_1 {
        return Err(RestoreError::Version {
            found,
            max: VERSION,
        });
    }
    read(&mut reader, found == VERSION).map_err(malformed)
}

fn read(reader: &mut Reader<'_>, copies: bool) -> Result<MetadataState> {
    let (applied, now) = (reader.u64()?, reader.u64()?);
    let feature_level = match copies {
        true => FeatureLevel::read(reader)?,
        false => FeatureLevel::V0_1,
    };
    if copies && feature_level == FeatureLevel::V0_1 {
        return Err(Malformed("a state that is written as version 2"));
    }
    let mut state = MetadataState {
        applied,
        now,
        feature_level,
        users: Users::read(reader)?,
        ..MetadataState::default()
    };
    for _ in 0..reader.count(40)? {
        let node = Node {
            info: NodeInfo::read(reader)?,
            registration: reader.u64()?,
            live: reader.bool()?,
            storage_id: if copies { reader.u128()? } else { 0 },
            log: match copies {
                true => LogState::read(reader)?,
                false => LogState::Intact,
            },
            partitions: 0,
            leads: 0,
        };
        if !is_node_id(node.info.node) {
            return Err(Malformed("a node with an id that none can have"));
        }
        state.nodes.insert(node.info.node, node);
    }
    let count = reader.count(24)?;
    let streams = (0..count)
        .map(|_| read_stream(reader, copies))
        .collect::<Result<Vec<_>>>()?;
    state
        .restore_streams(streams)
        .ok_or(Malformed("streams contradict each other"))?;
    state.sessions = Sessions::read(reader, feature_level >= FeatureLevel::V0_2)?;
    state
        .restore_memberships()
        .ok_or(Malformed("a member without a session"))?;
    reader.end()?;
    Ok(state)
}

fn read_stream(reader: &mut Reader<'_>, copies: bool) -> Result<Stream> {
    let id = reader.u32()?;
    let name = Name::read(reader)?;
    let created_at = reader.u64()?;
    let options = Options::read(reader)?;
    let count = reader.count(24)?;
    let topics = (0..count)
        .map(|_| read_topic(reader, copies))
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

fn read_topic(reader: &mut Reader<'_>, copies: bool) -> Result<Topic> {
    let mut topic = Topic {
        id: reader.u32()?,
        name: Name::read(reader)?,
        created_at: reader.u64()?,
        options: Options::read(reader)?,
        partitions: {
            let count = reader.count(28)?;
            let partitions = (0..count).map(|_| read_partition(reader, copies));
            partitions.collect::<Result<Partitions>>()?
        },
        recoveries: BTreeMap::new(),
        groups: Groups::default(),
    };
    if copies {
        read_recoveries(reader, &mut topic)?;
    }
    topic.groups = read_groups(reader, topic.partitions.len() as u32)?;
    Ok(topic)
}

fn read_partition(reader: &mut Reader<'_>, copies: bool) -> Result<Partition> {
    let generation = reader.u64()?;
    let created_at = reader.u64()?;
    if !copies {
        let owner = ReplicaId(reader.u64()?);
        let replicas = Replicas::single(owner).ok_or(Malformed("an owner that is no node"))?;
        let epoch = reader.u32()?;
        let stored = Restored {
            generation,
            created_at,
            epoch,
            version: epoch,
            leader: Some(owner),
            in_sync: all_in_sync(&replicas),
        };
        return Ok(Partition::restored(replicas, stored));
    }
    let replicas = Replicas::read(reader)?;
    let leader = ReplicaId(u64::from(reader.u16()?));
    let stored = Restored {
        generation,
        created_at,
        leader: (leader != ReplicaId(0)).then_some(leader),
        in_sync: reader.u8()?,
        epoch: reader.u32()?,
        version: reader.u32()?,
    };
    let partition = Partition::restored(replicas, stored);
    match partition.is_sound() {
        true => Ok(partition),
        false => Err(Malformed("a partition contradicts itself")),
    }
}

fn read_recoveries(reader: &mut Reader<'_>, topic: &mut Topic) -> Result<()> {
    for _ in 0..reader.count(20)? {
        let partition = reader.u32()?;
        let recovery = Recovery {
            epoch: Epoch(reader.u64()?),
            offset_gap: reader.u64()?,
        };
        if topic.partitions.get(partition).is_none() {
            return Err(Malformed("a recovery of no partition"));
        }
        topic.recoveries.insert(partition, recovery);
    }
    Ok(())
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
