//! The messages and consumer offsets of the partitions that a node owns.
//!
//! [`PartitionStorage`] is what a node asks for; [`EmbeddedStorage`] is the one
//! that comes along: a segmented append-only log per partition. Batches are kept
//! as clients sent them, with partition, offset and time stamped into their
//! header, so storing and polling re-encode nothing.
//!
//! Who owns a partition, and who may read it, is for others to decide.

mod batch;
mod bytes_at;
mod embedded;
mod error;
mod files;
mod format;
mod hint;
mod key;
mod lane;
mod log;
mod offsets;
mod partition;
mod reader;
mod recovery;
mod segment;
mod trim;
mod writer;

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use bytes::Bytes;

pub use batch::{BATCH_BYTES_MAX, BatchError};
pub use embedded::{EmbeddedStorage, EmbeddedStorageConfig};
pub use error::StorageError;
pub use key::PartitionKey;
pub use trim::Trim;

/// How a partition is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOptions {
    /// A segment is sealed when it has grown to this many bytes; 1 GiB at most,
    /// larger values mean that.
    pub segment_bytes_max: u64,
    /// What an acknowledged append has survived.
    pub durability: Durability,
    /// The same for consumer offsets.
    pub offset_durability: Durability,
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

/// Which consumer an offset belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerKey {
    /// Whether it is a group.
    pub group: bool,
    /// Its id.
    pub id: u32,
}

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// At this offset, or the first that is there behind it.
    Offset(u64),
    /// At the first message that arrived at or after this time, in microseconds
    /// since the Unix epoch.
    Timestamp(u64),
    /// At the first message.
    First,
    /// So that the read ends with the last message.
    Last,
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first message.
    pub base_offset: u64,
    /// How many messages it has.
    pub messages: u32,
    /// When the batch arrived, in microseconds since the Unix epoch. It never
    /// goes back within a partition, whatever the clock does.
    pub base_timestamp: u64,
}

/// What a read found.
#[derive(Clone, Debug, Default)]
pub struct PolledBatches {
    /// The batches, as a poll reply carries them behind its prefix, in one or
    /// more pieces to be sent one after the other; a piece may hold several
    /// batches. The first and the last batch may be slices of what was stored.
    pub batches: Vec<Bytes>,
    /// How many messages they hold.
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
    /// Bytes of messages.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
    /// Offset of the first message that is still there.
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

/// Where a node keeps its partitions.
///
/// A partition comes into being with its first append. The options of a call
/// hold for that call, so they may change while a partition is in use. Every
/// future may be dropped at any time: what it began is then finished or left out
/// as a whole.
#[async_trait]
pub trait PartitionStorage: Send + Sync {
    /// Appends a batch, as a client encoded it. Concurrent appends share writes
    /// and syncs; each gets its own offsets.
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
    /// one message if there is one. Nothing there is no error. A batch that does
    /// not fit behind others is left for the next read.
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
    /// When it lies beyond the last message, or the disk fails.
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
    /// When it lies beyond the last message, or the disk fails.
    async fn advance_offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
        offset: u64,
    ) -> Result<(), StorageError>;

    /// A consumer's offset, when it has stored one.
    ///
    /// # Errors
    /// When the partition cannot be opened.
    async fn offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
    ) -> Result<Option<u64>, StorageError>;

    /// Forgets a consumer's offset.
    ///
    /// # Errors
    /// When there is none, or the disk fails.
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

    /// The last offset of the `count` oldest segments that nothing is written to any
    /// more, of fewer when there are fewer.
    ///
    /// # Errors
    /// When the partition cannot be opened.
    async fn sealed_end(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        count: u32,
    ) -> Result<Option<u64>, StorageError>;

    /// Removes the oldest segments, as far as they may go; returns how many went.
    /// The last one always stays, and offsets go on from where they are.
    ///
    /// # Errors
    /// When the disk fails; the partition has to be opened again then.
    async fn trim(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        trim: Trim,
    ) -> Result<u32, StorageError>;

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

    /// Drops all messages and consumer offsets at once; offsets begin at zero
    /// again. After a crash either all is there or nothing.
    ///
    /// # Errors
    /// When the disk fails.
    async fn purge(&self, key: PartitionKey) -> Result<(), StorageError>;

    /// Removes a partition with all in it. One that is not there is no error.
    ///
    /// # Errors
    /// When the disk fails.
    async fn remove(&self, key: PartitionKey) -> Result<(), StorageError>;

    /// Syncs a partition and lets go of it; the next use opens it anew, also
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

    /// Every partition that has files here.
    ///
    /// # Errors
    /// When the disk fails.
    async fn list(&self) -> Result<Vec<PartitionKey>, StorageError>;
}
