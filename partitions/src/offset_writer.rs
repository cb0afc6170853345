//! Changing a partition's consumer offsets: one task at a time writes the changes that
//! wait.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::error::StorageError;
use crate::files::lock;
use crate::offsets::{CHANGES_PER_WRITE_MAX, Change, NewOffset};
use crate::partition::{Partition, Working};
use crate::types::{ConsumerKey, PartitionOptions};

impl Partition {
    /// Stores a consumer's offset, which must be that of a message.
    pub(super) async fn store_offset_of(
        self: &Arc<Self>,
        options: PartitionOptions,
        consumer: ConsumerKey,
        offset: u64,
        to: impl Fn(u64) -> NewOffset,
    ) -> Result<(), StorageError> {
        let next = lock(&self.log).next_offset();
        if offset >= next {
            return Err(StorageError::InvalidOffset {
                offset,
                current: next.saturating_sub(1),
            });
        }
        self.change_offset(options, consumer, to(offset)).await
    }

    /// Changes a consumer's offset.
    pub(super) async fn change_offset(
        self: &Arc<Self>,
        options: PartitionOptions,
        consumer: ConsumerKey,
        to: NewOffset,
    ) -> Result<(), StorageError> {
        let (result, finished) = oneshot::channel();
        let is_idle = self.offsets.changes.add(Change {
            consumer,
            to,
            durability: options.offset_durability,
            result,
        })?;
        if is_idle {
            let partition = Arc::clone(self);
            self.runtime
                .spawn_blocking(move || partition.write_offsets());
        }
        finished
            .await
            .unwrap_or_else(|_| Err(StorageError::Closed.lasting()))
    }

    /// Writes until the queue is empty.
    fn write_offsets(&self) {
        let mut working = Working {
            partition: self,
            queue: &self.offsets.changes,
            done: false,
        };
        loop {
            let mut count = 0;
            let group = self.offsets.changes.take(|_| {
                count += 1;
                count <= CHANGES_PER_WRITE_MAX
            });
            if group.is_empty() {
                working.done = true;
                return;
            }
            let results = self.offsets.write(&group);
            let mut refused = results.iter().flatten().filter_map(|it| it.as_ref().err());
            if let Some(full) = refused.find(|error| error.is_full()) {
                self.fills(full, 0);
            }
            let results = results.unwrap_or_else(|error| {
                self.fail(&error);
                vec![Err(error.lasting()); group.len()]
            });
            for (change, result) in group.into_iter().zip(results) {
                let _ = change.result.send(result);
            }
        }
    }
}
