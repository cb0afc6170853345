//! The request of a replica whose disk is empty: whether its peers know that it has run.
//! See [`admission`](crate::admission) for what follows from the replies.

use async_trait::async_trait;
use consensus::ReplicaId;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::channel::Channel;
use super::handshake::HandshakeError;
use super::target::Target;
use super::{dial, frame};

/// What one peer knows about a replica whose disk is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum DiskHistory {
    /// The peer holds nothing itself, and has promised nothing.
    PeerIsEmpty = 1,
    /// The replica has run: it is registered, or has connected to the peer.
    HasRun = 2,
    /// The replica is not registered in a state that is current, and has not connected to
    /// the peer.
    NeverRan = 3,
    /// The peer cannot know yet, because its state may not be current.
    Undecided = 4,
}

impl DiskHistory {
    fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::PeerIsEmpty),
            2 => Some(Self::HasRun),
            3 => Some(Self::NeverRan),
            4 => Some(Self::Undecided),
            _ => None,
        }
    }
}

/// Replies to replicas whose disk is empty.
#[async_trait]
pub(crate) trait AdmissionService: Send + Sync {
    /// What this node knows about a replica, apart from its connections.
    async fn history(&self, of: ReplicaId) -> DiskHistory;
}

/// Requests the history of this node from a peer. `None` when the peer cannot be reached or
/// does not reply.
///
/// # Errors
/// When the peer belongs to a cluster with other replicas.
pub(crate) async fn request(target: &Target) -> Result<Option<DiskHistory>, HandshakeError> {
    match dial::attempt(target, Channel::DiskHistory).await {
        Ok(stream) => Ok(read(stream).await),
        Err(Some(error @ (HandshakeError::Members { .. } | HandshakeError::NotListed { .. }))) => {
            Err(error)
        }
        Err(_) => Ok(None),
    }
}

async fn read(mut stream: TcpStream) -> Option<DiskHistory> {
    let reply = frame::read_short(&mut stream, 1).await.ok()??;
    DiskHistory::from_wire(*reply.first()?)
}

pub(super) async fn reply(mut stream: TcpStream, history: DiskHistory) {
    // A peer that does not receive it repeats its request.
    if frame::write(&mut stream, &[&[history as u8]]).await.is_ok() {
        let _ = stream.flush().await;
    }
}
