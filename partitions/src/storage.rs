//! What a node requires of a storage.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::Index;

use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::node::LogState;
use crate::operation::{Done, Operation};
use crate::record::Record;
use crate::replication::{Chain, Epoch, OffsetTable, Recovered, Sessions, Start, Trust};
use crate::types::{
    Appended, ConsumerKey, Durability, PartitionOptions, PartitionStats, PolledBatches, ReadFrom,
    Trim, Trimmable, Trimmed,
};

/// Where a node keeps its partitions.
///
/// A partition is created by its first write. Every future may be dropped at any time: its
/// effect then takes place completely, or not at all.
///
/// Every call returns [`Closed`](StorageError::Closed) after
/// [`shutdown`](Self::shutdown).
#[async_trait]
pub trait PartitionStorage: Send + Sync {
    /// Whether logs can be cut off at their end. Without it, a node has only partitions with
    /// one copy.
    fn can_truncate(&self) -> bool;

    /// Opens a partition, or returns the one that is open, with new options.
    ///
    /// # Errors
    /// When the disk fails, when what was acknowledged is damaged and not
    /// [`repairable`](PartitionOptions::repairable), or when the partition was removed.
    async fn open(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<Arc<dyn StoredPartition>, StorageError>;

    /// Drops all messages and consumer offsets; offsets start at zero
    /// again. After a crash either all of them are there or none.
    ///
    /// # Errors
    /// When the disk fails.
    async fn purge(&self, key: PartitionKey) -> Result<(), StorageError>;

    /// Removes a partition with all its files, for good: until the storage is created
    /// again, every use of this generation and of those before it of the same ids
    /// returns [`Removed`](StorageError::Removed). A missing partition is not an error.
    ///
    /// # Errors
    /// When the disk fails.
    async fn remove(&self, key: PartitionKey) -> Result<(), StorageError>;

    /// Syncs and closes a partition; the next use opens it again, also
    /// after it had failed.
    ///
    /// # Errors
    /// When the disk fails.
    async fn close(&self, key: PartitionKey) -> Result<(), StorageError>;

    /// Syncs and closes everything; afterwards every use is refused.
    ///
    /// # Errors
    /// The first error, after everything else has been closed.
    async fn shutdown(&self) -> Result<(), StorageError>;

    /// The partitions that refuse, each with the error of a write: those that could not be
    /// opened when they were last used, and those whose disk failed or is full. Those that
    /// accept writes again, and those that have not been used since the start, are not
    /// among them. For metrics; does not wait for the disk. Empty where a storage does not
    /// implement it.
    fn refusing(&self) -> Vec<(PartitionKey, StorageError)> {
        Vec::new()
    }

    /// Damaged records of consumer offsets that were found since the start: each may have set
    /// a consumer back to an offset that it had stored before. Zero where a storage does not
    /// count them.
    fn damaged_offsets(&self) -> u64 {
        0
    }

    /// Every partition that has files.
    ///
    /// # Errors
    /// When the disk fails.
    async fn list(&self) -> Result<Vec<PartitionKey>, StorageError>;
}

/// An open partition.
///
/// Every call returns [`Closed`](StorageError::Closed) after it has been closed or purged,
/// [`Removed`](StorageError::Removed) after it has been removed, and
/// [`Failed`](StorageError::Failed) where an earlier write has failed and it writes.
#[async_trait]
pub trait StoredPartition: Send + Sync {
    /// Changes the options. They count for later calls.
    fn set_options(&self, options: PartitionOptions);

    /// What the log and the table of offsets have. Reads the headers of the last segment's
    /// records; blocks the thread.
    ///
    /// # Errors
    /// When the disk fails, or the headers are damaged.
    fn recovered(&self) -> Result<RecoveredLog, StorageError>;

    /// Queues an operation, without waiting for the disk. Operations on the log are carried
    /// out in the order of the calls. Adjacent writes share one vectored write. A sync covers
    /// all earlier writes and does not delay later ones. What a truncation removes is
    /// off the disk before the next write.
    ///
    /// `done` is called once, from a thread of the storage, not from this call. A result of
    /// [`Full`](StorageError::Full) or [`NotNext`](StorageError::NotNext) has had no effect,
    /// but that records of the operation may be there; the same operation may be repeated.
    /// After any other error, the partition accepts no operations until it is closed and
    /// opened again.
    fn submit(&self, operation: Operation, done: Done);

    /// The records after `after`, at most through `through`, in up to `bytes_max` bytes but at
    /// least one, if there is one: only what is done, whether synced or not. Blocks the
    /// thread.
    ///
    /// # Errors
    /// [`NotKept`](StorageError::NotKept) when the first of them was removed, or when the
    /// disk fails or data is damaged.
    fn records(
        &self,
        after: Index,
        through: Index,
        bytes_max: usize,
    ) -> Result<Vec<Record>, StorageError>;

    /// Appends a batch of at most [`BATCH_BYTES_MAX`](crate::BATCH_BYTES_MAX) bytes, as a
    /// client encoded it, as the next record: for partitions with one copy. `now_micros` are
    /// microseconds since the Unix epoch. Concurrent
    /// appends share writes and syncs; each has its own offsets.
    ///
    /// # Errors
    /// When the batch is not well-formed, or the disk fails.
    async fn append(&self, batch: Bytes, now_micros: u64) -> Result<Appended, StorageError>;

