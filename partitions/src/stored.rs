//! An open partition as its users see it.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::Index;

use crate::error::StorageError;
use crate::files::lock;
use crate::format::Format;
use crate::offsets::NewOffset;
use crate::operation::{Done, Operation};
use crate::partition::{Partition, blocking};
use crate::record::Record;
use crate::replication::{Position, Start};
use crate::storage::{RecoveredLog, StoredPartition};
use crate::types::{
    Appended, ConsumerKey, PartitionOptions, PartitionStats, PolledBatches, ReadFrom, Trim,
    Trimmable, Trimmed,
};

#[async_trait]
impl StoredPartition for Partition {
    fn set_options(&self, options: PartitionOptions) {
        *lock(&self.options) = options;
    }

    fn recovered(&self) -> Result<RecoveredLog, StorageError> {
        let sessions = self.read_sessions()?;
        let lacking = self.lacking();
        let log = lock(&self.log);
        let end = log.end();
        let chain = log.chain();
        let last = log.segments.last();
        let last = last.filter(|last| last.format == Format::V2 && !last.is_empty());
        let is_new = end.position == Position::default();
        let commit = Index(self.committed.load(Ordering::SeqCst));
        Ok(RecoveredLog {
            commit: commit.max(chain.base().index),
            first_offset: log.first_record_offset(),
            table: self.offsets.table(),
            table_trust: self.offsets.trust(),
            sessions,
            chain,
            next_offset: end.offset,
            timestamp: end.timestamp,
            synced: Index(log.synced.index),
            synced_offset: log.synced.offset,
            segment_bytes: last.map_or(u64::MAX * u64::from(!is_new), |last| last.end.position),
            trust: lacking.trust,
            damage: lacking.damage,
        })
    }

    fn submit(&self, operation: Operation, done: Done) {
        match self.me() {
            Some(me) => me.submit_operation(operation, done),
            // Its last user is dropping it.
            None => drop(
                self.runtime
                    .spawn_blocking(|| done(Err(StorageError::Closed))),
            ),
        }
    }

    fn records(
        &self,
        after: Index,
        through: Index,
        bytes_max: usize,
    ) -> Result<Vec<Record>, StorageError> {
        self.read_records(after, through, bytes_max)
    }

    async fn append(&self, batch: Bytes, now_micros: u64) -> Result<Appended, StorageError> {
        let me = self.me().ok_or(StorageError::Closed)?;
        me.append_batch(self.options(), batch, now_micros).await
    }

    async fn read(
        &self,
        from: ReadFrom,
        messages_max: u32,
        bytes_max: usize,
        end: u64,
    ) -> Result<PolledBatches, StorageError> {
        self.read_below(from, messages_max, bytes_max, end).await
    }

    async fn store_offset(&self, consumer: ConsumerKey, offset: u64) -> Result<(), StorageError> {
        let me = self.me().ok_or(StorageError::Closed)?;
        let stored = me.store_offset_of(self.options(), consumer, offset, NewOffset::Exactly);
        stored.await
    }

    async fn advance_offset(&self, consumer: ConsumerKey, offset: u64) -> Result<(), StorageError> {
        let me = self.me().ok_or(StorageError::Closed)?;
        let stored = me.store_offset_of(self.options(), consumer, offset, NewOffset::AtLeast);
        stored.await
    }

    async fn delete_offset(&self, consumer: ConsumerKey) -> Result<(), StorageError> {
        let me = self.me().ok_or(StorageError::Closed)?;
        let changed = me.change_offset(self.options(), consumer, NewOffset::None);
        changed.await
    }

    fn offset(&self, consumer: ConsumerKey) -> Option<u64> {
        self.offsets.get(consumer)
    }

    fn offsets(&self) -> Vec<(ConsumerKey, u64)> {
        self.offsets.all()
    }

    fn sealed_end(&self, count: u32) -> Option<u64> {
        lock(&self.log).sealed_end(count)
    }

    async fn trim(&self, trim: Trim, end: u64) -> Result<Trimmed, StorageError> {
        let me = self.me().ok_or(StorageError::Closed)?;
        me.trim_below(trim, end).await
    }

    fn start(&self) -> Start {
        let log = lock(&self.log);
        Start {
            base: log.first_record(),
            first_offset: log.first_record_offset(),
        }
    }

    fn trimmable(&self, trim: Trim, end: u64) -> Trimmable {
        let lowest = self.offsets.lowest();
        let needed_after = lowest.map(|(_, offset)| offset);
        let (start, needed) = lock(&self.log).trimmable(&trim, needed_after, end);
        Trimmable {
            start,
            kept_for: lowest.filter(|_| needed),
        }
    }

    fn stats(&self) -> PartitionStats {
        lock(&self.log).stats()
    }

    async fn sync(&self) -> Result<(), StorageError> {
        let me = self.me().ok_or(StorageError::Closed)?;
        blocking(move || Partition::sync(&me)).await
    }
}
