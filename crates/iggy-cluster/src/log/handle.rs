//! What the rest of the program sees of the replicated log.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::turns::Turns;
use async_trait::async_trait;
use bytes::Bytes;
use consensus::{Index, ReplicaId, Term};
use replica::driver::{Applied, Event, FileEvent, ReplicaStatus, SubmitError, Ticket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc as tokio_mpsc, oneshot, watch};

/// Messages of peers that may wait for the consensus thread; beyond it they are
/// dropped, and the protocol repeats them.
const PEER_MESSAGES_MAX: usize = 65_536;
/// Commands that were queued and wait for the consensus thread; beyond it whoever
/// queues them waits.
const QUEUED_KIB_MAX: u32 = 16 << 10;

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
    async fn submit(&self, command: Bytes) -> Result<Applied, SubmitError>;

    /// Returns when the local state holds everything that was acknowledged
    /// anywhere before the call.
    ///
    /// # Errors
    /// When no quorum confirms it in time.
    async fn read(&self) -> Result<Index, SubmitError>;

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
#[derive(Debug)]
pub struct Outcome {
    /// As the command was queued.
    pub tag: u64,
    /// Its reply, or why it was not carried out here.
    pub result: Result<Applied, SubmitError>,
}

/// Where outcomes go.
pub type Outcomes = tokio_mpsc::UnboundedSender<Outcome>;

/// What waits for the consensus thread.
pub(super) enum Message {
    Submit(Bytes, oneshot::Sender<Result<Applied, SubmitError>>),
    Queue(Vec<(u64, Bytes)>, Outcomes, OwnedSemaphorePermit),
    Read(oneshot::Sender<Result<Index, SubmitError>>),
    Transfer(ReplicaId, oneshot::Sender<Result<(), String>>),
    Status(oneshot::Sender<ReplicaStatus>),
    Peer(ReplicaId, Bytes),
    Unreachable(ReplicaId),
    Persisted(consensus::PersistId),
    File(FileEvent),
    Fatal(String),
    Stop,
}

impl Message {
    /// As an event of the replica, when it needs no answer.
    pub(super) fn into_event(self) -> Result<Event, Self> {
        match self {
            Self::Peer(from, message) => Ok(Event::Peer { from, message }),
            Self::Unreachable(peer) => Ok(Event::Unreachable(peer)),
            Self::Persisted(id) => Ok(Event::Persisted(id)),
            Self::File(event) => Ok(Event::File(event)),
            other => Err(other),
        }
    }
}

/// What waits for a round, counted.
#[derive(Default)]
pub(super) struct Traffic {
    turns: Turns<Engine>,
    peer_messages: AtomicUsize,
    dropped: AtomicU64,
}

impl Traffic {
    pub(super) fn turns(&self) -> &Turns<Engine> {
        &self.turns
    }

