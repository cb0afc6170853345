//! What a node with an empty disk asks of the others before it begins: whether
//! they know it.

use async_trait::async_trait;
use consensus::ReplicaId;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Lane, Target, dial, frame};

/// What one node can say of another whose disk is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// The node that was asked holds nothing itself, and has promised nothing.
    Empty = 1,
    /// It has run before: it is registered, or a message of it was taken.
    Known = 2,
    /// It is not registered, in a state that is current, and no message of it was
    /// taken.
    Unknown = 3,
    /// Nobody leads: what was committed cannot be told yet.
    Undecided = 4,
}

impl Standing {
    fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Empty),
            2 => Some(Self::Known),
            3 => Some(Self::Unknown),
            4 => Some(Self::Undecided),
            _ => None,
        }
    }
}

/// Answers the question.
#[async_trait]
pub trait Witness: Send + Sync {
    /// What is known of a node whose disk is empty.
    async fn standing(&self, of: ReplicaId) -> Standing;
}

/// Asks a peer; `None` when it cannot be reached or does not answer.
pub async fn ask(target: &Target) -> Option<Standing> {
    let mut stream = dial::connect(target, Lane::Standing).await?;
    let answer = frame::read(&mut stream, 1).await.ok()??;
    Standing::from_wire(*answer.first()?)
}

pub(super) async fn answer(mut stream: TcpStream, standing: Standing) {
    // Where it does not arrive, whoever asked asks again.
    if frame::write(&mut stream, &[&[standing as u8]])
        .await
        .is_ok()
    {
        let _ = stream.flush().await;
    }
}
