//! The log of a partition of this node, and its consumer offsets: by a copy, or, as long as
//! the cluster has nodes of version 0.1, by the storage alone.

use std::sync::Arc;

use ::partitions::replication::{Epoch, OffsetChange};
use ::partitions::{
    Appended, ByKey, ClientBatch, ConsumerKey, PartitionOptions, PartitionStats, PartitionStorage,
    PolledBatches, ReadFrom, StorageError, Tag, Trim, Trimmable, Trimmed,
};
use adapters::metadata::{ErrorCode, PartitionKey, code};
use bytes::Bytes;

use super::local::{LocalPartitions, now_micros, refusal};
use super::messages::Send;
use crate::copies::{Append, Copies, Copy, Refused, Served};

/// How a partition is served. A request uses one, and drops it.
pub(super) struct Log<'a> {
    key: PartitionKey,
    options: PartitionOptions,
    by: By<'a>,
    /// Held while the storage alone serves.
    _served: Option<Served<'a>>,
}

enum By<'a> {
    Storage(&'a dyn PartitionStorage),
    Copy(Arc<Copy>),
}

impl LocalPartitions {
    /// How a partition is served, whose use by this node was judged.
    pub(super) async fn log(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<Log<'_>, ErrorCode> {
        let served = match &self.copies {
            None => None,
            Some(copies) => Some((copies, copies.enter().await)),
        };
        let (by, served) = match served {
            Some((copies, Served::ByCopy)) => (By::Copy(copies.open(key).await?), None),
            Some((_, served)) => (By::Storage(&*self.storage), Some(served)),
            None => (By::Storage(&*self.storage), None),
        };
        Ok(Log {
            key,
            options,
            by,
            _served: served,
        })
    }

    /// Appends a batch of another node's client, or of this one's.
    pub(super) async fn send(&self, send: Send) -> Result<Appended, ErrorCode> {
        let Some(copies) = &self.copies else {
            return Err(code::TRANSIENT_NOT_ACCEPTED);
        };
        let Send {
            key,
            epoch,
            first_epoch,
            tag,
            batch,
        } = send;
        let copy = open(copies, key).await?;
        append(&copy, &batch, tag, epoch, first_epoch).await
    }
}

async fn open(copies: &Copies, key: PartitionKey) -> Result<Arc<Copy>, ErrorCode> {
    match copies.enter().await {
        Served::ByCopy => copies.open(key).await,
        // This node has not applied yet what its sender has.
        Served::Alone(_) => Err(code::TRANSIENT_NOT_ACCEPTED),
    }
}

async fn append(
    copy: &Arc<Copy>,
    batch: &Bytes,
    tag: Option<Tag>,
    epoch: Epoch,
    first_epoch: Option<Epoch>,
) -> Result<Appended, ErrorCode> {
    let batch = ClientBatch::check(batch).map_err(|error| refusal(&copy.key, &error.into()))?;
    let messages = batch.messages();
    let now_micros = now_micros();
    let append = Append {
        batch,
        tag,
        now_micros,
        epoch,
        first_epoch,
    };
    let base_offset = copy.append(append).await.map_err(Refused::code)?;
    Ok(Appended {
        base_offset,
        messages,
        base_timestamp: now_micros,
    })
}

impl Refused {
    fn code(self) -> ErrorCode {
        match self {
            Self::NotAccepted => code::TRANSIENT_NOT_ACCEPTED,
            Self::Unknown => code::TRANSIENT_NOT_COMMITTED,
            Self::Code(code) => code,
        }
    }
}

