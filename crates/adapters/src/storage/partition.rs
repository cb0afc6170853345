//! One partition: its log, its writer, its offsets.
//!
//! Appends queue; one blocking task at a time takes all that wait, writes them
//! with one vectored write (and one sync, where acknowledgements promise that)
//! and answers them in order. A caller that goes away does not disturb the write.
//! After a failed write or sync the partition takes nothing more: what is on the
//! disk is then unknown until it is opened again.

use std::collections::VecDeque;
use std::fs;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use iggy_binary_protocol::batch::BatchHeader;
use tokio::sync::{Semaphore, oneshot};
use tracing::warn;

use super::batch::{self, HEADER_BYTES};
use super::offsets::Offsets;
use super::segment::{FILE_HEADER_BYTES, IndexEntry, Segment, failed, sync_dir};
use super::{
    Appended, ConsumerKey, Durability, PartitionKey, PartitionOptions, PartitionStats,
    PolledBatches, ReadFrom, StorageError,
};

/// Bytes of batches that may wait for the writer; beyond it appenders wait.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Batches that share one write at most.
const BATCHES_PER_WRITE_MAX: usize = 256;
/// Bytes that a read takes from a file at once at most, unless one batch is larger.
const READ_BYTES_MAX: usize = 8 << 20;
/// Read on top of what the wanted messages take on average.
const READ_SLACK_BYTES: usize = 16 << 10;

type Answer = oneshot::Sender<Result<Appended, StorageError>>;

struct Waiting {
    header: BatchHeader,
    batch: Bytes,
    now_micros: u64,
    answer: Answer,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    writing: bool,
    failed: Option<StorageError>,
}

/// The log as readers see it: only what is acknowledged.
struct Log {
    segments: Vec<Segment>,
    messages: u64,
}

pub(super) struct Partition {
    key: PartitionKey,
    dir: PathBuf,
    options: PartitionOptions,
    queue: Mutex<Queue>,
    room: Arc<Semaphore>,
    log: RwLock<Log>,
    offsets: Mutex<Offsets>,
}

impl Partition {
    /// Opens the partition's files, or makes them.
    pub(super) fn open(
        dir: PathBuf,
        key: PartitionKey,
        options: PartitionOptions,
    ) -> Result<Self, StorageError> {
        if !dir.exists() {
            fs::create_dir_all(&dir).map_err(failed("create directory", &dir))?;
            for above in dir.ancestors().skip(1).take(3) {
                sync_dir(above)?;
            }
        }
        let segments = recover(&dir, &key, options)?;
        let first = segments.first().map_or(0, |segment| segment.base_offset);
        let next = segments.last().map_or(0, |segment| segment.next_offset);
        Ok(Self {
            offsets: Mutex::new(Offsets::open(&dir)?),
            key,
            dir,
            options,
            queue: Mutex::default(),
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            log: RwLock::new(Log {
                segments,
                messages: next - first,
            }),
        })
    }

