//! Operations on a log other than writing: submitted in order with the writes.
//!
//! What is cut off must not come back, whatever a crash leaves. So what still vouches for it
//! (hints, the record of what was acknowledged) is removed first, then segments from the
//! last one on, each durably, and then the end of the last one that stays.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use consensus::Index;

use crate::append::Work;
use crate::batch::HEADER_BYTES;
use crate::error::StorageError;
use crate::files::lock;
use crate::format::{Base, Reach, StoredHeader};
use crate::hint::hint_path;
use crate::operation::{Completion, Done, Operation, Submitted};
use crate::partition::{Partition, Working};
use crate::recovery::remove_segment;
use crate::replication::Start;
use crate::segment::{End, Segment, log_path};

impl Partition {
    /// Queues an operation. Does not block.
    pub(super) fn submit_operation(self: &Arc<Self>, operation: Operation, done: Done) {
        let completion = Completion::new(done);
        if let Operation::Table(write) = operation {
            return self.write_table_later(write, completion);
        }
        let submitted = Submitted {
            operation,
            completion,
        };
        match self.works.add_or_return(Work::Submitted(submitted)) {
            Ok(true) => self.start_writer(),
            Ok(false) => {}
            Err((work, error)) => {
                // The caller may have locked what the completion locks.
                self.runtime.spawn_blocking(move || work.refuse(error));
            }
        }
    }

    /// Carries out one operation, on the writer's thread.
    pub(super) fn operate(self: &Arc<Self>, submitted: Submitted) {
        let Submitted {
            operation,
            completion,
        } = submitted;
        let result = match operation {
            // Those are carried out elsewhere.
            Operation::Write(_) | Operation::Commit { .. } | Operation::Table(_) => Ok(()),
            Operation::StartSegment { sessions } => {
                *lock(&self.next_sessions) = Some(sessions);
                Ok(())
            }
            Operation::Trim { start } => return self.trim_later(start, completion),
            Operation::Sync => return self.sync_later(completion),
            Operation::Truncate { end } => self.truncate(end),
            Operation::Reset { start, sessions } => self.reset(start, &sessions),
            Operation::Seal => self.seal(),
            Operation::Trust => self.trust(),
        };
        let result = result.map_err(|error| match error {
            StorageError::NotKept { .. } => error,
            error if error.is_full() => {
                self.fills(&error, 0);
                error
            }
            error => {
                self.fail(&error);
                error.lasting()
            }
        });
        completion.finish(result);
    }

    /// A sync of its own thread: it covers what is written now, and delays nothing.
    fn sync_later(self: &Arc<Self>, completion: Completion) {
        match self.syncs.add_or_return(completion) {
            Ok(true) => {
                let partition = Arc::clone(self);
                self.runtime
                    .spawn_blocking(move || partition.sync_waiting());
            }
            Ok(false) => {}
            Err((completion, error)) => completion.finish(Err(error)),
        }
    }

    fn sync_waiting(&self) {
        let mut working = Working {
            partition: self,
            queue: &self.syncs,
            done: false,
        };
        loop {
            let group = self.syncs.take(|_| true);
            if group.is_empty() {
                working.done = true;
                return;
            }
            let result = self.sync().map_err(|error| error.lasting());
            for completion in group {
                completion.finish(result.clone());
            }
        }
    }

    /// Removes the records after `end`.
    fn truncate(&self, end: Index) -> Result<(), StorageError> {
        self.settle()?;
        *lock(&self.next_sessions) = None;
        let _no_sync_runs = lock(&self.syncing);
        let (base, last) = {
            let log = lock(&self.log);
            (log.first_record().index, log.end().position.index)
        };
        if end >= last {
            return Ok(());
        }
        if end < base {
            return Err(StorageError::NotKept { after: end, base });
        }
        let cut = self.find_cut(end)?;
        let (removed, file, cut_end, reach) = {
            let mut log = lock(&self.log);
            let log = &mut *log;
            log.removals += 1;
            let removed = log.segments.split_off(cut.segments);
            let last = log.segments.last_mut();
            let last = last.map(|last| {
                last.cut(cut.end);
                Arc::clone(&last.file)
            });
            log.synced = log.synced.min(cut.end.reach());
            (removed, last, cut.end, log.synced)
        };
        self.committed.fetch_min(end.0, Ordering::SeqCst);
        self.acknowledged
            .lower(self.promise(cut_end.reach(), reach))?;
        let files = &self.shared.files;
        if let Some(file) = &file {
            files.remove(&hint_path(&file.path))?;
            files.sync_dir(&self.dir)?;
        }
        for segment in removed.iter().rev() {
            segment.file.release();
            remove_segment(&self.dir, files, segment.base.position.index.0)?;
        }
        let Some(file) = file else { return Ok(()) };
        file.truncate(cut_end.position)?;
        file.sync()
    }

