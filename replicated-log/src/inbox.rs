//! Messages and commands that wait for a round of the replica.
//!
//! Commands have a queue of their own: a round handles the messages of the other replicas
//! and of the disk before it takes the next commands, however many wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;

use bytes::Bytes;
use consensus::{PersistId, ReplicaId};
use replica::driver::{FileEvent, ReplicaStatus};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::FatalError;
use crate::exclusive::{ExclusiveRunner, Rounds};
use crate::links::{OneWayLinks, OneWaySender};
use crate::outcome::Outcomes;
use crate::pending::{CommandReply, ReadReply, TransferReply};

/// Messages of peers that may wait for a round. More are dropped, and the protocol repeats
/// them.
const PEER_MESSAGES_MAX: usize = 65_536;
/// Bytes of those messages, but always one message.
const PEER_BYTES_MAX: usize = 128 << 20;
/// Commands that were queued and wait for a round. Callers wait until there is room for
/// more.
const QUEUED_KIB_MAX: u32 = 16 << 10;
/// Counted for a queued command in addition to its bytes: tiny ones are not free.
const QUEUED_OVERHEAD_BYTES: usize = 64;
/// Commands of one submission at most: a round takes a submission as a whole.
const SUBMISSION_COMMANDS_MAX: usize = 4_096;

/// Anything but a command that waits for a round.
pub(crate) enum Message {
    Read(ReadReply),
    Transfer(ReplicaId, TransferReply),
    Status(oneshot::Sender<ReplicaStatus>),
    Peer(ReplicaId, Bytes),
    Unreachable(ReplicaId),
    Persisted(PersistId),
    File(FileEvent),
    /// A peer was added, or its address has changed.
    LinksOpened(ReplicaId, OneWayLinks),
    /// A peer was removed.
    LinksClosed(ReplicaId),
    /// Boxed, so that messages stay small.
    Fatal(Box<FatalError>),
    Stop,
}

/// Commands that wait for a round.
pub(crate) enum Submission {
    One(Bytes, CommandReply),
    /// Each with its tag. The permit is released when the round has taken them.
    Many(Vec<(u64, Bytes)>, Outcomes, OwnedSemaphorePermit),
}

impl Submission {
    /// The number of commands.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Many(commands, ..) => commands.len(),
        }
    }
}

type Runner = ExclusiveRunner<Box<dyn Rounds>>;

/// Shared by both ends.
#[derive(Default)]
struct Shared {
    runner: Runner,
    peer_messages: AtomicUsize,
    peer_bytes: AtomicUsize,
    peer_messages_dropped: AtomicU64,
}

impl Shared {
    /// Counts a message of a peer, unless too many wait.
    fn add_peer_message(&self, message: &Bytes) -> bool {
        let waiting = self.peer_messages.fetch_add(1, Ordering::Relaxed);
        let bytes = self.peer_bytes.fetch_add(message.len(), Ordering::Relaxed);
        let fits = bytes == 0 || bytes + message.len() <= PEER_BYTES_MAX;
        let has_room = waiting < PEER_MESSAGES_MAX && fits;
        if !has_room {
            self.remove_peer_message(message);
        }
        has_room
    }

    fn remove_peer_message(&self, message: &Bytes) {
        self.peer_messages.fetch_sub(1, Ordering::Relaxed);
        self.peer_bytes.fetch_sub(message.len(), Ordering::Relaxed);
    }
}

/// The receiving end, held by the engine.
pub(crate) struct InboxReceiver {
    messages: mpsc::Receiver<Message>,
    submissions: mpsc::Receiver<Submission>,
    shared: Arc<Shared>,
}

impl InboxReceiver {
    pub(crate) fn next_message(&self) -> Option<Message> {
        let message = self.messages.try_recv().ok()?;
        self.shared.runner.taken();
        if let Message::Peer(_, content) = &message {
            self.shared.remove_peer_message(content);
        }
        Some(message)
    }

    pub(crate) fn next_submission(&self) -> Option<Submission> {
        let submission = self.submissions.try_recv().ok()?;
        self.shared.runner.taken();
        Some(submission)
    }

