//! Messages between the copies of a partition.

use consensus::Index;

use super::chain::{Epoch, Position};
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
        /// Whether it has everything that it acknowledged.
        trust: Trust,
        /// The latest epoch in which it acknowledged anything.
        adopted: Epoch,
        /// Its last record.
        last: Position,
        /// Up to here it knows that records are committed.
        commit: Index,
        /// Offset of the message after its last one.
        next_offset: u64,
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
    /// Records of a leader for a follower.
    Append {
        /// The leader's epoch.
        epoch: Epoch,
        /// They follow this one.
        predecessor: Position,
        /// One after the other; none to convey the rest.
        records: Vec<Record>,
        /// Up to here records are committed.
        commit: Index,
        /// The leader's last record.
        end: Index,
    },
    /// The log does not contain the predecessor.
    Mismatch {
        /// The epoch of the append or fetch.
        epoch: Epoch,
        /// The predecessor.
        probed: Position,
        /// The next candidate: the largest record not above it.
        have: Position,
    },
    /// What a follower has of its leader's log.
    Ack {
        /// The leader's epoch.
        epoch: Epoch,
        /// Up to here its log equals the leader's.
        matched: Index,
        /// Up to here the operating system has it.
        written: Index,
        /// Up to here it is on the disk.
        synced: Index,
        /// Whether it has everything that it ever acknowledged.
        trusted: bool,
    },
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
            | Self::Append { epoch, .. }
            | Self::Mismatch { epoch, .. }
            | Self::Ack { epoch, .. } => *epoch,
        }
    }
}