impl Log<'_> {
    fn failed(&self, error: &StorageError) -> ErrorCode {
        refusal(&self.key, error)
    }

    /// Appends a batch of a node that names no epoch.
    pub(super) async fn append(&self, batch: Bytes) -> Result<Appended, ErrorCode> {
        match &self.by {
            By::Storage(storage) => {
                let appended = storage.append(self.key, self.options, batch, now_micros());
                appended.await.map_err(|error| self.failed(&error))
            }
            By::Copy(copy) => append(copy, &batch, None, copy.epoch(), None).await,
        }
    }

    /// The offset after the last message that may be read.
    pub(super) async fn readable(&self) -> Result<u64, ErrorCode> {
        match &self.by {
            By::Storage(_) => Ok(u64::MAX),
            By::Copy(copy) => copy.readable().await.map_err(Refused::code),
        }
    }

    /// Reads messages below offset `end`.
    pub(super) async fn read(
        &self,
        from: ReadFrom,
        messages_max: u32,
        bytes_max: usize,
        end: u64,
    ) -> Result<PolledBatches, ErrorCode> {
        let read = match &self.by {
            By::Storage(storage) => {
                let (key, options) = (self.key, self.options);
                storage
                    .read(key, options, from, messages_max, bytes_max)
                    .await
            }
            By::Copy(copy) => copy.stored.read(from, messages_max, bytes_max, end).await,
        };
        read.map_err(|error| self.failed(&error))
    }

    /// The stored offset of a consumer.
    pub(super) async fn offset(&self, consumer: ConsumerKey) -> Result<Option<u64>, ErrorCode> {
        match &self.by {
            By::Storage(storage) => {
                let stored = storage.offset(self.key, self.options, consumer);
                stored.await.map_err(|error| self.failed(&error))
            }
            By::Copy(copy) => copy.offset(consumer).await.map_err(Refused::code),
        }
    }

    /// Changes the offset of a consumer.
    pub(super) async fn change_offset(
        &self,
        consumer: ConsumerKey,
        change: OffsetChange,
        tag: Option<Tag>,
    ) -> Result<(), ErrorCode> {
        let (key, options) = (self.key, self.options);
        let changed = match (&self.by, change) {
            (By::Copy(copy), change) => {
                let changed = copy.change_offset(consumer, change, tag);
                return changed.await.map_err(Refused::code);
            }
            (By::Storage(storage), OffsetChange::Store(offset)) => {
                storage.store_offset(key, options, consumer, offset).await
            }
            (By::Storage(storage), OffsetChange::Advance(offset)) => {
                storage.advance_offset(key, options, consumer, offset).await
            }
            (By::Storage(storage), OffsetChange::Delete) => {
                storage.delete_offset(key, options, consumer).await
            }
        };
        changed.map_err(|error| self.failed(&error))
    }

    /// The stored offsets of all consumers.
    pub(super) async fn offsets(&self) -> Result<Vec<(ConsumerKey, u64)>, ErrorCode> {
        match &self.by {
            By::Storage(storage) => {
                let stored = storage.offsets(self.key, self.options).await;
                stored.map_err(|error| self.failed(&error))
            }
            By::Copy(copy) => Ok(copy.stored.offsets()),
        }
    }

    /// The last offset of the oldest sealed segments.
    pub(super) async fn sealed_end(&self, count: u32) -> Result<Option<u64>, ErrorCode> {
        match &self.by {
            By::Storage(storage) => {
                let end = storage.sealed_end(self.key, self.options, count).await;
                end.map_err(|error| self.failed(&error))
            }
            By::Copy(copy) => Ok(copy.stored.sealed_end(count)),
        }
    }

    /// Removes the oldest segments that may be removed: on all copies, once they have agreed
    /// that the log starts later.
    pub(super) async fn trim(&self, trim: Trim) -> Result<Trimmed, ErrorCode> {
        let copy = match &self.by {
            By::Storage(storage) => {
                let trimmed = storage.trim(self.key, self.options, trim).await;
                return trimmed.map_err(|error| self.failed(&error));
            }
            By::Copy(copy) => copy,
        };
        // Segments of version 1 have no records: no other copy has them.
        let first_record = copy.stored.start();
        let trimmed = copy.stored.trim(trim, first_record.first_offset).await;
        let trimmed = trimmed.map_err(|error| self.failed(&error))?;
        if trimmed.segments > 0 {
            return Ok(trimmed);
        }
        let sealed = copy.seal_full().await;
        sealed.map_err(|error| self.failed(&error))?;
        let end = copy.readable().await.map_err(Refused::code)?;
        let Trimmable { start, kept_for } = copy.stored.trimmable(trim, end);
        let later = start.filter(|start| start.base.index > first_record.base.index);
        let segments = match later {
            Some(start) => {
                let moved = copy.move_start(start).await;
                moved.map_err(Refused::code)?;
                1
            }
            None => 0,
        };
        Ok(Trimmed { segments, kept_for })
    }

    /// The offset of the last message that may be read.
    pub(super) async fn current_offset(&self) -> Result<u64, ErrorCode> {
        match &self.by {
            By::Storage(storage) => {
                let stats = storage.stats(self.key, self.options).await;
                let stats = stats.map_err(|error| self.failed(&error))?;
                Ok(PartitionStats::current_offset(&stats))
            }
            By::Copy(_) => Ok(self.readable().await?.saturating_sub(1)),
        }
    }
}