    pub(super) async fn append(
        self: &Arc<Self>,
        batch: Bytes,
        now_micros: u64,
    ) -> Result<Appended, StorageError> {
        let header = batch::check(&batch)?;
        let bytes = u32::try_from(batch.len().min(QUEUE_BYTES_MAX)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        let (answer, answered) = oneshot::channel();
        let begin = {
            let mut queue = lock(&self.queue);
            if let Some(error) = &queue.failed {
                return Err(error.clone());
            }
            queue.waiting.push_back(Waiting {
                header,
                batch,
                now_micros,
                answer,
            });
            !std::mem::replace(&mut queue.writing, true)
        };
        if begin {
            let partition = Arc::clone(self);
            tokio::task::spawn_blocking(move || partition.write_all());
        }
        let result = answered.await.unwrap_or_else(|_| Err(self.stopped()));
        drop(permit);
        result
    }

    fn stopped(&self) -> StorageError {
        StorageError::Io {
            operation: "write",
            path: self.dir.display().to_string(),
            error: "the writer has stopped".into(),
        }
    }

    /// Writes until nothing waits.
    fn write_all(&self) {
        loop {
            let group: Vec<Waiting> = {
                let mut queue = lock(&self.queue);
                let count = queue.waiting.len().min(BATCHES_PER_WRITE_MAX);
                if count == 0 {
                    queue.writing = false;
                    return;
                }
                queue.waiting.drain(..count).collect()
            };
            match self.write_group(&group) {
                Ok(appended) => {
                    for (waiting, appended) in group.into_iter().zip(appended) {
                        let _ = waiting.answer.send(Ok(appended));
                    }
                }
                Err(error) => {
                    self.fail(&error, group);
                    return;
                }
            }
        }
    }

    fn fail(&self, error: &StorageError, group: Vec<Waiting>) {
        warn!(partition = ?self.key, %error, "the partition takes nothing more");
        let mut queue = lock(&self.queue);
        queue.failed = Some(error.clone());
        queue.writing = false;
        let rest = std::mem::take(&mut queue.waiting);
        drop(queue);
        for waiting in group.into_iter().chain(rest) {
            let _ = waiting.answer.send(Err(error.clone()));
        }
    }

    fn write_group(&self, group: &[Waiting]) -> Result<Vec<Appended>, StorageError> {
        self.roll_if_full()?;
        // Only this task changes the end of the log, so it may be read, written
        // behind, and moved in three steps.
        let (mut next_offset, mut timestamp) = {
            let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
            log.segments
                .last()
                .map_or((0, 0), |last| (last.next_offset, last.last_timestamp))
        };
        let mut headers = Vec::with_capacity(group.len());
        let mut stamps = Vec::with_capacity(group.len());
        for waiting in group {
            timestamp = timestamp.max(waiting.now_micros);
            headers.push(batch::stamp(
                waiting.header,
                self.key.partition_id,
                next_offset,
                timestamp,
                &waiting.batch,
            ));
            stamps.push((next_offset, timestamp));
            next_offset += u64::from(waiting.header.message_count);
        }
        let mut parts = Vec::with_capacity(2 * group.len());
        for (header, waiting) in headers.iter().zip(group) {
            parts.push(IoSlice::new(header));
            parts.push(IoSlice::new(&waiting.batch[HEADER_BYTES..]));
        }
        {
            let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(last) = log.segments.last() {
                for parts in parts.chunks_mut(1024) {
                    last.write(parts)?;
                }
                if self.options.durability == Durability::Synced {
                    last.sync()?;
                }
            }
        }
        let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
        let mut appended = Vec::with_capacity(group.len());
        for (waiting, (base_offset, timestamp)) in group.iter().zip(stamps) {
            let messages = waiting.header.message_count;
            log.messages += u64::from(messages);
            if let Some(last) = log.segments.last_mut() {
                last.note(timestamp, waiting.header.batch_length, messages);
            }
            appended.push(Appended {
                base_offset,
                messages,
            });
        }
        Ok(appended)
    }

    fn roll_if_full(&self) -> Result<(), StorageError> {
        let base = {
            let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
            match log.segments.last() {
                None => 0,
                Some(last) if last.bytes >= self.options.segment_bytes_max => {
                    last.sync()?;
                    last.next_offset
                }
                Some(_) => return Ok(()),
            }
        };
        let mut segment = Segment::create(&self.dir, &self.key, base)?;
        let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
        segment.last_timestamp = log.segments.last().map_or(0, |last| last.last_timestamp);
        log.segments.push(segment);
        Ok(())
    }

    pub(super) fn read(
        &self,
        from: ReadFrom,
        messages_max: u32,
        bytes_max: usize,
    ) -> Result<PolledBatches, StorageError> {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        let next = log.segments.last().map_or(0, |last| last.next_offset);
        let first = log.segments.first().map_or(0, |first| first.base_offset);
        let mut polled = PolledBatches {
            current_offset: next.saturating_sub(1),
            ..PolledBatches::default()
        };
        let offset = match from {
            ReadFrom::Offset(offset) => offset.max(first),
            ReadFrom::First => first,
            ReadFrom::Last => next.saturating_sub(u64::from(messages_max)).max(first),
            ReadFrom::Timestamp(timestamp) => match log.offset_at(timestamp)? {
                Some(offset) => offset,
                None => return Ok(polled),
            },
        };
        if messages_max == 0 || offset >= next {
            return Ok(polled);
        }
        log.collect(offset, messages_max, bytes_max, &mut polled)?;
        Ok(polled)
    }

    pub(super) fn store_offset(
        &self,
        consumer: ConsumerKey,
        offset: u64,
    ) -> Result<(), StorageError> {
        let stats = self.stats();
        if offset >= stats.next_offset {
            return Err(StorageError::InvalidOffset {
                offset,
                current: stats.current_offset(),
            });
        }
        lock(&self.offsets).store(consumer, offset, self.options.offset_durability)
    }

    pub(super) fn offset(&self, consumer: ConsumerKey) -> Option<u64> {
        lock(&self.offsets).get(consumer)
    }

    pub(super) fn delete_offset(&self, consumer: ConsumerKey) -> Result<(), StorageError> {
        lock(&self.offsets).delete(consumer, self.options.offset_durability)
    }

    pub(super) fn stats(&self) -> PartitionStats {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        PartitionStats {
            segments: log.segments.len() as u32,
            bytes: log
                .segments
                .iter()
                .map(|segment| segment.bytes - FILE_HEADER_BYTES)
                .sum(),
            messages: log.messages,
            next_offset: log.segments.last().map_or(0, |last| last.next_offset),
        }
    }

    pub(super) fn sync(&self) -> Result<(), StorageError> {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        log.segments.last().map_or(Ok(()), Segment::sync)
    }
}

impl Log {
    /// Offset of the first batch that arrived at or after this time.
    fn offset_at(&self, timestamp: u64) -> Result<Option<u64>, StorageError> {
        let at = self
            .segments
            .partition_point(|segment| segment.last_timestamp < timestamp);
        let Some(segment) = self.segments.get(at) else {
            return Ok(None);
        };
        // The entry in front of the first that is late enough: what is wanted
        // stands behind it.
        let entry = segment
            .index
            .partition_point(|entry| entry.timestamp < timestamp);
        let Some(entry) = segment.index.get(entry.saturating_sub(1)) else {
            return Ok(None);
        };
        let mut position = entry.position;
        while position < segment.bytes {
            let bytes = segment.read(position, HEADER_BYTES)?;
            let header = batch::header(&bytes).ok_or_else(|| damaged(segment, position))?;
            if header.base_timestamp >= timestamp {
                return Ok(Some(header.base_offset));
            }
            position += header.batch_length;
        }
        Ok(None)
    }

