//! The messages and consumer offsets of the partitions that a node owns.
//!
//! [`PartitionStorage`] is what a node asks for; [`EmbeddedStorage`] is the one
//! that comes along: a segmented append-only log per partition. Batches are kept
//! as clients sent them, with partition, offset and time stamped into their
//! header, so storing and polling re-encode nothing.
//!
//! Who owns a partition, and who may read it, is for others to decide.

mod batch;
mod embedded;
mod offsets;
mod partition;
mod segment;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

pub use crate::metadata::PartitionKey;
pub use batch::BatchError;
pub use embedded::EmbeddedStorage;

/// How a partition is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOptions {
    /// A segment is sealed when it has grown to this many bytes.
    pub segment_bytes_max: u64,
    /// What an acknowledged append has survived.
    pub durability: Durability,
    /// The same for consumer offsets.
    pub offset_durability: Durability,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
}

/// What a read found.
#[derive(Clone, Debug, Default)]
pub struct PolledBatches {
    /// Batches, as a poll reply carries them; the first and the last may be
    /// slices of what was stored.
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

/// Why the storage refused or failed.
#[derive(Clone, Debug, Error)]
pub enum StorageError {
    /// The batch is not well-formed.
    #[error("invalid batch: {0}")]
    Batch(#[from] BatchError),
    /// The offset lies beyond the last message.
    #[error("offset {offset} lies beyond the last message at {current}")]
    InvalidOffset {
        /// The offset.
        offset: u64,
        /// The last.
        current: u64,
    },
    /// The consumer has stored no offset.
    #[error("the consumer has stored no offset")]
    OffsetNotFound,
    /// Acknowledged data is damaged.
    #[error("{path} is corrupt at byte {position}: {what}; restore the file, or delete the topic")]
    Corrupt {
        /// The file.
        path: String,
        /// Where.
        position: u64,
        /// What is wrong.
        what: String,
    },
    /// Written by another version.
    #[error("{path} has format {found}, this program knows {known}; use the version that wrote it")]
    Version {
        /// The file.
        path: String,
        /// Its format.
        found: u16,
        /// Ours.
        known: u16,
    },
    /// The disk failed; the partition takes nothing until the node restarts.
    #[error("{operation} {path}: {error}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: String,
        /// What the operating system said.
        error: String,
    },
}

/// Where a node keeps its partitions.
///
/// A partition comes into being with its first use. All calls for one key must
/// give the same options.
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

    /// Reads up to `messages_max` messages, as many as fit into `bytes_max`, at
    /// least one if there is one. Nothing there is no error.
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

    /// A consumer's offset, when it has stored one.
    ///
    /// # Errors
    /// When the disk fails.
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

    /// The partition's sizes.
    ///
    /// # Errors
    /// When the disk fails.
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

    /// Removes a partition with all in it. One that is not there is no error.
    ///
    /// # Errors
    /// When the disk fails.
    async fn remove(&self, key: PartitionKey) -> Result<(), StorageError>;

    /// Every partition that has files here.
    ///
    /// # Errors
    /// When the disk fails.
    async fn list(&self) -> Result<Vec<PartitionKey>, StorageError>;
}
