//! The first frames of a connection.
//!
//! ```text
//! hello:  "IGCL" | version u16 | channel u8 | from u64 | incarnation u64 | to u64
//!         | storage id u128 | cluster name
//! reply:  code u8 | incarnation u64 | details (code 0) or text (others)
//! details: 1u8 | members | storage id u128, or 2u8 | storage id u128
//! members: voters, and their ids | learners, and their ids; all LEB128
//! ```
//!
//! Version 0.1 has no details in its reply, and does not read them: it is not compared. Both
//! nodes dial each other, so each compares the list of the other with its own.
//!
//! The hello of version 1, of 0.1, has no storage id. A node of 0.1 refuses version 2 as
//! another version, and is dialled again with version 1.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::{Membership, ReplicaId};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::channel::Channel;
use super::frame;
use super::target::Identity;
use crate::admission::Registration;

const MAGIC: &[u8; 4] = b"IGCL";
const VERSION: u16 = 2;
/// Without a storage id.
const VERSION_0_1: u16 = 1;
const FRAME_BYTES_MAX: usize = 1024;
const TIMEOUT: Duration = Duration::from_secs(2);
const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;
/// Like `REFUSED` for version 0.1, which knows no further codes.
const OUTDATED: u8 = 2;
const NOT_LISTED: u8 = 3;
/// Part of a refusal, also by version 0.1: it has no code of its own.
const UNKNOWN_CHANNEL: &str = "unknown channel";
/// The same of a version of the handshake.
const ANOTHER_VERSION: &str = "another version";
/// The forms of the details in a reply: with the list of members, and without.
const WITH_MEMBERS: u8 = 1;
const WITHOUT_MEMBERS: u8 = 2;
/// Bytes of text or details at most: the reply has to fit into the frame that version 0.1
/// reads.
const DETAILS_BYTES_MAX: usize = FRAME_BYTES_MAX - 9;
/// Bytes of the list of members at most. Enough for all replicas that a cluster may have, with
/// ids below 2^21; a longer list is not sent, and so not compared.
const MEMBERS_BYTES_MAX: usize = DETAILS_BYTES_MAX - 16;

/// The identity of the peer, and what it dialled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) replica: ReplicaId,
    pub(super) channel: Channel,
    pub(super) incarnation: u64,
}

/// Why two nodes do not connect.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    /// The connection broke.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// The peer did not complete the handshake in time.
    #[error("no handshake within {} s; check that the address is the replica port of a node", TIMEOUT.as_secs())]
    Timeout,
    /// The peer is not a node of this software, or one of another version.
    #[error(
        "not a handshake of version {VERSION}: {0}; check that the address is the replica port of a node, and that the versions of both nodes are compatible"
    )]
    Malformed(&'static str),
    /// The peer belongs to another cluster.
    #[error(
        "the peer is a node of cluster {theirs:?}, this one is of {ours:?}; check the name of the cluster and the addresses in the configuration of both"
    )]
    Cluster {
        /// The cluster of the peer.
        theirs: String,
        /// The cluster of this node.
        ours: String,
    },
    /// The peer dialled this node for another.
    #[error(
        "the peer dialled replica {dialled}, this is replica {own}; check the addresses of the nodes in the configuration of both"
    )]
    WrongReplica {
        /// The replica that the peer dialled.
        dialled: ReplicaId,
        /// This replica.
        own: ReplicaId,
    },
    /// The peer is not among the replicas of this node's configuration.
    #[error(
        "replica {replica} is not among the nodes in this node's configuration{}; give all nodes the same list, or correct its replica id", listed(.ours.as_ref())
    )]
    UnknownReplica {
        /// The peer.
        replica: ReplicaId,
        /// The replicas of this node's configuration.
        ours: Option<Membership>,
    },
    /// The peer's configuration lists other replicas.
    #[error(
        "replica {peer} is configured with the replicas {theirs}, this node with {ours}; with different lists two majorities need not overlap, and acknowledged changes may be lost, so the nodes do not connect; give both the same list and restart the one that is wrong"
    )]
    Members {
        /// The peer.
        peer: ReplicaId,
        /// The replicas of its configuration.
        theirs: Membership,
        /// The replicas of this node's configuration.
        ours: Membership,
    },
    /// The peer has forgotten a start of its own.
    #[error(
        "replica {replica} presents incarnation {incarnation}, but has run as incarnation {registered}: its disk was lost or formatted, or is an older copy, and what it has acknowledged since is missing; restore its directory as it was when the node stopped, or leave it stopped; see \"The disk is lost\" in the operations guide"
    )]
    Outdated {
        /// The peer.
        replica: ReplicaId,
        /// The incarnation that it presents.
        incarnation: u64,
        /// The incarnation with which it is registered.
        registered: u64,
    },
    /// The disk of the peer is another one.
    #[error(
        "replica {replica} runs on {}, but has had disk {}: what it has voted and acknowledged there is missing; bring back the directory that it has had, as it was when the node stopped, or leave it stopped; see \"The disk is lost\" in the operations guide", disk(*.presented), id(*.known)
    )]
    OtherDisk {
        /// The peer.
        replica: ReplicaId,
        /// The storage that it presents; zero for none.
        presented: u128,
        /// The storage with which it is registered, or which it has presented before.
        known: u128,
    },
    /// The peer refused this node because the disk of this node is out of date.
    #[error("refused by the peer: {0}")]
    OutdatedHere(String),
    /// The peer's configuration does not list this node.
    #[error("refused by the peer: {text}{}", own_list(.ours.as_ref()))]
    NotListed {
        /// What the peer replied.
        text: String,
        /// The replicas of this node's configuration.
        ours: Option<Membership>,
    },
    /// The peer does not know this version of the handshake.
    #[error("refused by the peer: {0}")]
    Version(String),
    /// The peer does not know the channel: it is of an older version.
    #[error("refused by the peer: {UNKNOWN_CHANNEL}")]
    UnknownChannel,
    /// The peer refused the handshake.
    #[error("refused by the peer: {0}")]
    Refused(String),
}

