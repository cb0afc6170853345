//! Writing to a partition's log.
//!
//! One task at a time takes what waits, and writes records that wait together with one
//! vectored write. Batches of [`append`](crate::StoredPartition::append) get their
//! positions here; one sync follows their write where acknowledgements promise durability.
//! Where they do not promise it, a background sync follows the writer, so that
//! little is lost with the machine, and few bytes wait for the disk at a time.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use consensus::Index;
use tokio::sync::oneshot;
use tracing::warn;

use crate::acknowledged::Promise;
use crate::append::{Append, Kind, Work};
use crate::batch::{self, HEADER_BYTES};
use crate::error::StorageError;
use crate::files::{ManagedFile, lock};
use crate::format::{self, Base, Format, Mark, Reach};
use crate::operation::{Completion, Operation, Submitted};
use crate::partition::{Partition, Working};
use crate::record::{ClientBatch, Record, RecordError, RecordFlags, RecordHeader, Stamp};
use crate::replication::{Epoch, Position};
use crate::segment::{End, Segment};
use crate::types::{Appended, Durability, PartitionOptions};

/// Records that share one write at most: as many as the kernel accepts in one call.
const RECORDS_PER_WRITE_MAX: usize = 512;
/// Bytes that share one write at most, unless one record is larger.
const BYTES_PER_WRITE_MAX: usize = 16 << 20;
/// The background sync starts when so many bytes have been written.
const SYNC_EVERY_BYTES: u64 = 64 << 20;
/// What is committed is recorded so often, unless that is written anyway.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// A segment is sealed after the batch with which it exceeds this: positions in the
/// index have 32 bits.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Where the next records are written.
struct Target {
    file: Arc<ManagedFile>,
    salt: u64,
    end: End,
    is_empty: bool,
    synced: Reach,
}

impl Partition {
    pub(super) async fn append_batch(
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
        let append = Append {
            header,
            batch,
            options,
            now_micros,
            result,
            _room: room,
        };
        if self.works.add(Work::Append(append))? {
            self.start_writer();
        }
        // Without a result, how much was written is unknown.
        finished
            .await
            .unwrap_or_else(|_| Err(StorageError::Closed.lasting()))
    }

    pub(super) fn start_writer(self: &Arc<Self>) {
        let partition = Arc::clone(self);
        self.runtime.spawn_blocking(move || partition.work());
    }

    /// Works until the queue is empty.
    fn work(self: &Arc<Self>) {
        let mut working = Working {
            partition: self,
            queue: &self.works,
            done: false,
        };
        loop {
            let (mut kind, mut count, mut bytes) = (None, 0, 0);
            let group = self.works.take(|work| {
                let size = work.size();
                count += size.0;
                bytes += size.1;
                *kind.get_or_insert(work.kind()) == work.kind()
                    && work.kind() != Kind::Other
                    && count <= RECORDS_PER_WRITE_MAX
                    && bytes <= BYTES_PER_WRITE_MAX
            });
            if group.is_empty() {
                working.done = true;
                return;
            }
            let (mut appends, mut writes) = (Vec::new(), Vec::new());
            let (mut commit, mut marks) = (None, Vec::new());
            for work in group {
                match work {
                    Work::Append(append) => appends.push(append),
                    Work::Submitted(Submitted {
                        operation: Operation::Write(records),
                        completion,
                    }) => writes.push((records, completion)),
                    Work::Submitted(Submitted {
                        operation: Operation::Commit { through },
                        completion,
                    }) => {
                        commit = commit.max(Some(through));
                        marks.push(completion);
                    }
                    Work::Submitted(other) => self.operate(other),
                }
            }
            if !appends.is_empty() {
                self.write_appends(appends);
            }
            if !writes.is_empty() {
                self.write_submitted(writes);
            }
            if let Some(through) = commit {
                self.mark_committed(through, marks);
            }
        }
    }

