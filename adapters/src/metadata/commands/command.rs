//! The command of the state machine, before and after the leader's decision.

use bytes::{BufMut, Bytes};
use consensus::ReplicaId;

use super::copies::CopiesCommand;
use super::new_partitions::{NewPartitions, PartitionCount, Placement};
use super::node::NodeInfo;
use super::operation::ClientOperation;
use crate::codec::{self, Malformed, Reader, Result, Writer};
use crate::metadata::feature_level::FeatureLevel;
use crate::metadata::replicas::Replicas;
use crate::metadata::types::{GroupKey, Name, TokenHash, read_token_hash};

const VERSION: u8 = 1;
const PASSWORD_HASH_BYTES_MAX: usize = 1024;
/// No node has this number of registration.
const NO_REGISTRATION: u64 = 0;

/// What a node asks the leader to replicate.
pub type Intent = MetadataCommand<PartitionCount>;

/// What the log contains, and the state machine applies.
pub type Command = MetadataCommand<Placement>;

/// An [`Intent`] or a [`Command`]; they differ in `P`, what is known of new partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataCommand<P> {
    /// No effect. Committing it shows that everything before it is committed.
    Noop,
    /// A client's request, under its session.
    Client(ClientRequest<P>),
    /// Opens a session for a client that has shown its credentials.
    Register {
        /// The client's id.
        client: u128,
        /// The user that it logs in as.
        user_id: u32,
        /// What the node accepted as its credentials.
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
    /// A node has started, or was fenced by mistake.
    RegisterNode(NodeInfo),
    /// A node is silent: its sessions end, and no partitions are placed on it.
    FenceNode {
        /// The node.
        node: ReplicaId,
        /// The registration that ends; a newer one stays.
        registration: u64,
    },
    /// Creates the root user unless there are users.
    BootstrapRoot {
        /// Its name.
        username: Name,
        /// Argon2 hash in PHC format.
        password_hash: String,
    },
    /// The holder of a partition in a group has committed all that it was served.
    CompleteRevocation {
        /// The group.
        group: GroupKey,
        /// The partition.
        partition: u32,
        /// Identifies the revocation; another one stays pending.
        id: u64,
    },
    /// Removes expired tokens.
    ExpireTokens,
    /// Completes revocations that are pending for this long.
    ExpireRevocations {
        /// In microseconds.
        timeout_micros: u64,
    },
    /// Every node that has ever registered knows this level: it is used from now on. No
    /// effect if one of them does not, or if the level is reached.
    RaiseFeatureLevel(FeatureLevel),
    /// Changes copies of partitions.
    Copies(CopiesCommand),
}

/// The credentials of a client. The node that it is connected to has checked them;
/// whether they are still valid is decided when the command is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A password, for this version of the user's credentials.
    Password(u64),
    /// A token, by its hash.
    Token(TokenHash),
}

/// A client's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRequest<P> {
    /// The client's id.
    pub client: u128,
    /// Its session.
    pub session: u64,
    /// Its request number; rises with every request.
    pub request: u64,
    /// XXH3-64 of the request's body; zero when the client sent none.
    pub checksum: u64,
    /// The change that it requests.
    pub operation: ClientOperation<P>,
}

impl<P> MetadataCommand<P> {
    /// The same, with what `decide` makes of the partitions that it creates.
    pub(in crate::metadata) fn decide_partitions<Q, E>(
        self,
        decide: impl FnOnce(P) -> std::result::Result<Q, E>,
    ) -> std::result::Result<MetadataCommand<Q>, E> {
        Ok(match self {
            Self::Client(request) => MetadataCommand::Client(ClientRequest {
                client: request.client,
                session: request.session,
                request: request.request,
                checksum: request.checksum,
                operation: request.operation.decide_partitions(decide)?,
            }),
            Self::Noop => MetadataCommand::Noop,
            Self::Register {
                client,
                user_id,
                proof,
                node,
                registration,
            } => MetadataCommand::Register {
                client,
                user_id,
                proof,
                node,
                registration,
            },
            Self::Unregister { client, session } => MetadataCommand::Unregister { client, session },
            Self::RegisterNode(info) => MetadataCommand::RegisterNode(info),
            Self::FenceNode { node, registration } => {
                MetadataCommand::FenceNode { node, registration }
            }
            Self::BootstrapRoot {
                username,
                password_hash,
            } => MetadataCommand::BootstrapRoot {
                username,
                password_hash,
            },
            Self::CompleteRevocation {
                group,
                partition,
                id,
            } => MetadataCommand::CompleteRevocation {
                group,
                partition,
                id,
            },
            Self::ExpireTokens => MetadataCommand::ExpireTokens,
            Self::ExpireRevocations { timeout_micros } => {
                MetadataCommand::ExpireRevocations { timeout_micros }
            }
            Self::RaiseFeatureLevel(level) => MetadataCommand::RaiseFeatureLevel(level),
            Self::Copies(command) => MetadataCommand::Copies(command),
        })
    }
}

impl Command {
    /// The nodes with copies of the partitions that the command creates.
    #[must_use]
    pub fn placement(&self) -> &[Replicas] {
        match self {
            Self::Client(request) => request
                .operation
                .new_partitions()
                .map_or(&[], |placement| &placement.0),
            _ => &[],
        }
    }
}

impl<P: NewPartitions> MetadataCommand<P> {
    /// The bytes that are forwarded, or written to the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encoded(128, |out| {
            out.put_u8(VERSION);
            self.write(out);
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Noop => write_fence(out, ReplicaId(0), NO_REGISTRATION),
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
            Self::FenceNode { node, registration } => write_fence(out, *node, *registration),
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
            Self::RaiseFeatureLevel(level) => {
                out.put_u8(11);
                level.write(out);
            }
            Self::Copies(command) => {
                out.put_u8(12);
                command.write(out);
            }
        }
    }

    /// The command or intent in these bytes.
    ///
    /// # Errors
    /// When they are not one of a version that is understood.
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
                    _ => Proof::Token(read_token_hash(reader)?),
                },
                node: ReplicaId(reader.u64()?),
                registration: reader.u64()?,
            },
            3 => Self::Unregister {
                client: reader.u128()?,
                session: reader.u64()?,
            },
            4 => Self::RegisterNode(NodeInfo::read(reader)?),
            5 => match (ReplicaId(reader.u64()?), reader.u64()?) {
                (_, NO_REGISTRATION) => Self::Noop,
                (node, registration) => Self::FenceNode { node, registration },
            },
            6 => Self::BootstrapRoot {
                username: Name::read(reader)?,
                password_hash: reader.text(PASSWORD_HASH_BYTES_MAX)?.into(),
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
            11 => Self::RaiseFeatureLevel(FeatureLevel::read(reader)?),
            12 => Self::Copies(CopiesCommand::read(reader)?),
            _ => return Err(Malformed("unknown command")),
        })
    }
}

fn write_fence(out: &mut Vec<u8>, node: ReplicaId, registration: u64) {
    out.put_u8(5);
    out.put_u64_le(node.0);
    out.put_u64_le(registration);
}
