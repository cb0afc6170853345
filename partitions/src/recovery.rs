//! Opening the segments of a partition, and deciding what damage means.
//!
//! Everything that no hint vouches for is read and checked. Where a record is
//! damaged, either a crash interrupted a write, or acknowledged data is lost. It
//! was a crash only if nothing after it proves otherwise (see
//! [`format`](crate::format)): then the log ends there. Proof is a later hint, or
//! a later record whose mark states that the damaged place was on the disk, or that
//! it was in the memory of a machine that still runs.
//!
//! What was acknowledged last has no record after it. That it is there is proved by
//! [`acknowledged`](crate::acknowledged): a cut never removes what an acknowledgement
//! promised, and a log that is too short without any damage is refused alike.
//!
//! The sessions that are kept with a segment are part of its header: should those be damaged
//! that the records after them are applied to, the log ends before that segment.
//!
//! A log that other copies can complete is not refused: it ends before the damage. What
//! follows stays in the files until the next write.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consensus::Index;
use tracing::warn;

use crate::acknowledged::Found;
use crate::batch::HEADER_BYTES;
use crate::error::{StorageError, failed};
use crate::files::{Files, ManagedFile, OnClose};
use crate::format::{
    Base, FILE_HEADER_BYTES_MAX, FileHeader, Format, Mark, Reach, StoredHeader, may_be_header,
};
use crate::hint::{Hint, hint_path};
use crate::key::PartitionKey;
use crate::replication::{Epoch, Position};
use crate::segment::{End, Segment, log_path};

/// Bytes of one read.
const SCAN_BYTES: usize = 1 << 20;

/// What a partition's directory contained.
#[derive(Default)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Segment>,
    /// Where the log starts, if it has no segment.
    pub(super) base: Base,
    /// The log is known to be on the disk up to this place.
    pub(super) synced: Reach,
    /// What was acknowledged.
    pub(super) acknowledged: Found,
    /// What has to be removed before the next write.
    pub(super) cut: Option<Cut>,
    /// Acknowledged records are damaged or missing, and other copies can complete the log.
    pub(super) damage: Option<StorageError>,
}

/// What follows the end of a log in its files.
pub(super) struct Cut {
    /// Segments to be removed, in order.
    segments: Vec<u64>,
    /// In the last segment that stays, something follows the log's end.
    in_last: bool,
}

impl Cut {
    /// Ends the log, at this end of its last segment, durably: what is cut must not come back after what is written next. A
    /// crash in between leaves no segment without the one before it.
    pub(super) fn apply(
        &self,
        dir: &Path,
        files: &Files,
        last: Option<(Arc<ManagedFile>, u64)>,
    ) -> Result<(), StorageError> {
        for base in self.segments.iter().rev() {
            remove_segment(dir, files, *base)?;
        }
        if let Some((file, end)) = last.filter(|_| self.in_last) {
            // It may vouch for more than is left.
            files.remove(&hint_path(&file.path))?;
            files.sync_dir(dir)?;
            file.truncate(end)?;
            file.sync()?;
        }
        files.sync_dir(dir)
    }
}

/// The number of the segment whose sessions the records after it are applied to.
pub(super) fn kept_last(segments: &[Segment]) -> Option<usize> {
    segments.iter().rposition(|segment| segment.kept.exists())
}

/// Removes a segment with its hint, durably.
pub(super) fn remove_segment(
    dir: &Path,
    files: &Files,
    base_index: u64,
) -> Result<(), StorageError> {
    let path = log_path(dir, base_index);
    for path in [hint_path(&path), path] {
        files.remove(&path)?;
    }
    files.sync_dir(dir)
}

/// Where a log is damaged.
struct Damage {
    path: PathBuf,
    position: u64,
    /// The log ends here.
    end: Reach,
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
    repairable: bool,
    recovered: Recovered,
}

/// Opens the segments in a directory. A missing directory is an empty partition. A log that
/// lacks what it acknowledged is refused, unless it is `repairable`: then it ends before
/// the damage.
pub(super) fn recover(
    dir: &Path,
    files: &Arc<Files>,
    key: &PartitionKey,
    boot: u64,
    repairable: bool,
) -> Result<Recovered, StorageError> {
    let bases = segments_in(dir, files)?;
    let acknowledged = Found::load(dir, files, key)?;
    let mut recovery = Recovery {
        dir,
        files,
        key,
        boot,
        repairable,
        recovered: Recovered {
            acknowledged,
            ..Recovered::default()
        },
    };
    let bases = recovery.without_former_log(bases)?;
    for (number, &base) in bases.iter().enumerate() {
        let Some(damage) = recovery.open(base)? else {
            continue;
        };
        recovery.end_with(&damage, base, &bases[number + 1..])?;
        break;
    }
    recovery.check_sessions(&bases)?;
    if recovery.recovered.damage.is_none() {
        let end = recovery
            .end()
            .map_or_else(|| recovery.recovered.base.reach(), |it| it.reach());
        match recovery.check_reaches(end, "the rest is missing") {
            Err(error) if repairable => recovery.recovered.damage = Some(error),
            reaches => reaches?,
        }
    }
    let mut recovered = recovery.recovered;
    for segment in &mut recovered.segments {
        if segment.end.last.index.0 <= recovered.synced.index {
            segment.synced = segment.end.position;
        }
    }
    if let Some((_, sealed)) = recovered.segments.split_last_mut() {
        sealed.iter_mut().for_each(Segment::seal);
    }
    Ok(recovered)
}

