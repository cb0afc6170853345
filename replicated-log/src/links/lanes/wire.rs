//! The layout of pieces, and what is checked of it.

use thiserror::Error;

/// Frames of one connection that take turns.
pub(super) const SLOTS: usize = 4;
/// Bytes of a piece at most, without its head.
pub(super) const PIECE_BYTES_MAX: usize = 256 << 10;
/// Bytes of a frame of a lane at most: a batch of 64 MiB and what is sent with it.
pub const FRAME_BYTES_MAX: usize = 65 << 20;
/// Bytes of the head of a piece.
pub(super) const HEAD_BYTES: usize = 8;
/// What a frame counts besides its length, so that empty frames are bounded too.
const FRAME_COST: u64 = 64;

const LENGTH_BITS: u32 = 24;
const IS_FIRST: u32 = 1 << 31;
const KNOWN_BITS: u32 = IS_FIRST | (SLOTS as u32 - 1) << LENGTH_BITS | ((1 << LENGTH_BITS) - 1);

/// The head of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PieceHead {
    pub(super) slot: usize,
    pub(super) is_first: bool,
    /// Length of the piece.
    pub(super) bytes: usize,
    /// Bytes of the frame that follow this piece.
    pub(super) following: usize,
}

/// Why a connection is closed: the peer sends what no correct node sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum LaneError {
    #[error("a piece of a frame has an unknown form")]
    Form,
    #[error("a piece of {0} bytes is longer than the {PIECE_BYTES_MAX} allowed")]
    PieceLength(usize),
    #[error("a frame of {0} bytes is longer than the {FRAME_BYTES_MAX} allowed")]
    FrameLength(usize),
    #[error("a frame starts in a slot that is in use")]
    SlotInUse,
    #[error("a piece continues a frame that has not started")]
    NotStarted,
    #[error("a piece does not continue its frame where the last one ended")]
    NotContinued,
    #[error("a frame exceeds the credit of its sender")]
    Credit,
    #[error("the peer releases {released} bytes after {former}, of {taken} that were sent")]
    Released {
        released: u64,
        former: u64,
        taken: u64,
    },
}

impl LaneError {
    /// A label for limiting how often it is logged.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::PieceLength(_) => "piece_length",
            Self::FrameLength(_) => "frame_length",
            Self::SlotInUse => "slot_in_use",
            Self::NotStarted => "not_started",
            Self::NotContinued => "not_continued",
            Self::Credit => "credit",
            Self::Released { .. } => "released",
        }
    }
}

impl PieceHead {
    pub(super) fn encode(self) -> [u8; HEAD_BYTES] {
        let first = if self.is_first { IS_FIRST } else { 0 };
        let head = first | (self.slot as u32) << LENGTH_BITS | self.bytes as u32;
        let both = u64::from(head) | (self.following as u64) << 32;
        both.to_le_bytes()
    }

    pub(super) fn decode(head: [u8; HEAD_BYTES]) -> Result<Self, LaneError> {
        let both = u64::from_le_bytes(head);
        let (head, following) = (both as u32, (both >> 32) as usize);
        if head & !KNOWN_BITS != 0 {
            return Err(LaneError::Form);
        }
        let bytes = (head & ((1 << LENGTH_BITS) - 1)) as usize;
        let decoded = Self {
            slot: (head >> LENGTH_BITS) as usize % SLOTS,
            is_first: head & IS_FIRST != 0,
            bytes,
            following,
        };
        if bytes > PIECE_BYTES_MAX {
            return Err(LaneError::PieceLength(bytes));
        }
        if bytes + following > FRAME_BYTES_MAX {
            return Err(LaneError::FrameLength(bytes + following));
        }
        // A frame that is empty has one piece. Other pieces make it progress.
        if bytes == 0 && (following > 0 || !decoded.is_first) {
            return Err(LaneError::Form);
        }
        Ok(decoded)
    }
}

/// What a receiver grants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window(pub(super) u64);

impl Window {
    /// What may be unreleased when a frame longer than the window is sent, and unreported.
    pub(super) fn slack(self) -> u64 {
        self.0 / 16
    }

    /// Whether a frame of this cost may be sent while so much is unreleased.
    pub(super) fn allows(self, unreleased: u64, cost: u64) -> bool {
        unreleased.saturating_add(cost) <= self.0 || unreleased <= self.slack()
    }
}

/// What a frame counts.
pub(super) fn cost(bytes: usize) -> u64 {
    bytes as u64 + FRAME_COST
}