fn id(storage: u128) -> String {
    format!("{:08x}", storage >> 96)
}

fn disk(storage: u128) -> String {
    match storage {
        0 => "a disk without identity".into(),
        _ => format!("disk {}", id(storage)),
    }
}

fn listed(ours: Option<&Membership>) -> String {
    ours.map_or_else(String::new, |ours| format!(", which lists {ours}"))
}

fn own_list(ours: Option<&Membership>) -> String {
    ours.map_or_else(String::new, |ours| {
        format!("; the configuration here lists {ours}")
    })
}

impl HandshakeError {
    /// A label for limiting how often it is logged.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Io(_) => "connection",
            Self::Timeout => "timeout",
            Self::Malformed(_) => "malformed",
            Self::Cluster { .. } => "cluster",
            Self::WrongReplica { .. } => "wrong_replica",
            Self::UnknownReplica { .. } => "unknown_replica",
            Self::Members { .. } => "members",
            Self::Outdated { .. } => "outdated",
            Self::OtherDisk { .. } => "other_disk",
            Self::OutdatedHere(_) => "outdated_here",
            Self::NotListed { .. } => "not_listed",
            Self::Version(_) => "version",
            Self::UnknownChannel => "unknown_channel",
            Self::Refused(_) => "refused",
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Outdated { .. } | Self::OtherDisk { .. } => OUTDATED,
            Self::UnknownReplica { .. } => NOT_LISTED,
            _ => REFUSED,
        }
    }
}

/// A form of the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// That of this version.
    Current,
    /// That of version 0.1.
    V0_1,
}

/// Presents this node; returns what the peer presents.
pub(super) async fn present(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    identity: &Identity,
    to: ReplicaId,
    channel: Channel,
    form: Hello,
) -> Result<Registration, HandshakeError> {
    let mut hello = BytesMut::with_capacity(80);
    hello.put_slice(MAGIC);
    hello.put_u16_le(match form {
        Hello::Current => VERSION,
        Hello::V0_1 => VERSION_0_1,
    });
    hello.put_u8(channel as u8);
    hello.put_u64_le(identity.replica.0);
    hello.put_u64_le(identity.incarnation);
    hello.put_u64_le(to.0);
    if form == Hello::Current {
        hello.put_u128_le(identity.storage_id);
    }
    hello.put_slice(identity.cluster.as_bytes());
    let reply = by(Instant::now() + TIMEOUT, async {
        frame::write(stream, &[&hello]).await?;
        stream.flush().await?;
        frame::read_short(stream, FRAME_BYTES_MAX).await
    })
    .await?;
    let mut reply = reply.ok_or(HandshakeError::Malformed("the peer closed the connection"))?;
    let cut = |_| HandshakeError::Malformed("the reply is truncated");
    let code = reply.try_get_u8().map_err(cut)?;
    let incarnation = reply.try_get_u64_le().map_err(cut)?;
    let ours = identity.membership.clone();
    if code != ACCEPTED {
        // It is logged: it must not look like another line.
        let text = String::from_utf8_lossy(&reply).replace(char::is_control, "?");
        return Err(match code {
            OUTDATED => HandshakeError::OutdatedHere(text),
            NOT_LISTED => HandshakeError::NotListed { text, ours },
            _ if text.contains(UNKNOWN_CHANNEL) => HandshakeError::UnknownChannel,
            _ if text.contains(ANOTHER_VERSION) => HandshakeError::Version(text),
            _ => HandshakeError::Refused(text),
        });
    }
    let (theirs, storage_id) = get_details(reply)?;
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if !theirs.has_replicas_of(&ours) => {
            let peer = to;
            Err(HandshakeError::Members { peer, theirs, ours })
        }
        _ => Ok(Registration {
            incarnation,
            storage_id,
        }),
    }
}

/// As much of a text as fits into a reply.
fn cut_text(text: &str) -> BytesMut {
    let end = text.floor_char_boundary(DETAILS_BYTES_MAX);
    BytesMut::from(&text[..end])
}