    pub(super) fn taken(&self, message: &Message) {
        self.turns.taken();
        if matches!(message, Message::Peer(..)) {
            self.peer_messages.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Messages of peers that wait, and that found no room.
    pub(super) fn peer_messages(&self) -> (u64, u64) {
        let waiting = self.peer_messages.load(Ordering::Relaxed) as u64;
        (waiting, self.dropped.load(Ordering::Relaxed))
    }
}

/// The sending end of the replica's inbox. Whoever puts a message in may run the
/// replica.
#[derive(Clone)]
pub(crate) struct Inbox {
    sender: mpsc::Sender<Message>,
    traffic: Arc<Traffic>,
    room: Arc<Semaphore>,
}

impl Inbox {
    pub(super) fn new() -> (Self, mpsc::Receiver<Message>) {
        let (sender, receiver) = mpsc::channel();
        let inbox = Self {
            sender,
            traffic: Arc::default(),
            room: Arc::new(Semaphore::new(QUEUED_KIB_MAX as usize)),
        };
        (inbox, receiver)
    }

    pub(super) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Puts a message in and runs the replica, unless somebody does; it is lost when
    /// the replica has stopped.
    pub(super) fn put(&self, message: Message) {
        if self.send(message) {
            self.traffic.turns.run_here();
        }
    }

    /// Puts a message in for the consensus thread.
    pub(super) fn leave(&self, message: Message) {
        if self.send(message) {
            self.traffic.turns.wake();
        }
    }

    fn send(&self, message: Message) -> bool {
        let sent = self.sender.send(message).is_ok();
        if sent {
            self.traffic.turns.put();
        }
        sent
    }

    /// A peer's message: dropped when too many wait.
    pub(crate) fn peer(&self, from: ReplicaId, message: Bytes) {
        let traffic = &self.traffic;
        if traffic.peer_messages.fetch_add(1, Ordering::Relaxed) >= PEER_MESSAGES_MAX {
            traffic.peer_messages.fetch_sub(1, Ordering::Relaxed);
            traffic.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.put(Message::Peer(from, message));
    }

    pub(crate) fn unreachable(&self, peer: ReplicaId) {
        self.leave(Message::Unreachable(peer));
    }
}

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
        let bytes: usize = commands.iter().map(|(_, command)| command.len()).sum();
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.inbox.room);
        if let Ok(permit) = room.acquire_many_owned(kib.min(QUEUED_KIB_MAX)).await {
            let message = Message::Queue(commands, outcomes.clone(), permit);
            self.inbox.put(message);
        }
    }

    /// What takes the messages of other replicas; `heard` is told of each.
    pub(crate) fn receiver(
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
    async fn submit(&self, command: Bytes) -> Result<Applied, SubmitError> {
        let (answer, answered) = oneshot::channel();
        self.inbox.put(Message::Submit(command, answer));
        answered.await.unwrap_or(Err(SubmitError::OutcomeUnknown))
    }

    async fn read(&self) -> Result<Index, SubmitError> {
        let (answer, answered) = oneshot::channel();
        self.inbox.put(Message::Read(answer));
        answered.await.unwrap_or(Err(SubmitError::Unconfirmed))
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

/// Who waits for the outcome of a command.
pub(super) enum Submitter {
    One(oneshot::Sender<Result<Applied, SubmitError>>),
    Tagged(u64, Outcomes),
}

/// Answers that callers wait for, by ticket.
#[derive(Default)]
pub(super) struct Answers {
    next: u64,
    submits: HashMap<Ticket, (Instant, Submitter)>,
    reads: HashMap<Ticket, oneshot::Sender<Result<Index, SubmitError>>>,
    transfers: HashMap<Ticket, oneshot::Sender<Result<(), String>>>,
}

impl Answers {
    fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }

    pub(super) fn submit(&mut self, answer: Submitter) -> Ticket {
        let ticket = self.ticket();
        self.submits.insert(ticket, (Instant::now(), answer));
        ticket
    }

    pub(super) fn read(&mut self, answer: oneshot::Sender<Result<Index, SubmitError>>) -> Ticket {
        let ticket = self.ticket();
        self.reads.insert(ticket, answer);
        ticket
    }

    pub(super) fn transfer(&mut self, answer: oneshot::Sender<Result<(), String>>) -> Ticket {
        let ticket = self.ticket();
        self.transfers.insert(ticket, answer);
        ticket
    }

    /// Answers a submit; returns how long it took.
    pub(super) fn replied(
        &mut self,
        ticket: Ticket,
        result: Result<Applied, SubmitError>,
    ) -> Duration {
        let Some((began, answer)) = self.submits.remove(&ticket) else {
            return Duration::ZERO;
        };
        match answer {
            Submitter::One(answer) => drop(answer.send(result)),
            Submitter::Tagged(tag, outcomes) => drop(outcomes.send(Outcome { tag, result })),
        }
        began.elapsed()
    }

    pub(super) fn read_done(&mut self, ticket: Ticket, result: Result<Index, SubmitError>) {
        if let Some(answer) = self.reads.remove(&ticket) {
            let _ = answer.send(result);
        }
    }

    pub(super) fn transferred(&mut self, ticket: Ticket, result: Result<(), String>) {
        if let Some(answer) = self.transfers.remove(&ticket) {
            let _ = answer.send(result);
        }
    }
}
