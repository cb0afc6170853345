//! Changing a partition's consumer offsets: one task at a time writes the changes that
//! wait.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::error::StorageError;
use crate::files::lock;
use crate::offsets::{CHANGES_PER_WRITE_MAX, Change, NewOffset, TableWork};
use crate::operation::Completion;
use crate::partition::{Partition, Working};
use crate::replication::TableWrite;
use crate::types::{ConsumerKey, Durability, PartitionOptions};

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

    pub(super) fn write_table_later(self: &Arc<Self>, write: TableWrite, completion: Completion) {
        let work = TableWork { write, completion };
        match self.offsets.tables.add_or_return(work) {
            Ok(true) => {
                let partition = Arc::clone(self);
                self.runtime
                    .spawn_blocking(move || partition.write_tables());
            }
            Ok(false) => {}
            Err((work, error)) => {
                // The caller may have locked what the completion locks.
                let finish = move || work.completion.finish(Err(error));
                self.runtime.spawn_blocking(finish);
            }
        }
    }

    /// Writes what waits of the table, with one write and one sync for all, until the queue is
    /// empty.
    fn write_tables(&self) {
        let mut working = Working {
            partition: self,
            queue: &self.offsets.tables,
            done: false,
        };
        loop {
            let mut count = 0;
            let group = self.offsets.tables.take(|_| {
                count += 1;
                count <= CHANGES_PER_WRITE_MAX
            });
            if group.is_empty() {
                working.done = true;
                return;
            }
            let mut writes = Vec::with_capacity(group.len());
            let mut waiting = Vec::with_capacity(group.len());
            for TableWork { write, completion } in group {
                writes.push(write);
                waiting.push(completion);
            }
            let written = self.write_table_group(&writes).map_err(|error| {
                if error.is_full() {
                    self.fills(&error, 0);
                    return error;
                }
                self.fail(&error);
                error.lasting()
            });
            for completion in waiting {
                completion.finish(written.clone());
            }
        }
    }

    fn write_table_group(&self, writes: &[TableWrite]) -> Result<(), StorageError> {
        let durability = self.options().offset_durability;
        if !self.offsets.has_file() {
            self.make_dir()?;
        }
        self.offsets.write_table(writes, durability)?;
        match durability {
            Durability::Written => Ok(()),
            Durability::Synced => self.sync_dirs(),
        }
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
