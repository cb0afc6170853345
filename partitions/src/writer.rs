//! Appending to a partition's log.
//!
//! One task at a time takes the batches that wait, writes them with one vectored
//! write, and one sync where acknowledgements promise durability, and acknowledges them in
//! order. Where they do not promise it, a background sync follows the writer, so that
//! little is lost with the machine, and few bytes wait for the disk at a time.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::warn;

use crate::acknowledged::Record;
use crate::append::Append;
use crate::batch::{self, HEADER_BYTES};
use crate::error::StorageError;
use crate::files::{ManagedFile, lock};
use crate::format::{self, Mark};
use crate::partition::{Partition, Working};
use crate::segment::{End, Segment};
use crate::types::{Appended, Durability, PartitionOptions};

/// Batches that share one write at most: as many as the kernel accepts in one call.
const BATCHES_PER_WRITE_MAX: usize = 512;
/// Bytes that share one write at most, unless one batch is larger.
const BYTES_PER_WRITE_MAX: usize = 16 << 20;
/// The background sync starts when so many bytes have been written.
const SYNC_EVERY_BYTES: u64 = 64 << 20;
/// A segment is sealed after the batch with which it exceeds this: positions in the
/// index have 32 bits.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Where the next batches go.
struct Target {
    file: Arc<ManagedFile>,
    salt: u64,
    end: End,
    synced_offset: u64,
}

