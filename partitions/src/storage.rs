//! What a node requires of a storage.

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::types::{
    Appended, ConsumerKey, PartitionOptions, PartitionStats, PolledBatches, ReadFrom, Trim, Trimmed,
};

/// Where a node keeps its partitions.
///
/// A partition is created by its first append. The options of a call
/// apply to that call, so they may change while a partition is in use. Every
/// future may be dropped at any time: its effect then takes place completely, or not at
/// all.
///
/// Every call returns [`Closed`](StorageError::Closed) after
/// [`shutdown`](Self::shutdown), and [`Failed`](StorageError::Failed) where an earlier
/// write of the partition has failed and it writes.
#[async_trait]
pub trait PartitionStorage: Send + Sync {
    /// Appends a batch of at most [`BATCH_BYTES_MAX`](crate::BATCH_BYTES_MAX) bytes, as a
    /// client encoded it. `now_micros` are microseconds since the Unix epoch. Concurrent
    /// appends share writes and syncs; each has its own offsets.
    ///
    /// # Errors
    /// When the batch is not well-formed, or the disk fails.
    async fn append(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        batch: Bytes,
        now_micros: u64,
    ) -> Result<Appended, StorageError>;

    /// Reads up to `messages_max` messages in up to `bytes_max` bytes, at least
    /// one message if there is one. An empty result is not an error. A batch that does
    /// not fit after others is left for the next read.
    ///
    /// # Errors
    /// When the disk fails or data is damaged.
    async fn read(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        from: ReadFrom,
        messages_max: u32,
        bytes_max: usize,
    ) -> Result<PolledBatches, StorageError>;

    /// Stores a consumer's offset.
    ///
    /// # Errors
    /// [`InvalidOffset`](StorageError::InvalidOffset) when it is greater than that of the
    /// last message, [`TooManyConsumers`](StorageError::TooManyConsumers) when
    /// [`CONSUMERS_MAX`](crate::CONSUMERS_MAX) others have one, or when the disk fails.
    async fn store_offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
        offset: u64,
    ) -> Result<(), StorageError>;

    /// Stores a consumer's offset unless a later one is stored.
    ///
    /// # Errors
    /// [`InvalidOffset`](StorageError::InvalidOffset) when it is greater than that of the
    /// last message, [`TooManyConsumers`](StorageError::TooManyConsumers) when
    /// [`CONSUMERS_MAX`](crate::CONSUMERS_MAX) others have one, or when the disk fails.
    async fn advance_offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
        offset: u64,
    ) -> Result<(), StorageError>;

    /// A consumer's offset; `None` when none is stored.
    ///
    /// # Errors
    /// When the partition cannot be opened.
    async fn offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
    ) -> Result<Option<u64>, StorageError>;

    /// Deletes a consumer's offset.
    ///
    /// # Errors
    /// [`OffsetNotFound`](StorageError::OffsetNotFound), or when the disk fails.
    async fn delete_offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
    ) -> Result<(), StorageError>;

    /// All consumers' offsets.
    ///
    /// # Errors
    /// When the partition cannot be opened.
    async fn offsets(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<Vec<(ConsumerKey, u64)>, StorageError>;

    /// The last offset of the `count` oldest sealed segments, or of all when there are
    /// fewer; `None` when there are none.
    ///
    /// # Errors
    /// When the partition cannot be opened.
    async fn sealed_end(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        count: u32,
    ) -> Result<Option<u64>, StorageError>;

    /// Removes the oldest segments that may be removed; returns how many were, and for which
    /// consumer more were kept. The last one always stays, and offsets continue.
    ///
    /// # Errors
    /// When the disk fails; the partition then accepts no writes until it is closed and
    /// opened again.
    async fn trim(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        trim: Trim,
    ) -> Result<Trimmed, StorageError>;

    /// The partition's sizes.
    ///
    /// # Errors
    /// When the partition cannot be opened.
    async fn stats(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<PartitionStats, StorageError>;

    /// Makes everything that was acknowledged durable.
    ///
    /// # Errors
    /// When the disk fails.
    async fn sync(&self, key: PartitionKey, options: PartitionOptions) -> Result<(), StorageError>;

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
