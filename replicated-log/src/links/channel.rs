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
    pub(super) const ALL: [Self; 5] = [
        Self::Consensus,
        Self::Bulk,
        Self::Control,
        Self::Data,
        Self::DiskHistory,
    ];

    pub(super) fn from_wire(byte: u8) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|channel| *channel as u8 == byte)
    }
}
