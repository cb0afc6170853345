//! Reading batches for a poll.
//!
//! Bytes go from the page cache into one buffer and stay there: marks are
//! cleared and headers of slices written in place, and the poll's reply shares
//! the buffer. Batches of one buffer are adjacent, so a poll returns
//! one piece for each buffer, however many batches it has.
//!
//! Every batch is checked before it is served, since clients do not: that costs
//! half of what reading it from the page cache does.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use iggy_binary_protocol::batch::BatchHeader;

use crate::batch::{self, HEADER_BYTES};
use crate::error::StorageError;
use crate::files::ManagedFile;
use crate::format::{self, Format, StoredHeader};
use crate::types::PolledBatches;

/// Bytes of one read at most, unless one batch is larger.
const READ_BYTES_MAX: usize = 4 << 20;
/// Bytes of one read at least: fewer are not faster.
const READ_BYTES_MIN: usize = 16 << 10;

#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    Offset(u64),
    Timestamp(u64),
}

/// A part of a segment.
pub(super) struct Piece {
    pub(super) file: Arc<ManagedFile>,
    pub(super) format: Format,
    pub(super) salt: u64,
    /// A batch starts here, at or before the first that is requested.
    pub(super) start: u64,
    /// Where acknowledged batches end.
    pub(super) end: u64,
    /// How much of it suffices according to the index.
    pub(super) likely_bytes: u64,
}

/// A read that needs no lock.
pub(super) struct ReadPlan {
    pub(super) start: Start,
    pub(super) messages_max: u32,
    pub(super) bytes_max: usize,
    pub(super) pieces: Vec<Piece>,
    /// Only messages below this offset.
    pub(super) end: u64,
}

impl ReadPlan {
    pub(super) fn run(self) -> Result<PolledBatches, StorageError> {
        let mut reading = Reading {
            start: self.start,
            messages_left: self.messages_max,
            bytes_left: self.bytes_max,
            end: self.end,
            polled: PolledBatches {
                current_offset: self.end.saturating_sub(1),
                ..PolledBatches::default()
            },
        };
        for piece in &self.pieces {
            if reading.read(piece)? {
                break;
            }
        }
        Ok(reading.polled)
    }
}

struct Reading {
    start: Start,
    messages_left: u32,
    bytes_left: usize,
    end: u64,
    polled: PolledBatches,
}

/// The result of a window.
enum Outcome {
    /// Everything that was requested is there.
    Done,
    /// Continue at this position, with at least so many bytes.
    Next { position: u64, bytes: usize },
}

impl Reading {
    /// Whether the poll is complete.
    fn read(&mut self, piece: &Piece) -> Result<bool, StorageError> {
        let mut position = piece.start;
        let mut likely = piece.likely_bytes;
        let mut needed = HEADER_BYTES;
        while position < piece.end {
            // A little more than may be returned, for what is skipped before it.
            let bound = self.bytes_left.saturating_add(READ_BYTES_MIN);
            let likely_now = usize::try_from(likely).unwrap_or(usize::MAX);
            let bytes = likely_now
                .min(bound)
                .clamp(READ_BYTES_MIN, READ_BYTES_MAX)
                .max(needed);
            let rest = piece.end - position;
            let bytes = usize::try_from(rest).map_or(bytes, |rest| bytes.min(rest));
            let window = piece.file.read(position, bytes)?;
            if window.len() < bytes {
                let at = position + window.len() as u64;
                return Err(StorageError::corrupt(
                    &piece.file.path,
                    at,
                    "the file ends before acknowledged batches",
                ));
            }
            match self.gather(piece, position, window)? {
                Outcome::Done => return Ok(true),
                Outcome::Next {
                    position: next,
                    bytes,
                } => {
                    likely = likely.saturating_sub(next - position);
                    position = next;
                    needed = bytes;
                }
            }
        }
        Ok(self.messages_left == 0)
    }

