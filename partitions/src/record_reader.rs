//! Reading records for other copies.
//!
//! Headers and bodies share the buffer into which the file was read. Every byte is checked
//! before it is sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use consensus::Index;

use crate::batch::HEADER_BYTES;
use crate::error::StorageError;
use crate::files::{ManagedFile, lock};
use crate::format::{self, Format, StoredHeader};
use crate::partition::Partition;
use crate::record::{Record, RecordHeader};
use crate::recovery::kept_last;
use crate::replication::Sessions;
use crate::segment::Segment;

/// Bytes of one read at least: fewer are not faster.
const READ_BYTES_MIN: u64 = 64 << 10;

/// A part of a segment.
struct Part {
    file: Arc<ManagedFile>,
    format: Format,
    salt: u64,
    start: u64,
    end: u64,
}

/// What is read, and how much of it is left to be read.
struct Reading {
    after: Index,
    through: Index,
    bytes_left: u64,
    records: Vec<Record>,
}

impl Partition {
    pub(super) fn read_records(
        &self,
        after: Index,
        through: Index,
        bytes_max: usize,
    ) -> Result<Vec<Record>, StorageError> {
        loop {
            let (parts, through, removals) = {
                let log = lock(&self.log);
                let base = log.first_record().index;
                if after < base {
                    return Err(StorageError::NotKept { after, base });
                }
                let first = log
                    .segments
                    .partition_point(|segment| segment.end.last.index <= after);
                let mut bytes = 0;
                let mut parts = Vec::new();
                for segment in &log.segments[first..] {
                    if segment.base.position.index >= through || bytes > bytes_max as u64 {
                        break;
                    }
                    let start = segment.position_after_index(after);
                    bytes += segment.end.position - start;
                    parts.push(Part::of(segment, start));
                }
                (parts, through.min(log.end().position.index), log.removals)
            };
            let mut reading = Reading {
                after,
                through,
                bytes_left: bytes_max as u64,
                records: Vec::new(),
            };
            let read = parts.iter().try_for_each(|part| reading.read(part));
            // What was to be read may have been removed meanwhile.
            if read.is_ok() || lock(&self.log).removals == removals {
                return read.map(|()| reading.records);
            }
        }
    }
}

impl Partition {
    /// The sessions after the last record: those that are kept with a segment, and the
    /// records from there on.
    pub(super) fn read_sessions(&self) -> Result<Sessions, StorageError> {
        loop {
            let (kept, parts, removals) = {
                let log = lock(&self.log);
                let first = kept_last(&log.segments);
                let parts = log.segments[first.unwrap_or(0)..].iter();
                let parts = parts.filter(|it| it.format == Format::V2);
                let parts: Vec<_> = parts.map(|it| Part::of(it, it.records_at)).collect();
                let kept = first.map(|at| log.segments[at].kept_bytes());
                (kept, parts, log.removals)
            };
            let commit = Index(self.committed.load(Ordering::SeqCst));
            let read = kept.map_or(Ok(Sessions::default()), |kept| kept.decode());
            let read = read.and_then(|mut sessions| {
                for part in &parts {
                    part.apply_to(&mut sessions, commit)?;
                }
                Ok(sessions)
            });
            // What was to be read may have been removed meanwhile.
            if read.is_ok() || lock(&self.log).removals == removals {
                return read;
            }
        }
    }
}

impl Part {
    /// Everything of a segment from this position on.
    fn of(segment: &Segment, start: u64) -> Self {
        Self {
            file: Arc::clone(&segment.file),
            format: segment.format,
            salt: segment.salt,
            start,
            end: segment.end.position,
        }
    }

