//! Inputs and outputs of a replica.
//!
//! An event that is an input of the core has the name of that
//! [`Input`](consensus::Input), and an output that is an effect of the core the name of
//! that [`Effect`](consensus::Effect).

use std::collections::VecDeque;

use bytes::Bytes;
use consensus::{
    Index, Parts, PersistBatch, PersistId, ProposeError, ReadError, ReplicaId, StepError, Term,
    Tick,
};

use super::file_jobs::{FileEvent, FileJob};

/// The time at which an event is handled.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time in ticks since the replica was built.
    pub tick: Tick,
    /// Wall clock, microseconds since the Unix epoch. It is written into batches, as far
    /// as it is not too far ahead of the log, and used for nothing else.
    pub wall_micros: u64,
}

/// Identifies a request of the caller (a command, a read, a leadership transfer) in the
/// result that belongs to it. The caller chooses it, and uses each number once per
/// [`Replica`](super::Replica).
///
/// The core does not see it: it knows the [`ProposalId`](consensus::ProposalId) of the
/// batch that carries a command, and the [`ReadToken`](consensus::ReadToken) that the
/// replica makes of a read's ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// An input of a replica.
pub enum Event {
    /// Time passed.
    Tick,
    /// Replicate a command; [`Output::ProposeResult`] carries its reply.
    Propose {
        /// Identifies the result.
        ticket: Ticket,
        /// The command, at most [`batch_bytes_max`](super::ReplicaConfig::batch_bytes_max)
        /// less 64 bytes.
        command: Bytes,
    },
    /// Confirm that the local state includes everything acknowledged before now;
    /// [`Output::ReadResult`].
    ReadIndex(Ticket),
    /// A peer's message, as its replica passed it to [`Output::Send`].
    Receive {
        /// The sender, as the link authenticated it.
        from: ReplicaId,
        /// The bytes.
        message: Bytes,
    },
    /// The write-ahead log holds this batch and every earlier one.
    Persisted(PersistId),
    /// A link to this peer broke, or the peer cannot be reached.
    Unreachable(ReplicaId),
    /// Transfer leadership; [`Output::TransferResult`].
    TransferLeadership {
        /// Identifies the result.
        ticket: Ticket,
        /// The voter that is to lead.
        to: ReplicaId,
    },
    /// A [`FileJob`] is done.
    File(FileEvent),
}

/// The link that a message is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Messages of the consensus protocol: small, and not to be delayed.
    Consensus,
    /// Pieces of snapshots and requests for them: up to 1 MiB each; may be delayed.
    Bulk,
}

/// What the caller must do, in this order.
pub enum Output {
    /// Append to the write-ahead log, sync, and report [`Event::Persisted`].
    Persist(PersistBatch),
    /// The write-ahead log may drop records up to and including this index, once every
    /// batch of an earlier [`Persist`](Self::Persist) is durable.
    Compact(Index),
    /// Send to a peer; may be lost.
    Send {
        /// The receiver.
        to: ReplicaId,
        /// The link.
        channel: Channel,
        /// The bytes; [`Event::Receive`] needs them in one piece.
        message: Parts,
    },
    /// The result of [`Event::Propose`].
    ProposeResult {
        /// The caller's ticket.
        ticket: Ticket,
        /// The reply, and the index of the command in the log.
        result: Result<Applied, ProposeError>,
    },
    /// The result of [`Event::ReadIndex`].
    ReadResult {
        /// The caller's ticket.
        ticket: Ticket,
        /// The index that the local state has reached.
        result: Result<Index, ReadError>,
    },
    /// The result of [`Event::TransferLeadership`]: whether the transfer has started. Its
    /// end is seen in [`LeaderChanged`](Self::LeaderChanged).
    TransferResult {
        /// The caller's ticket.
        ticket: Ticket,
        /// Why it has not started.
        result: Result<(), StepError>,
    },
    /// The leader changed.
    LeaderChanged {
        /// The current term.
        term: Term,
        /// Its leader, when known.
        leader: Option<ReplicaId>,
    },
    /// A peer's message, or a request of this replica to its core, was refused. The
    /// replica is unharmed; [`Counters`](super::Counters) counts it.
    Refused(StepError),
    /// Carry out work on snapshot files, and report [`Event::File`].
    File(FileJob),
}

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Index of the entry that carried the command.
    pub index: Index,
    /// The reply of the state machine.
    pub reply: Bytes,
}

/// Outputs in the order in which they are to be carried out.
pub(super) type Outputs = VecDeque<Output>;