    fn write_appends(self: &Arc<Self>, group: Vec<Append>) {
        match self.write_group(&group) {
            Ok(appended) => {
                self.has_room();
                for (append, appended) in group.into_iter().zip(appended) {
                    append.finish(Ok(appended));
                }
            }
            Err(error) => {
                let bytes = group.iter().map(|it| it.batch.len() as u64).sum();
                let error = self.write_failed(error, bytes);
                for append in group {
                    append.finish(Err(error.clone()));
                }
            }
        }
    }

    /// Takes notice of a failed write of so many bytes; the error for those who wait for it.
    fn write_failed(&self, error: StorageError, bytes: u64) -> StorageError {
        if error.is_full() {
            self.fills(&error, bytes);
            return error;
        }
        self.fail(&error);
        error.lasting()
    }

    fn write_group(self: &Arc<Self>, group: &[Append]) -> Result<Vec<Appended>, StorageError> {
        let bytes_max = bytes_max(group);
        let target = self.target(None, |last| last.is_full(bytes_max))?;
        let durability = group.iter().map(|append| append.options.durability).max();
        let (records, appended) = self.stamp(&target, group);
        self.write_records(&target, &records, durability.unwrap_or_default())?;
        self.seal_if_full(bytes_max);
        self.sync_if_due();
        Ok(appended)
    }

    /// The records of a group, and the results.
    fn stamp(&self, target: &Target, group: &[Append]) -> (Vec<Record>, Vec<Appended>) {
        let mut end = target.end;
        let mut flags = match target.is_empty {
            true => RecordFlags::STARTS_SEGMENT,
            false => RecordFlags::NONE,
        };
        let stamped = group.iter().map(|append| {
            let batch = ClientBatch {
                header: append.header,
                body: append.batch.slice(HEADER_BYTES..),
            };
            let stamp = Stamp {
                partition_id: self.key.partition_id,
                position: Position {
                    epoch: end.last.epoch.max(Epoch(1)),
                    index: end.last.index.next(),
                },
                first_offset: end.next_offset,
                timestamp: end.timestamp.max(append.now_micros),
                flags: std::mem::take(&mut flags),
                tag: None,
            };
            let record = Record::stamp(batch, stamp);
            end = end.after(&RecordHeader::of(&record));
            let appended = Appended {
                base_offset: record.first_offset,
                messages: record.messages,
                base_timestamp: record.timestamp,
            };
            (record, appended)
        });
        stamped.unzip()
    }

    /// Writes the records of submitted operations.
    fn write_submitted(self: &Arc<Self>, writes: Vec<(Vec<Record>, Completion)>) {
        let mut waiting = Vec::with_capacity(writes.len());
        let mut records = Vec::with_capacity(writes.iter().map(|it| it.0.len()).sum());
        for (more, completion) in writes {
            records.extend(more);
            waiting.push((records.len(), completion));
        }
        let mut stored = 0;
        let result = self.write_runs(&records, &mut stored);
        let error = result.err().map(|error| match error {
            StorageError::NotNext { .. } | StorageError::Record(_) => error,
            error => {
                let bytes = records.iter().map(|it| it.bytes() as u64).sum();
                self.write_failed(error, bytes)
            }
        });
        if error.is_none() {
            self.has_room();
        }
        for (through, completion) in waiting {
            completion.finish(match &error {
                Some(error) if through > stored => Err(error.clone()),
                _ => Ok(()),
            });
        }
    }

    /// Writes records, with one write for each segment; counts those that the log has.
    fn write_runs(&self, records: &[Record], stored: &mut usize) -> Result<(), StorageError> {
        *stored = self.known(records);
        let (valid, problem) = self.check_follow(&records[*stored..]);
        let valid = *stored + valid;
        while *stored < valid {
            let rest = &records[*stored..valid];
            let starts = rest[0].flags.contains(RecordFlags::STARTS_SEGMENT);
            let more = rest[1..].iter();
            let more = more.take_while(|it| !it.flags.contains(RecordFlags::STARTS_SEGMENT));
            let run = &rest[..=more.count()];
            let sessions = match starts {
                true => lock(&self.next_sessions).clone(),
                false => None,
            };
            let target = self.target(sessions.as_deref(), |_| starts)?;
            self.write_records(&target, run, Durability::Written)?;
            *stored += run.len();
        }
        // They belonged to the first of these records.
        *lock(&self.next_sessions) = None;
        problem.map_or(Ok(()), Err)
    }

