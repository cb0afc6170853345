//! How the log is kept.

use super::error::WalError;
use super::segment::BLOCK_BYTES;

/// Bounds of [`WalConfig::segment_bytes`].
pub(super) const SEGMENT_BYTES_MIN: u64 = 4 * BLOCK_BYTES as u64;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How the log is kept.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// The group whose log it is; another's is refused.
    pub group: u128,
    /// Size of a segment in bytes: a multiple of 4 KiB between 16 KiB and 1 GiB.
    /// A record larger than a segment less two blocks of 4 KiB is refused. May change
    /// between starts.
    pub segment_bytes: u64,
    /// Records of one write are gathered into frames of at most this size in bytes; a larger
    /// record has a frame of its own. May change between starts.
    pub frame_bytes: usize,
    /// Unneeded segments kept for reuse; more are removed.
    pub spares_max: usize,
}

impl WalConfig {
    /// Segments of 32 MiB, of which up to four are kept for reuse, and frames of 4 MiB.
    #[must_use]
    pub fn new(group: u128) -> Self {
        Self {
            group,
            segment_bytes: 32 << 20,
            frame_bytes: 4 << 20,
            spares_max: 4,
        }
    }

    pub(super) fn check(&self) -> Result<(), WalError> {
        let segment_bytes = self.segment_bytes;
        let is_whole_blocks = segment_bytes.is_multiple_of(BLOCK_BYTES as u64);
        match is_whole_blocks && (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes) {
            true => Ok(()),
            false => Err(WalError::SegmentSize { segment_bytes }),
        }
    }

    /// The largest record that fits into a segment.
    pub(super) fn record_bytes_max(&self) -> usize {
        self.segment_bytes as usize - 2 * BLOCK_BYTES
    }
}
