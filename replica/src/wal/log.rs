//! Appending to the log.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use consensus::rule;
use consensus::{Index, PersistBatch};

use super::active::Active;
use super::config::{SEGMENT_BYTES_MIN, WalConfig};
use super::error::WalError;
use super::record::{self, Body, Record};
use super::recovered::RecoveredLog;
use super::recovery;
use super::segment::{self, BLOCK_BYTES, FrameHeader, Sealed, SegmentHeader};
use super::spares::{self, Spares};
use super::stats::{WalSize, WalStats};
use crate::disk::Disk;

/// When no spare segment could be made, for instance because the disk is full, that is
/// tried again after so many frames.
const FRAMES_BEFORE_RETRY: u64 = 256;

/// Bytes of a batch's hard state, at most.
pub const HARD_STATE_BYTES_MAX: usize = 512;

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
    /// The frame that holds it, when that was written since the log was opened.
    hard_state_frame: u64,
    buffer: Vec<u8>,
    stats: WalStats,
    poisoned: bool,
}

impl Wal {
    /// Opens the log in `dir`, or creates it, and returns what it contains. What it
    /// returns is durable.
    ///
    /// # Errors
    /// When [`WalConfig::segment_bytes`] is out of bounds, the disk fails, acknowledged
    /// data is damaged, or the log is of another version or group.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &str,
        config: WalConfig,
    ) -> Result<(Self, RecoveredLog), WalError> {
        config.check()?;
        disk.create_dir(dir)?;
        let found = recovery::recover(disk.as_ref(), dir, &config)?;
        let mut spares = found.spares;
        let mut next_number = found.next_number;
        while spares.is_short() {
            match spares.prepare(disk.as_ref(), &mut next_number) {
                // There are others, or unused room of the segments is cut off.
                Err(error) if error.is_full() => break,
                prepared => prepared?,
            }
        }
        let header = SegmentHeader {
            number: next_number,
            first_sequence: found.next_sequence,
            nonce: disk.nonce(),
            first_of_start: true,
        };
        let mut sealed = found.sealed;
        let active = SegmentMaker {
            disk: disk.as_ref(),
            dir,
            group: config.group,
            spares: &mut spares,
            sealed: &mut sealed,
        }
        .make(header, SEGMENT_BYTES_MIN)?;
        let log = found.log;
        let knows_last = log.reset.is_some() || !log.entries.is_empty();
        let mut wal = Self {
            disk,
            dir: dir.to_owned(),
            config,
            sealed,
            active,
            spares,
            next_number: next_number + 1,
            next_sequence: found.next_sequence,
            synced_sequence: found.next_sequence - 1,
            last: knows_last.then(|| log.last()),
            hard_state: log.hard_state.clone(),
            hard_state_in: found.hard_state_in,
            hard_state_frame: 0,
            buffer: Vec::new(),
            stats: WalStats::default(),
            poisoned: false,
        };
        // Otherwise segments of starts that wrote nothing accumulate.
        wal.compact(Index::ZERO)?;
        Ok((wal, log))
    }

    /// Writes batches in order, in as few writes as possible. Durable after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// When the disk fails (fatal: every later call is refused), or a record
    /// is larger than a segment (nothing was written).
    ///
    /// # Panics
    /// When entries do not follow from the log, or a hard state is larger than
    /// [`HARD_STATE_BYTES_MAX`]: the log could not be recovered.
    pub fn append(&mut self, batches: &[PersistBatch]) -> Result<(), WalError> {
        let records = record::of(batches);
        let record_bytes_max = self.config.record_bytes_max();
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
    /// When the disk fails: fatal, what was written is in an unknown state.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.guarded(Self::sync_active)
    }

    /// Drops segments that are not needed for the log after `through`; what makes them
    /// superfluous is durable before they go.
    ///
    /// # Errors
    /// When the disk fails: fatal.
    pub fn compact(&mut self, through: Index) -> Result<(), WalError> {
        self.guarded(|wal| wal.drop_segments(through))
    }

    /// Does a slice of the work of making a spare segment, about a millisecond
    /// long. To be called when there is nothing to write, as long as it returns
    /// true: then a full segment is followed by the next without delay.
    ///
    /// # Errors
    /// When the disk fails or is full. The log is unharmed; a segment is then made when
    /// the active one is full, or that write fails.
    pub fn prepare(&mut self) -> Result<bool, WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        if self.spares.is_short() {
            self.spares
                .prepare(self.disk.as_ref(), &mut self.next_number)?;
        }
        Ok(self.spares.is_short())
    }

    /// Whether room on the disk is reserved for the next segment, or none is to be reserved.
    #[must_use]
    pub fn has_reserve(&self) -> bool {
        self.config.spares_max == 0 || self.spares.count() > 0
    }

    /// Makes [`prepare`](Self::prepare) try again after it has failed. That also happens
    /// after some writes.
    pub fn retry_prepare(&mut self) {
        self.spares.retry();
    }

    /// What the log occupies on disk.
    #[must_use]
    pub fn size(&self) -> WalSize {
        let spares = self.spares.count();
        let sealed: u64 = self.sealed.iter().map(|sealed| sealed.bytes).sum();
        WalSize {
            segments: self.sealed.len() + 1,
            spares,
            bytes: sealed + self.active.bytes + spares as u64 * self.config.segment_bytes,
        }
    }

    /// Counts since the log was opened.
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
            let room = self.active.bytes.saturating_sub(self.active.at);
            let taken = segment::fitting(rest, room, self.config.frame_bytes);
            if taken == 0 {
                let next = rest.first().map_or(0, Record::bytes) + 2 * BLOCK_BYTES;
                self.roll(next.next_multiple_of(BLOCK_BYTES) as u64)?;
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
        if self.stats.frames.is_multiple_of(FRAMES_BEFORE_RETRY) {
            self.spares.retry();
        }
        for record in records {
            self.wrote(record);
        }
        Ok(())
    }

    /// Records what the active segment is needed for.
    fn wrote(&mut self, record: &Record<'_>) {
        let active = &mut self.active;
        match record.body {
            Body::Entry(entry) => active.needed_for = active.needed_for.max(entry.index),
            Body::Reset(index, _) => {
                // Everything before is void; the reset itself is needed until the
                // first entry after it is not.
                active.needed_for = index.next();
                for sealed in &mut self.sealed {
                    sealed.needed_for = Index::ZERO;
                }
            }
            Body::HardState(state) => {
                self.hard_state = Some(Bytes::copy_from_slice(state));
                self.hard_state_in = active.header.number;
                self.hard_state_frame = self.next_sequence - 1;
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

    /// Seals the active segment and opens the next. What is in the old one is
    /// durable before the new one exists: a later segment vouches for it. The next one
    /// has at least so many bytes.
    fn roll(&mut self, bytes_min: u64) -> Result<(), WalError> {
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
        let next = SegmentMaker {
            disk: self.disk.as_ref(),
            dir: &self.dir,
            group: self.config.group,
            spares: &mut self.spares,
            sealed: &mut self.sealed,
        }
        .make(header, bytes_min.max(SEGMENT_BYTES_MIN))?;
        let old = std::mem::replace(&mut self.active, next);
        self.sealed.push_back(old.sealed());
        Ok(())
    }

    /// Writes the newest hard state again.
    fn repeat_hard_state(&mut self) -> Result<(), WalError> {
        let Some(state) = self.hard_state.clone() else {
            return Ok(());
        };
        self.append_records(&[Record {
            body: Body::HardState(&state),
            last: true,
        }])
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
        if self.hard_state_in <= last && rule!(HardStateKept) {
            self.repeat_hard_state()?;
        }
        // Where it is in the last frame only, damage to that looks like a torn write, and
        // what was before it is about to go. A later frame vouches for it.
        if self.hard_state_frame + 1 == self.next_sequence && rule!(HardStateVouched) {
            self.sync_active()?;
            self.repeat_hard_state()?;
        }
        // What makes the front superfluous is durable before the front goes.
        if self.synced_sequence + 1 < self.next_sequence {
            self.sync_active()?;
        }
        for sealed in self.sealed.drain(..droppable) {
            self.spares.retire(self.disk.as_ref(), &sealed)?;
        }
        if rule!(RetiredNameSynced) {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(())
    }
}

/// What the next segment is made of.
struct SegmentMaker<'a> {
    disk: &'a dyn Disk,
    dir: &'a str,
    group: u128,
    spares: &'a mut Spares,
    sealed: &'a mut VecDeque<Sealed>,
}

impl SegmentMaker<'_> {
    /// Makes the next segment. On a full disk without a spare, what other segments have not
    /// used is cut off; if that is not enough, the segment is smaller, but not than
    /// `bytes_min`.
    fn make(self, header: SegmentHeader, bytes_min: u64) -> Result<Active, WalError> {
        let made = self
            .spares
            .make_segment(self.disk, self.group, header, u64::MAX);
        match made {
            Err(WalError::Disk(error)) if error.is_full() => {
                spares::cut_unused(self.disk, self.dir, self.sealed.iter_mut())?;
                self.spares
                    .make_segment(self.disk, self.group, header, bytes_min)
            }
            made => made,
        }
    }
}
