//! The write-ahead log: one format for every backend.
//!
//! # On disk
//! Segments of one size, `<number>.wal`, preallocated; those that are no longer
//! needed become `spare-<number>` and are used again. A segment is a header block
//! and frames:
//!
//! ```text
//! header (4 KiB): magic 8 | version u16 | flags u8 | group u128 | segment u64
//!                 | first frame u64 | nonce u64 | crc32c
//! frame:          magic u32 | segment u64 | sequence u64 | synced u64 | length u32 | crc32c | records
//! ```
//! A frame is what one write put there; it begins at a multiple of 4 KiB, so that
//! writing it never touches a sector of an acknowledged one. Its checksum covers
//! all of it, so a frame is there or it is not. It carries its segment's number,
//! which is never used twice, and its checksum begins with the segment's nonce:
//! neither what a recycled file held before, nor a payload that somebody made to
//! look like a frame, is one. `synced` is the last frame that was durable when
//! this one was written.
//!
//! # Recovery
//! Frames are read in sequence. Where the next one is not whole, either a crash
//! tore what was never acknowledged, or something acknowledged is damaged. Of the
//! frames since the last sync a crash may leave any, so a whole frame behind a
//! missing one proves nothing by itself. It is damage when a later segment exists,
//! or when a later frame of the segment says that the missing one was synced: then
//! recovery refuses. Otherwise it is a torn tail and ends the log. (Damage to the
//! very last frame, which nothing vouches for yet, looks like a torn one in any
//! log; to the group the replica is then one that forgot its last words.)
//!
//! What nothing vouches for is written once more and synced before it counts.
//! Every start begins a new segment, whose header ends the one before: a torn tail
//! is never written behind and can never come back.
//!
//! # Batches
//! A [`PersistBatch`] is recovered whole or not at all, and of several a prefix;
//! all that was synced is in it. Whole batches matter: a log that lost the end of
//! a batch which replaces a suffix is neither the old log nor the new one, under a
//! hard state (Raft's term and vote, VR's view and log-view) that describes one of
//! them. Inside a batch a reset comes first, then entries, then the hard state.
//! A batch too large for one frame, or for what is left of the segment, spans
//! several frames or segments; its records count when the last one is there.
//!
//! # Failure
//! After a failed write or sync the log refuses everything: what is on the disk is
//! then unknown, and trying again could acknowledge what is not there.

mod error;
mod record;
mod recovery;
mod replay;
mod segment;
mod spares;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use consensus::rule;
use consensus::{Entry, Index, PersistBatch, Term};

pub use error::WalError;

use crate::disk::{Disk, DiskFile};
use record::{Body, Record};
use segment::{BLOCK_BYTES, FrameHeader, Sealed, SegmentHeader};
use spares::Spares;

/// The hard state of a batch has at most so many bytes.
pub const HARD_STATE_BYTES_MAX: usize = 512;
/// Bounds of [`WalConfig::segment_bytes`].
const SEGMENT_BYTES_MIN: u64 = 4 * BLOCK_BYTES as u64;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How the log is kept.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// The group whose log it is; another's is refused.
    pub group: u128,
    /// Size of a segment in bytes: a multiple of 4 KiB between 16 KiB and 1 GiB.
    /// A record larger than a segment less two blocks is refused. May change
    /// between starts.
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
        self.end().0
    }

    /// The same with the term of what is there.
    #[must_use]
    pub fn end(&self) -> (Index, Term) {
        self.entries.last().map_or_else(
            || self.reset.unwrap_or_default(),
            |entry| (entry.index, entry.term),
        )
    }
}

/// Sizes, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalSize {
    /// Segments in use.
    pub segments: usize,
    /// Segments kept for reuse, and one that is being made.
    pub spares: usize,
    /// Bytes of both on disk.
    pub bytes: u64,
}

/// What was done since the log was opened, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Frames written: one for each write.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Their bytes, padding to 4 KiB included.
    pub bytes: u64,
    /// Syncs of them.
    pub syncs: u64,
}

/// The segment that is being written.
struct Active {
    header: SegmentHeader,
    file: Box<dyn DiskFile>,
    at: u64,
    needed_for: Index,
}

