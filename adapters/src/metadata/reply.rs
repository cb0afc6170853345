//! The reply of a command, and its versioned encoding.

use bytes::{BufMut, Bytes};

use super::error::MetadataError;
use super::options::Options;
use super::permissions::Permissions;
use super::types::{Name, TokenHash, read_token_hash};
use crate::codec::{self, Malformed, Reader, Result, Writer};
use crate::error_code::ErrorCode;

const VERSION: u8 = 1;

/// The reply of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Applied, without a result.
    Done,
    /// Refused, without effect.
    Refused(ErrorCode),
    /// The stream as created.
    StreamCreated {
        /// Its id.
        id: u32,
        /// When, in microseconds since the Unix epoch.
        created_at: u64,
        /// Its name.
        name: Name,
        /// Its options.
        options: Options,
    },
    /// The topic as created.
    TopicCreated(TopicInfo),
    /// The session that was opened.
    Registered {
        /// Its number, above zero.
        session: u64,
    },
    /// The node is registered.
    NodeRegistered {
        /// The number of the registration, above zero.
        registration: u64,
    },
    /// The user as created.
    UserCreated {
        /// Its id.
        id: u32,
        /// When, in microseconds since the Unix epoch.
        created_at: u64,
        /// Its name.
        name: Name,
        /// Whether it may log in.
        active: bool,
        /// What it may do.
        permissions: Option<Permissions>,
    },
    /// The token that was created.
    TokenCreated {
        /// Its hash.
        hash: TokenHash,
    },
    /// The consumer group as created.
    GroupCreated {
        /// Its id.
        id: u32,
        /// How many partitions the topic has.
        partitions: u32,
        /// Its name.
        name: Name,
    },
}

/// A topic as created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its id.
    pub id: u32,
    /// When, in microseconds since the Unix epoch.
    pub created_at: u64,
    /// Its name.
    pub name: Name,
    /// Its options.
    pub options: Options,
    /// The ids of its partitions.
    pub partitions: Vec<u32>,
}

impl From<MetadataError> for Reply {
    fn from(error: MetadataError) -> Self {
        Self::Refused(error.code())
    }
}

impl Reply {
    /// The reply as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encoded(64, |out| {
            out.put_u8(VERSION);
            match self {
                Self::Done => out.put_u8(0),
                Self::Refused(code) => {
                    out.put_u8(1);
                    out.put_u32_le(code.number());
                }
                Self::StreamCreated {
                    id,
                    created_at,
                    name,
                    options,
                } => {
                    out.put_u8(2);
                    out.put_u32_le(*id);
                    out.put_u64_le(*created_at);
                    out.put_text(name.as_str());
                    options.write(out);
                }
                Self::TopicCreated(topic) => {
                    out.put_u8(3);
                    out.put_u32_le(topic.id);
                    out.put_u64_le(topic.created_at);
                    out.put_text(topic.name.as_str());
                    topic.options.write(out);
                    out.put_u32_le(topic.partitions.len() as u32);
                    for id in &topic.partitions {
                        out.put_u32_le(*id);
                    }
                }
                Self::Registered { session } => {
                    out.put_u8(4);
                    out.put_u64_le(*session);
                }
                Self::NodeRegistered { registration } => {
                    out.put_u8(5);
                    out.put_u64_le(*registration);
                }
                Self::UserCreated {
                    id,
                    created_at,
                    name,
                    active,
                    permissions,
                } => {
                    out.put_u8(6);
                    out.put_u32_le(*id);
                    out.put_u64_le(*created_at);
                    out.put_text(name.as_str());
                    out.put_bool(*active);
                    Permissions::write_option(permissions.as_ref(), out);
                }
                Self::TokenCreated { hash } => {
                    out.put_u8(7);
                    out.put_slice(hash);
                }
                Self::GroupCreated {
                    id,
                    partitions,
                    name,
                } => {
                    out.put_u8(8);
                    out.put_u32_le(*id);
                    out.put_u32_le(*partitions);
                    out.put_text(name.as_str());
                }
            }
        })
    }

    /// The reply in these bytes.
    ///
    /// # Errors
    /// When they are not a reply of a version that is understood.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed("a reply of another version"));
        }
        let reply = match reader.u8()? {
            0 => Self::Done,
            1 => Self::Refused(ErrorCode::from_number(reader.u32()?)),
            2 => Self::StreamCreated {
                id: reader.u32()?,
                created_at: reader.u64()?,
                name: Name::read(&mut reader)?,
                options: Options::read(&mut reader)?,
            },
            3 => Self::TopicCreated(TopicInfo {
                id: reader.u32()?,
                created_at: reader.u64()?,
                name: Name::read(&mut reader)?,
                options: Options::read(&mut reader)?,
                partitions: {
                    let count = reader.count(4)?;
                    (0..count).map(|_| reader.u32()).collect::<Result<_>>()?
                },
            }),
            4 => Self::Registered {
                session: reader.u64()?,
            },
            5 => Self::NodeRegistered {
                registration: reader.u64()?,
            },
            6 => Self::UserCreated {
                id: reader.u32()?,
                created_at: reader.u64()?,
                name: Name::read(&mut reader)?,
                active: reader.bool()?,
                permissions: Permissions::read_option(&mut reader)?,
            },
            7 => Self::TokenCreated {
                hash: read_token_hash(&mut reader)?,
            },
            8 => Self::GroupCreated {
                id: reader.u32()?,
                partitions: reader.u32()?,
                name: Name::read(&mut reader)?,
            },
            _ => return Err(Malformed("unknown reply")),
        };
        reader.end()?;
        Ok(reply)
    }
}
