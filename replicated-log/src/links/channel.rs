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
    /// Small frames of the copies of partitions: beats, votes, acknowledgements. One way, as a
    /// lane.
    CopiesControl = 6,
    /// New records of partitions, as a lane.
    CopiesAppend = 7,
    /// Older records, for copies that lag, as a lane.
    CopiesCatchUp = 8,
    /// What [`Channel::Data`] carries, in pieces. A node of version 0.1 does not know it, and
    /// is dialled on `Data`.
    DataPieces = 9,
}

impl Channel {
    pub(super) const ALL: [Self; 9] = [
        Self::Consensus,
        Self::Bulk,
        Self::Control,
        Self::Data,
        Self::DiskHistory,
        Self::CopiesControl,
        Self::CopiesAppend,
        Self::CopiesCatchUp,
        Self::DataPieces,
    ];
    /// The lanes, which nodes of version 0.1 do not know.
    pub(super) const LANES: [Self; 3] =
        [Self::CopiesControl, Self::CopiesAppend, Self::CopiesCatchUp];

    /// What is served on it: [`Channel::DataPieces`] is a form of [`Channel::Data`].
    pub(super) fn served(self) -> Self {
        match self {
            Self::DataPieces => Self::Data,
            channel => channel,
        }
    }

    pub(super) fn is_lane(self) -> bool {
        Self::LANES.contains(&self)
    }

    /// The name of a lane in metrics.
    pub(crate) fn lane_name(self) -> Option<&'static str> {
        match self {
            Self::CopiesControl => Some("control"),
            Self::CopiesAppend => Some("append"),
            Self::CopiesCatchUp => Some("catch_up"),
            _ => None,
        }
    }

    /// Bytes of a lane that a peer may have sent and this node not released.
    pub(super) fn window_bytes(self) -> u64 {
        match self {
            Self::CopiesAppend | Self::CopiesCatchUp => 32 << 20,
            _ => 8 << 20,
        }
    }

    pub(super) fn from_wire(byte: u8) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|channel| *channel as u8 == byte)
    }
}
