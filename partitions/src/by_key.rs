//! Calls that open the partition first, for those that need it once.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::storage::{PartitionStorage, StoredPartition};
use crate::types::{
    Appended, ConsumerKey, PartitionOptions, PartitionStats, PolledBatches, ReadFrom, Trim, Trimmed,
};

/// The calls of [`StoredPartition`] by the key of a partition, which is opened, and opened
/// again if it was closed or purged meanwhile. Reads are of everything that is written.
#[async_trait]
pub trait ByKey: PartitionStorage {
    /// See [`StoredPartition::append`].
    ///
    /// # Errors
    /// Those of it, and of [`PartitionStorage::open`].
    async fn append(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        batch: Bytes,
        now_micros: u64,
    ) -> Result<Appended, StorageError> {
        with(self, key, options, |partition| {
            let batch = batch.clone();
            async move { partition.append(batch, now_micros).await }
        })
        .await
    }

    /// See [`StoredPartition::read`].
    ///
    /// # Errors
    /// Those of it, and of [`PartitionStorage::open`].
    async fn read(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        from: ReadFrom,
        messages_max: u32,
        bytes_max: usize,
    ) -> Result<PolledBatches, StorageError> {
        with(self, key, options, |partition| async move {
            partition
                .read(from, messages_max, bytes_max, u64::MAX)
                .await
        })
        .await
    }

    /// See [`StoredPartition::store_offset`].
    ///
    /// # Errors
    /// Those of it, and of [`PartitionStorage::open`].
    async fn store_offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
        offset: u64,
    ) -> Result<(), StorageError> {
        with(self, key, options, |partition| async move {
            partition.store_offset(consumer, offset).await
        })
        .await
    }

    /// See [`StoredPartition::advance_offset`].
    ///
    /// # Errors
    /// Those of it, and of [`PartitionStorage::open`].
    async fn advance_offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
        offset: u64,
    ) -> Result<(), StorageError> {
        with(self, key, options, |partition| async move {
            partition.advance_offset(consumer, offset).await
        })
        .await
    }

    /// See [`StoredPartition::delete_offset`].
    ///
    /// # Errors
    /// Those of it, and of [`PartitionStorage::open`].
    async fn delete_offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
    ) -> Result<(), StorageError> {
        with(self, key, options, |partition| async move {
            partition.delete_offset(consumer).await
        })
        .await
    }

    /// See [`StoredPartition::offset`].
    ///
    /// # Errors
    /// Those of [`PartitionStorage::open`].
    async fn offset(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        consumer: ConsumerKey,
    ) -> Result<Option<u64>, StorageError> {
        Ok(self.open(key, options).await?.offset(consumer))
    }

    /// See [`StoredPartition::offsets`].
    ///
    /// # Errors
    /// Those of [`PartitionStorage::open`].
    async fn offsets(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<Vec<(ConsumerKey, u64)>, StorageError> {
        Ok(self.open(key, options).await?.offsets())
    }

    /// See [`StoredPartition::sealed_end`].
    ///
    /// # Errors
    /// Those of [`PartitionStorage::open`].
    async fn sealed_end(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        count: u32,
    ) -> Result<Option<u64>, StorageError> {
        Ok(self.open(key, options).await?.sealed_end(count))
    }

    /// See [`StoredPartition::trim`].
    ///
    /// # Errors
    /// Those of it, and of [`PartitionStorage::open`].
    async fn trim(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
        trim: Trim,
    ) -> Result<Trimmed, StorageError> {
        with(self, key, options, |partition| async move {
            partition.trim(trim, u64::MAX).await
        })
        .await
    }

    /// See [`StoredPartition::stats`].
    ///
    /// # Errors
    /// Those of [`PartitionStorage::open`].
    async fn stats(
        &self,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<PartitionStats, StorageError> {
        Ok(self.open(key, options).await?.stats())
    }

    /// See [`StoredPartition::sync`].
    ///
    /// # Errors
    /// Those of it, and of [`PartitionStorage::open`].
    async fn sync(&self, key: PartitionKey, options: PartitionOptions) -> Result<(), StorageError> {
        self.open(key, options).await?.sync().await
    }
}

impl<S: PartitionStorage + ?Sized> ByKey for S {}

/// Does something with the partition, and again if it was closed or purged
/// meanwhile: a call that returns `Closed` has had no effect.
async fn with<S, T, F>(
    storage: &S,
    key: PartitionKey,
    options: PartitionOptions,
    work: impl Fn(Arc<dyn StoredPartition>) -> F + Send + Sync,
) -> Result<T, StorageError>
where
    S: PartitionStorage + ?Sized,
    F: Future<Output = Result<T, StorageError>> + Send,
{
    let mut tried: Option<Arc<dyn StoredPartition>> = None;
    loop {
        let partition = storage.open(key, options).await?;
        let result = work(Arc::clone(&partition)).await;
        let again = matches!(result, Err(StorageError::Closed))
            && tried
                .as_ref()
                .is_none_or(|tried| !Arc::ptr_eq(tried, &partition));
        if !again {
            return result;
        }
        tried = Some(partition);
    }
}
