//! Commands about copies of partitions, and their encoding.
//!
//! Each takes effect only where the state is still the one that it is based on:
//! a repetition, or a command that comes late, changes nothing. Members are identified by
//! the incarnation of their node, which rises with every start of its process.

use bytes::BufMut;
use consensus::ReplicaId;
use partitions::PartitionKey;
use partitions::replication::Epoch;

use super::node::{LogState, NodeInfo};
use crate::codec::{Malformed, Reader, Result};
use crate::metadata::replicas::Replicas;

/// A command about copies of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopiesCommand {
    /// A node has started, or was fenced by mistake.
    StartNode(NodeStart),
    /// A leader changes which copies are in sync, or where copies are.
    AlterInSync(AlterInSync),
    /// Other nodes lead. Without effect where the epoch has ended, or the node is not live
    /// or not in sync.
    MoveLeaders(Vec<LeaderMove>),
    /// An epoch is started without a quorum of trusted copies.
    Recover(Recover),
    /// An operator starts an epoch from one copy, which is then the only one in sync.
    ForceRecover(ForceRecover),
    /// A node is silent: others lead what it led, where one can. Without effect where the
    /// node has registered again.
    ReplaceLeader {
        /// The node.
        node: ReplicaId,
        /// Its registration.
        registration: u64,
    },
}

/// How a node has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStart {
    /// What it publishes about itself.
    pub info: NodeInfo,
    /// Identifies its storage, above zero.
    pub storage_id: u128,
    /// What the storage may have lost.
    pub log: LogState,
}

/// A leader's proposals for partitions that it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterInSync {
    /// The leader.
    pub from: ReplicaId,
    /// The incarnation of the leader.
    pub incarnation: u64,
    /// The changes, each for itself.
    pub changes: Vec<InSyncChange>,
}

/// The proposal of a partition's leader. If epoch and version are still these, the version
/// rises, also when the change is refused because an added member is not live, or too few
/// would be in sync: the leader sees that it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InSyncChange {
    /// The partition.
    pub key: PartitionKey,
    /// The epoch that the leader leads.
    pub epoch: Epoch,
    /// The version that it is based on.
    pub version: u64,
    /// The next in-sync set, in any order.
    pub in_sync: Replicas,
    /// The next copies, the preferred leader first.
    pub replicas: Replicas,
}

/// Another node is to lead a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderMove {
    /// The partition.
    pub key: PartitionKey,
    /// The epoch that ends.
    pub epoch: Epoch,
    /// The node that leads the next one.
    pub to: ReplicaId,
}

/// Too few copies are trusted: the one with the most leads. Without effect where the epoch
/// has ended, or the node has started again, is not live or not in sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recover {
    /// The partition.
    pub key: PartitionKey,
    /// The epoch that cannot start.
    pub epoch: Epoch,
    /// The node that leads the next one.
    pub leader: ReplicaId,
    /// Its incarnation: a process that has started since may be on another disk.
    pub incarnation: u64,
    /// How far after the log's end offsets continue.
    pub offset_gap: u64,
}

/// An operator accepts the loss of what only other copies have. Without effect where the
/// epoch has ended, or the node has started again, is not live or has no copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForceRecover {
    /// The partition.
    pub key: PartitionKey,
    /// The epoch that ends.
    pub epoch: Epoch,
    /// The node whose copy is taken.
    pub leader: ReplicaId,
    /// Its incarnation.
    pub incarnation: u64,
}

impl CopiesCommand {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::StartNode(start) => {
                out.put_u8(1);
                start.info.write(out);
                out.put_u128_le(start.storage_id);
                start.log.write(out);
            }
            Self::AlterInSync(alter) => {
                out.put_u8(2);
                out.put_u64_le(alter.from.0);
                out.put_u64_le(alter.incarnation);
                out.put_u32_le(alter.changes.len() as u32);
                for change in &alter.changes {
                    write_key(out, &change.key);
                    out.put_u64_le(change.epoch.0);
                    out.put_u64_le(change.version);
                    change.in_sync.write(out);
                    change.replicas.write(out);
                }
            }
            Self::MoveLeaders(moves) => {
                out.put_u8(3);
                out.put_u32_le(moves.len() as u32);
                for LeaderMove { key, epoch, to } in moves {
                    write_key(out, key);
                    out.put_u64_le(epoch.0);
                    out.put_u64_le(to.0);
                }
            }
            Self::Recover(recover) => {
                out.put_u8(4);
                write_key(out, &recover.key);
                out.put_u64_le(recover.epoch.0);
                out.put_u64_le(recover.leader.0);
                out.put_u64_le(recover.incarnation);
                out.put_u64_le(recover.offset_gap);
            }
            Self::ForceRecover(recover) => {
                out.put_u8(5);
                write_key(out, &recover.key);
                out.put_u64_le(recover.epoch.0);
                out.put_u64_le(recover.leader.0);
                out.put_u64_le(recover.incarnation);
            }
            Self::ReplaceLeader { node, registration } => {
                out.put_u8(6);
                out.put_u64_le(node.0);
                out.put_u64_le(*registration);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(match reader.u8()? {
            1 => Self::StartNode(NodeStart {
                info: NodeInfo::read(reader)?,
                storage_id: reader.u128()?,
                log: LogState::read(reader)?,
            }),
            2 => Self::AlterInSync(AlterInSync {
                from: ReplicaId(reader.u64()?),
                incarnation: reader.u64()?,
                changes: {
                    let count = reader.count(40)?;
                    (0..count)
                        .map(|_| {
                            Ok(InSyncChange {
                                key: read_key(reader)?,
                                epoch: Epoch(reader.u64()?),
                                version: reader.u64()?,
                                in_sync: Replicas::read(reader)?,
                                replicas: Replicas::read(reader)?,
                            })
                        })
                        .collect::<Result<_>>()?
                },
            }),
            3 => Self::MoveLeaders({
                let count = reader.count(36)?;
                (0..count)
                    .map(|_| {
                        Ok(LeaderMove {
                            key: read_key(reader)?,
                            epoch: Epoch(reader.u64()?),
                            to: ReplicaId(reader.u64()?),
                        })
                    })
                    .collect::<Result<_>>()?
            }),
            4 => Self::Recover(Recover {
                key: read_key(reader)?,
                epoch: Epoch(reader.u64()?),
                leader: ReplicaId(reader.u64()?),
                incarnation: reader.u64()?,
                offset_gap: reader.u64()?,
            }),
            5 => Self::ForceRecover(ForceRecover {
                key: read_key(reader)?,
                epoch: Epoch(reader.u64()?),
                leader: ReplicaId(reader.u64()?),
                incarnation: reader.u64()?,
            }),
            6 => Self::ReplaceLeader {
                node: ReplicaId(reader.u64()?),
                registration: reader.u64()?,
            },
            _ => return Err(Malformed("unknown command about copies")),
        })
    }
}

fn write_key(out: &mut Vec<u8>, key: &PartitionKey) {
    out.put_u32_le(key.stream_id);
    out.put_u32_le(key.topic_id);
    out.put_u32_le(key.partition_id);
    out.put_u64_le(key.generation);
}

fn read_key(reader: &mut Reader<'_>) -> Result<PartitionKey> {
    Ok(PartitionKey {
        stream_id: reader.u32()?,
        topic_id: reader.u32()?,
        partition_id: reader.u32()?,
        generation: reader.u64()?,
    })
}
