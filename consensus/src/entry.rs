//! Log entries and snapshot metadata.

use bytes::Bytes;

use crate::{Index, Membership, Term};

/// What an entry's payload means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A [`Batch`](crate::Batch) of client commands for the state machine.
    Command = 1,
    /// Appended by a leader at the start of its term; the state machine does not see it.
    Noop = 2,
}

impl EntryKind {
    /// The kind with this wire number, or `None`.
    #[must_use]
    pub fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Command),
            2 => Some(Self::Noop),
            _ => None,
        }
    }
}

/// One position of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Term of the leader that created it.
    pub term: Term,
    /// Position, counted from one.
    pub index: Index,
    /// What the payload means.
    pub kind: EntryKind,
    /// The payload; at most [`Limits::entry_bytes_max`](crate::Limits) bytes.
    pub payload: Bytes,
}

/// What a snapshot of the state machine stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotMeta {
    /// The last entry whose effects the snapshot holds.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
    /// The membership in force at that entry.
    pub membership: Membership,
}
