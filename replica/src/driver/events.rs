//! What happens to a replica, and what it wants done.

use bytes::Bytes;
use consensus::{
    FrozenState, Index, Parts, PersistBatch, PersistId, ProposeError, ReadError, ReplicaId,
    SnapshotMeta, StepError, Term, Tick,
};

/// The moment at which events are handled.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time in ticks since the replica was built.
    pub tick: Tick,
    /// Wall clock, microseconds since the Unix epoch. Only ever written into
    /// commands.
    pub wall_micros: u64,
}

/// Chosen by the caller to recognise an answer; unique for the life of a
/// replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What happens to a replica.
pub enum Event {
    /// Time passed.
    Tick,
    /// Replicate a command and answer with its reply.
    Submit {
        /// Comes back with the answer.
        ticket: Ticket,
        /// The command.
        command: Bytes,
    },
    /// Answer when the local state holds everything acknowledged before now.
    Read(Ticket),
    /// A peer's message, as its replica gave it to [`Output::Send`].
    Peer {
        /// Who sent it, as the link authenticated it.
        from: ReplicaId,
        /// The bytes.
        message: Bytes,
    },
    /// The write-ahead log holds this batch and every earlier one.
    Persisted(PersistId),
    /// A link to this peer broke.
    Unreachable(ReplicaId),
    /// Hand leadership over.
    Transfer {
        /// Comes back with the answer.
        ticket: Ticket,
        /// To whom.
        to: ReplicaId,
    },
    /// A [`FileJob`] is done.
    File(FileEvent),
}

/// Which link a message travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Small and urgent.
    Consensus,
    /// Large; may wait.
    Bulk,
}

/// What the replica wants done, in this order.
pub enum Output {
    /// Append to the write-ahead log, sync, and report [`Event::Persisted`].
    Write(PersistBatch),
    /// The write-ahead log may drop records through this index.
    Compact(Index),
    /// Send to a peer; may be lost.
    Send {
        /// The receiver.
        to: ReplicaId,
        /// On which link.
        lane: Lane,
        /// The bytes, as they go into [`Event::Peer`] in one place.
        message: Parts,
    },
    /// The answer to [`Event::Submit`].
    Replied {
        /// The caller's ticket.
        ticket: Ticket,
        /// The reply and where the command stands in the log.
        result: Result<Applied, ProposeError>,
    },
    /// The answer to [`Event::Read`].
    ReadDone {
        /// The caller's ticket.
        ticket: Ticket,
        /// The index that the local state has reached.
        result: Result<Index, ReadError>,
    },
    /// The answer to [`Event::Transfer`]: whether the handover began.
    TransferBegun {
        /// The caller's ticket.
        ticket: Ticket,
        /// Why not.
        result: Result<(), StepError>,
    },
    /// The leader changed.
    LeaderChanged {
        /// The current term.
        term: Term,
        /// Its leader, when known.
        leader: Option<ReplicaId>,
    },
    /// Work on snapshot files; report [`Event::File`].
    File(FileJob),
}

/// A command's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Index of the entry that held the command.
    pub index: Index,
    /// What the state machine said.
    pub reply: Bytes,
}

/// Work on snapshot files, done in order beside the replica.
pub enum FileJob {
    /// Encode and store a snapshot; [`FileEvent::Saved`].
    Save {
        /// What it stands for.
        meta: SnapshotMeta,
        /// The state.
        state: Box<dyn FrozenState>,
    },
    /// Read a piece of a stored snapshot for a peer; [`FileEvent::Chunk`] or
    /// [`FileEvent::NoChunk`].
    Read {
        /// For whom.
        to: ReplicaId,
        /// Which snapshot.
        index: Index,
        /// From which byte.
        offset: u64,
    },
    /// How much of this snapshot is here already; [`FileEvent::Received`].
    Resume(SnapshotMeta),
    /// Store a piece; [`FileEvent::Received`] or [`FileEvent::ReceiveFailed`].
    Receive {
        /// Which snapshot.
        meta: SnapshotMeta,
        /// Where the piece begins.
        offset: u64,
        /// How long the whole is.
        total: u64,
        /// The piece.
        bytes: Bytes,
    },
}

/// What became of a [`FileJob`].
pub enum FileEvent {
    /// The snapshot is durable, or why it is not.
    Saved(Result<SnapshotMeta, String>),
    /// A piece for a peer.
    Chunk {
        /// For whom.
        to: ReplicaId,
        /// Of which snapshot.
        index: Index,
        /// Where it begins.
        offset: u64,
        /// How long the whole is.
        total: u64,
        /// The piece.
        bytes: Bytes,
    },
    /// There is no such snapshot here any more.
    NoChunk {
        /// Who asked.
        to: ReplicaId,
        /// For which.
        index: Index,
    },
    /// So much of the snapshot is here.
    Received {
        /// Which snapshot.
        meta: SnapshotMeta,
        /// The first byte that is missing.
        next: u64,
        /// The verified state, when nothing is missing and all is durable.
        state: Option<Bytes>,
    },
    /// What arrived is not the snapshot, or could not be stored; what was there
    /// of it is gone.
    ReceiveFailed {
        /// Which snapshot.
        meta: SnapshotMeta,
        /// Why.
        why: String,
    },
}
