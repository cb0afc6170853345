//! Options, arguments and results of a storage.

use bytes::Bytes;

use crate::replication::Start;

/// How a partition is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOptions {
    /// A segment is sealed by the batch with which it has grown to this many bytes, and
    /// an empty one follows it; larger values than 1 GiB mean 1 GiB.
    pub segment_bytes_max: u64,
    /// What an acknowledgement of an append promises.
    pub durability: Durability,
    /// The same for consumer offsets.
    pub offset_durability: Durability,
    /// Whether other copies can complete the log. Where it lacks what it acknowledged, it is
    /// then opened up to there, and otherwise refused. It counts when a partition is opened.
    pub repairable: bool,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The operating system has it: it survives the process, not the machine.
    #[default]
    Written,
    /// It is on the disk: `fdatasync` returned.
    Synced,
}

/// The consumer that an offset belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerKey {
    /// Whether it is a consumer group.
    pub group: bool,
    /// Its id.
    pub id: u32,
}

/// Where a read starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// At this offset, or the first one after it that exists.
    Offset(u64),
    /// At the first message that arrived at or after this time, in microseconds
    /// since the Unix epoch.
    Timestamp(u64),
    /// At the first message.
    First,
    /// So that the read ends with the last message.
    Last,
}

/// The result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first message.
    pub base_offset: u64,
    /// How many messages the batch has.
    pub messages: u32,
    /// When the batch arrived, in microseconds since the Unix epoch. It never
    /// goes back within a partition, whatever the clock does.
    pub base_timestamp: u64,
}

/// The result of a read.
#[derive(Clone, Debug, Default)]
pub struct PolledBatches {
    /// The batches, as a poll reply carries them after its prefix, in one or
    /// more pieces to be sent one after the other; a piece may contain several
    /// batches. The first and the last batch may be slices of what was stored.
    pub batches: Vec<Bytes>,
    /// How many messages they contain.
    pub messages: u32,
    /// Offset of the last of them.
    pub last_offset: Option<u64>,
    /// Offset of the partition's last message; zero when there is none.
    pub current_offset: u64,
}

/// A partition's sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionStats {
    /// Segments on disk.
    pub segments: u32,
    /// Bytes of batches, headers included.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
    /// Offset of the first message that has not been removed.
    pub first_offset: u64,
    /// Offset of the next message.
    pub next_offset: u64,
}

impl PartitionStats {
    /// Offset of the last message; zero when there is none, as Iggy has it.
    #[must_use]
    pub fn current_offset(&self) -> u64 {
        self.next_offset.saturating_sub(1)
    }
}

/// Which segments may be removed. A segment is removed when it is the oldest, every consumer
/// whose offset is stored has read it to its end, and one of the reasons applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trim {
    /// Segments to remove, at most.
    pub segments_max: u32,
    /// Reason: its last offset is this one or lower.
    pub through: Option<u64>,
    /// Reason: sealed segments occupy more bytes than this, and it is not the only one with
    /// messages.
    pub sealed_bytes_max: Option<u64>,
    /// Reason: its newest batch arrived at this time or before, in microseconds
    /// since the Unix epoch.
    pub not_after: Option<u64>,
}

/// What [`trimmable`](crate::StoredPartition::trimmable) has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmable {
    /// Where the log would start without the segments that may be removed; none when there
    /// are none.
    pub start: Option<Start>,
    /// As in [`Trimmed::kept_for`].
    pub kept_for: Option<(ConsumerKey, u64)>,
}

/// What [`trim`](crate::StoredPartition::trim) has removed, and why not more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Segments that were removed.
    pub segments: u32,
    /// A reason to remove the oldest segment that is left applies, and this consumer has not
    /// read it to its end: of several the one with the lowest offset.
    pub kept_for: Option<(ConsumerKey, u64)>,
}
