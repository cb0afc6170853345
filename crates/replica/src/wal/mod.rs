//! The write-ahead log: one format for every backend.
//!
//! # On disk
//! Segments of one size, `wal/<number>.wal`, preallocated; those that are no
//! longer needed become `wal/spare-<number>` and are used again. A segment is a
//! header block and frames:
//!
//! ```text
//! header (4 KiB): magic 8 | version u16 | group u128 | segment u64 | first frame u64 | crc32c
//! frame:          magic u32 | segment u64 | sequence u64 | synced u64 | length u32 | crc32c | records
//! record:         kind u8 | length u32 | body
//! ```
//! A frame is what one write put there; it begins at a multiple of 4 KiB, so that
//! writing it never touches a sector of an acknowledged one. Its checksum covers
//! all of it, so a frame is there or it is not. It carries its segment's number,
//! which is never used twice: what a recycled file held before is no frame of it.
//! `synced` is the last frame that was durable when this one was written.
//!
//! # Recovery
//! Frames are read in sequence. Where the next one is not whole, either a crash
//! tore what was never acknowledged, or something acknowledged is damaged. It is
//! damage when a later segment exists, or when a later frame of the segment says
//! that the missing one was synced: then recovery refuses. Otherwise it is a torn
//! tail and ends the log. (A single damaged frame at the very end cannot be told
//! from a torn one by any log; a replica in that state behaves as if it had not
//! acknowledged it, which is why the checksum of the medium matters too.)
//! Every start begins a new segment, so a torn tail is never written behind and
//! can never come back.
//!
//! # Order
//! Inside a batch, a reset comes first, then entries, then the hard state. A
//! batch that is larger than a frame is cut between records: what survives of it
//! is a prefix. That is safe: nobody was told of the missing rest, and a core
//! treats entries of a newer term than its hard state as that term begun.

mod record;
mod recovery;
mod segment;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use consensus::{Entry, Index, PersistBatch, Term};
use thiserror::Error;

use crate::disk::{Disk, DiskError, DiskFile};
use record::Record;
use segment::{BLOCK_BYTES, FrameHeader, SegmentHeader};

/// How the log is kept.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// The group whose log it is; another's is refused.
    pub group: u128,
    /// Size of a segment in bytes, a multiple of 4 KiB. A record larger than a
    /// segment less two blocks is refused.
    pub segment_bytes: u64,
    /// Unneeded segments kept for reuse; more are removed.
    pub spares_max: usize,
}

impl WalConfig {
    /// Segments of 32 MiB, of which up to four are kept for reuse.
    #[must_use]
    pub fn new(group: u128) -> Self {
        Self {
            group,
            segment_bytes: 32 << 20,
            spares_max: 4,
        }
    }
}

/// Why the log cannot be read or written.
#[derive(Debug, Error)]
pub enum WalError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An earlier write or sync failed; what reached the disk is unknown.
    #[error("an earlier write to the log failed; restart the node to recover from what is on disk")]
    Poisoned,
    /// Acknowledged data is damaged.
    #[error(
        "{path} is corrupt at byte {offset}: {what}. Acknowledged data is damaged, so this replica must not go on: restore its data directory, or replace the node under a new replica id"
    )]
    Corrupt {
        /// The segment.
        path: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Written by another version of this program.
    #[error("{path} has format {found}, this program knows {known}; use the version that wrote it")]
    Version {
        /// The segment.
        path: String,
        /// Its format.
        found: u16,
        /// Ours.
        known: u16,
    },
    /// The log of another group.
    #[error("{path} belongs to another cluster; check the data directory")]
    WrongGroup {
        /// The segment.
        path: String,
    },
    /// A record larger than a segment.
    #[error(
        "a record of {bytes} bytes does not fit into a segment of {segment_bytes}; raise wal_segment_bytes"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The segment's.
        segment_bytes: u64,
    },
}

