//! Changes of metadata that clients request, and their encoding: `tag u8 | body`.

use bytes::BufMut;
use consensus::ReplicaId;

use super::group::GroupOperation;
use super::new_partitions::NewPartitions;
use super::user::UserOperation;
use crate::codec::{Malformed, Reader, Result, Writer};
use crate::metadata::options::Options;
use crate::metadata::replicas::Replicas;
use crate::metadata::types::{Identifier, Name};

/// A change of metadata. `P` is what is known of the partitions that it creates: their
/// number in an intent, the owner of each in a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOperation<P> {
    /// Creates a stream.
    CreateStream {
        /// Its name.
        name: Name,
        /// Its options.
        options: Options,
    },
    /// Renames a stream and patches its options.
    UpdateStream {
        /// The stream.
        stream: Identifier,
        /// Its new name.
        name: Name,
        /// Options to set.
        options: Options,
    },
    /// Deletes a stream with its topics.
    DeleteStream {
        /// The stream.
        stream: Identifier,
    },
    /// Deletes all messages and offsets of a stream; everything else stays.
    PurgeStream {
        /// The stream.
        stream: Identifier,
    },
    /// Creates a topic.
    CreateTopic {
        /// The stream.
        stream: Identifier,
        /// Its name.
        name: Name,
        /// Its options, explicit and derived.
        options: Options,
        /// Its partitions.
        partitions: P,
    },
    /// Renames a topic and patches its options.
    UpdateTopic {
        /// The stream.
        stream: Identifier,
        /// The topic.
        topic: Identifier,
        /// Its new name.
        name: Name,
        /// Options to set.
        options: Options,
    },
    /// Deletes a topic with its partitions and consumer groups.
    DeleteTopic {
        /// The stream.
        stream: Identifier,
        /// The topic.
        topic: Identifier,
    },
    /// Deletes all messages and offsets of a topic; everything else stays.
    PurgeTopic {
        /// The stream.
        stream: Identifier,
        /// The topic.
        topic: Identifier,
    },
    /// Adds partitions.
    CreatePartitions {
        /// The stream.
        stream: Identifier,
        /// The topic.
        topic: Identifier,
        /// The partitions to add.
        partitions: P,
    },
    /// Removes the last partitions with their messages.
    DeletePartitions {
        /// The stream.
        stream: Identifier,
        /// The topic.
        topic: Identifier,
        /// The number of partitions to remove.
        partitions: u32,
    },
    /// Changes users, or the client's own tokens.
    User(UserOperation),
    /// Changes a topic's consumer groups.
    Group(GroupOperation),
}

impl<P> ClientOperation<P> {
    /// The same change, with what `decide` makes of the partitions that it creates.
    pub(super) fn decide_partitions<Q, E>(
        self,
        decide: impl FnOnce(P) -> std::result::Result<Q, E>,
    ) -> std::result::Result<ClientOperation<Q>, E> {
        Ok(match self {
            Self::CreateTopic {
                stream,
                name,
                options,
                partitions,
            } => ClientOperation::CreateTopic {
                stream,
                name,
                options,
                partitions: decide(partitions)?,
            },
            Self::CreatePartitions {
                stream,
                topic,
                partitions,
            } => ClientOperation::CreatePartitions {
                stream,
                topic,
                partitions: decide(partitions)?,
            },
            Self::CreateStream { name, options } => ClientOperation::CreateStream { name, options },
            Self::UpdateStream {
                stream,
                name,
                options,
            } => ClientOperation::UpdateStream {
                stream,
                name,
                options,
            },
            Self::DeleteStream { stream } => ClientOperation::DeleteStream { stream },
            Self::PurgeStream { stream } => ClientOperation::PurgeStream { stream },
            Self::UpdateTopic {
                stream,
                topic,
                name,
                options,
            } => ClientOperation::UpdateTopic {
                stream,
                topic,
                name,
                options,
            },
            Self::DeleteTopic { stream, topic } => ClientOperation::DeleteTopic { stream, topic },
            Self::PurgeTopic { stream, topic } => ClientOperation::PurgeTopic { stream, topic },
            Self::DeletePartitions {
                stream,
                topic,
                partitions,
            } => ClientOperation::DeletePartitions {
                stream,
                topic,
                partitions,
            },
            Self::User(operation) => ClientOperation::User(operation),
            Self::Group(operation) => ClientOperation::Group(operation),
        })
    }

    /// Whether the change removes or purges partitions, or changes options by which their
    /// owners serve them.
    #[must_use]
    pub fn affects_owners(&self) -> bool {
        matches!(
            self,
            Self::DeleteStream { .. }
                | Self::PurgeStream { .. }
                | Self::UpdateTopic { .. }
                | Self::DeleteTopic { .. }
                | Self::PurgeTopic { .. }
                | Self::DeletePartitions { .. }
        )
    }

    /// The partitions that the change creates.
    pub(super) fn new_partitions(&self) -> Option<&P> {
        match self {
            Self::CreateTopic { partitions, .. } | Self::CreatePartitions { partitions, .. } => {
                Some(partitions)
            }
            _ => None,
        }
    }
}

impl<P: NewPartitions> ClientOperation<P> {
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
            } => {
                out.put_u8(if has_one_copy(partitions) { 4 } else { 13 });
                stream.write(out);
                out.put_text(name.as_str());
                options.write(out);
                write_partitions(out, partitions);
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
            } => {
                out.put_u8(if has_one_copy(partitions) { 7 } else { 14 });
                stream.write(out);
                topic.write(out);
                write_partitions(out, partitions);
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
            tag @ (4 | 13) => Self::CreateTopic {
                stream: Identifier::read(reader)?,
                name: Name::read(reader)?,
                options: Options::read(reader)?,
                partitions: read_partitions(reader, tag < 13)?,
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
            tag @ (7 | 14) => Self::CreatePartitions {
                stream: Identifier::read(reader)?,
                topic: Identifier::read(reader)?,
                partitions: read_partitions(reader, tag < 13)?,
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

/// The encoding of version 0.1 has room for one copy.
fn has_one_copy(partitions: &impl NewPartitions) -> bool {
    partitions.replicas().iter().all(|it| it.len() == 1)
}

fn write_partitions(out: &mut Vec<u8>, partitions: &impl NewPartitions) {
    out.put_u32_le(partitions.count());
    if !has_one_copy(partitions) {
        for replicas in partitions.replicas() {
            replicas.write(out);
        }
        return;
    }
    out.put_u32_le(partitions.replicas().len() as u32);
    for replicas in partitions.replicas() {
        out.put_u64_le(replicas.preferred().0);
    }
}

fn read_partitions<P: NewPartitions>(reader: &mut Reader<'_>, one_copy: bool) -> Result<P> {
    let (count, replicas) = match one_copy {
        true => (reader.u32()?, read_owners(reader)?),
        false => {
            let count = reader.count(2)?;
            let replicas = (0..count).map(|_| Replicas::read(reader));
            (count as u32, replicas.collect::<Result<_>>()?)
        }
    };
    P::from_parts(count, replicas).ok_or(Malformed("partitions without an owner each"))
}

fn read_owners(reader: &mut Reader<'_>) -> Result<Vec<Replicas>> {
    (0..reader.count(8)?)
        .map(|_| {
            let owner = ReplicaId(reader.u64()?);
            Replicas::single(owner).ok_or(Malformed("an owner that is no node"))
        })
        .collect()
}
