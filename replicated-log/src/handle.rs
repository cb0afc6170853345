//! What the rest of the program sees of the replicated log.

use async_trait::async_trait;
use bytes::Bytes;
use consensus::{Index, ProposeError, ReadError, ReplicaId, Term};
use replica::driver::{Applied, ReplicaStatus};
use tokio::sync::{mpsc, oneshot, watch};

use super::inbox::{Inbox, Message, Submission};

/// Who leads, as this node believes.
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
    /// Replicates a command and returns its reply.
    ///
    /// # Errors
    /// When this node does not lead, is overloaded, or lost leadership while the
    /// outcome was open.
    async fn submit(&self, command: Bytes) -> Result<Applied, ProposeError>;

    /// Returns when the local state holds everything that was acknowledged
    /// anywhere before the call.
    ///
    /// # Errors
    /// When no quorum confirms it in time.
    async fn read(&self) -> Result<Index, ReadError>;

    /// Begins to hand leadership over.
    ///
    /// # Errors
    /// When this node does not lead or `to` cannot.
    async fn transfer(&self, to: ReplicaId) -> Result<(), String>;

    /// What the replica believes now; `None` when it has stopped.
    async fn status(&self) -> Option<ReplicaStatus>;

    /// Follows who leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;
}

/// What became of a command that was queued.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// As the command was queued.
    pub tag: u64,
    /// Its reply, or why it was not carried out here.
    pub result: Result<Applied, ProposeError>,
}

/// Where outcomes go, several at a time. Whoever queues commands bounds how many of its
/// own are open: outcomes wait for their receiver without bound.
pub type Outcomes = mpsc::UnboundedSender<Vec<Outcome>>;

/// The log, as the node that runs a replica reaches it. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    pub(super) inbox: Inbox,
    pub(super) leadership: watch::Receiver<Leadership>,
}

impl LogHandle {
    /// Queues commands, each with a tag of the caller's. The outcome of every one
    /// comes to `outcomes`, in no promised order; none comes once the replica has
    /// stopped. Waits while the replica has not looked at too many that were queued
    /// before: whoever sends them is then not read from either.
    pub async fn queue(&self, commands: Vec<(u64, Bytes)>, outcomes: &Outcomes) {
        self.inbox.queue(commands, outcomes).await;
    }

    /// What takes the messages of other replicas; `heard` is told of each.
    #[must_use]
    pub fn receiver(
        &self,
        heard: impl Fn(ReplicaId) + Send + Sync + 'static,
    ) -> Box<dyn Fn(ReplicaId, Bytes) + Send + Sync> {
        let inbox = self.inbox.clone();
        Box::new(move |from, message| {
            heard(from);
            inbox.peer(from, message);
        })
    }
}

#[async_trait]
impl ReplicatedLog for LogHandle {
    async fn submit(&self, command: Bytes) -> Result<Applied, ProposeError> {
        let (answer, answered) = oneshot::channel();
        self.inbox.submit(Submission::One(command, answer));
        answered.await.unwrap_or(Err(ProposeError::OutcomeUnknown))
    }

    async fn read(&self) -> Result<Index, ReadError> {
        let (answer, answered) = oneshot::channel();
        self.inbox.put(Message::Read(answer));
        answered.await.unwrap_or(Err(ReadError::Unconfirmed))
    }

    async fn transfer(&self, to: ReplicaId) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        self.inbox.put(Message::Transfer(to, answer));
        answered
            .await
            .unwrap_or_else(|_| Err("the node is stopping".into()))
    }

    async fn status(&self) -> Option<ReplicaStatus> {
        let (answer, answered) = oneshot::channel();
        self.inbox.put(Message::Status(answer));
        answered.await.ok()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }
}
