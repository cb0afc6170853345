//! Messages between the copies of a partition.

use consensus::Index;

use super::chain::{Epoch, Position};
use super::sessions::Sessions;
use super::table::{OffsetTable, Start, TableChange, TableVersion};
use crate::record::Record;

/// What a copy may have lost since it acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Nothing.
    Trusted,
    /// Its newest records: the machine stopped before they were on the disk.
    TailLost,
    /// Everything: it is not on the storage that acknowledged.
    Lost,
}

/// A message between two copies of a partition. It is valid in one epoch, and between the
/// registrations of both nodes that the metadata of the receiver has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The leader of a new epoch asks an in-sync copy how far it is.
    Query {
        /// The new epoch.
        epoch: Epoch,
    },
    /// The answer. From then on the copy refuses lower epochs.
    Answer {
        /// The new epoch.
        epoch: Epoch,
        /// How far the copy is.
        state: CopyState,
    },
    /// The leader of a new epoch asks for what it lacks.
    Fetch {
        /// The new epoch.
        epoch: Epoch,
        /// The records after this one.
        after: Position,
    },
    /// Records for the leader of a new epoch.
    Fetched {
        /// The new epoch.
        epoch: Epoch,
        /// They follow this one.
        predecessor: Position,
        /// One after the other.
        records: Vec<Record>,
    },
    /// The leader of a new epoch, whose log ends before the other one starts, asks for that
    /// start; the answer is [`Message::Start`].
    FetchStart {
        /// The new epoch.
        epoch: Epoch,
    },
    /// The leader of a new epoch asks for a larger table of offsets; the answer is
    /// [`Message::Table`].
    FetchTable {
        /// The new epoch.
        epoch: Epoch,
    },
    /// Records of a leader for a follower.
    Append {
        /// The leader's epoch.
        epoch: Epoch,
        /// They follow this one.
        predecessor: Position,
        /// One after the other; none to convey the rest.
        records: Vec<Record>,
        /// What else the leader conveys.
        beat: Beat,
    },
    /// The log does not contain the predecessor.
    Mismatch {
        /// The epoch of the append or fetch.
        epoch: Epoch,
        /// The predecessor.
        probed: Position,
        /// The next candidate: the largest record not above it; the first one, if all are.
        have: Position,
    },
    /// The log that is to be continued starts here: whatever the receiver has is replaced.
    Start {
        /// The epoch.
        epoch: Epoch,
        /// The record before the first one.
        start: Start,
        /// The sessions after a later, committed record.
        sessions: Sessions,
    },
    /// A whole table of offsets, from a leader or for one.
    Table {
        /// The epoch.
        epoch: Epoch,
        /// The table.
        table: OffsetTable,
    },
    /// A change of the leader's table of offsets.
    Offset {
        /// The leader's epoch.
        epoch: Epoch,
        /// The version after it.
        version: u64,
        /// The change.
        change: TableChange,
    },
    /// What a follower has of its leader's log and table.
    Ack {
        /// The leader's epoch.
        epoch: Epoch,
        /// What it has.
        ack: Ack,
    },
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyState {
    /// Whether its log has everything that it acknowledged.
    pub trust: Trust,
    /// The latest epoch in which it acknowledged anything.
    pub adopted: Epoch,
    /// Its last record.
    pub last: Position,
    /// Up to here it knows that records are committed.
    pub commit: Index,
    /// Offset of the message after its last one.
    pub next_offset: u64,
    /// Whether its table has everything that it acknowledged.
    pub table_trust: Trust,
    /// Its table.
    pub table: TableVersion,
}

/// What a leader conveys with every append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// When it was sent, in microseconds of the leader's monotonic clock. The answer
    /// returns it.
    pub sent_micros: u64,
    /// Up to here records are committed.
    pub commit: Index,
    /// Up to this version the table is committed; zero for not in this epoch.
    pub table_commit: u64,
    /// The leader's last record.
    pub end: Index,
}

/// What a follower has of its leader's log and table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// Up to here its log equals the leader's.
    pub matched: Index,
    /// Up to here the operating system has it.
    pub written: Index,
    /// Up to here it is on the disk.
    pub synced: Index,
    /// Whether it has everything that it ever acknowledged.
    pub trusted: bool,
    /// The version of the table that it has, as durable as promised; zero for none of this
    /// epoch.
    pub table: u64,
    /// The latest beat that it has received.
    pub beat_micros: u64,
}

impl Message {
    /// The epoch in which it is valid.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Query { epoch }
            | Self::Answer { epoch, .. }
            | Self::Fetch { epoch, .. }
            | Self::Fetched { epoch, .. }
            | Self::FetchStart { epoch }
            | Self::FetchTable { epoch }
            | Self::Append { epoch, .. }
            | Self::Mismatch { epoch, .. }
            | Self::Start { epoch, .. }
            | Self::Table { epoch, .. }
            | Self::Offset { epoch, .. }
            | Self::Ack { epoch, .. } => *epoch,
        }
    }
}
