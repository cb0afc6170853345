//! One file of a partition's log.
//!
//! ```text
//! <base offset, 20 digits>.log: magic 8 | version u16 | stream u32 | topic u32
//!     | partition u32 | created_at u64 | base offset u64 | crc32c, padded to 64 | batches
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::batch::{self, HEADER_BYTES};
use super::{PartitionKey, StorageError};

const MAGIC: &[u8; 8] = b"IGGYMSG\n";
const VERSION: u16 = 1;
pub(super) const FILE_HEADER_BYTES: u64 = 64;
/// An index entry covers at least this many bytes of batches.
const INDEX_EVERY_BYTES: u64 = 16 << 10;
const SCAN_BYTES: usize = 1 << 20;

/// Where a batch stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct IndexEntry {
    pub(super) offset: u64,
    pub(super) timestamp: u64,
    pub(super) position: u64,
}

/// A segment, open.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    pub(super) base_offset: u64,
    /// Bytes of the file in use, its header among them.
    pub(super) bytes: u64,
    /// Every so many bytes one entry; the first batch always has one.
    pub(super) index: Vec<IndexEntry>,
    pub(super) last_timestamp: u64,
    pub(super) next_offset: u64,
}

pub(super) fn failed<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StorageError + 'a {
    move |error| StorageError::Io {
        operation,
        path: path.display().to_string(),
        error: error.to_string(),
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync directory", dir))
}

impl Segment {
    /// Begins a segment; its name is durable on return.
    pub(super) fn create(
        dir: &Path,
        key: &PartitionKey,
        base_offset: u64,
    ) -> Result<Self, StorageError> {
        let path = dir.join(format!("{base_offset:020}.log"));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(failed("create", &path))?;
        file.write_all(&file_header(key, base_offset))
            .and_then(|()| file.sync_data())
            .map_err(failed("write", &path))?;
        sync_dir(dir)?;
        Ok(Self {
            path,
            file: Arc::new(file),
            base_offset,
            bytes: FILE_HEADER_BYTES,
            index: Vec::new(),
            last_timestamp: 0,
            next_offset: base_offset,
        })
    }

