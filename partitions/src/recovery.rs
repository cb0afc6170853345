//! Opening the segments of a partition, and deciding what damage means.
//!
//! Everything that no hint vouches for is read and checked. Where a batch is
//! damaged, either a crash interrupted a write, or acknowledged data is lost. It
//! was a crash only if nothing after it proves otherwise (see
//! [`format`](crate::format)): then the log ends there. Proof is a later hint, or
//! a later batch whose mark records that the damaged place was on the disk, or that
//! it was in the memory of a machine that still runs.
//!
//! What was acknowledged last has no batch after it. That it is there is proved by
//! [`acknowledged`](crate::acknowledged): a cut never removes what an acknowledgement
//! promised, and a log that is too short without any damage is refused alike.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use crate::acknowledged::Found;
use crate::batch::{self, HEADER_BYTES};
use crate::error::{StorageError, failed};
use crate::files::{Files, ManagedFile, OnClose};
use crate::format::{self, FILE_HEADER_BYTES, FileHeader, Mark};
use crate::hint::{Hint, hint_path};
use crate::key::PartitionKey;
use crate::segment::{End, Segment, log_path};

/// Bytes of one read.
const SCAN_BYTES: usize = 1 << 20;

/// What a partition's directory contained.
#[derive(Default)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Segment>,
    /// Messages below this offset are known to be on the disk.
    pub(super) synced_offset: u64,
    /// What was acknowledged.
    pub(super) acknowledged: Found,
}

/// Where a log is damaged.
struct Damage {
    path: PathBuf,
    position: u64,
    /// Messages from this offset on cannot be read.
    offset: u64,
    what: String,
}

impl Damage {
    fn describe(&self) -> String {
        let (path, position) = (self.path.display(), self.position);
        format!("{path} is damaged at byte {position}: {}", self.what)
    }
}

struct Recovery<'a> {
    dir: &'a Path,
    files: &'a Arc<Files>,
    key: &'a PartitionKey,
    boot: u64,
    recovered: Recovered,
}

/// Opens the segments in a directory, cutting off what a crash left unfinished.
/// A missing directory is an empty partition.
pub(super) fn recover(
    dir: &Path,
    files: &Arc<Files>,
    key: &PartitionKey,
    boot: u64,
) -> Result<Recovered, StorageError> {
    let bases = segments_in(dir, files)?;
    let acknowledged = Found::load(dir, files, key)?;
    let mut recovery = Recovery {
        dir,
        files,
        key,
        boot,
        recovered: Recovered {
            acknowledged,
            ..Recovered::default()
        },
    };
    for (number, &base) in bases.iter().enumerate() {
        if let Some(damage) = recovery.open(base)? {
            recovery.judge(&damage, base, &bases[number + 1..])?;
            recovery.check_reaches(damage.offset, &damage.describe())?;
            recovery.cut(&damage, base, &bases[number + 1..])?;
            break;
        }
    }
    let end = recovery.end().map_or(0, |end| end.next_offset);
    recovery.check_reaches(end, "the rest is missing")?;
    let mut recovered = recovery.recovered;
    for segment in &mut recovered.segments {
        if segment.end.next_offset <= recovered.synced_offset {
            segment.synced = segment.end.position;
        }
    }
    if let Some((_, sealed)) = recovered.segments.split_last_mut() {
        sealed.iter_mut().for_each(Segment::seal);
    }
    Ok(recovered)
}

/// The base offsets of the segments, in order. Leftovers of interrupted writes
/// of hints are removed.
fn segments_in(dir: &Path, files: &Files) -> Result<Vec<u64>, StorageError> {
    let entries = match files.patiently(|| fs::read_dir(dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", dir)(error)),
    };
    let mut bases = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("list", dir))?.path();
        let extension = path.extension().and_then(OsStr::to_str);
        if extension == Some("tmp") {
            files.remove(&path)?;
        }
        let base = path.file_stem().and_then(OsStr::to_str);
        let base = base.and_then(|base| base.parse::<u64>().ok());
        if let (Some("log"), Some(base)) = (extension, base) {
            bases.push(base);
        }
    }
    bases.sort_unstable();
    Ok(bases)
}