    /// Where the log ends after record `end`, which it has.
    fn find_cut(&self, end: Index) -> Result<CutAt, StorageError> {
        let (segments, file, format, salt, start, mut position, whole) = {
            let log = lock(&self.log);
            // A segment that would be empty is removed, but for the first one.
            let segments = log
                .segments
                .partition_point(|segment| segment.base.position.index < end)
                .max(1);
            let segment = &log.segments[segments - 1];
            let whole = segment.end;
            if whole.last.index == end {
                let end = whole;
                return Ok(CutAt { segments, end });
            }
            let before = Index(end.0.saturating_sub(1)).max(segment.base.position.index);
            let from = segment.position_after_index(before);
            let file = Arc::clone(&segment.file);
            (
                segments,
                file,
                segment.format,
                segment.salt,
                End::of(&segment.base, segment.records_at),
                from,
                whole,
            )
        };
        let header_at = |position| -> Result<_, StorageError> {
            let bytes = file.read(position, HEADER_BYTES)?;
            let header = StoredHeader::decode(format, &bytes, salt, position);
            header.ok_or_else(|| StorageError::corrupt(&file.path, position, "a batch is damaged"))
        };
        let mut last = start;
        if last.last.index < end {
            last.position = position;
        }
        while last.last.index < end {
            last = last.after(&header_at(last.position)?.record);
        }
        // What is removed tells how many messages stay.
        let mut removed = 0;
        position = last.position;
        while position < whole.position {
            let header = header_at(position)?;
            removed += u64::from(header.record.batch.message_count);
            position += header.bytes();
        }
        last.messages = whole.messages.saturating_sub(removed);
        Ok(CutAt {
            segments,
            end: last,
        })
    }

    /// Removes all records; the next one follows `start`.
    fn reset(&self, start: Start, sessions: &[u8]) -> Result<(), StorageError> {
        let base = Base {
            position: start.base,
            offset: start.first_offset,
            timestamp: 0,
        };
        self.settle()?;
        *lock(&self.next_sessions) = None;
        self.make_dir()?;
        let _no_sync_runs = lock(&self.syncing);
        // Not even the former log is expected any more.
        self.acknowledged.forget();
        self.committed.store(0, Ordering::SeqCst);
        self.acknowledged
            .lower(self.promise(Reach::default(), Reach::default()))?;
        let files = &self.shared.files;
        let former = {
            let mut log = lock(&self.log);
            log.removals += 1;
            log.resets += 1;
            log.synced = Reach::default();
            std::mem::take(&mut log.segments)
        };
        for segment in &former {
            segment.file.release();
        }
        let name = |segment: &Segment| segment.base.position.index.0;
        let kept = former.partition_point(|it| name(it) < base.position.index.0);
        for segment in former[kept..].iter().rev() {
            remove_segment(&self.dir, files, name(segment))?;
        }
        // With this name, what is before it no longer belongs to the log.
        let header = Segment::header(&self.key, base, true, sessions);
        let path = log_path(&self.dir, base.position.index.0);
        files.remove(&hint_path(&path))?;
        let segment = Segment::replace(&self.dir, files, &header, sessions)?;
        lock(&self.log).segments.push(segment);
        for segment in &former[..kept] {
            remove_segment(&self.dir, files, name(segment))?;
        }
        Ok(())
    }

    /// The log has again what may be expected of it.
    fn trust(&self) -> Result<(), StorageError> {
        let (end, synced) = {
            let log = lock(&self.log);
            (log.end().reach(), log.synced)
        };
        self.acknowledged.complete(self.promise(end, synced))?;
        self.offsets.trusted()?;
        self.trusted();
        Ok(())
    }
}

/// Where a log is cut.
struct CutAt {
    /// Segments that stay.
    segments: usize,
    /// Of the last one.
    end: End,
}