    fn collect(
        &self,
        offset: u64,
        messages_max: u32,
        bytes_max: usize,
        polled: &mut PolledBatches,
    ) -> Result<(), StorageError> {
        let at = self
            .segments
            .partition_point(|segment| segment.next_offset <= offset);
        let mut bytes = 0;
        for segment in &self.segments[at..] {
            let mut cursor = Cursor::new(segment, offset);
            while polled.messages < messages_max
                && let wanted = segment.bytes_of(messages_max - polled.messages)
                && let Some((header, batch)) =
                    cursor.next(wanted.min(bytes_max.saturating_sub(bytes)))?
            {
                let behind = header.base_offset + u64::from(header.message_count);
                if behind <= offset {
                    continue;
                }
                let room = bytes_max.saturating_sub(bytes);
                if polled.messages > 0 && room < HEADER_BYTES {
                    return Ok(());
                }
                let (parts, count, size) = batch::slice(
                    &batch,
                    &header,
                    offset,
                    messages_max - polled.messages,
                    room,
                )
                .ok_or_else(|| damaged(segment, cursor.position))?;
                if polled.messages > 0 && bytes + size > bytes_max {
                    return Ok(());
                }
                bytes += size;
                polled.messages += count;
                let first = header.base_offset.max(offset);
                polled.last_offset = Some(first + u64::from(count) - 1);
                polled.batches.extend(parts);
                if first + u64::from(count) < behind {
                    return Ok(());
                }
            }
            if polled.messages >= messages_max || bytes >= bytes_max {
                break;
            }
        }
        Ok(())
    }
}

/// Walks the batches of a segment from the one that holds an offset. Each byte is
/// read once, into a buffer that the batches share.
struct Cursor<'a> {
    segment: &'a Segment,
    position: u64,
    window: Bytes,
    window_at: u64,
}

