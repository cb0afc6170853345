//! What waits for a round of the replica.
//!
//! Commands wait apart from everything else: however many come, a round hears the
//! other replicas and the disk before it takes the next of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;

use bytes::Bytes;
use consensus::{Index, ProposeError, ReadError, ReplicaId};
use replica::driver::{Applied, Event, FileEvent, ReplicaStatus};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::engine::Engine;
use super::handle::Outcomes;
use super::turns::Turns;

/// Messages of peers that may wait for a round; beyond it they are dropped, and the
/// protocol repeats them.
const PEER_MESSAGES_MAX: usize = 65_536;
/// Commands that were queued and wait for a round; beyond it whoever queues them waits.
const QUEUED_KIB_MAX: u32 = 16 << 10;
/// What a queued command takes beside its bytes: tiny ones are not free.
const QUEUED_OVERHEAD_BYTES: usize = 64;
/// Commands that are queued together at most: a round takes them together.
const QUEUED_TOGETHER_MAX: usize = 4_096;

/// What waits and is no command.
pub(super) enum Message {
    Read(oneshot::Sender<Result<Index, ReadError>>),
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
            Self::Peer(from, message) => Ok(Event::Receive { from, message }),
            Self::Unreachable(peer) => Ok(Event::Unreachable(peer)),
            Self::Persisted(id) => Ok(Event::Persisted(id)),
            Self::File(event) => Ok(Event::File(event)),
            other => Err(other),
        }
    }
}

/// Commands that wait.
pub(super) enum Submission {
    One(Bytes, oneshot::Sender<Result<Applied, ProposeError>>),
    /// Each with its tag. The room that they take is free when they are taken.
    Many(Vec<(u64, Bytes)>, Outcomes, OwnedSemaphorePermit),
}

impl Submission {
    /// How many commands.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Many(commands, ..) => commands.len(),
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

    /// Messages of peers that wait, and that found no room.
    pub(super) fn peer_messages(&self) -> (u64, u64) {
        let waiting = self.peer_messages.load(Ordering::Relaxed) as u64;
        (waiting, self.dropped.load(Ordering::Relaxed))
    }
}

/// The receiving end of the replica's inbox.
pub(super) struct Waiting {
    messages: mpsc::Receiver<Message>,
    submissions: mpsc::Receiver<Submission>,
    traffic: Arc<Traffic>,
}

impl Waiting {
    pub(super) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    pub(super) fn next_message(&self) -> Option<Message> {
        let message = self.messages.try_recv().ok()?;
        self.traffic.turns.taken();
        if matches!(message, Message::Peer(..)) {
            self.traffic.peer_messages.fetch_sub(1, Ordering::Relaxed);
        }
        Some(message)
    }

    pub(super) fn next_submission(&self) -> Option<Submission> {
        let submission = self.submissions.try_recv().ok()?;
        self.traffic.turns.taken();
        Some(submission)
    }
}

/// The sending end of the replica's inbox. Whoever puts something in may run the
/// replica.
#[derive(Clone)]
pub(crate) struct Inbox {
    messages: mpsc::Sender<Message>,
    submissions: mpsc::Sender<Submission>,
    traffic: Arc<Traffic>,
    room: Arc<Semaphore>,
}

impl Inbox {
    pub(super) fn new() -> (Self, Waiting) {
        let (message_sender, messages) = mpsc::channel();
        let (submission_sender, submissions) = mpsc::channel();
        let traffic = Arc::<Traffic>::default();
        let inbox = Self {
            messages: message_sender,
            submissions: submission_sender,
            traffic: Arc::clone(&traffic),
            room: Arc::new(Semaphore::new(QUEUED_KIB_MAX as usize)),
        };
        let waiting = Waiting {
            messages,
            submissions,
            traffic,
        };
        (inbox, waiting)
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
        let sent = self.messages.send(message).is_ok();
        if sent {
            self.traffic.turns.put();
        }
        sent
    }

    /// Puts commands in and runs the replica, unless somebody does.
    pub(super) fn submit(&self, submission: Submission) {
        if self.submissions.send(submission).is_ok() {
            self.traffic.turns.put();
            self.traffic.turns.run_here();
        }
    }

    /// Puts commands in where there is room for them, and waits for it where not.
    pub(super) async fn queue(&self, commands: Vec<(u64, Bytes)>, outcomes: &Outcomes) {
        let mut rest = commands.into_iter();
        loop {
            let together: Vec<_> = rest.by_ref().take(QUEUED_TOGETHER_MAX).collect();
            if together.is_empty() {
                return;
            }
            let bytes = together.iter().map(|(_, command)| command.len());
            let bytes = bytes.sum::<usize>() + together.len() * QUEUED_OVERHEAD_BYTES;
            let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.room);
            let Ok(room) = room.acquire_many_owned(kib.min(QUEUED_KIB_MAX)).await else {
                return;
            };
            self.submit(Submission::Many(together, outcomes.clone(), room));
        }
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