impl Partition {
    pub(super) async fn append(
        self: &Arc<Self>,
        options: PartitionOptions,
        batch: Bytes,
        now_micros: u64,
    ) -> Result<Appended, StorageError> {
        let header = batch::check(&batch)?;
        let bytes = batch.len().min(self.shared.queue_bytes_max);
        let room = Arc::clone(&self.room)
            .acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX))
            .await
            .map_err(|_| StorageError::Closed)?;
        let (result, finished) = oneshot::channel();
        let is_idle = self.appends.add(Append {
            header,
            batch,
            options,
            now_micros,
            result,
            _room: room,
        })?;
        if is_idle {
            let partition = Arc::clone(self);
            tokio::task::spawn_blocking(move || partition.write_waiting());
        }
        // Without a result, how much was written is unknown.
        finished
            .await
            .unwrap_or_else(|_| Err(StorageError::Closed.lasting()))
    }

    /// Writes until the queue is empty.
    fn write_waiting(self: &Arc<Self>) {
        let mut working = Working {
            partition: self,
            queue: &self.appends,
            done: false,
        };
        loop {
            let (mut count, mut bytes) = (0, 0);
            let group = self.appends.take(|append| {
                count += 1;
                bytes += append.batch.len();
                count <= BATCHES_PER_WRITE_MAX && bytes <= BYTES_PER_WRITE_MAX
            });
            if group.is_empty() {
                working.done = true;
                return;
            }
            match self.write_group(&group) {
                Ok(appended) => {
                    self.has_room();
                    for (append, appended) in group.into_iter().zip(appended) {
                        append.finish(Ok(appended));
                    }
                }
                Err(error) if error.is_full() => {
                    self.fills(&error, group.iter().map(|it| it.batch.len() as u64).sum());
                    for append in group {
                        append.finish(Err(error.clone()));
                    }
                }
                Err(error) => {
                    self.fail(&error);
                    for append in group {
                        append.finish(Err(error.lasting()));
                    }
                }
            }
        }
    }

    fn write_group(self: &Arc<Self>, group: &[Append]) -> Result<Vec<Appended>, StorageError> {
        let target = self.target(group)?;
        let durability = group.iter().map(|append| append.options.durability).max();
        let durability = durability.unwrap_or_default();
        self.acknowledged
            .ensure(self.record(target.end.next_offset, target.synced_offset))?;
        let (headers, appended) = self.stamp(&target, group);
        let mut parts = Vec::with_capacity(2 * group.len());
        for (header, append) in headers.iter().zip(group) {
            parts.push(IoSlice::new(header));
            parts.push(IoSlice::new(&append.batch[HEADER_BYTES..]));
        }
        let written = target.file.write(target.end.position, &mut parts);
        let written = written.and_then(|()| match durability {
            Durability::Written => Ok(()),
            Durability::Synced => self.sync_written(&target.file),
        });
        written.or_else(|error| self.take_back(&target, error))?;
        let next_offset = next_offset(&appended, &target);
        let recorded = self.acknowledged.write(match durability {
            Durability::Written => self.record(next_offset, target.synced_offset),
            Durability::Synced => self.record(next_offset, next_offset),
        });
        recorded.or_else(|error| match error.is_full() {
            true => self.take_back(&target, error),
            // The batches stay: it may be recorded that they are there.
            false => Err(error),
        })?;
        self.add(durability, group, &appended);
        self.seal_if_full(bytes_max(group));
        self.sync_if_due();
        Ok(appended)
    }

    fn record(&self, next_offset: u64, synced_offset: u64) -> Record {
        Record {
            next_offset,
            synced_offset,
            boot: self.shared.boot,
        }
    }

    /// The last segment, or a new one when there is none or it is full.
    fn target(&self, group: &[Append]) -> Result<Target, StorageError> {
        let (base_offset, timestamp) = {
            let log = lock(&self.log);
            match log.segments.last() {
                Some(last) if !last.is_full(bytes_max(group)) => {
                    return Ok(Target::of(last, log.synced_offset));
                }
                Some(last) => (last.end.next_offset, last.end.timestamp),
                None => (0, 0),
            }
        };
        self.start_segment(base_offset, timestamp)
    }

    /// Adds an empty segment; the one before it is sealed.
    fn start_segment(&self, base_offset: u64, timestamp: u64) -> Result<Target, StorageError> {
        self.make_dir()?;
        let files = &self.shared.files;
        let segment = Segment::create(&self.dir, files, &self.key, base_offset, timestamp)?;
        let mut log = lock(&self.log);
        let target = Target::of(&segment, log.synced_offset);
        if let Some(last) = log.segments.last_mut() {
            last.seal();
        }
        log.segments.push(segment);
        Ok(target)
    }

    /// The headers as they will be in the file, and the results.
    fn stamp(&self, target: &Target, group: &[Append]) -> (Vec<[u8; HEADER_BYTES]>, Vec<Appended>) {
        let mark = Mark {
            synced_offset: target.synced_offset,
            boot: self.shared.boot,
        };
        let mut end = target.end;
        let stamped = group.iter().map(|append| {
            end.timestamp = end.timestamp.max(append.now_micros);
            let mut header = batch::stamp(
                append.header,
                self.key.partition_id,
                end.next_offset,
                end.timestamp,
                &append.batch,
            );
            format::mark(&mut header, mark, target.salt, end.position);
            let appended = Appended {
                base_offset: end.next_offset,
                messages: append.header.message_count,
                base_timestamp: end.timestamp,
            };
            end.position += append.header.batch_length;
            end.next_offset += u64::from(append.header.message_count);
            (header, appended)
        });
        stamped.unzip()
    }

    fn add(&self, durability: Durability, group: &[Append], appended: &[Appended]) {
        let mut log = lock(&self.log);
        for (append, appended) in group.iter().zip(appended) {
            let bytes = append.header.batch_length;
            log.unsynced_bytes += bytes;
            if let Some(last) = log.segments.last_mut() {
                assert_eq!(
                    last.end.next_offset, appended.base_offset,
                    "only the writer moves the end of the log"
                );
                last.add(appended.base_timestamp, bytes, appended.messages);
            }
        }
        if durability == Durability::Synced {
            log.synced_to_end();
        }
    }

    /// A full segment is sealed before the batch that filled it is acknowledged: who
    /// deletes the sealed segments then, as Iggy's server has it, deletes this one too.
    fn seal_if_full(&self, bytes_max: u64) {
        let full = {
            let log = lock(&self.log);
            let last = log.segments.last().filter(|last| last.is_full(bytes_max));
            last.map(|last| last.end)
        };
        if let Some(end) = full
            && let Err(error) = self.start_segment(end.next_offset, end.timestamp)
        {
            // The batch is written. The next append tries again, and reports what fails.
            warn!(partition = ?self.key, %error, "cannot start a segment after a full one");
        }
    }

    fn sync_if_due(self: &Arc<Self>) {
        let sync_now = {
            let mut log = lock(&self.log);
            let due = log.unsynced_bytes >= SYNC_EVERY_BYTES || log.has_unsynced_sealed();
            due && !std::mem::replace(&mut log.syncing, true)
        };
        if sync_now {
            let partition = Arc::clone(self);
            // The writer does not wait for it: a failure stops the partition.
            tokio::task::spawn_blocking(move || {
                let _ = partition.sync();
                lock(&partition.log).syncing = false;
            });
        }
    }

    /// Syncs a write that is not acknowledged yet, and everything before it.
    fn sync_written(&self, file: &Arc<ManagedFile>) -> Result<(), StorageError> {
        if !lock(&self.log).is_synced_before_tail() {
            self.sync()?;
        }
        file.sync()
    }

    /// Removes what a failed write has left: it must not come back. Returns the error; on a
    /// full disk the partition continues if that succeeded.
    fn take_back(&self, target: &Target, error: StorageError) -> Result<(), StorageError> {
        let file = &target.file;
        let cut = file.truncate(target.end.position);
        match cut.and_then(|()| file.sync()) {
            Ok(()) => Err(error),
            Err(left) => {
                warn!(error = %left, "part of a failed write may be in the file");
                Err(error.lasting())
            }
        }
    }
}

/// The offset after the last message of a group.
fn next_offset(appended: &[Appended], target: &Target) -> u64 {
    appended.last().map_or(target.end.next_offset, |last| {
        last.base_offset + u64::from(last.messages)
    })
}

/// The bytes with which a segment is full.
fn bytes_max(group: &[Append]) -> u64 {
    let bytes_max = group.iter().map(|append| append.options.segment_bytes_max);
    bytes_max.min().unwrap_or(0).min(SEGMENT_BYTES_MAX)
}

impl Target {
    fn of(segment: &Segment, synced_offset: u64) -> Self {
        Self {
            file: Arc::clone(&segment.file),
            salt: segment.salt,
            end: segment.end,
            synced_offset,
        }
    }
}