    /// How many of the first records the log has already.
    fn known(&self, records: &[Record]) -> usize {
        let log = lock(&self.log);
        let end = log.end().position.index;
        if records
            .first()
            .is_none_or(|first| first.position.index > end)
        {
            return 0;
        }
        let chain = log.chain();
        let known = records.iter();
        known.take_while(|it| chain.contains(it.position)).count()
    }

    /// How many of these records follow the log's end, and what is wrong with the next one.
    fn check_follow(&self, records: &[Record]) -> (usize, Option<StorageError>) {
        let Base {
            position: mut last,
            mut offset,
            ..
        } = lock(&self.log).end();
        for (number, record) in records.iter().enumerate() {
            let found = record.position;
            let next = found.index == last.index.next()
                && found.epoch >= last.epoch
                && record.first_offset >= offset;
            if !next {
                return (number, Some(StorageError::NotNext { end: last, found }));
            }
            if record.header.len() != HEADER_BYTES {
                return (number, Some(RecordError::Short.into()));
            }
            last = found;
            offset = record.next_offset();
        }
        (records.len(), None)
    }

    /// Writes records that belong into one segment.
    fn write_records(
        &self,
        target: &Target,
        records: &[Record],
        durability: Durability,
    ) -> Result<(), StorageError> {
        self.acknowledged
            .ensure(self.promise(target.end.reach(), target.synced))?;
        let (headers, end) = self.mark(target, records);
        let mut parts = Vec::with_capacity(2 * records.len());
        for (header, record) in headers.iter().zip(records) {
            parts.push(IoSlice::new(header));
            parts.push(IoSlice::new(&record.body));
        }
        let written = target.file.write(target.end.position, &mut parts);
        let written = written.and_then(|()| match durability {
            Durability::Written => Ok(()),
            Durability::Synced => self.sync_written(&target.file),
        });
        written.or_else(|error| self.take_back(target, error))?;
        let recorded = self.acknowledged.write(match durability {
            Durability::Written => self.promise(end.reach(), target.synced),
            Durability::Synced => self.promise(end.reach(), end.reach()),
        });
        recorded.or_else(|error| match error.is_full() {
            true => self.take_back(target, error),
            // The records stay: it may be recorded that they are there.
            false => Err(error),
        })?;
        self.add(durability, target, records);
        Ok(())
    }

    pub(super) fn promise(&self, end: Reach, synced: Reach) -> Promise {
        Promise {
            end,
            synced,
            boot: self.shared.boot,
            commit: self.committed.load(Ordering::SeqCst).min(synced.index),
        }
    }

    /// Records up to here are committed, as far as the log has them.
    fn mark_committed(&self, through: Index, marks: Vec<Completion>) {
        let (end, synced) = {
            let log = lock(&self.log);
            (log.end().reach(), log.synced)
        };
        let through = through.0.min(end.index);
        self.committed.fetch_max(through, Ordering::SeqCst);
        let recorded = self
            .acknowledged
            .mark(self.promise(end, synced), COMMIT_EVERY);
        let recorded = recorded.map_err(|error| self.write_failed(error, 0));
        for completion in marks {
            completion.finish(recorded.clone());
        }
    }

    /// The last segment, or a new one when there is none or `is_full`. A segment that starts
    /// here has these sessions.
    fn target(
        &self,
        sessions: Option<&[u8]>,
        is_full: impl Fn(&Segment) -> bool,
    ) -> Result<Target, StorageError> {
        self.settle()?;
        let fits = |last: &Segment| match last.is_empty() {
            true => sessions.is_none_or(|sessions| last.kept.is(sessions)),
            false => !is_full(last),
        };
        let end = {
            let log = lock(&self.log);
            match log.segments.last() {
                Some(last) if last.format == Format::V2 && fits(last) => {
                    return Ok(Target::of(last, log.synced));
                }
                _ => log.end(),
            }
        };
        self.start_segment(end, sessions.unwrap_or_default())
    }

