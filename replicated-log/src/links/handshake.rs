//! The first frames of a connection.
//!
//! ```text
//! hello:  "IGCL" | version u16 | channel u8 | from u64 | incarnation u64 | to u64 | cluster name
//! reply:  code u8 | incarnation u64 | text
//! ```

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::ReplicaId;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::channel::Channel;
use super::frame;
use super::target::Identity;

const MAGIC: &[u8; 4] = b"IGCL";
const VERSION: u16 = 1;
const FRAME_BYTES_MAX: usize = 1024;
const TIMEOUT: Duration = Duration::from_secs(2);
const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;

/// The identity of the peer, and what it dialled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) replica: ReplicaId,
    pub(super) channel: Channel,
    pub(super) incarnation: u64,
}

/// Why two nodes do not connect.
#[derive(Debug, Error)]
pub(super) enum HandshakeError {
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
        "replica {0} is not among the nodes in this node's configuration; add it, or correct its replica id"
    )]
    UnknownReplica(ReplicaId),
    /// The peer refused the handshake.
    #[error("refused by the peer: {0}")]
    Refused(String),
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
    let reply = in_time(async {
        frame::write(stream, &[&hello]).await?;
        stream.flush().await?;
        frame::read(stream, FRAME_BYTES_MAX).await
    })
    .await?;
    let mut reply = reply.ok_or(HandshakeError::Malformed("the peer closed the connection"))?;
    let cut = |_| HandshakeError::Malformed("the reply is truncated");
    let code = reply.try_get_u8().map_err(cut)?;
    let incarnation = reply.try_get_u64_le().map_err(cut)?;
    if code != ACCEPTED {
        // It is logged: it must not look like another line.
        let text = String::from_utf8_lossy(&reply).replace(char::is_control, "?");
        return Err(HandshakeError::Refused(text));
    }
    Ok(incarnation)
}

/// Receives a peer's hello and replies to it.
pub(super) async fn receive(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    identity: &Identity,
    is_peer: impl Fn(ReplicaId) -> bool,
) -> Result<Peer, HandshakeError> {
    let hello = in_time(frame::read(stream, FRAME_BYTES_MAX)).await?;
    let hello = hello.ok_or(HandshakeError::Malformed("the peer closed the connection"))?;
    let result = check(hello, identity, is_peer);
    let (code, text) = match &result {
        Ok(_) => (ACCEPTED, String::new()),
        Err(error) => (REFUSED, error.to_string()),
    };
    in_time(async {
        let incarnation = identity.incarnation.to_le_bytes();
        frame::write(stream, &[&[code], &incarnation, text.as_bytes()]).await?;
        stream.flush().await
    })
    .await?;
    result
}

fn check(
    mut hello: Bytes,
    identity: &Identity,
    is_peer: impl Fn(ReplicaId) -> bool,
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
        .ok_or(HandshakeError::Malformed("unknown channel"))?;
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
        return Err(HandshakeError::UnknownReplica(replica));
    }
    Ok(Peer {
        replica,
        channel,
        incarnation,
    })
}

async fn in_time<T>(work: impl Future<Output = std::io::Result<T>>) -> Result<T, HandshakeError> {
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(HandshakeError::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: &str, replica: u64) -> Identity {
        Identity {
            cluster: cluster.into(),
            replica: ReplicaId(replica),
            incarnation: replica * 10,
        }
    }

    async fn meet(
        from: Identity,
        to: ReplicaId,
        own: Identity,
    ) -> (Result<u64, HandshakeError>, Result<Peer, HandshakeError>) {
        let (mut near, mut far) = tokio::io::duplex(4096);
        tokio::join!(
            present(&mut near, &from, to, Channel::Data),
            receive(&mut far, &own, |id| id.0 <= 3)
        )
    }

    #[tokio::test]
    async fn peers_of_one_cluster_learn_the_identity_of_the_other() {
        let (near, far) = meet(identity("c", 1), ReplicaId(2), identity("c", 2)).await;
        assert_eq!(near.unwrap(), 20);
        let expected = Peer {
            replica: ReplicaId(1),
            channel: Channel::Data,
            incarnation: 10,
        };
        assert_eq!(far.unwrap(), expected);
    }

    #[tokio::test]
    async fn strangers_are_refused_with_a_reason() {
        for (from, to, why) in [
            (identity("other", 1), 2, "cluster \"other\""),
            (identity("c", 1), 3, "dialled replica 2, this is replica 1"),
            (identity("c", 9), 2, "replica 8 is not among"),
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
            frame::read(&mut far, FRAME_BYTES_MAX).await.unwrap();
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
}