/// What the log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    /// The newest hard state.
    pub hard_state: Option<Bytes>,
    /// What the first entry follows, where a reset said so.
    pub reset: Option<(Index, Term)>,
    /// The entries, gap-free.
    pub entries: Vec<Entry>,
    /// A crash tore an unacknowledged write, which was dropped.
    pub torn_tail: bool,
}

impl RecoveredLog {
    /// The last index, as far as the log knows.
    #[must_use]
    pub fn last(&self) -> Index {
        self.entries.last().map_or_else(
            || self.reset.map_or(Index::ZERO, |(index, _)| index),
            |entry| entry.index,
        )
    }
}

/// Sizes, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalSize {
    /// Segments in use.
    pub segments: usize,
    /// Segments kept for reuse.
    pub spares: usize,
    /// Bytes of both on disk.
    pub bytes: u64,
}

/// A segment that is no longer written.
#[derive(Clone, Copy, Debug)]
struct Sealed {
    number: u64,
    /// The highest index of an entry in it.
    entries_through: Index,
}

struct Active {
    number: u64,
    file: Box<dyn DiskFile>,
    at: u64,
    entries_through: Index,
}

/// The write-ahead log, open for appending.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: String,
    config: WalConfig,
    sealed: VecDeque<Sealed>,
    active: Active,
    spares: Vec<u64>,
    next_number: u64,
    next_sequence: u64,
    synced_sequence: u64,
    hard_state: Option<Bytes>,
    /// The segment that holds the newest hard state.
    hard_state_in: u64,
    buffer: Vec<u8>,
    poisoned: bool,
}