    /// Applies its records, of which only the headers are read, and those between them if they
    /// are small.
    fn apply_to(&self, sessions: &mut Sessions, commit: Index) -> Result<(), StorageError> {
        let (mut position, mut at, mut window) = (self.start, self.start, Vec::new());
        while position < self.end {
            let skipped = usize::try_from(position - at).unwrap_or(usize::MAX);
            let rest = window.get(skipped..).unwrap_or_default();
            if rest.len() < HEADER_BYTES {
                let bytes = READ_BYTES_MIN.min(self.end - position);
                let bytes = usize::try_from(bytes).unwrap_or(HEADER_BYTES);
                window = self.file.read(position, bytes)?;
                at = position;
            }
            let skipped = usize::try_from(position - at).unwrap_or(usize::MAX);
            let rest = window.get(skipped..).unwrap_or_default();
            let header = StoredHeader::decode(self.format, rest, self.salt, position);
            let header = header.ok_or_else(|| {
                StorageError::corrupt(&self.file.path, position, "a batch is damaged")
            })?;
            position += header.bytes();
            if header.record.tag.is_some() || position >= self.end {
                let (head, body) = (Bytes::new(), Bytes::new());
                sessions.apply(&header.record.into_record(head, body));
                sessions.settle(commit);
            }
        }
        Ok(())
    }
}

impl Reading {
    fn is_done(&self) -> bool {
        self.after >= self.through || (self.bytes_left == 0 && !self.records.is_empty())
    }

    fn read(&mut self, part: &Part) -> Result<(), StorageError> {
        let mut position = part.start;
        let mut needed = HEADER_BYTES as u64;
        while position < part.end && !self.is_done() {
            let bytes = self.bytes_left.max(READ_BYTES_MIN).max(needed);
            let bytes = usize::try_from(bytes.min(part.end - position)).unwrap_or(usize::MAX);
            let mut window = part.file.read(position, bytes)?;
            if window.len() < bytes {
                let at = position + window.len() as u64;
                let what = "the file ends before acknowledged batches";
                return Err(StorageError::corrupt(&part.file.path, at, what));
            }
            let (found, next) = self.scan(part, position, &mut window)?;
            let window = Bytes::from(window);
            for (at, header) in found {
                let body = at + HEADER_BYTES..at + header.batch.total_size();
                let record =
                    header.into_record(window.slice(at..at + HEADER_BYTES), window.slice(body));
                self.records.push(record);
            }
            needed = next.1;
            position = next.0;
        }
        Ok(())
    }

    /// The records in a window that starts with one, and where the next window starts and
    /// how many bytes it needs.
    #[allow(clippy::type_complexity)]
    fn scan(
        &mut self,
        part: &Part,
        position: u64,
        window: &mut [u8],
    ) -> Result<(Vec<(usize, RecordHeader)>, (u64, u64)), StorageError> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            let here = position + at as u64;
            let damaged = |what| StorageError::corrupt(&part.file.path, here, what);
            let enough = !found.is_empty() || !self.records.is_empty();
            if self.after >= self.through || (self.bytes_left == 0 && enough) {
                return Ok((found, (part.end, 0)));
            }
            let skipped = at.min(window.len());
            let rest = &mut window[skipped..];
            if rest.len() < HEADER_BYTES {
                return Ok((found, (here, HEADER_BYTES as u64)));
            }
            let header = StoredHeader::decode(part.format, rest, part.salt, here);
            let header = header.filter(|it| it.bytes() <= part.end - here);
            let header = header.ok_or_else(|| damaged("a batch is damaged"))?;
            let bytes = header.bytes();
            let header = header.record;
            let size = header.batch.total_size();
            if header.position.index <= self.after {
                at += size;
                continue;
            }
            if enough && bytes > self.bytes_left {
                self.bytes_left = 0;
                continue;
            }
            let Some(stored) = rest.get_mut(..size) else {
                return Ok((found, (here, bytes)));
            };
            format::clear_mark(stored);
            if header.check_body(&stored[HEADER_BYTES..]).is_err() {
                return Err(damaged("the messages of a batch are damaged"));
            }
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
            self.after = header.position.index;
            found.push((at, header));
            at += size;
        }
    }
}