/// The base indices of the segments, in order. Leftovers of interrupted writes
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

    /// Removes what is before the last segment that starts the log: a crash has left it.
    fn without_former_log(&self, mut bases: Vec<u64>) -> Result<Vec<u64>, StorageError> {
        let mut first = None;
        for (number, &base) in bases.iter().enumerate().skip(1) {
            let file = ManagedFile::at(log_path(self.dir, base), self.files, OnClose::Sync);
            if self.header(&file, base)?.is_some_and(|it| it.starts_log) {
                first = Some(number);
            }
        }
        let former: Vec<_> = bases.drain(..first.unwrap_or(0)).collect();
        for base in former {
            remove_segment(self.dir, self.files, base)?;
        }
        Ok(bases)
    }

    /// Opens the next segment. It is kept as far as it is valid, and not at all when
    /// its header is damaged.
    fn open(&mut self, base: u64) -> Result<Option<Damage>, StorageError> {
        let path = log_path(self.dir, base);
        if let Some(end) = self.end()
            && end.last.index.0 != base
        {
            let last = end.last.index;
            let what =
                format!("it starts after record {base}, but the segment before it ends at {last}");
            if last.0 > base {
                return Err(StorageError::corrupt(&path, 0, what));
            }
            return Ok(Some(Damage {
                path,
                position: 0,
                end: end.reach(),
                what,
            }));
        }
        let file = ManagedFile::at(path.clone(), self.files, OnClose::Sync);
        let header = self.header(&file, base)?;
        let length = file.len()?;
        let whole = |header: &FileHeader| length >= header.records_at();
        let header = header.filter(|header| self.continues(header) && whole(header));
        let Some(header) = header else {
            let before = self
                .end()
                .map_or_else(|| self.lost_base(base), |end| end.base());
            self.recovered.base = before;
            return Ok(Some(Damage {
                path,
                position: 0,
                end: before.reach(),
                what: "its header is damaged".into(),
            }));
        };
        let mut segment = self.open_vouched(file, &header, length)?;
        let damage = self.scan(&mut segment, length)?;
        let end = segment.end.reach();
        self.recovered.segments.push(segment);
        Ok(damage.map(|position| Damage {
            path,
            position,
            end,
            what: "a batch is damaged".into(),
        }))
    }

    /// Ends the log before the damage, if that may be.
    fn end_with(&mut self, damage: &Damage, base: u64, later: &[u64]) -> Result<(), StorageError> {
        let proof = self.judge(damage, base, later);
        let proof = proof.and_then(|()| self.check_reaches(damage.end, &damage.describe()));
        match proof {
            Err(error) if self.repairable && error.is_damage() => {
                self.recovered.damage = Some(error);
            }
            proof => proof?,
        }
        self.end_before(damage, base, later);
        Ok(())
    }

    /// Ends the log where the sessions are not known that its last records follow.
    fn check_sessions(&mut self, bases: &[u64]) -> Result<(), StorageError> {
        while let Some(at) = kept_last(&self.recovered.segments) {
            let segment = &self.recovered.segments[at];
            if segment.kept_bytes().are_whole()? {
                break;
            }
            let base = segment.base;
            let damage = Damage {
                path: segment.file.path.clone(),
                position: 0,
                end: base.reach(),
                what: "the sessions that are kept with it are damaged".into(),
            };
            self.recovered.segments.truncate(at);
            let index = base.position.index.0;
            if at == 0 {
                self.recovered.base = self.lost_base(index);
            }
            let later = bases.partition_point(|base| *base <= index);
            self.end_with(&damage, index, &bases[later..])?;
        }
        Ok(())
    }

    /// Whether a segment with this header may follow the one before it.
    fn continues(&self, header: &FileHeader) -> bool {
        self.end().is_none_or(|end| {
            end.last == header.base.position && end.next_offset <= header.base.offset
        })
    }

    /// Where a log starts whose only segment has no header. Its offsets continue after any
    /// that may have been visible.
    fn lost_base(&self, base: u64) -> Base {
        Base {
            position: Position {
                epoch: Epoch(0),
                index: Index(base),
            },
            offset: base.max(self.recovered.acknowledged.end().offset),
            timestamp: 0,
        }
    }

    fn header(
        &self,
        file: &Arc<ManagedFile>,
        base: u64,
    ) -> Result<Option<FileHeader>, StorageError> {
        let header = FileHeader::decode(&file.path, &file.read(0, FILE_HEADER_BYTES_MAX)?)?;
        if let Some(header) = header
            && (header.key != *self.key || header.base.position.index.0 != base)
        {
            let what = format!(
                "it belongs to {:?} after record {}",
                header.key, header.base.position
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
        let mut segment = Segment::empty(file, header);
        if header.format == Format::V1 {
            segment.end.timestamp = self.end().map_or(0, |end| end.timestamp);
        }
        let path = &segment.file.path;
        let base = header.base.position.index.0;
        let hint = Hint::load(path, self.files, header.salt, base)?;
        if let Some(hint) = hint {
            if length < hint.end.position {
                let what = format!(
                    "it ends there, but {} bytes of it were on the disk once",
                    hint.end.position
                );
                let error = StorageError::corrupt(&segment.file.path, length, what);
                if !self.repairable {
                    return Err(error);
                }
                self.recovered.damage = Some(error);
                self.recovered.cut = Some(Cut {
                    segments: Vec::new(),
                    in_last: true,
                });
                return Ok(segment);
            }
            segment.synced = hint.end.position;
            segment.hinted = hint.end.position;
            segment.end = hint.end;
            segment.index = hint.index;
            segment.epochs = hint.epochs;
            self.saw_synced(hint.end.reach());
        }
        Ok(segment)
    }

    fn saw_synced(&mut self, place: Reach) {
        self.recovered.synced = self.recovered.synced.max(place);
    }

    /// Checks the records from the segment's end on, and adds the valid ones to it.
    /// Returns the position of the first that is damaged.
    fn scan(&mut self, segment: &mut Segment, length: u64) -> Result<Option<u64>, StorageError> {
        let file = Arc::clone(&segment.file);
        let mut window = Window::new(&file);
        while segment.end.position < length {
            let at = segment.end.position;
            let bytes = window.at(at, HEADER_BYTES)?;
            let header = StoredHeader::decode(segment.format, bytes, segment.salt, at);
            let Some(header) =
                header.filter(|it| segment.accepts(&it.record) && it.bytes() <= length - at)
            else {
                return Ok(Some(at));
            };
            let size = header.record.batch.total_size();
            let Some(record) = window.at(at, size)?.get(..size) else {
                return Ok(Some(at));
            };
            if header.record.check_body(&record[HEADER_BYTES..]).is_err() {
                return Ok(Some(at));
            }
            self.saw_synced(header.mark.synced);
            segment.add(&header.record);
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
            let proof = self.find(&file, &header, from, |mark| {
                mark.synced.index > damage.end.index || (mark.boot == self.boot && mark.boot != 0)
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

    /// An error when a log that ends here lacks what an acknowledgement promised.
    fn check_reaches(&self, end: Reach, what: &str) -> Result<(), StorageError> {
        let acknowledged = self.recovered.acknowledged.promised(self.boot);
        match end.index < acknowledged.index {
            true => Err(StorageError::Lost {
                path: self.dir.to_owned(),
                end: end.offset,
                acknowledged: acknowledged.offset,
                what: what.to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// The position of the first valid batch header with such a mark.
    fn find(
        &self,
        file: &Arc<ManagedFile>,
        header: &FileHeader,
        from: u64,
        proves: impl Fn(Mark) -> bool,
    ) -> Result<Option<u64>, StorageError> {
        let mut position = from.max(header.records_at());
        loop {
            let window = file.read(position, SCAN_BYTES + HEADER_BYTES)?;
            if window.len() < HEADER_BYTES {
                return Ok(None);
            }
            let tries = window.len() - HEADER_BYTES + 1;
            for start in 0..tries {
                let bytes = &window[start..];
                let at = position + start as u64;
                if may_be_header(bytes, self.key.partition_id)
                    && let Some(found) = StoredHeader::decode(header.format, bytes, header.salt, at)
                    && proves(found.mark)
                {
                    return Ok(Some(at));
                }
            }
            position += tries as u64;
        }
    }

    /// Ends the log before the damage.
    fn end_before(&mut self, damage: &Damage, base: u64, later: &[u64]) {
        warn!(
            path = %damage.path.display(),
            position = damage.position,
            offset = damage.end.offset,
            later_segments = later.len(),
            reason = damage.what,
            damage = self.recovered.damage.as_ref().map(tracing::field::display),
            "the log ends here; unless damage is reported, a crash interrupted the write of what \
             follows"
        );
        let mut segments = later.to_vec();
        let headless = damage.position == 0;
        // The name of the only segment states where the log continues: it is replaced.
        if headless && !self.recovered.segments.is_empty() {
            segments.insert(0, base);
        }
        self.recovered.cut = Some(Cut {
            segments,
            in_last: true,
        });
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
    fn at(&mut self, position: u64, bytes: usize) -> Result<&[u8], StorageError> {
        let end = self.at + self.bytes.len() as u64;
        if position < self.at || position + bytes as u64 > end {
            self.bytes = self.file.read(position, bytes.max(SCAN_BYTES))?;
            self.at = position;
        }
        Ok(&self.bytes[(position - self.at) as usize..])
    }
}