    /// Messages of peers that wait, and those dropped since the start.
    pub(crate) fn peer_messages(&self) -> (u64, u64) {
        let waiting = self.shared.peer_messages.load(Ordering::Relaxed) as u64;
        let dropped = self.shared.peer_messages_dropped.load(Ordering::Relaxed);
        (waiting, dropped)
    }
}

/// The sending end. Cheap to clone. The thread that posts a message may run a round of the
/// replica in the call.
#[derive(Clone)]
pub(crate) struct Inbox {
    messages: mpsc::Sender<Message>,
    submissions: mpsc::Sender<Submission>,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
}

impl Inbox {
    pub(crate) fn new() -> (Self, InboxReceiver) {
        let (message_sender, messages) = mpsc::channel();
        let (submission_sender, submissions) = mpsc::channel();
        let shared = Arc::<Shared>::default();
        let inbox = Self {
            messages: message_sender,
            submissions: submission_sender,
            shared: Arc::clone(&shared),
            room: Arc::new(Semaphore::new(QUEUED_KIB_MAX as usize)),
        };
        let receiver = InboxReceiver {
            messages,
            submissions,
            shared,
        };
        (inbox, receiver)
    }

    /// Installs the engine and runs rounds of it until the last one; the body of the
    /// consensus thread.
    pub(crate) fn run(&self, engine: Box<dyn Rounds>) -> Result<(), FatalError> {
        self.shared.runner.install(engine);
        self.shared.runner.run_to_end()
    }

    /// Posts a message and runs a round, unless another thread runs one. The message is
    /// lost when the replica has stopped.
    pub(crate) fn post(&self, message: Message) {
        if self.send(message) {
            self.shared.runner.run_here();
        }
    }

    /// Posts a message for the consensus thread.
    pub(crate) fn post_and_wake(&self, message: Message) {
        if self.send(message) {
            self.shared.runner.wake();
        }
    }

    fn send(&self, message: Message) -> bool {
        let sent = self.messages.send(message).is_ok();
        if sent {
            self.shared.runner.posted();
        }
        sent
    }

    /// Posts commands and runs a round, unless another thread runs one.
    pub(crate) fn submit(&self, submission: Submission) {
        if self.submissions.send(submission).is_ok() {
            self.shared.runner.posted();
            self.shared.runner.run_here();
        }
    }

    /// Posts commands, and waits where there is no room for them.
    pub(crate) async fn queue(&self, commands: Vec<(u64, Bytes)>, outcomes: &Outcomes) {
        let mut rest = commands.into_iter();
        loop {
            let together: Vec<_> = rest.by_ref().take(SUBMISSION_COMMANDS_MAX).collect();
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

    /// Posts a peer's message, or drops it when too many wait.
    pub(crate) fn peer(&self, from: ReplicaId, message: Bytes) {
        let shared = &self.shared;
        if !shared.add_peer_message(&message) {
            shared.peer_messages_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.post(Message::Peer(from, message));
    }
}

/// The engine sends on the links. It holds them itself, and learns of changes in a round,
/// so that sending a message needs no lock.
impl OneWaySender for Inbox {
    fn opened(&self, peer: ReplicaId, links: OneWayLinks) {
        self.post_and_wake(Message::LinksOpened(peer, links));
    }

    fn closed(&self, peer: ReplicaId) {
        self.post_and_wake(Message::LinksClosed(peer));
    }

    fn unreachable(&self, peer: ReplicaId) {
        self.post_and_wake(Message::Unreachable(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No engine takes them: it may be waiting for its turn.
    #[test]
    fn messages_of_peers_are_bounded_in_bytes_and_in_number() {
        let (inbox, receiver) = Inbox::new();
        let large = Bytes::from(vec![7; 50 << 20]);
        for _ in 0..3 {
            inbox.peer(ReplicaId(2), large.clone());
        }
        assert_eq!(receiver.peer_messages(), (2, 1));
        while receiver.next_message().is_some() {}
        let empty = Bytes::new();
        for _ in 0..=PEER_MESSAGES_MAX {
            inbox.peer(ReplicaId(2), empty.clone());
        }
        assert_eq!(receiver.peer_messages(), (PEER_MESSAGES_MAX as u64, 2));
    }
}