    /// Takes the requested messages from a window that starts with a batch.
    fn gather(
        &mut self,
        piece: &Piece,
        position: u64,
        mut window: Vec<u8>,
    ) -> Result<Outcome, StorageError> {
        let mut taken: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        let outcome = loop {
            let here = position + at as u64;
            let next = |bytes| Outcome::Next {
                position: here,
                bytes,
            };
            if self.messages_left == 0 {
                break Outcome::Done;
            }
            let have = window.len().saturating_sub(at);
            let ends_here = here + have as u64 >= piece.end;
            if have == 0 || (have < HEADER_BYTES && !ends_here) {
                break next(HEADER_BYTES);
            }
            let header = StoredHeader::decode(piece.format, &window[at..], piece.salt, here);
            let Some(header) = header.filter(|it| it.bytes() <= piece.end - here) else {
                return Err(StorageError::corrupt(
                    &piece.file.path,
                    here,
                    "a batch is damaged",
                ));
            };
            let header = header.record.batch;
            let size = header.total_size();
            if header.base_offset >= self.end {
                break Outcome::Done;
            }
            let skipped = self.polled.messages == 0 && !self.is_requested(&header);
            if skipped || header.message_count == 0 {
                at += size;
                continue;
            }
            if self.polled.messages > 0 && size > self.bytes_left {
                break Outcome::Done;
            }
            if have < size {
                break next(size);
            }
            let batch = &mut window[at..at + size];
            let Some((range, rest)) = self.take(batch, &header) else {
                return Err(StorageError::corrupt(
                    &piece.file.path,
                    here,
                    "the messages of a batch are damaged",
                ));
            };
            let range = at + range.start..at + range.end;
            match taken.last_mut() {
                // What follows directly shares the piece.
                Some(last) if last.end == range.start => last.end = range.end,
                _ => taken.push(range),
            }
            if rest {
                break Outcome::Done;
            }
            at += size;
        };
        self.keep(window, &taken);
        Ok(outcome)
    }

    /// Adds parts of a window to the result.
    fn keep(&mut self, window: Vec<u8>, taken: &[Range<usize>]) {
        let bytes: usize = taken.iter().map(Range::len).sum();
        // A small part does not keep a large buffer.
        if bytes < window.len() / 2 {
            let copies = taken
                .iter()
                .map(|it| Bytes::copy_from_slice(&window[it.clone()]));
            self.polled.batches.extend(copies);
            return;
        }
        let window = Bytes::from(window);
        let parts = taken.iter().map(|range| window.slice(range.clone()));
        self.polled.batches.extend(parts);
    }

    fn is_requested(&self, header: &BatchHeader) -> bool {
        match self.start {
            Start::Offset(offset) => header.base_offset + u64::from(header.message_count) > offset,
            // All messages of a batch arrived at the same time.
            Start::Timestamp(timestamp) => header.base_timestamp >= timestamp,
        }
    }

    /// Turns a stored batch into what is served of it; whether messages
    /// are left at its end. `None` when the batch is damaged.
    fn take(&mut self, stored: &mut [u8], header: &BatchHeader) -> Option<(Range<usize>, bool)> {
        format::clear_own(stored);
        if !batch::is_valid(stored) {
            return None;
        }
        let from = match self.start {
            Start::Offset(offset) => offset.max(header.base_offset),
            Start::Timestamp(_) => header.base_offset,
        };
        let below_end = u32::try_from(self.end - from).unwrap_or(u32::MAX);
        let messages_max = self.messages_left.min(below_end);
        let whole = from == header.base_offset
            && header.message_count <= messages_max
            && stored.len() <= self.bytes_left;
        let (range, messages) = if whole {
            (0..stored.len(), header.message_count)
        } else {
            let slice = batch::slice_in_place(stored, header, from, messages_max, self.bytes_left)?;
            (slice.range, slice.messages)
        };
        self.messages_left -= messages;
        self.bytes_left = self.bytes_left.saturating_sub(range.len());
        self.polled.messages += messages;
        let next = from + u64::from(messages);
        self.polled.last_offset = Some(next - 1);
        let rest = next < header.base_offset + u64::from(header.message_count);
        Some((range, rest))
    }
}
