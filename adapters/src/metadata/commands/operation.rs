//! What a client wants changed, and its encoding: `tag u8 | body`.

use bytes::BufMut;
use consensus::ReplicaId;

use super::group::GroupOperation;
use super::user::UserOperation;
use crate::codec::{Malformed, Reader, Result, Writer};
use crate::metadata::options::Options;
use crate::metadata::types::{Identifier, Name};

/// What a client wants changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOperation {
    /// Creates a stream.
    CreateStream {
        /// Its name.
        name: Name,
        /// Its options.
        options: Options,
    },
    /// Renames a stream and patches its options.
    UpdateStream {
        /// Which.
        stream: Identifier,
        /// Its new name.
        name: Name,
        /// Options to set.
        options: Options,
    },
    /// Deletes a stream with all in it.
    DeleteStream {
        /// Which.
        stream: Identifier,
    },
    /// Deletes all messages and offsets of a stream, and nothing else.
    PurgeStream {
        /// Which.
        stream: Identifier,
    },
    /// Creates a topic.
    CreateTopic {
        /// In which stream.
        stream: Identifier,
        /// Its name.
        name: Name,
        /// Its options, explicit and derived.
        options: Options,
        /// How many partitions.
        partitions: u32,
        /// Who owns each; filled in by the leader.
        owners: Vec<ReplicaId>,
    },
    /// Renames a topic and patches its options.
    UpdateTopic {
        /// In which stream.
        stream: Identifier,
        /// Which.
        topic: Identifier,
        /// Its new name.
        name: Name,
        /// Options to set.
        options: Options,
    },
    /// Deletes a topic with all in it.
    DeleteTopic {
        /// In which stream.
        stream: Identifier,
        /// Which.
        topic: Identifier,
    },
    /// Deletes all messages and offsets of a topic, and nothing else.
    PurgeTopic {
        /// In which stream.
        stream: Identifier,
        /// Which.
        topic: Identifier,
    },
    /// Adds partitions.
    CreatePartitions {
        /// In which stream.
        stream: Identifier,
        /// In which topic.
        topic: Identifier,
        /// How many.
        partitions: u32,
        /// Who owns each; filled in by the leader.
        owners: Vec<ReplicaId>,
    },
    /// Removes the last partitions with all in them.
    DeletePartitions {
        /// In which stream.
        stream: Identifier,
        /// In which topic.
        topic: Identifier,
        /// How many.
        partitions: u32,
    },
    /// Changes users, or the client's own tokens.
    User(UserOperation),
    /// Changes a topic's consumer groups.
    Group(GroupOperation),
}

impl ClientOperation {
    /// How many partitions must be placed before it can be replicated, and
    /// where the owners go.
    pub fn placement(&mut self) -> Option<(u32, &mut Vec<ReplicaId>)> {
        match self {
            Self::CreateTopic {
                partitions, owners, ..
            }
            | Self::CreatePartitions {
                partitions, owners, ..
            } => Some((*partitions, owners)),
            _ => None,
        }
    }
}

impl ClientOperation {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::CreateStream { name, options } => {
                out.put_u8(1);
                out.put_text(name.as_str());
                options.write(out);
            }
            Self::UpdateStream {
                stream,
                name,
                options,
            } => {
                out.put_u8(2);
                stream.write(out);
                out.put_text(name.as_str());
                options.write(out);
            }
            Self::DeleteStream { stream } => {
                out.put_u8(3);
                stream.write(out);
            }
            Self::CreateTopic {
                stream,
                name,
                options,
                partitions,
                owners,
            } => {
                out.put_u8(4);
                stream.write(out);
                out.put_text(name.as_str());
                options.write(out);
                out.put_u32_le(*partitions);
                write_owners(out, owners);
            }
            Self::UpdateTopic {
                stream,
                topic,
                name,
                options,
            } => {
                out.put_u8(5);
                stream.write(out);
                topic.write(out);
                out.put_text(name.as_str());
                options.write(out);
            }
            Self::DeleteTopic { stream, topic } => {
                out.put_u8(6);
                stream.write(out);
                topic.write(out);
            }
            Self::PurgeStream { stream } => {
                out.put_u8(9);
                stream.write(out);
            }
            Self::PurgeTopic { stream, topic } => {
                out.put_u8(10);
                stream.write(out);
                topic.write(out);
            }
            Self::CreatePartitions {
                stream,
                topic,
                partitions,
                owners,
            } => {
                out.put_u8(7);
                stream.write(out);
                topic.write(out);
                out.put_u32_le(*partitions);
                write_owners(out, owners);
            }
            Self::DeletePartitions {
                stream,
                topic,
                partitions,
            } => {
                out.put_u8(8);
                stream.write(out);
                topic.write(out);
                out.put_u32_le(*partitions);
            }
            Self::User(operation) => {
                out.put_u8(11);
                operation.write(out);
            }
            Self::Group(operation) => {
                out.put_u8(12);
                operation.write(out);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(match reader.u8()? {
            1 => Self::CreateStream {
                name: Name::read(reader)?,
                options: Options::read(reader)?,
            },
            2 => Self::UpdateStream {
                stream: Identifier::read(reader)?,
                name: Name::read(reader)?,
                options: Options::read(reader)?,
            },
            3 => Self::DeleteStream {
                stream: Identifier::read(reader)?,
            },
            4 => Self::CreateTopic {
                stream: Identifier::read(reader)?,
                name: Name::read(reader)?,
                options: Options::read(reader)?,
                partitions: reader.u32()?,
                owners: read_owners(reader)?,
            },
            5 => Self::UpdateTopic {
                stream: Identifier::read(reader)?,
                topic: Identifier::read(reader)?,
                name: Name::read(reader)?,
                options: Options::read(reader)?,
            },
            6 => Self::DeleteTopic {
                stream: Identifier::read(reader)?,
                topic: Identifier::read(reader)?,
            },
            7 => Self::CreatePartitions {
                stream: Identifier::read(reader)?,
                topic: Identifier::read(reader)?,
                partitions: reader.u32()?,
                owners: read_owners(reader)?,
            },
            8 => Self::DeletePartitions {
                stream: Identifier::read(reader)?,
                topic: Identifier::read(reader)?,
                partitions: reader.u32()?,
            },
            9 => Self::PurgeStream {
                stream: Identifier::read(reader)?,
            },
            10 => Self::PurgeTopic {
                stream: Identifier::read(reader)?,
                topic: Identifier::read(reader)?,
            },
            11 => Self::User(UserOperation::read(reader)?),
            12 => Self::Group(GroupOperation::read(reader)?),
            _ => return Err(Malformed("unknown operation")),
        })
    }
}

fn write_owners(out: &mut Vec<u8>, owners: &[ReplicaId]) {
    out.put_u32_le(owners.len() as u32);
    for owner in owners {
        out.put_u64_le(owner.0);
    }
}

fn read_owners(reader: &mut Reader<'_>) -> Result<Vec<ReplicaId>> {
    let count = reader.count(8)?;
    (0..count).map(|_| Ok(ReplicaId(reader.u64()?))).collect()
}
