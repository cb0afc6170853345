//! Which partition.

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
    /// Rises with every partition that is created or purged: the index of the log entry
    /// and, above its bits, the position of the command in that entry.
    pub generation: u64,
}
