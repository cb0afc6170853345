//! Which partition.

/// Bits of a generation that are the index of its log entry.
pub const GENERATION_INDEX_BITS: u32 = 44;

/// One generation of a partition. Numeric ids are reused after a deletion;
/// `generation` tells the partitions that had them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    /// The stream's id.
    pub stream_id: u32,
    /// The topic's id.
    pub topic_id: u32,
    /// The partition's id.
    pub partition_id: u32,
    /// Another one for every partition that is created or purged: the index of the log
    /// entry in [`GENERATION_INDEX_BITS`] and, above them, the position of the command in
    /// that entry. So a later one may be a lower number.
    pub generation: u64,
}

impl PartitionKey {
    /// Rises with the generations: the index of the log entry, and below it the position of
    /// the command.
    pub(crate) fn age(&self) -> u64 {
        self.generation.rotate_right(GENERATION_INDEX_BITS)
    }
}
