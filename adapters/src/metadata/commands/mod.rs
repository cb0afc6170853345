//! What is replicated: commands and their versioned encoding.
//!
//! ```text
//! version u8 | tag u8 | body
//! ```

mod group;
mod operation;
mod user;

use bytes::{BufMut, Bytes};
use consensus::ReplicaId;

use super::groups::GroupKey;
use super::types::Name;
use crate::codec::{self, Malformed, Reader, Result, Writer};

pub use group::{GroupChange, GroupOperation};
pub use operation::ClientOperation;
pub(super) use user::read_hash;
pub use user::{TokenHash, UserOperation};

const VERSION: u8 = 1;
const TEXT_BYTES_MAX: usize = 1024;

/// A command of the metadata state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A client's request, under its session.
    Client(ClientRequest),
    /// Opens a session for a client that has shown its credentials.
    Register {
        /// The client's id.
        client: u128,
        /// The user it is.
        user_id: u32,
        /// How it has shown that.
        proof: Proof,
        /// The node that it is connected to.
        node: ReplicaId,
        /// That node's registration.
        registration: u64,
    },
    /// Closes a session.
    Unregister {
        /// The client's id.
        client: u128,
        /// Its session; a newer one stays.
        session: u64,
    },
    /// A node has started, or has come back.
    RegisterNode(NodeInfo),
    /// A node is silent: its sessions end, and it takes no new partitions.
    FenceNode {
        /// The node.
        node: ReplicaId,
        /// The registration that ends; a newer one stays.
        registration: u64,
    },
    /// Creates the root user where there is none.
    BootstrapRoot {
        /// Its name.
        username: Name,
        /// Argon2 hash in PHC format.
        password_hash: String,
    },
    /// What was served of a partition to its holder in a group is committed.
    CompleteRevocation {
        /// The group.
        group: GroupKey,
        /// The partition.
        partition: u32,
        /// Names the revocation; another one goes on.
        id: u64,
    },
    /// Tokens that cannot be used any more are removed.
    ExpireTokens,
    /// Revocations that have lasted so long end.
    ExpireRevocations {
        /// In microseconds.
        timeout_micros: u64,
    },
}

/// How a client has shown who it is. The node that it is connected to has looked
/// at it; the log decides whether it still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// With the password of these credentials, by their version.
    Password(u64),
    /// With this token.
    Token(TokenHash),
}

/// A client's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRequest {
    /// The client's id.
    pub client: u128,
    /// Its session.
    pub session: u64,
    /// Its request number; rises with every request.
    pub request: u64,
    /// Of the request's body; zero when the client gave none.
    pub checksum: u64,
    /// What it wants.
    pub operation: ClientOperation,
}

/// How a node presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node.
    pub node: ReplicaId,
    /// Its name.
    pub name: String,
    /// Rises with every start.
    pub incarnation: u64,
    /// Where clients reach it.
    pub host: String,
    /// The port of Iggy's TCP protocol.
    pub tcp_port: u16,
    /// `host:port` of its admin endpoint.
    pub admin: String,
    /// The version of its software.
    pub version: String,
}

impl NodeInfo {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            node: ReplicaId(reader.u64()?),
            name: reader.text(TEXT_BYTES_MAX)?.into(),
            incarnation: reader.u64()?,
            host: reader.text(TEXT_BYTES_MAX)?.into(),
            tcp_port: reader.u16()?,
            admin: reader.text(TEXT_BYTES_MAX)?.into(),
            version: reader.text(TEXT_BYTES_MAX)?.into(),
        })
    }

    pub(crate) fn write(&self, out: &mut impl Writer) {
        out.put_u64_le(self.node.0);
        out.put_text(&self.name);
        out.put_u64_le(self.incarnation);
        out.put_text(&self.host);
        out.put_u16_le(self.tcp_port);
        out.put_text(&self.admin);
        out.put_text(&self.version);
    }
}

impl Command {
    /// The command as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encoded(128, |out| {
            out.put_u8(VERSION);
            self.write(out);
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Client(request) => {
                out.put_u8(1);
                out.put_u128_le(request.client);
                out.put_u64_le(request.session);
                out.put_u64_le(request.request);
                out.put_u64_le(request.checksum);
                request.operation.write(out);
            }
            Self::Register {
                client,
                user_id,
                proof,
                node,
                registration,
            } => {
                out.put_u8(match proof {
                    Proof::Password(_) => 2,
                    Proof::Token(_) => 7,
                });
                out.put_u128_le(*client);
                out.put_u32_le(*user_id);
                match proof {
                    Proof::Password(version) => out.put_u64_le(*version),
                    Proof::Token(hash) => out.put_slice(hash),
                }
                out.put_u64_le(node.0);
                out.put_u64_le(*registration);
            }
            Self::Unregister { client, session } => {
                out.put_u8(3);
                out.put_u128_le(*client);
                out.put_u64_le(*session);
            }
            Self::RegisterNode(info) => {
                out.put_u8(4);
                info.write(out);
            }
            Self::FenceNode { node, registration } => {
                out.put_u8(5);
                out.put_u64_le(node.0);
                out.put_u64_le(*registration);
            }
            Self::BootstrapRoot {
                username,
                password_hash,
            } => {
                out.put_u8(6);
                out.put_text(username.as_str());
                out.put_text(password_hash);
            }
            Self::CompleteRevocation {
                group,
                partition,
                id,
            } => {
                out.put_u8(8);
                out.put_u32_le(group.stream_id);
                out.put_u32_le(group.topic_id);
                out.put_u32_le(group.group_id);
                out.put_u32_le(*partition);
                out.put_u64_le(*id);
            }
            Self::ExpireTokens => out.put_u8(10),
            Self::ExpireRevocations { timeout_micros } => {
                out.put_u8(9);
                out.put_u64_le(*timeout_micros);
            }
        }
    }

    /// The command in these bytes.
    ///
    /// # Errors
    /// When they are not a command of a version that is understood.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed("a command of another version"));
        }
        let command = Self::read(&mut reader)?;
        reader.end()?;
        Ok(command)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(match reader.u8()? {
            1 => Self::Client(ClientRequest {
                client: reader.u128()?,
                session: reader.u64()?,
                request: reader.u64()?,
                checksum: reader.u64()?,
                operation: ClientOperation::read(reader)?,
            }),
            tag @ (2 | 7) => Self::Register {
                client: reader.u128()?,
                user_id: reader.u32()?,
                proof: match tag {
                    2 => Proof::Password(reader.u64()?),
                    _ => Proof::Token(read_hash(reader)?),
                },
                node: ReplicaId(reader.u64()?),
                registration: reader.u64()?,
            },
            3 => Self::Unregister {
                client: reader.u128()?,
                session: reader.u64()?,
            },
            4 => Self::RegisterNode(NodeInfo::read(reader)?),
            5 => Self::FenceNode {
                node: ReplicaId(reader.u64()?),
                registration: reader.u64()?,
            },
            6 => Self::BootstrapRoot {
                username: Name::read(reader)?,
                password_hash: reader.text(TEXT_BYTES_MAX)?.into(),
            },
            8 => Self::CompleteRevocation {
                group: GroupKey {
                    stream_id: reader.u32()?,
                    topic_id: reader.u32()?,
                    group_id: reader.u32()?,
                },
                partition: reader.u32()?,
                id: reader.u64()?,
            },
            10 => Self::ExpireTokens,
            9 => Self::ExpireRevocations {
                timeout_micros: reader.u64()?,
            },
            _ => return Err(Malformed("unknown command")),
        })
    }
}