/// The write-ahead log, open for appending.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: String,
    config: WalConfig,
    sealed: VecDeque<Sealed>,
    active: Active,
    spares: Spares,
    next_number: u64,
    next_sequence: u64,
    synced_sequence: u64,
    /// The last index, once known: what is appended has to follow.
    last: Option<Index>,
    hard_state: Option<Bytes>,
    /// The segment that holds the newest hard state.
    hard_state_in: u64,
    buffer: Vec<u8>,
    stats: WalStats,
    poisoned: bool,
}

impl Wal {
    /// Opens the log in `dir`, or begins it, and returns what it holds. What it
    /// returns is durable.
    ///
    /// # Errors
    /// When the disk fails, acknowledged data is damaged, or the log is of
    /// another version or group.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &str,
        config: WalConfig,
    ) -> Result<(Self, RecoveredLog), WalError> {
        let segment_bytes = config.segment_bytes;
        if !segment_bytes.is_multiple_of(BLOCK_BYTES as u64)
            || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
        {
            return Err(WalError::SegmentSize { segment_bytes });
        }
        disk.create_dir(dir)?;
        let found = recovery::recover(disk.as_ref(), dir, &config)?;
        let mut spares = found.spares;
        let mut next_number = found.next_number;
        while spares.wanted() {
            spares.prepare(disk.as_ref(), &mut next_number)?;
        }
        let header = SegmentHeader {
            number: next_number,
            first_sequence: found.next_sequence,
            nonce: disk.nonce(),
            first_of_start: true,
        };
        let active = spares.begin(disk.as_ref(), config.group, header)?;
        let log = found.log;
        let knows_last = log.reset.is_some() || !log.entries.is_empty();
        let mut wal = Self {
            disk,
            dir: dir.to_owned(),
            config,
            sealed: found.sealed,
            active,
            spares,
            next_number: next_number + 1,
            next_sequence: found.next_sequence,
            synced_sequence: found.next_sequence - 1,
            last: knows_last.then(|| log.last()),
            hard_state: log.hard_state.clone(),
            hard_state_in: found.hard_state_in,
            buffer: Vec::new(),
            stats: WalStats::default(),
            poisoned: false,
        };
        // Segments of starts that wrote nothing pile up otherwise.
        wal.compact(Index::ZERO)?;
        Ok((wal, log))
    }

    /// Writes batches in order, in as few writes as possible. Durable after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// When the disk fails (fatal: nothing may be written any more), or a record
    /// is larger than a segment (nothing was written).
    ///
    /// # Panics
    /// When entries do not follow from the log, or a hard state is larger than
    /// [`HARD_STATE_BYTES_MAX`]: the log could not be recovered.
    pub fn append(&mut self, batches: &[PersistBatch]) -> Result<(), WalError> {
        let records = record::of(batches);
        let record_bytes_max = self.config.segment_bytes as usize - 2 * BLOCK_BYTES;
        if let Some(record) = records.iter().find(|r| r.bytes() > record_bytes_max) {
            return Err(WalError::TooLarge {
                bytes: record.bytes(),
                segment_bytes: self.config.segment_bytes,
            });
        }
        self.guarded(|wal| {
            wal.check(&records);
            wal.append_records(&records)
        })
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// When the disk fails: fatal, nothing is known of what was written.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.guarded(Self::sync_active)
    }

    /// Gives up segments that are not needed for the log behind `through`, after
    /// making everything written durable.
    ///
    /// # Errors
    /// When the disk fails: fatal.
    pub fn compact(&mut self, through: Index) -> Result<(), WalError> {
        self.guarded(|wal| wal.drop_segments(through))
    }

    /// Does a slice of the work of having a spare segment, about a millisecond
    /// long. To be called when there is nothing to write, as long as it returns
    /// true: then a full segment is followed by the next without delay.
    ///
    /// # Errors
    /// When the disk fails or is full. The log is unharmed; the next full segment
    /// makes its successor itself, or fails.
    pub fn prepare(&mut self) -> Result<bool, WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        if self.spares.wanted() {
            self.spares
                .prepare(self.disk.as_ref(), &mut self.next_number)?;
        }
        Ok(self.spares.wanted())
    }

    /// What the log takes on disk.
    #[must_use]
    pub fn size(&self) -> WalSize {
        let segments = self.sealed.len() + 1;
        let spares = self.spares.count();
        WalSize {
            segments,
            spares,
            bytes: (segments + spares) as u64 * self.config.segment_bytes,
        }
    }

    /// What was done since the log was opened.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        self.stats
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

    /// A log with a gap is refused when it is opened, so none may be written.
    fn check(&mut self, records: &[Record<'_>]) {
        for record in records {
            match record.body {
                Body::Reset(index, _) => self.last = Some(index),
                Body::Entry(entry) => {
                    let follows = self.last.is_none_or(|last| entry.index <= last.next());
                    assert!(
                        follows && entry.index > Index::ZERO,
                        "entry {} does not follow the log, which ends at {:?}",
                        entry.index,
                        self.last
                    );
                    self.last = Some(entry.index);
                }
                Body::HardState(state) => assert!(
                    state.len() <= HARD_STATE_BYTES_MAX,
                    "a hard state of {} bytes",
                    state.len()
                ),
            }
        }
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
        let frame = FrameHeader {
            sequence: self.next_sequence,
            synced: self.synced_sequence,
        };
        segment::encode_frame(&mut self.buffer, &self.active.header, &frame, records);
        self.active.file.write_at(self.active.at, &self.buffer)?;
        self.active.at += self.buffer.len() as u64;
        self.next_sequence += 1;
        self.stats.frames += 1;
        self.stats.records += records.len() as u64;
        self.stats.bytes += self.buffer.len() as u64;
        for record in records {
            self.wrote(record);
        }
        Ok(())
    }

    /// Notes what keeps the active segment alive.
    fn wrote(&mut self, record: &Record<'_>) {
        let active = &mut self.active;
        match record.body {
            Body::Entry(entry) => active.needed_for = active.needed_for.max(entry.index),
            Body::Reset(index, _) => {
                // Everything before is void; the reset itself is needed until the
                // first entry behind it is not.
                active.needed_for = index.next();
                for sealed in &mut self.sealed {
                    sealed.needed_for = Index::ZERO;
                }
            }
            Body::HardState(state) => {
                self.hard_state = Some(Bytes::copy_from_slice(state));
                self.hard_state_in = active.header.number;
            }
        }
    }

    fn sync_active(&mut self) -> Result<(), WalError> {
        if rule!(WalSynced) {
            self.active.file.sync()?;
        }
        self.synced_sequence = self.next_sequence - 1;
        self.stats.syncs += 1;
        Ok(())
    }

    /// Seals the active segment and begins the next. What is in the old one is
    /// durable before the new one exists: a later segment vouches for it.
    fn roll(&mut self) -> Result<(), WalError> {
        if rule!(FullSegmentSynced) {
            self.sync_active()?;
        }
        let header = SegmentHeader {
            number: self.next_number,
            first_sequence: self.next_sequence,
            nonce: self.disk.nonce(),
            first_of_start: false,
        };
        self.next_number += 1;
        let next = self
            .spares
            .begin(self.disk.as_ref(), self.config.group, header)?;
        let old = std::mem::replace(&mut self.active, next);
        self.sealed.push_back(Sealed {
            number: old.header.number,
            needed_for: old.needed_for,
        });
        Ok(())
    }

    fn drop_segments(&mut self, through: Index) -> Result<(), WalError> {
        let droppable = self
            .sealed
            .iter()
            .take_while(|sealed| sealed.needed_for <= through || !rule!(NeededSegmentsKept))
            .count();
        let Some(last) = droppable.checked_sub(1).map(|at| self.sealed[at].number) else {
            return Ok(());
        };
        // The hard state must outlive the segment that holds it.
        if self.hard_state_in <= last
            && rule!(HardStateKept)
            && let Some(state) = self.hard_state.clone()
        {
            self.append_records(&[Record {
                body: Body::HardState(&state),
                last: true,
            }])?;
        }
        // What makes the front superfluous is durable before the front goes.
        if self.synced_sequence + 1 < self.next_sequence && rule!(FrontDroppedAfterSync) {
            self.sync_active()?;
        }
        for sealed in self.sealed.drain(..droppable) {
            self.spares.retire(self.disk.as_ref(), sealed.number)?;
        }
        self.disk.sync_dir(&self.dir)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
