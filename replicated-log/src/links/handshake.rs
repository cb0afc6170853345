//! The first frames of a connection.
//!
//! ```text
//! hello:  "IGCL" | version u16 | channel u8 | from u64 | incarnation u64 | to u64 | cluster name
//! reply:  code u8 | incarnation u64 | members (code 0) or text (others)
//! members: 1u8 | voters, and their ids | learners, and their ids; all LEB128
//! ```
//!
//! Version 0.1 has no members in its reply, and does not read them: it is not compared. Both
//! nodes dial each other, so each compares the list of the other with its own.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::{Membership, ReplicaId};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::channel::Channel;
use super::frame;
use super::target::Identity;

const MAGIC: &[u8; 4] = b"IGCL";
const VERSION: u16 = 1;
const FRAME_BYTES_MAX: usize = 1024;
const TIMEOUT: Duration = Duration::from_secs(2);
const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;
/// Like `REFUSED` for version 0.1, which knows no further codes.
const OUTDATED: u8 = 2;
const NOT_LISTED: u8 = 3;
/// Part of a refusal, also by version 0.1: it has no code of its own.
const UNKNOWN_CHANNEL: &str = "unknown channel";
/// The form of the list of members in a reply.
const MEMBERS_FORMAT: u8 = 1;
/// Bytes of the list of members at most: the reply has to fit into the frame that version
/// 0.1 reads. Enough for all replicas that a cluster may have, with ids below 2^21; a longer
/// list is not sent, and so not compared.
const MEMBERS_BYTES_MAX: usize = FRAME_BYTES_MAX - 9;

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
    /// The peer does not know the channel: it is of an older version.
    #[error("refused by the peer: {UNKNOWN_CHANNEL}")]
    UnknownChannel,
    /// The peer refused the handshake.
    #[error("refused by the peer: {0}")]
    Refused(String),
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
            Self::OutdatedHere(_) => "outdated_here",
            Self::NotListed { .. } => "not_listed",
            Self::UnknownChannel => "unknown_channel",
            Self::Refused(_) => "refused",
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Outdated { .. } => OUTDATED,
            Self::UnknownReplica { .. } => NOT_LISTED,
            _ => REFUSED,
        }
    }
}

/// Presents this node; returns the peer's incarnation.
pub(super) async fn present(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    identity: &Identity,
    to: ReplicaId,
    channel: Channel,
) -> Result<u64, HandshakeError> {
    let mut hello = BytesMut::with_capacity(64);
    hello.put_slice(MAGIC);
    hello.put_u16_le(VERSION);
    hello.put_u8(channel as u8);
    hello.put_u64_le(identity.replica.0);
    hello.put_u64_le(identity.incarnation);
    hello.put_u64_le(to.0);
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
            _ => HandshakeError::Refused(text),
        });
    }
    let theirs = get_members(reply)?;
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if !theirs.has_replicas_of(&ours) => {
            let peer = to;
            Err(HandshakeError::Members { peer, theirs, ours })
        }
        _ => Ok(incarnation),
    }
}

/// As much of a text as fits into a reply.
fn cut_text(text: &str) -> BytesMut {
    let end = text.floor_char_boundary(MEMBERS_BYTES_MAX);
    BytesMut::from(&text[..end])
}

/// Whether a replica may present this incarnation.
pub(super) fn check_incarnation(
    replica: ReplicaId,
    incarnation: u64,
    registered: Option<u64>,
) -> Result<(), HandshakeError> {
    match registered {
        Some(registered) if incarnation < registered => Err(HandshakeError::Outdated {
            replica,
            incarnation,
            registered,
        }),
        _ => Ok(()),
    }
}

fn put_members(membership: &Membership) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(MEMBERS_FORMAT);
    for ids in [membership.voters(), membership.learners()] {
        put_number(&mut out, ids.len() as u64);
        for id in ids {
            put_number(&mut out, id.0);
        }
    }
    if out.len() > MEMBERS_BYTES_MAX {
        out.clear();
    }
    out
}

