//! Access to the replicated log for the program around it.

use async_trait::async_trait;
use bytes::Bytes;
use consensus::{Index, ProposeError, ReadError, ReplicaId, Term};
use replica::driver::{Applied, ReplicaStatus};
use tokio::sync::{oneshot, watch};

use crate::error::TransferError;
use crate::inbox::{Inbox, Message, Submission};
use crate::outcome::Outcomes;

/// The term and its leader, as this replica knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The current term.
    pub term: Term,
    /// Its leader, when known.
    pub leader: Option<ReplicaId>,
}

/// The replicated log, as one node reaches it.
#[async_trait]
pub trait ReplicatedLog: Send + Sync {
    /// Replicates a command and returns the reply of the state machine.
    ///
    /// # Errors
    /// When this replica does not lead, is overloaded, or lost leadership while the
    /// outcome was open; only [`ProposeError::OutcomeUnknown`] may have had an effect.
    async fn submit(&self, command: Bytes) -> Result<Applied, ProposeError>;

    /// Waits until the local state includes every command that was acknowledged on any
    /// replica before the call: what is read from it afterwards is linearizable.
    ///
    /// # Errors
    /// When no quorum confirms the leader in time.
    async fn read(&self) -> Result<Index, ReadError>;

    /// Starts a transfer of leadership. That it has completed is seen in
    /// [`leadership`](Self::leadership).
    ///
    /// # Errors
    /// When this replica does not lead, `to` does not vote, or this replica has stopped.
    async fn transfer(&self, to: ReplicaId) -> Result<(), TransferError>;

    /// The state of the replica; `None` when it has stopped.
    async fn status(&self) -> Option<ReplicaStatus>;

    /// The leader as a watched value.
    fn leadership(&self) -> watch::Receiver<Leadership>;
}

/// The log of the replica that runs in this process. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    pub(crate) inbox: Inbox,
    pub(crate) leadership: watch::Receiver<Leadership>,
}

impl LogHandle {
    /// Queues commands, each with a tag of the caller's choice. Every outcome is sent to
    /// `outcomes`, in any order; none is sent once the replica has stopped. Waits while
    /// too many queued commands have not been taken by the replica, so that a server which
    /// reads commands from a socket stops reading too.
    pub async fn queue(&self, commands: Vec<(u64, Bytes)>, outcomes: &Outcomes) {
        self.inbox.queue(commands, outcomes).await;
    }
}

#[async_trait]
impl ReplicatedLog for LogHandle {
    async fn submit(&self, command: Bytes) -> Result<Applied, ProposeError> {
        let (reply, replied) = oneshot::channel();
        self.inbox.submit(Submission::One(command, reply));
        replied.await.unwrap_or(Err(ProposeError::OutcomeUnknown))
    }

    async fn read(&self) -> Result<Index, ReadError> {
        let (reply, replied) = oneshot::channel();
        self.inbox.post(Message::Read(reply));
        replied.await.unwrap_or(Err(ReadError::Unconfirmed))
    }

    async fn transfer(&self, to: ReplicaId) -> Result<(), TransferError> {
        let (reply, replied) = oneshot::channel();
        self.inbox.post(Message::Transfer(to, reply));
        replied.await.unwrap_or(Err(TransferError::Stopped))
    }

    async fn status(&self) -> Option<ReplicaStatus> {
        let (reply, replied) = oneshot::channel();
        self.inbox.post(Message::Status(reply));
        replied.await.ok()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }
}