impl Wal {
    /// Opens the log in `dir`, or begins it, and returns what it holds.
    ///
    /// # Errors
    /// When the disk fails, acknowledged data is damaged, or the log is of
    /// another version or group.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &str,
        config: WalConfig,
    ) -> Result<(Self, RecoveredLog), WalError> {
        disk.create_dir(dir)?;
        let found = recovery::recover(disk.as_ref(), dir, &config)?;
        let mut spares = found.spares;
        let number = found.next_number;
        let active = segment::begin(
            disk.as_ref(),
            dir,
            &config,
            &mut spares,
            SegmentHeader {
                number,
                first_sequence: found.next_sequence,
            },
        )?;
        let mut wal = Self {
            disk,
            dir: dir.to_owned(),
            config,
            sealed: found.sealed,
            active,
            spares,
            next_number: number + 1,
            next_sequence: found.next_sequence,
            synced_sequence: found.next_sequence - 1,
            hard_state: found.log.hard_state.clone(),
            hard_state_in: found.hard_state_in,
            buffer: Vec::new(),
            poisoned: false,
        };
        wal.drop_empty_segments()?;
        Ok((wal, found.log))
    }

    /// Writes batches in order, in as few writes as possible. Durable after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// When the disk fails (fatal: nothing may be written any more), or a record
    /// is larger than a segment (nothing was written).
    pub fn append(&mut self, batches: &[PersistBatch]) -> Result<(), WalError> {
        let records: Vec<Record<'_>> = batches.iter().flat_map(record::of).collect();
        let record_bytes_max = self.config.segment_bytes as usize - 2 * BLOCK_BYTES;
        if let Some(record) = records.iter().find(|r| r.bytes() > record_bytes_max) {
            return Err(WalError::TooLarge {
                bytes: record.bytes(),
                segment_bytes: self.config.segment_bytes,
            });
        }
        self.guarded(|wal| wal.append_records(&records))
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// When the disk fails: fatal, nothing is known of what was written.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.guarded(Self::sync_active)
    }

    /// Gives up segments whose entries all are at or before `through`.
    ///
    /// # Errors
    /// When the disk fails: fatal.
    pub fn compact(&mut self, through: Index) -> Result<(), WalError> {
        self.guarded(|wal| wal.drop_segments(through))
    }

    /// What the log takes on disk.
    #[must_use]
    pub fn size(&self) -> WalSize {
        let segments = self.sealed.len() + 1;
        WalSize {
            segments,
            spares: self.spares.len(),
            bytes: (segments + self.spares.len()) as u64 * self.config.segment_bytes,
        }
    }

    /// Runs work that poisons the log when it fails.
    fn guarded(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), WalError>,
    ) -> Result<(), WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        let result = work(self);
        self.poisoned = result.is_err();
        result
    }

    fn append_records(&mut self, records: &[Record<'_>]) -> Result<(), WalError> {
        let mut rest = records;
        while !rest.is_empty() {
            let room = self.config.segment_bytes - self.active.at;
            let taken = segment::fitting(rest, room);
            if taken == 0 {
                self.roll()?;
                continue;
            }
            let (now, later) = rest.split_at(taken);
            self.write_frame(now)?;
            rest = later;
        }
        Ok(())
    }

    fn write_frame(&mut self, records: &[Record<'_>]) -> Result<(), WalError> {
        let header = FrameHeader {
            segment: self.active.number,
            sequence: self.next_sequence,
            synced: self.synced_sequence,
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        segment::encode_frame(&mut buffer, &header, records);
        let written = self.active.file.write_at(self.active.at, &buffer);
        let bytes = buffer.len() as u64;
        self.buffer = buffer;
        written?;
        self.active.at += bytes;
        self.next_sequence += 1;
        for record in records {
            match record {
                Record::Entry(entry) => {
                    self.active.entries_through = self.active.entries_through.max(entry.index);
                }
                Record::HardState(state) => {
                    self.hard_state = Some(Bytes::copy_from_slice(state));
                    self.hard_state_in = self.active.number;
                }
                Record::Reset(..) => {}
            }
        }
        Ok(())
    }

    fn sync_active(&mut self) -> Result<(), WalError> {
        self.active.file.sync()?;
        self.synced_sequence = self.next_sequence - 1;
        Ok(())
    }

    /// Seals the active segment and begins the next. What is in the old one is
    /// durable before the new one exists: a later segment vouches for it.
    fn roll(&mut self) -> Result<(), WalError> {
        self.sync_active()?;
        let header = SegmentHeader {
            number: self.next_number,
            first_sequence: self.next_sequence,
        };
        self.next_number += 1;
        let next = segment::begin(
            self.disk.as_ref(),
            &self.dir,
            &self.config,
            &mut self.spares,
            header,
        )?;
        let old = std::mem::replace(&mut self.active, next);
        self.sealed.push_back(Sealed {
            number: old.number,
            entries_through: old.entries_through,
        });
        Ok(())
    }

    fn drop_segments(&mut self, through: Index) -> Result<(), WalError> {
        let droppable = self
            .sealed
            .iter()
            .take_while(|sealed| sealed.entries_through <= through)
            .count();
        let Some(last) = droppable.checked_sub(1).map(|at| self.sealed[at].number) else {
            return Ok(());
        };
        // The hard state must outlive the segment that holds it.
        if self.hard_state_in <= last
            && let Some(state) = self.hard_state.clone()
        {
            self.append_records(&[Record::HardState(&state)])?;
            self.sync_active()?;
        }
        for _ in 0..droppable {
            if let Some(sealed) = self.sealed.pop_front() {
                self.retire(sealed.number)?;
            }
        }
        self.disk.sync_dir(&self.dir)?;
        Ok(())
    }

    /// Segments of starts that wrote nothing pile up otherwise.
    fn drop_empty_segments(&mut self) -> Result<(), WalError> {
        self.guarded(|wal| wal.drop_segments(Index::ZERO))
    }

    fn retire(&mut self, number: u64) -> Result<(), WalError> {
        let path = segment::path(&self.dir, number);
        if self.spares.len() < self.config.spares_max {
            let spare = segment::spare_path(&self.dir, number);
            self.disk.rename(&path, &spare)?;
            self.spares.push(number);
        } else {
            self.disk.remove(&path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