    /// Opens a segment and reads where its batches stand. With `verify`, batches
    /// are checked completely, and reading ends before the first that is not
    /// sound: then the position of the damage is returned too.
    pub(super) fn open(
        path: PathBuf,
        key: &PartitionKey,
        verify: bool,
    ) -> Result<(Self, Option<u64>), StorageError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed("open", &path))?;
        let length = file.metadata().map_err(failed("inspect", &path))?.len();
        let base_offset = check_file_header(&path, &file, key)?;
        let mut segment = Self {
            path,
            file: Arc::new(file),
            base_offset,
            bytes: FILE_HEADER_BYTES,
            index: Vec::new(),
            last_timestamp: 0,
            next_offset: base_offset,
        };
        let damage = segment.scan(length, verify)?;
        Ok((segment, damage))
    }

    /// Walks the batches from the start.
    fn scan(&mut self, length: u64, verify: bool) -> Result<Option<u64>, StorageError> {
        let mut window = Vec::new();
        let mut window_at = 0;
        while self.bytes < length {
            let at = self.bytes;
            let in_window = |window_at: u64, window: &[u8], bytes: usize| {
                at >= window_at && at + bytes as u64 <= window_at + window.len() as u64
            };
            if !in_window(window_at, &window, HEADER_BYTES) {
                window = self.read(at, SCAN_BYTES)?;
                window_at = at;
            }
            let start = (at - window_at) as usize;
            let header = batch::header(&window[start..]);
            let Some(header) = header.filter(|header| {
                header.base_offset == self.next_offset
                    && header.message_count > 0
                    && header.batch_length <= length - at
            }) else {
                return Ok(Some(at));
            };
            if verify {
                let size = header.total_size();
                if !in_window(window_at, &window, size) {
                    window = self.read(at, size.max(SCAN_BYTES))?;
                    window_at = at;
                }
                let start = (at - window_at) as usize;
                let sound = window.get(start..start + size).is_some_and(batch::is_sound);
                if !sound {
                    return Ok(Some(at));
                }
            }
            self.note(
                header.base_timestamp,
                header.batch_length,
                header.message_count,
            );
        }
        Ok(None)
    }

    /// Takes note of a batch that was read or written at the end.
    pub(super) fn note(&mut self, timestamp: u64, bytes: u64, messages: u32) {
        let due = self
            .index
            .last()
            .is_none_or(|last| self.bytes - last.position >= INDEX_EVERY_BYTES);
        if due {
            self.index.push(IndexEntry {
                offset: self.next_offset,
                timestamp,
                position: self.bytes,
            });
        }
        self.bytes += bytes;
        self.next_offset += u64::from(messages);
        self.last_timestamp = timestamp;
    }

    /// What so many messages take on average.
    pub(super) fn bytes_of(&self, messages: u32) -> usize {
        let held = (self.next_offset - self.base_offset).max(1);
        let bytes = u128::from(self.bytes) * u128::from(messages) / u128::from(held);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Whether an undamaged batch stands anywhere behind `damage`.
    pub(super) fn has_sound_batch_behind(&self, damage: u64) -> Result<bool, StorageError> {
        let length = self
            .file
            .metadata()
            .map_err(failed("inspect", &self.path))?
            .len();
        let rest = self.read(damage, (length - damage) as usize)?;
        let found = (1..rest.len().saturating_sub(HEADER_BYTES)).any(|at| {
            batch::header(&rest[at..]).is_some_and(|header| {
                header.message_count > 0
                    && rest
                        .get(at..at.saturating_add(header.total_size()))
                        .is_some_and(batch::is_sound)
            })
        });
        Ok(found)
    }

    /// Cuts the file where its sound batches end.
    pub(super) fn truncate(&self) -> Result<(), StorageError> {
        self.file
            .set_len(self.bytes)
            .and_then(|()| self.file.sync_all())
            .map_err(failed("truncate", &self.path))
    }

    /// Up to `bytes` from `position` on; fewer at the end of the file.
    pub(super) fn read(&self, position: u64, bytes: usize) -> Result<Vec<u8>, StorageError> {
        let mut buffer = vec![0; bytes];
        let mut read = 0;
        while read < bytes {
            match self
                .file
                .read_at(&mut buffer[read..], position + read as u64)
            {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &self.path)(error)),
            }
        }
        buffer.truncate(read);
        Ok(buffer)
    }

    /// Writes at the end, without joining the parts.
    pub(super) fn write(&self, parts: &mut [IoSlice<'_>]) -> Result<(), StorageError> {
        let mut file: &File = &self.file;
        file.seek(SeekFrom::Start(self.bytes))
            .map_err(failed("seek", &self.path))?;
        let mut rest = parts;
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => {
                    return Err(failed("write", &self.path)(io::ErrorKind::WriteZero.into()));
                }
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("write", &self.path)(error)),
            }
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(failed("sync", &self.path))
    }
}

fn file_header(key: &PartitionKey, base_offset: u64) -> [u8; FILE_HEADER_BYTES as usize] {
    let mut out = [0; FILE_HEADER_BYTES as usize];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    out[10..14].copy_from_slice(&key.stream_id.to_le_bytes());
    out[14..18].copy_from_slice(&key.topic_id.to_le_bytes());
    out[18..22].copy_from_slice(&key.partition_id.to_le_bytes());
    out[22..30].copy_from_slice(&key.created_at.to_le_bytes());
    out[30..38].copy_from_slice(&base_offset.to_le_bytes());
    let crc = crc32c::crc32c(&out[..38]);
    out[38..42].copy_from_slice(&crc.to_le_bytes());
    out
}

fn check_file_header(path: &Path, file: &File, key: &PartitionKey) -> Result<u64, StorageError> {
    let corrupt = |what: &str| StorageError::Corrupt {
        path: path.display().to_string(),
        position: 0,
        what: what.to_owned(),
    };
    let mut found = [0; FILE_HEADER_BYTES as usize];
    file.read_exact_at(&mut found, 0)
        .map_err(|_| corrupt("no header"))?;
    if &found[..8] != MAGIC {
        return Err(corrupt("not a segment"));
    }
    let version = u16::from_le_bytes([found[8], found[9]]);
    if version != VERSION {
        return Err(StorageError::Version {
            path: path.display().to_string(),
            found: version,
            known: VERSION,
        });
    }
    let mut base = [0; 8];
    base.copy_from_slice(&found[30..38]);
    let base_offset = u64::from_le_bytes(base);
    if found != file_header(key, base_offset) {
        return Err(corrupt("the header is damaged or of another partition"));
    }
    Ok(base_offset)
}