    /// Removes what follows the end of the log since a crash or a damage.
    pub(super) fn settle(&self) -> Result<(), StorageError> {
        if lock(&self.log).cut.is_none() {
            return Ok(());
        }
        let _no_sync_runs = lock(&self.syncing);
        let (cut, last) = {
            let mut log = lock(&self.log);
            let last = log.segments.last();
            let last = last.map(|last| (Arc::clone(&last.file), last.end.position));
            (log.cut.take(), last)
        };
        let Some(cut) = cut else {
            return Ok(());
        };
        let applied = cut.apply(&self.dir, &self.shared.files, last);
        if applied.is_err() {
            lock(&self.log).cut = Some(cut);
        }
        applied
    }

    /// Adds an empty segment; the one before it is sealed.
    fn start_segment(&self, base: Base, sessions: &[u8]) -> Result<Target, StorageError> {
        self.make_dir()?;
        let files = &self.shared.files;
        let former = {
            let log = lock(&self.log);
            let former = log.segments.last().filter(|last| last.is_empty());
            former.map(|former| former.starts_log)
        };
        let Some(starts_log) = former else {
            let segment = Segment::create(&self.dir, files, &self.key, base, sessions)?;
            return Ok(self.add_segment(segment));
        };
        // It has the same name, and a sync may use it.
        let _no_sync_runs = lock(&self.syncing);
        let header = Segment::header(&self.key, base, starts_log, sessions);
        let segment = Segment::replace(&self.dir, files, &header, sessions)?;
        lock(&self.log).segments.pop();
        Ok(self.add_segment(segment))
    }

    fn add_segment(&self, segment: Segment) -> Target {
        let mut log = lock(&self.log);
        let target = Target::of(&segment, log.synced);
        if let Some(last) = log.segments.last_mut() {
            last.seal();
        }
        log.segments.push(segment);
        target
    }

    /// The headers as they will be in the file, and where the segment then ends.
    fn mark(&self, target: &Target, records: &[Record]) -> (Vec<[u8; HEADER_BYTES]>, End) {
        let mark = Mark {
            synced: target.synced,
            boot: self.shared.boot,
        };
        let mut end = target.end;
        let headers = records.iter().map(|record| {
            let mut header = [0; HEADER_BYTES];
            header.copy_from_slice(&record.header);
            format::mark(&mut header, mark, target.salt, end.position);
            end = end.after(&RecordHeader::of(record));
            header
        });
        (headers.collect(), end)
    }

    fn add(&self, durability: Durability, target: &Target, records: &[Record]) {
        let mut log = lock(&self.log);
        let log = &mut *log;
        if let Some(last) = log.segments.last_mut() {
            assert_eq!(
                last.end, target.end,
                "only the writer moves the end of the log"
            );
            for record in records {
                log.unsynced_bytes += record.bytes() as u64;
                last.add(&RecordHeader::of(record));
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
            last.is_some()
        };
        if full && let Err(error) = self.seal() {
            // The batch is written. The next append tries again, and reports what fails.
            warn!(partition = ?self.key, %error, "cannot start a segment after a full one");
        }
    }

    /// Starts a segment, unless the last one is empty.
    pub(super) fn seal(&self) -> Result<(), StorageError> {
        let sessions = lock(&self.next_sessions).clone();
        self.target(sessions.as_deref(), |_| true).map(|_| ())
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
            self.runtime.spawn_blocking(move || {
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

/// The bytes with which a segment is full.
fn bytes_max(group: &[Append]) -> u64 {
    let bytes_max = group.iter().map(|append| append.options.segment_bytes_max);
    bytes_max.min().unwrap_or(0).min(SEGMENT_BYTES_MAX)
}

impl Target {
    fn of(segment: &Segment, synced: Reach) -> Self {
        Self {
            file: Arc::clone(&segment.file),
            salt: segment.salt,
            end: segment.end,
            is_empty: segment.is_empty(),
            synced,
        }
    }
}
