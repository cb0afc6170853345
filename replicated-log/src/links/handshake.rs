//! The first frames of a connection.
//!
//! ```text
//! hello:  "IGCL" | version u16 | lane u8 | from u64 | incarnation u64 | to u64 | cluster name
//! answer: code u8 | incarnation u64 | text
//! ```

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::ReplicaId;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{Identity, Lane, frame};

const MAGIC: &[u8; 4] = b"IGCL";
const VERSION: u16 = 1;
const FRAME_BYTES_MAX: usize = 1024;
const TIMEOUT: Duration = Duration::from_secs(2);
const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) replica: ReplicaId,
    pub(super) lane: Lane,
    pub(super) incarnation: u64,
}

/// Why two nodes do not talk.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The connection broke.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// Nothing came in time.
    #[error("no handshake within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// Whatever speaks there is not a node of this software, or of another
    /// version.
    #[error("not a handshake of version {VERSION}: {0}")]
    Malformed(&'static str),
    /// The peer belongs to another cluster.
    #[error(
        "the peer is a node of cluster {theirs:?}, this one is of {ours:?}; check [cluster] name and the ports of both"
    )]
    Cluster {
        /// Its cluster.
        theirs: String,
        /// This node's.
        ours: String,
    },
    /// The peer took this node for another.
    #[error(
        "the peer wanted replica {wanted}, this is replica {own}; check the addresses in [[cluster.nodes]]"
    )]
    WrongReplica {
        /// Whom it wanted.
        wanted: ReplicaId,
        /// Who this is.
        own: ReplicaId,
    },
    /// The sender is not in the roster.
    #[error("replica {0} is not in this node's [[cluster.nodes]]")]
    UnknownReplica(ReplicaId),
    /// The other side said no.
    #[error("refused by the peer: {0}")]
    Refused(String),
}

/// Presents this node; returns the peer's incarnation.
pub(super) async fn present(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    identity: &Identity,
    to: ReplicaId,
    lane: Lane,
) -> Result<u64, HandshakeError> {
    let mut hello = BytesMut::with_capacity(64);
    hello.put_slice(MAGIC);
    hello.put_u16_le(VERSION);
    hello.put_u8(lane as u8);
    hello.put_u64_le(identity.replica.0);
    hello.put_u64_le(identity.incarnation);
    hello.put_u64_le(to.0);
    hello.put_slice(identity.cluster.as_bytes());
    let answer = in_time(async {
        frame::write(stream, &[&hello]).await?;
        stream.flush().await?;
        frame::read(stream, FRAME_BYTES_MAX).await
    })
    .await?;
    let mut answer = answer.ok_or(HandshakeError::Malformed("the peer hung up"))?;
    let cut = |_| HandshakeError::Malformed("the answer is cut short");
    let code = answer.try_get_u8().map_err(cut)?;
    let incarnation = answer.try_get_u64_le().map_err(cut)?;
    if code != ACCEPTED {
        let text = String::from_utf8_lossy(&answer).into_owned();
        return Err(HandshakeError::Refused(text));
    }
    Ok(incarnation)
}

/// Receives a peer's hello and answers it.
pub(super) async fn receive(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    identity: &Identity,
    is_member: impl Fn(ReplicaId) -> bool,
) -> Result<Peer, HandshakeError> {
    let hello = in_time(frame::read(stream, FRAME_BYTES_MAX)).await?;
    let hello = hello.ok_or(HandshakeError::Malformed("the peer hung up"))?;
    let result = check(hello, identity, is_member);
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
    is_member: impl Fn(ReplicaId) -> bool,
) -> Result<Peer, HandshakeError> {
    let cut = |_| HandshakeError::Malformed("the hello is cut short");
    if !hello.starts_with(MAGIC) {
        return Err(HandshakeError::Malformed("wrong magic"));
    }
    hello.advance(MAGIC.len());
    if hello.try_get_u16_le().map_err(cut)? != VERSION {
        return Err(HandshakeError::Malformed("another version"));
    }
    let lane = Lane::from_wire(hello.try_get_u8().map_err(cut)?)
        .ok_or(HandshakeError::Malformed("unknown lane"))?;
    let replica = ReplicaId(hello.try_get_u64_le().map_err(cut)?);
    let incarnation = hello.try_get_u64_le().map_err(cut)?;
    let wanted = ReplicaId(hello.try_get_u64_le().map_err(cut)?);
    if hello != identity.cluster.as_bytes() {
        return Err(HandshakeError::Cluster {
            theirs: String::from_utf8_lossy(&hello).into_owned(),
            ours: identity.cluster.clone(),
        });
    }
    if wanted != identity.replica {
        return Err(HandshakeError::WrongReplica {
            wanted,
            own: identity.replica,
        });
    }
    if replica == identity.replica || !is_member(replica) {
        return Err(HandshakeError::UnknownReplica(replica));
    }
    Ok(Peer {
        replica,
        lane,
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
            present(&mut near, &from, to, Lane::Data),
            receive(&mut far, &own, |id| id.0 <= 3)
        )
    }

    #[tokio::test]
    async fn peers_of_one_cluster_learn_who_the_other_is() {
        let (near, far) = meet(identity("c", 1), ReplicaId(2), identity("c", 2)).await;
        assert_eq!(near.unwrap(), 20);
        let expected = Peer {
            replica: ReplicaId(1),
            lane: Lane::Data,
            incarnation: 10,
        };
        assert_eq!(far.unwrap(), expected);
    }

    #[tokio::test]
    async fn strangers_are_refused_and_told_why() {
        for (from, to, why) in [
            (identity("other", 1), 2, "cluster \"other\""),
            (identity("c", 1), 3, "wanted replica 3"),
            (identity("c", 9), 2, "replica 9 is not in"),
        ] {
            let (near, far) = meet(from, ReplicaId(to), identity("c", 2)).await;
            assert!(far.is_err());
            let text = near.unwrap_err().to_string();
            assert!(text.contains(why), "{text}");
        }
    }
}
