//! What a connection carries.

/// What a connection carries. A node dials every peer once for each of them, so that a
/// consensus message never waits for a large transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Channel {
    /// Messages of the consensus protocol, one way.
    Consensus = 1,
    /// Pieces of snapshots, one way.
    Bulk = 2,
    /// Small requests of the program around the log, with replies.
    Control = 3,
    /// Large requests of the program around the log, with replies. A peer may be silent
    /// for longer than on the others before the connection breaks.
    Data = 4,
    /// The one request of a replica whose disk is empty.
    DiskHistory = 5,
}

impl Channel {
    pub(super) fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Consensus),
            2 => Some(Self::Bulk),
            3 => Some(Self::Control),
            4 => Some(Self::Data),
            5 => Some(Self::DiskHistory),
            _ => None,
        }
    }
}