/// The members in a reply; `None` where there are none, or in a form that is not known.
fn get_members(mut reply: Bytes) -> Result<Option<Membership>, HandshakeError> {
    if reply.try_get_u8() != Ok(MEMBERS_FORMAT) {
        return Ok(None);
    }
    let mut ids = || {
        let count = get_number(&mut reply)?;
        let ids = (0..count).map(|_| get_number(&mut reply).map(ReplicaId));
        ids.collect::<Option<Vec<_>>>()
    };
    let members = ids().zip(ids());
    members
        .and_then(|(voters, learners)| Membership::new(1, voters, learners).ok())
        .map(Some)
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
    registered: impl Fn(ReplicaId) -> Option<u64>,
) -> Result<Peer, HandshakeError> {
    let deadline = Instant::now() + TIMEOUT;
    let hello = by(deadline, frame::read_short(stream, FRAME_BYTES_MAX)).await?;
    let hello = hello.ok_or(HandshakeError::Malformed("the peer closed the connection"))?;
    let result = check(hello, identity, is_peer, registered);
    let (code, rest) = match &result {
        Ok(_) => {
            let members = identity.membership.as_ref().map(put_members);
            (ACCEPTED, members.unwrap_or_default())
        }
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
    registered: impl Fn(ReplicaId) -> Option<u64>,
) -> Result<Peer, HandshakeError> {
    let cut = |_| HandshakeError::Malformed("the hello is truncated");
    if !hello.starts_with(MAGIC) {
        return Err(HandshakeError::Malformed("wrong magic"));
    }
    hello.advance(MAGIC.len());
    if hello.try_get_u16_le().map_err(cut)? != VERSION {
        return Err(HandshakeError::Malformed("another version"));
    }
    let channel = Channel::from_wire(hello.try_get_u8().map_err(cut)?)
        .ok_or(HandshakeError::Malformed(UNKNOWN_CHANNEL))?;
    let replica = ReplicaId(hello.try_get_u64_le().map_err(cut)?);
    let incarnation = hello.try_get_u64_le().map_err(cut)?;
    let dialled = ReplicaId(hello.try_get_u64_le().map_err(cut)?);
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
        check_incarnation(replica, incarnation, registered(replica))?;
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
mod tests {
    use super::*;

    fn members(voters: u64) -> Option<Membership> {
        Membership::new(1, (1..=voters).map(ReplicaId), []).ok()
    }

    fn identity(cluster: &str, replica: u64) -> Identity {
        Identity {
            cluster: cluster.into(),
            replica: ReplicaId(replica),
            incarnation: replica * 10,
            membership: members(3),
        }
    }

    async fn meet_on(
        channel: Channel,
        from: Identity,
        to: ReplicaId,
        own: Identity,
        registered: Option<u64>,
    ) -> (Result<u64, HandshakeError>, Result<Peer, HandshakeError>) {
        let (mut near, mut far) = tokio::io::duplex(4096);
        tokio::join!(
            present(&mut near, &from, to, channel),
            receive(&mut far, &own, |id| id.0 <= 3, |_| registered)
        )
    }

    async fn meet(
        from: Identity,
        to: ReplicaId,
        own: Identity,
    ) -> (Result<u64, HandshakeError>, Result<Peer, HandshakeError>) {
        meet_on(Channel::Data, from, to, own, None).await
    }

    #[tokio::test]
    async fn peers_of_one_cluster_learn_the_identity_of_the_other() {
        // One of them is of version 0.1, or both, or none.
        for (theirs, ours) in [(3, 3), (0, 3), (3, 0), (0, 0)] {
            let (mut from, mut own) = (identity("c", 1), identity("c", 2));
            (from.membership, own.membership) = (members(theirs), members(ours));
            let (near, far) = meet(from, ReplicaId(2), own).await;
            assert_eq!(near.unwrap(), 20);
            let expected = Peer {
                replica: ReplicaId(1),
                channel: Channel::Data,
                incarnation: 10,
            };
            assert_eq!(far.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn strangers_are_refused_with_a_reason() {
        for (from, to, why) in [
            (identity("other", 1), 2, "cluster \"other\""),
            (identity("c", 1), 3, "dialled replica 2, this is replica 1"),
            (identity("c", 9), 2, "replica 8 is not among"),
            (identity("c", 9), 2, "configuration, which lists 0, 1, 2;"),
            (identity("c", 9), 2, "the configuration here lists 0, 1, 2"),
        ] {
            let (near, far) = meet(from, ReplicaId(to), identity("c", 2)).await;
            assert!(far.is_err());
            let text = near.unwrap_err().to_string();
            assert!(text.contains(why), "{text}");
        }
    }

    #[tokio::test]
    async fn the_text_of_a_refusal_is_one_line_without_control_characters() {
        let (mut near, mut far) = tokio::io::duplex(4096);
        let identity = identity("c", 1);
        let refusal = async {
            frame::read_short(&mut far, FRAME_BYTES_MAX).await.unwrap();
            let incarnation = [0; 8];
            let text = b"a\x1b[2J\nERROR b";
            let written = frame::write(&mut far, &[&[REFUSED], &incarnation, text]).await;
            written.unwrap();
            far.flush().await.unwrap();
        };
        let present = present(&mut near, &identity, ReplicaId(2), Channel::Data);
        let (refused, ()) = tokio::join!(present, refusal);
        let text = refused.unwrap_err().to_string();
        assert_eq!(text, "refused by the peer: a?[2J?ERROR b");
    }

    #[tokio::test]
    async fn a_peer_with_another_list_of_replicas_is_refused_and_both_lists_are_named() {
        for voters in [1, 2, 4] {
            let other = Identity {
                membership: members(voters),
                ..identity("c", 2)
            };
            let (near, _) = meet(identity("c", 1), ReplicaId(2), other).await;
            let text = near.unwrap_err().to_string();
            let theirs = members(voters).unwrap();
            let lists = format!(
                "replica 1 is configured with the replicas {theirs}, this node with 0, 1, 2;"
            );
            assert!(text.contains(&lists), "{text}");
        }
    }

    #[tokio::test]
    async fn a_lower_incarnation_than_the_registered_one_is_refused() {
        let meet = |channel, registered| {
            let (from, own) = (identity("c", 1), identity("c", 2));
            meet_on(channel, from, ReplicaId(2), own, registered)
        };
        for registered in [None, Some(9), Some(10)] {
            assert!(meet(Channel::Consensus, registered).await.1.is_ok());
        }
        let (near, far) = meet(Channel::Consensus, Some(11)).await;
        assert!(matches!(far, Err(HandshakeError::Outdated { .. })));
        let near = near.unwrap_err();
        assert!(matches!(near, HandshakeError::OutdatedHere(_)), "{near}");
        let text = near.to_string();
        let why = "replica 0 presents incarnation 10, but has run as incarnation 11";
        assert!(text.contains(why), "{text}");
        // The question whether it has run is answered.
        assert!(meet(Channel::DiskHistory, Some(11)).await.1.is_ok());
    }

    #[test]
    fn lists_of_members_come_back_unless_they_are_too_long_or_damaged() {
        let list = |voters: &[u64], learners: &[u64]| {
            let ids = |ids: &[u64]| ids.iter().map(|id| ReplicaId(*id)).collect::<Vec<_>>();
            Membership::new(1, ids(voters), ids(learners)).unwrap()
        };
        let most: Vec<u64> = (8..=255).collect();
        for members in [
            list(&[1], &[]),
            list(&[3, 1, 2], &[1 << 20, u64::MAX]),
            list(&[1, 2, 3, 4, 5, 6, 7], &most),
        ] {
            let bytes = put_members(&members).freeze();
            assert_eq!(get_members(bytes.clone()).unwrap(), Some(members));
            for length in 1..bytes.len() {
                assert!(get_members(bytes.slice(..length)).is_err(), "{length}");
            }
        }
        let huge: Vec<u64> = (0..200).map(|id| u64::MAX - id).collect();
        assert!(put_members(&list(&[1], &huge)).is_empty());
        assert_eq!(get_members(Bytes::new()).unwrap(), None);
        // A later form is not compared.
        assert_eq!(get_members(Bytes::from_static(&[2, 9])).unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_handshake_is_given_up_after_its_time() {
        for sent in [&b""[..], b"IG", &[200, 0, 0, 0, b'I', b'G']] {
            let (mut near, mut far) = tokio::io::duplex(4096);
            near.write_all(sent).await.unwrap();
            let started = Instant::now();
            let received = receive(&mut far, &identity("c", 2), |_| true, |_| None).await;
            assert!(matches!(received, Err(HandshakeError::Timeout)));
            assert_eq!(started.elapsed(), TIMEOUT);
        }
    }

    /// Nothing large is read before the handshake.
    #[tokio::test]
    async fn a_long_frame_instead_of_a_handshake_is_refused_by_its_length() {
        let (mut near, mut far) = tokio::io::duplex(4096);
        near.write_all(&(79_u32 << 20).to_le_bytes()).await.unwrap();
        let received = receive(&mut far, &identity("c", 2), |_| true, |_| None).await;
        assert!(matches!(received, Err(HandshakeError::Io(_))));
    }
}
