//! Changes of consumer groups, and their encoding.

use std::collections::BTreeSet;

use bytes::BufMut;

use crate::codec::{Malformed, Reader, Result, Writer};
use crate::metadata::types::{Identifier, Name};

/// A change of a topic's consumer groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOperation {
    /// The stream.
    pub stream: Identifier,
    /// The topic.
    pub topic: Identifier,
    /// What changes.
    pub change: GroupChange,
}

/// What changes about a topic's consumer groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupChange {
    /// Creates a group.
    Create(Name),
    /// Deletes a group and its memberships.
    Delete(Identifier),
    /// The client becomes a member.
    Join {
        /// The group.
        group: Identifier,
        /// Partitions of which messages were served that are not committed: they are
        /// revoked from their holder instead of reassigned immediately. A hint from
        /// the node that serves the client.
        busy: BTreeSet<u32>,
    },
    /// The client stops being a member.
    Leave(Identifier),
}

impl GroupOperation {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        self.stream.write(out);
        self.topic.write(out);
        match &self.change {
            GroupChange::Create(name) => {
                out.put_u8(1);
                out.put_text(name.as_str());
            }
            GroupChange::Delete(group) => {
                out.put_u8(2);
                group.write(out);
            }
            GroupChange::Join { group, busy } => {
                out.put_u8(3);
                group.write(out);
                out.put_u32_le(busy.len() as u32);
                for id in busy {
                    out.put_u32_le(*id);
                }
            }
            GroupChange::Leave(group) => {
                out.put_u8(4);
                group.write(out);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            stream: Identifier::read(reader)?,
            topic: Identifier::read(reader)?,
            change: match reader.u8()? {
                1 => GroupChange::Create(Name::read(reader)?),
                2 => GroupChange::Delete(Identifier::read(reader)?),
                3 => GroupChange::Join {
                    group: Identifier::read(reader)?,
                    busy: {
                        let count = reader.count(4)?;
                        (0..count).map(|_| reader.u32()).collect::<Result<_>>()?
                    },
                },
                4 => GroupChange::Leave(Identifier::read(reader)?),
                _ => return Err(Malformed("unknown change of a group")),
            },
        })
    }
}
