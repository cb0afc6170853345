//! What a copy makes its caller do.

use bytes::Bytes;
use consensus::{Index, ReplicaId};

use super::chain::{Epoch, Position};
use super::message::{Beat, Message};
use super::table::{Start, TableWrite};
use crate::record::Record;

/// Names a disk operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the caller has to do. Disk operations on the log are done in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a message.
    Send {
        /// The other node.
        to: ReplicaId,
        /// The message.
        message: Message,
    },
    /// [`PartitionReplica::next_append`](super::PartitionReplica::next_append) has something
    /// for this node. Within an epoch it is repeated only after that has returned `None`.
    Ready {
        /// The other node.
        to: ReplicaId,
    },
    /// Read records after this one from the log, and send them as [`Message::Fetched`].
    Serve {
        /// The other node.
        to: ReplicaId,
        /// The epoch of the message.
        epoch: Epoch,
        /// The predecessor of the first record.
        after: Position,
    },
    /// The next record that is written starts a segment: this state is kept with it, for
    /// [`Recovered::sessions`](super::Recovered::sessions).
    StartSegment {
        /// [`Sessions::encode`](super::Sessions::encode).
        sessions: Bytes,
    },
    /// Write records at the log's end.
    Write {
        /// To be reported as done.
        ticket: Ticket,
        /// The records.
        records: Vec<Record>,
    },
    /// Remove the records after this index, and sync that before the next write.
    Truncate {
        /// To be reported as done.
        ticket: Ticket,
        /// The last index that stays.
        end: Index,
    },
    /// Remove all records, and continue with an empty log that starts later; sync that before
    /// the next write.
    Reset {
        /// To be reported as done.
        ticket: Ticket,
        /// Where it starts.
        start: Start,
        /// What is kept with the first segment: the sessions, after a later record maybe.
        sessions: Bytes,
    },
    /// Write this of the table of offsets. It is done when it is as durable as the
    /// acknowledgement of an offset promises.
    WriteTable {
        /// To be reported as done.
        ticket: Ticket,
        /// What to write.
        write: TableWrite,
    },
    /// Messages before this start are not served any more, and whole segments before it may
    /// be removed, which is reported as [`Event::Trimmed`](super::Event::Trimmed).
    Trim {
        /// The start.
        start: Start,
    },
    /// Sync all earlier writes.
    Sync {
        /// To be reported as done.
        ticket: Ticket,
    },
    /// Write durably that the copy acknowledges in this epoch.
    Adopt {
        /// To be reported as done.
        ticket: Ticket,
        /// The epoch.
        epoch: Epoch,
    },
    /// The copy has again what its in-sync set may rely on.
    Trusted,
    /// Records up to here are committed. A mark of it on the disk follows the operations that
    /// were emitted before: until they are done, other records may be there.
    Committed {
        /// The last of them.
        through: Index,
    },
    /// The answer to a client's request.
    Reply {
        /// Which request.
        request: u64,
        /// The answer.
        outcome: Outcome,
    },
    /// Propose a change to the metadata.
    Propose(Proposal),
    /// Report this to the operator.
    Alarm(Alarm),
}

/// What became of a client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The batch is committed.
    Appended {
        /// Offset of its first message.
        first_offset: u64,
    },
    /// The consumer's offset, or the start of the log, is as requested, and committed.
    Stored,
    /// Messages before this offset may be read now.
    Readable {
        /// The offset after the last committed message.
        end: u64,
    },
    /// A consumer's offset, which is committed.
    Offset(Option<u64>),
    /// Nothing was stored.
    Refused(Refusal),
    /// It may have been stored.
    Unknown,
}

/// Why nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This copy does not lead, or not yet, or not the epoch that was named.
    NotLeader,
    /// Too few copies answer.
    NoQuorum,
    /// As many bytes as allowed wait for their commit.
    TooMuchUncommitted,
    /// The session has sent a later request: what became of this one is not known here.
    OlderRequest,
    /// No such message is committed.
    NoSuchMessage,
    /// There is no offset to delete.
    NoSuchOffset,
    /// As many consumers as allowed have an offset.
    TooManyConsumers,
    /// The log cannot start there: not all in-sync copies have what is before, it is not
    /// committed, or the log starts there already.
    NotRemovable,
}

/// A change of the metadata. It takes effect only in the epoch that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// Replace the in-sync set, if the version is still this one and all members are live.
    AlterInSync {
        /// The leader's epoch.
        epoch: Epoch,
        /// The version of the assignment that it is based on.
        version: u64,
        /// The new set, ascending.
        in_sync: Vec<ReplicaId>,
    },
    /// Let another node lead.
    Move {
        /// The leader's epoch.
        epoch: Epoch,
        /// The next leader.
        to: ReplicaId,
    },
    /// Start an epoch without a quorum of trusted copies: no copy that was in sync can be
    /// queried in addition.
    Recover {
        /// The epoch that cannot start.
        epoch: Epoch,
        /// The next leader.
        leader: ReplicaId,
        /// Its registration: a process that has started since may be on another disk.
        registration: u64,
        /// See [`Recovery::offset_gap`](super::assignment::Recovery::offset_gap).
        offset_gap: u64,
    },
}

/// What an operator has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The leader's log lacks records that were committed: the copy has stopped.
    CommittedRecordsConflict {
        /// The last common record.
        after: Index,
    },
    /// A copy has less than it acknowledged: it is not counted.
    WentBack {
        /// Its node.
        node: ReplicaId,
    },
    /// The disk has refused a write for good: the copy has stopped.
    WriteFailed,
    /// Too few copies are left that may be trusted; an operator has to accept the loss.
    NotEnoughTrusted,
}

/// An append to be built from the log: the records after `predecessor` up to `through`, as
/// many as fit into `bytes_max`, and at least one if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendPlan {
    /// The leader's epoch.
    pub epoch: Epoch,
    /// The record before the first one.
    pub predecessor: Position,
    /// The last one; the predecessor's index for none.
    pub through: Index,
    /// Bytes of the records.
    pub bytes_max: usize,
    /// What else the append conveys.
    pub beat: Beat,
}
