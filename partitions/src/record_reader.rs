//! Reading records for other copies.
//!
//! Headers and bodies share the buffer into which the file was read. Every byte is checked
//! before it is sent.

use std::sync::Arc;

use bytes::Bytes;
use consensus::Index;

use crate::batch::HEADER_BYTES;
use crate::error::StorageError;
use crate::files::{ManagedFile, lock};
use crate::format::{self, Format, StoredHeader};
use crate::partition::Partition;
use crate::record::{Record, RecordHeader};

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
                    parts.push(Part {
                        file: Arc::clone(&segment.file),
                        format: segment.format,
                        salt: segment.salt,
                        start,
                        end: segment.end.position,
                    });
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