impl Recovery<'_> {
    fn end(&self) -> Option<End> {
        self.recovered.segments.last().map(|segment| segment.end)
    }

    /// Opens the next segment. It is kept as far as it is valid, and not at all when
    /// its header is damaged.
    fn open(&mut self, base: u64) -> Result<Option<Damage>, StorageError> {
        let path = log_path(self.dir, base);
        if let Some(end) = self.end()
            && end.next_offset != base
        {
            let what = format!(
                "it starts at offset {base}, but the segment before it ends at {}",
                end.next_offset
            );
            if end.next_offset > base {
                return Err(StorageError::corrupt(&path, 0, what));
            }
            return Ok(Some(Damage {
                path,
                position: 0,
                offset: end.next_offset,
                what,
            }));
        }
        let file = ManagedFile::at(path.clone(), self.files, OnClose::Sync);
        let Some(header) = self.header(&file, base)? else {
            return Ok(Some(Damage {
                path,
                position: 0,
                offset: base,
                what: "its header is damaged".into(),
            }));
        };
        let length = file.len()?;
        let mut segment = self.open_vouched(file, &header, length)?;
        let damage = self.scan(&mut segment, length)?;
        self.recovered.segments.push(segment);
        Ok(damage.map(|position| Damage {
            path,
            position,
            offset: self.end().map_or(base, |end| end.next_offset),
            what: "a batch is damaged".into(),
        }))
    }

    fn header(
        &self,
        file: &Arc<ManagedFile>,
        base: u64,
    ) -> Result<Option<FileHeader>, StorageError> {
        let header = FileHeader::decode(&file.path, &file.read(0, FILE_HEADER_BYTES)?)?;
        if let Some(header) = header
            && (header.key != *self.key || header.base_offset != base)
        {
            let what = format!(
                "it belongs to {:?} from offset {} on",
                header.key, header.base_offset
            );
            return Err(StorageError::corrupt(&file.path, 0, what));
        }
        Ok(header)
    }

    /// The segment up to where its hint vouches for it.
    fn open_vouched(
        &mut self,
        file: Arc<ManagedFile>,
        header: &FileHeader,
        length: u64,
    ) -> Result<Segment, StorageError> {
        let mut segment = Segment {
            base_offset: header.base_offset,
            salt: header.salt,
            end: End {
                position: FILE_HEADER_BYTES as u64,
                next_offset: header.base_offset,
                timestamp: self.end().map_or(0, |end| end.timestamp),
            },
            index: Vec::new(),
            synced: 0,
            hinted: 0,
            file,
        };
        let hint = Hint::load(
            &segment.file.path,
            self.files,
            header.salt,
            header.base_offset,
        )?;
        if let Some(hint) = hint {
            if length < hint.end.position {
                let what = format!(
                    "it ends there, but {} bytes of it were on the disk once",
                    hint.end.position
                );
                return Err(StorageError::corrupt(&segment.file.path, length, what));
            }
            segment.synced = hint.end.position;
            segment.hinted = hint.end.position;
            segment.end = hint.end;
            segment.index = hint.index;
            self.saw_synced(hint.end.next_offset);
        }
        Ok(segment)
    }

    fn saw_synced(&mut self, offset: u64) {
        let synced = &mut self.recovered.synced_offset;
        *synced = offset.max(*synced);
    }

    /// Checks the batches from the segment's end on, and adds the valid ones to it.
    /// Returns the position of the first that is damaged.
    fn scan(&mut self, segment: &mut Segment, length: u64) -> Result<Option<u64>, StorageError> {
        let file = Arc::clone(&segment.file);
        let mut window = Window::new(&file);
        while segment.end.position < length {
            let at = segment.end.position;
            let header = format::stored_header(window.at(at, HEADER_BYTES)?, segment.salt, at);
            let Some((header, mark)) = header.filter(|(header, _)| {
                header.base_offset == segment.end.next_offset && header.batch_length <= length - at
            }) else {
                return Ok(Some(at));
            };
            let size = header.total_size();
            let batch = window.at(at, size)?;
            let Some(batch) = batch.get_mut(..size) else {
                return Ok(Some(at));
            };
            format::clear_mark(batch);
            if !batch::is_valid(batch) {
                return Ok(Some(at));
            }
            self.saw_synced(mark.synced_offset);
            segment.add(
                header.base_timestamp,
                header.batch_length,
                header.message_count,
            );
        }
        Ok(None)
    }

    /// An error when something after the damage proves that what is damaged was
    /// acknowledged and cannot have been lost in a crash.
    fn judge(&self, damage: &Damage, base: u64, later: &[u64]) -> Result<(), StorageError> {
        let refuse = |proof: String| {
            let what = format!("{}, though {proof}", damage.what);
            Err(StorageError::corrupt(&damage.path, damage.position, what))
        };
        for &base in std::iter::once(&base).chain(later) {
            let path = log_path(self.dir, base);
            let file = ManagedFile::at(path.clone(), self.files, OnClose::Sync);
            let Some(header) = self.header(&file, base)? else {
                continue;
            };
            // Hints are written in order. That of the damaged segment, if there is
            // one, ends before the damage.
            let is_after = path != damage.path || damage.position == 0;
            if is_after && Hint::load(&path, self.files, header.salt, base)?.is_some() {
                return refuse(format!("{} was on the disk", path.display()));
            }
            let from = if is_after { 0 } else { damage.position + 1 };
            let proof = self.find(&file, header.salt, from, |mark| {
                mark.synced_offset > damage.offset || (mark.boot == self.boot && mark.boot != 0)
            })?;
            if let Some(position) = proof {
                return refuse(format!(
                    "a valid batch follows it at byte {position} of {}",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    /// An error when a log that ends at this offset lacks what an acknowledgement
    /// promised.
    fn check_reaches(&self, end: u64, what: &str) -> Result<(), StorageError> {
        let acknowledged = self.recovered.acknowledged.promised(self.boot);
        match end < acknowledged {
            true => Err(StorageError::Lost {
                path: self.dir.to_owned(),
                end,
                acknowledged,
                what: what.to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// The position of the first valid batch header with such a mark.
    fn find(
        &self,
        file: &Arc<ManagedFile>,
        salt: u64,
        from: u64,
        proves: impl Fn(Mark) -> bool,
    ) -> Result<Option<u64>, StorageError> {
        let mut position = from.max(FILE_HEADER_BYTES as u64);
        loop {
            let window = file.read(position, SCAN_BYTES + HEADER_BYTES)?;
            if window.len() < HEADER_BYTES {
                return Ok(None);
            }
            let tries = window.len() - HEADER_BYTES + 1;
            for start in 0..tries {
                let bytes = &window[start..];
                let at = position + start as u64;
                if format::may_be_header(bytes, self.key.partition_id)
                    && let Some((_, mark)) = format::stored_header(bytes, salt, at)
                    && proves(mark)
                {
                    return Ok(Some(at));
                }
            }
            position += tries as u64;
        }
    }

    /// Ends the log before the damage, durably: what is cut must not come
    /// back after what is written next.
    fn cut(&mut self, damage: &Damage, base: u64, later: &[u64]) -> Result<(), StorageError> {
        warn!(
            path = %damage.path.display(),
            position = damage.position,
            offset = damage.offset,
            later_segments = later.len(),
            reason = damage.what,
            "cut the log here: a crash interrupted the write of what follows"
        );
        let mut removed = later.to_vec();
        let headless = damage.position == 0;
        if headless {
            removed.insert(0, base);
        }
        for base in removed.iter().rev() {
            let path = log_path(self.dir, *base);
            for path in [hint_path(&path), path] {
                self.files.remove(&path)?;
            }
            // The removal of each is durable before the next one: no hole is left.
            self.files.sync_dir(self.dir)?;
        }
        if headless && self.recovered.segments.is_empty() {
            // Offsets continue.
            let segment = Segment::create(self.dir, self.files, self.key, base, 0)?;
            segment.file.sync()?;
            self.recovered.segments.push(segment);
        } else if let Some(last) = self.recovered.segments.last() {
            last.file.truncate(last.end.position)?;
            last.file.sync()?;
        }
        self.files.sync_dir(self.dir)
    }
}

/// The part of a file that was read last.
struct Window<'a> {
    file: &'a Arc<ManagedFile>,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a Arc<ManagedFile>) -> Self {
        Self {
            file,
            at: 0,
            bytes: Vec::new(),
        }
    }

    /// The bytes from `position` on, at least `bytes` unless the file ends.
    fn at(&mut self, position: u64, bytes: usize) -> Result<&mut [u8], StorageError> {
        let end = self.at + self.bytes.len() as u64;
        if position < self.at || position + bytes as u64 > end {
            self.bytes = self.file.read(position, bytes.max(SCAN_BYTES))?;
            self.at = position;
        }
        Ok(&mut self.bytes[(position - self.at) as usize..])
    }
}
