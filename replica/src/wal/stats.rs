//! Sizes and counts of the log, for metrics.

/// What the log occupies on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalSize {
    /// Segments in use.
    pub segments: usize,
    /// Segments kept for reuse, and one that is being made.
    pub spares: usize,
    /// Bytes of both on disk.
    pub bytes: u64,
}

/// Counts since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Frames written: one for each write.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the frames, padding to 4 KiB included.
    pub bytes: u64,
    /// Syncs of the log.
    pub syncs: u64,
}
