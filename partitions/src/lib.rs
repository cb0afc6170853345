//! The messages and consumer offsets of the partitions that a node owns.
//!
//! [`PartitionStorage`] is what a node requires; [`EmbeddedStorage`] implements it
//! with a segmented append-only log per partition. Batches are kept
//! as clients sent them, with partition, offset and time stamped into their
//! header, so storing and polling re-encode nothing.
//!
//! Threads: calls run on the caller's tokio runtime, and file work on its blocking threads
//! (`tokio::task::spawn_blocking`). Of a partition, at most one task at a time writes
//! batches and one writes consumer offsets.
//!
//! The caller decides who owns a partition, and who may read it.

mod acknowledged;
mod append;
mod batch;
mod by_key;
mod bytes_at;
mod embedded;
mod error;
mod files;
mod format;
mod hint;
mod key;
mod log;
mod node;
mod offset_writer;
mod offsets;
mod offsets_v1;
mod operation;
mod operations;
mod partition;
mod queue;
mod reader;
mod record;
mod record_reader;
mod recovery;
pub mod replication;
#[doc(hidden)]
pub mod rules;
mod segment;
mod storage;
mod stored;
mod table_file;
mod trim;
mod types;
mod writer;

#[cfg(test)]
mod tests;

pub use batch::{BATCH_BYTES_MAX, BatchError};
pub use by_key::ByKey;
pub use embedded::{EmbeddedStorage, EmbeddedStorageConfig};
pub use error::StorageError;
pub use key::{GENERATION_INDEX_BITS, PartitionKey};
pub use node::{LogState, NodeStorage};
pub use offsets::CONSUMERS_MAX;
pub use operation::{Done, Operation};
pub use record::{ClientBatch, RECORD_HEADER_BYTES, Record, RecordError, RecordFlags, Stamp, Tag};
pub use storage::{PartitionStorage, RecoveredLog, StoredPartition};
pub use types::{
    Appended, ConsumerKey, Durability, PartitionOptions, PartitionStats, PolledBatches, ReadFrom,
    Trim, Trimmable, Trimmed,
};