    /// Reads up to `messages_max` messages below offset `end` in up to `bytes_max` bytes, at
    /// least one message if there is one. An empty result is not an error. A batch that does
    /// not fit after others is left for the next read.
    ///
    /// # Errors
    /// When the disk fails or data is damaged.
    async fn read(
        &self,
        from: ReadFrom,
        messages_max: u32,
        bytes_max: usize,
        end: u64,
    ) -> Result<PolledBatches, StorageError>;

    /// Stores a consumer's offset.
    ///
    /// # Errors
    /// [`InvalidOffset`](StorageError::InvalidOffset) when it is greater than that of the
    /// last message, [`TooManyConsumers`](StorageError::TooManyConsumers) when
    /// [`CONSUMERS_MAX`](crate::CONSUMERS_MAX) others have one, or when the disk fails.
    async fn store_offset(&self, consumer: ConsumerKey, offset: u64) -> Result<(), StorageError>;

    /// Stores a consumer's offset unless a later one is stored.
    ///
    /// # Errors
    /// As [`store_offset`](Self::store_offset).
    async fn advance_offset(&self, consumer: ConsumerKey, offset: u64) -> Result<(), StorageError>;

    /// Deletes a consumer's offset.
    ///
    /// # Errors
    /// [`OffsetNotFound`](StorageError::OffsetNotFound), or when the disk fails.
    async fn delete_offset(&self, consumer: ConsumerKey) -> Result<(), StorageError>;

    /// A consumer's offset; `None` when none is stored.
    fn offset(&self, consumer: ConsumerKey) -> Option<u64>;

    /// All consumers' offsets.
    fn offsets(&self) -> Vec<(ConsumerKey, u64)>;

    /// The last offset of the `count` oldest sealed segments, or of all when there are
    /// fewer; `None` when there are none.
    fn sealed_end(&self, count: u32) -> Option<u64>;

    /// Removes the oldest segments that may be removed and have only messages below offset
    /// `end`; returns how many were, and for which
    /// consumer more were kept. The last one always stays, and offsets continue.
    ///
    /// # Errors
    /// When the disk fails; the partition then accepts no writes until it is closed and
    /// opened again.
    async fn trim(&self, trim: Trim, end: u64) -> Result<Trimmed, StorageError>;

    /// Where the log starts: the record before the first one that can be read by
    /// [`records`](Self::records), and the offset of the first message after it.
    fn start(&self) -> Start;

    /// What [`trim`](Self::trim) would do, for a log with several copies: all of them start it
    /// later together.
    fn trimmable(&self, trim: Trim, end: u64) -> Trimmable;

    /// The partition's sizes.
    fn stats(&self) -> PartitionStats;

    /// Makes everything that is written durable.
    ///
    /// # Errors
    /// When the disk fails.
    async fn sync(&self) -> Result<(), StorageError>;
}

/// What an open partition has.
#[derive(Clone, Debug)]
pub struct RecoveredLog {
    /// Its records. Its base is the record before the first one that can be read by
    /// [`records`](StoredPartition::records).
    pub chain: Chain,
    /// Offset of the first message after that base; of the next one when there is none.
    pub first_offset: u64,
    /// Offset of the next message.
    pub next_offset: u64,
    /// Of the last record, in microseconds since the Unix epoch; zero when it is unknown.
    pub timestamp: u64,
    /// Up to here records are on the disk.
    pub synced: Index,
    /// Offset of the message after that record.
    pub synced_offset: u64,
    /// Bytes of the last segment; zero for an empty log that has never had records, and
    /// `u64::MAX` when the next record has to start one.
    pub segment_bytes: u64,
    /// What it lacks of what it acknowledged, as far as its files show.
    pub trust: Trust,
    /// Why it lacks something that a stop of the machine cannot explain.
    pub damage: Option<StorageError>,
    /// Up to here records are known to be committed.
    pub commit: Index,
    /// The table of offsets.
    pub table: OffsetTable,
    /// What that lacks, as far as its file shows.
    pub table_trust: Trust,
    /// The sessions after the last record.
    pub sessions: Sessions,
}

impl RecoveredLog {
    /// What a copy has when its node starts, which may have lost this much. What is
    /// acknowledged with the promise of being on the disk survives a stop of the machine.
    #[must_use]
    pub fn for_copy(
        self,
        adopted: Epoch,
        node: LogState,
        durability: Durability,
        offset_durability: Durability,
    ) -> Recovered {
        let node = |durability| match (node, durability) {
            (LogState::Lost, _) => Trust::Lost,
            (LogState::TailLost, Durability::Written) => Trust::TailLost,
            (LogState::TailLost, Durability::Synced) | (LogState::Intact, _) => Trust::Trusted,
        };
        // Without damage, what the log lacks had not been on the disk.
        let trust = match durability {
            Durability::Synced if self.damage.is_none() => Trust::Trusted,
            Durability::Written | Durability::Synced => self.trust,
        };
        let end = self.chain.last().index;
        let commit = self.commit.min(end);
        let mut sessions = self.sessions;
        sessions.settle(commit);
        Recovered {
            chain: self.chain,
            first_offset: self.first_offset,
            next_offset: self.next_offset,
            last_timestamp: self.timestamp,
            segment_bytes: self.segment_bytes,
            synced: self.synced,
            synced_offset: self.synced_offset,
            commit,
            adopted,
            trust: trust.max(node(durability)),
            table: self.table,
            table_trust: self.table_trust.max(node(offset_durability)),
            sessions,
        }
    }
}
