//! Segment files that wait to be used.
//!
//! Retired segments, and one that is made ahead of need. A file that has been
//! written once is about twice as quick to sync as one that is only reserved,
//! because the file system has nothing to note about it.

use consensus::rule;

use super::active::Active;
use super::config::WalConfig;
use super::error::WalError;
use super::segment::{self, BLOCK_BYTES, Sealed, SegmentHeader};
use crate::disk::{Disk, DiskError, DiskFile};

/// Bytes of one slice of the work: about a millisecond, for which a batch that arrives
/// meanwhile has to wait.
const SLICE_BYTES: u64 = 256 << 10;

pub(super) struct Spares {
    dir: String,
    segment_bytes: u64,
    kept_max: usize,
    ready: Vec<u64>,
    unready: Option<Unready>,
    /// Making one failed; it is tried again when a segment is needed, or after a while.
    gave_up: bool,
}

struct Unready {
    number: u64,
    file: Box<dyn DiskFile>,
    filled: u64,
}

impl Spares {
    /// The spares among the names in the directory; those of another size, left
    /// from another configuration or half made, and too many, are removed.
    pub(super) fn find(
        disk: &dyn Disk,
        dir: &str,
        config: &WalConfig,
        names: &[String],
    ) -> Result<Self, DiskError> {
        let mut ready = Vec::new();
        for number in names.iter().filter_map(|n| segment::spare_number_of(n)) {
            let path = segment::spare_path(dir, number);
            let whole = disk.open(&path)?.len()? == config.segment_bytes;
            if whole && ready.len() < config.spares_max {
                ready.push(number);
            } else {
                disk.remove(&path)?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            segment_bytes: config.segment_bytes,
            kept_max: config.spares_max,
            ready,
            unready: None,
            gave_up: false,
        })
    }

    pub(super) fn count(&self) -> usize {
        self.ready.len() + usize::from(self.unready.is_some())
    }

    /// The highest number that any of them had as a segment.
    pub(super) fn highest(&self) -> u64 {
        self.ready.iter().max().copied().unwrap_or(0)
    }

    /// Whether [`prepare`](Self::prepare) has anything to do.
    pub(super) fn is_short(&self) -> bool {
        self.unready.is_some() || (self.kept_max > 0 && self.ready.is_empty() && !self.gave_up)
    }

    /// Makes [`prepare`](Self::prepare) try again after a failure.
    pub(super) fn retry(&mut self) {
        self.gave_up = false;
    }

    /// Does a slice of the work of making a spare. A new one is named by the next
    /// number.
    pub(super) fn prepare(
        &mut self,
        disk: &dyn Disk,
        next_number: &mut u64,
    ) -> Result<(), DiskError> {
        let result = self.prepare_slice(disk, next_number);
        if result.is_err() {
            self.gave_up = true;
            if let Some(unready) = self.unready.take() {
                // It is not part of the log, whether or not that succeeds.
                let _ = disk.remove(&segment::spare_path(&self.dir, unready.number));
            }
        }
        result
    }

    fn prepare_slice(&mut self, disk: &dyn Disk, next_number: &mut u64) -> Result<(), DiskError> {
        if self.unready.is_none() {
            let number = *next_number;
            *next_number += 1;
            let path = segment::spare_path(&self.dir, number);
            self.unready = Some(Unready {
                number,
                file: disk.create(&path, self.segment_bytes)?,
                filled: 0,
            });
        }
        let Some(unready) = &mut self.unready else {
            return Ok(());
        };
        let slice = SLICE_BYTES.min(self.segment_bytes - unready.filled);
        unready
            .file
            .write_at(unready.filled, &vec![0; slice as usize])?;
        unready.file.sync()?;
        unready.filled += slice;
        if unready.filled == self.segment_bytes {
            self.ready.push(unready.number);
            self.unready = None;
        }
        Ok(())
    }

    /// Makes a segment out of a spare or a new file. A new one on a full disk may be
    /// smaller, but not than `bytes_min`. Its header is durable before
    /// its name is, so every segment that is found has a header.
    pub(super) fn make_segment(
        &mut self,
        disk: &dyn Disk,
        group: u128,
        header: SegmentHeader,
        bytes_min: u64,
    ) -> Result<Active, WalError> {
        self.gave_up = false;
        let (path, file) = if let Some(number) = self.ready.pop() {
            let path = segment::spare_path(&self.dir, number);
            let file = disk.open(&path)?;
            (path, file)
        } else if let Some(unready) = self.unready.take() {
            let path = segment::spare_path(&self.dir, unready.number);
            (path, unready.file)
        } else {
            let path = segment::spare_path(&self.dir, header.number);
            let file = self.create(disk, &path, bytes_min)?;
            (path, file)
        };
        file.write_at(0, &header.encode(group))?;
        if rule!(SegmentHeaderSynced) {
            file.sync()?;
        }
        disk.rename(&path, &segment::path(&self.dir, header.number))?;
        if rule!(SegmentNameSynced) {
            disk.sync_dir(&self.dir)?;
        }
        Ok(Active::new(header, file)?)
    }

    fn create(
        &self,
        disk: &dyn Disk,
        path: &str,
        bytes_min: u64,
    ) -> Result<Box<dyn DiskFile>, DiskError> {
        let block = BLOCK_BYTES as u64;
        let mut bytes = self.segment_bytes;
        loop {
            match disk.create(path, bytes) {
                Err(error) if error.is_full() && bytes / 2 / block * block >= bytes_min => {
                    bytes = bytes / 2 / block * block;
                }
                created => return created,
            }
        }
    }

    /// Keeps a segment that is no longer needed, or removes it. Not yet durable.
    pub(super) fn retire(&mut self, disk: &dyn Disk, sealed: &Sealed) -> Result<(), DiskError> {
        let path = segment::path(&self.dir, sealed.number);
        if self.count() >= self.kept_max || sealed.bytes != self.segment_bytes {
            return disk.remove(&path);
        }
        disk.rename(&path, &segment::spare_path(&self.dir, sealed.number))?;
        self.ready.push(sealed.number);
        Ok(())
    }
}

/// Cuts off what segments have reserved and not used, to make room on a full disk.
pub(super) fn cut_unused<'a>(
    disk: &dyn Disk,
    dir: &str,
    sealed: impl Iterator<Item = &'a mut Sealed>,
) -> Result<(), DiskError> {
    for sealed in sealed.filter(|sealed| sealed.end < sealed.bytes) {
        let file = disk.open(&segment::path(dir, sealed.number))?;
        file.truncate(sealed.end)?;
        sealed.bytes = sealed.end;
    }
    Ok(())
}