fn put_details(identity: &Identity) -> BytesMut {
    let mut out = BytesMut::new();
    if let Some(membership) = &identity.membership {
        out.put_u8(WITH_MEMBERS);
        for ids in [membership.voters(), membership.learners()] {
            put_number(&mut out, ids.len() as u64);
            for id in ids {
                put_number(&mut out, id.0);
            }
        }
    }
    if out.is_empty() || out.len() > MEMBERS_BYTES_MAX {
        out.clear();
        out.put_u8(WITHOUT_MEMBERS);
    }
    out.put_u128_le(identity.storage_id);
    out
}

/// The members and the storage id in a reply; `None` and zero where there are none, or in a
/// form that is not known.
fn get_details(mut reply: Bytes) -> Result<(Option<Membership>, u128), HandshakeError> {
    let members = match reply.try_get_u8() {
        Ok(WITH_MEMBERS) => Some(get_members(&mut reply)?),
        Ok(WITHOUT_MEMBERS) => None,
        _ => return Ok((None, 0)),
    };
    let storage_id = reply.try_get_u128_le();
    let storage_id = storage_id.map_err(|_| HandshakeError::Malformed("the storage id"))?;
    Ok((members, storage_id))
}

fn get_members(reply: &mut Bytes) -> Result<Membership, HandshakeError> {
    let mut ids = || {
        let count = get_number(reply)?;
        let ids = (0..count).map(|_| get_number(reply).map(ReplicaId));
        ids.collect::<Option<Vec<_>>>()
    };
    let members = ids().zip(ids());
    members
        .and_then(|(voters, learners)| Membership::new(1, voters, learners).ok())
        .ok_or(HandshakeError::Malformed("the list of members"))
}

fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn get_number(from: &mut Bytes) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Receives a peer's hello and replies to it.
pub(super) async fn receive(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    identity: &Identity,
    is_peer: impl Fn(ReplicaId) -> bool,
    admit: impl Fn(ReplicaId, Registration) -> Result<(), HandshakeError>,
) -> Result<Peer, HandshakeError> {
    let deadline = Instant::now() + TIMEOUT;
    let hello = by(deadline, frame::read_short(stream, FRAME_BYTES_MAX)).await?;
    let hello = hello.ok_or(HandshakeError::Malformed("the peer closed the connection"))?;
    let result = check(hello, identity, is_peer, admit);
    let (code, rest) = match &result {
        Ok(_) => (ACCEPTED, put_details(identity)),
        Err(error) => (error.code(), cut_text(&error.to_string())),
    };
    by(deadline, async {
        let incarnation = identity.incarnation.to_le_bytes();
        frame::write(stream, &[&[code], &incarnation, &rest]).await?;
        stream.flush().await
    })
    .await?;
    result
}

fn check(
    mut hello: Bytes,
    identity: &Identity,
    is_peer: impl Fn(ReplicaId) -> bool,
    admit: impl Fn(ReplicaId, Registration) -> Result<(), HandshakeError>,
) -> Result<Peer, HandshakeError> {
    let cut = |_| HandshakeError::Malformed("the hello is truncated");
    if !hello.starts_with(MAGIC) {
        return Err(HandshakeError::Malformed("wrong magic"));
    }
    hello.advance(MAGIC.len());
    let version = hello.try_get_u16_le().map_err(cut)?;
    if ![VERSION_0_1, VERSION].contains(&version) {
        return Err(HandshakeError::Malformed(ANOTHER_VERSION));
    }
    let channel = Channel::from_wire(hello.try_get_u8().map_err(cut)?)
        .ok_or(HandshakeError::Malformed(UNKNOWN_CHANNEL))?;
    let replica = ReplicaId(hello.try_get_u64_le().map_err(cut)?);
    let incarnation = hello.try_get_u64_le().map_err(cut)?;
    let dialled = ReplicaId(hello.try_get_u64_le().map_err(cut)?);
    let storage_id = match version {
        VERSION_0_1 => 0,
        _ => hello.try_get_u128_le().map_err(cut)?,
    };
    if hello != identity.cluster.as_bytes() {
        return Err(HandshakeError::Cluster {
            theirs: String::from_utf8_lossy(&hello).into_owned(),
            ours: identity.cluster.clone(),
        });
    }
    if dialled != identity.replica {
        return Err(HandshakeError::WrongReplica {
            dialled,
            own: identity.replica,
        });
    }
    if replica == identity.replica || !is_peer(replica) {
        return Err(HandshakeError::UnknownReplica {
            replica,
            ours: identity.membership.clone(),
        });
    }
    // A replica whose disk is empty has no incarnation yet.
    if channel != Channel::DiskHistory {
        let shown = Registration {
            incarnation,
            storage_id,
        };
        admit(replica, shown)?;
    }
    Ok(Peer {
        replica,
        channel,
        incarnation,
    })
}

async fn by<T>(
    deadline: Instant,
    work: impl Future<Output = std::io::Result<T>>,
) -> Result<T, HandshakeError> {
    match tokio::time::timeout_at(deadline, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(HandshakeError::Timeout),
    }
}

#[cfg(test)]
mod tests;