impl<'a> Cursor<'a> {
    fn new(segment: &'a Segment, offset: u64) -> Self {
        let entry = segment
            .index
            .partition_point(|entry: &IndexEntry| entry.offset <= offset);
        let position = segment
            .index
            .get(entry.saturating_sub(1))
            .map_or(FILE_HEADER_BYTES, |entry| entry.position);
        Self {
            segment,
            position,
            window: Bytes::new(),
            window_at: 0,
        }
    }

    /// The next batch; `ahead` is how many bytes the caller still wants.
    fn next(&mut self, ahead: usize) -> Result<Option<(BatchHeader, Bytes)>, StorageError> {
        if self.position >= self.segment.bytes {
            return Ok(None);
        }
        self.want(HEADER_BYTES, ahead)?;
        let header = batch::header(self.here()).ok_or_else(|| self.damaged())?;
        let size = header.total_size();
        self.want(size, ahead)?;
        let start = (self.position - self.window_at) as usize;
        if start + size > self.window.len() {
            return Err(self.damaged());
        }
        let batch = self.window.slice(start..start + size);
        self.position += size as u64;
        Ok(Some((header, batch)))
    }

    fn here(&self) -> &[u8] {
        &self.window[(self.position - self.window_at) as usize..]
    }

    /// Has at least `bytes` from the position on in the window, if they exist.
    fn want(&mut self, bytes: usize, ahead: usize) -> Result<(), StorageError> {
        let have = (self.window_at + self.window.len() as u64).saturating_sub(self.position);
        if self.window_at <= self.position && have >= bytes as u64 && !self.window.is_empty() {
            return Ok(());
        }
        let rest = self.segment.bytes - self.position;
        let wanted = bytes.max((ahead + READ_SLACK_BYTES).min(READ_BYTES_MAX)) as u64;
        let window = self
            .segment
            .read(self.position, wanted.min(rest) as usize)?;
        self.window = window.into();
        self.window_at = self.position;
        Ok(())
    }

    fn damaged(&self) -> StorageError {
        damaged(self.segment, self.position)
    }
}

fn damaged(segment: &Segment, position: u64) -> StorageError {
    StorageError::Corrupt {
        path: segment.path.display().to_string(),
        position,
        what: "a batch does not decode".into(),
    }
}

/// Opens a partition's segments in order. Sealed ones are walked; the last one is
/// checked batch by batch, and cut behind its last sound batch when the rest can
/// be what a crash leaves.
fn recover(
    dir: &Path,
    key: &PartitionKey,
    options: PartitionOptions,
) -> Result<Vec<Segment>, StorageError> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut segments: Vec<Segment> = Vec::with_capacity(paths.len());
    let last = paths.len().saturating_sub(1);
    for (number, path) in paths.into_iter().enumerate() {
        let length = fs::metadata(&path).map_err(failed("inspect", &path))?.len();
        if number == last && length < FILE_HEADER_BYTES {
            // It was being made; nothing in it was acknowledged.
            fs::remove_file(&path).map_err(failed("remove", &path))?;
            break;
        }
        let (segment, damage) = Segment::open(path, key, number == last)?;
        if let Some(previous) = segments.last()
            && previous.next_offset != segment.base_offset
        {
            return Err(StorageError::Corrupt {
                path: segment.path.display().to_string(),
                position: 0,
                what: format!(
                    "it begins at offset {}, the segment before ends at {}",
                    segment.base_offset, previous.next_offset
                ),
            });
        }
        if let Some(position) = damage {
            let sealed = number != last;
            let acknowledged = options.durability == Durability::Synced
                && segment.has_sound_batch_behind(position)?;
            if sealed || acknowledged {
                return Err(damaged(&segment, position));
            }
            warn!(
                path = %segment.path.display(),
                position,
                "dropping an unfinished write behind the last whole batch"
            );
            segment.truncate()?;
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
