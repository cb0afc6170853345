//! Consumer offsets of one partition: an append-only file of small records,
//! rewritten when most of it is outdated.
//!
//! ```text
//! offsets: magic 8 | version u16, padded to 16 | { kind u8 | id u32 | offset u64 | crc32c u32 } *
//! ```
//! The offset `u64::MAX` means that there is none any more.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::segment::{failed, sync_dir};
use super::{ConsumerKey, Durability, StorageError};

const MAGIC: &[u8; 8] = b"IGGYOFF\n";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 16;
const RECORD_BYTES: usize = 1 + 4 + 8 + 4;
const NONE: u64 = u64::MAX;
/// Below this many records a file is not worth rewriting.
const REWRITE_RECORDS_MIN: u64 = 4096;

/// The consumer offsets of a partition.
#[derive(Debug)]
pub(super) struct Offsets {
    path: PathBuf,
    file: Option<File>,
    records: u64,
    offsets: BTreeMap<ConsumerKey, u64>,
}

impl Offsets {
    /// Reads the offsets in a directory. A torn last record is dropped.
    pub(super) fn open(dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join("offsets");
        let mut offsets = Self {
            path,
            file: None,
            records: 0,
            offsets: BTreeMap::new(),
        };
        let mut bytes = Vec::new();
        match OpenOptions::new()
            .read(true)
            .write(true)
            .open(&offsets.path)
        {
            Ok(mut file) => {
                file.read_to_end(&mut bytes)
                    .map_err(failed("read", &offsets.path))?;
                offsets.file = Some(file);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(offsets),
            Err(error) => return Err(failed("open", &offsets.path)(error)),
        }
        offsets.load(&bytes)?;
        Ok(offsets)
    }

    fn load(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let corrupt = |position: usize, what: &str| StorageError::Corrupt {
            path: self.path.display().to_string(),
            position: position as u64,
            what: what.to_owned(),
        };
        let Some((header, records)) = bytes.split_at_checked(HEADER_BYTES) else {
            // The file was being made.
            self.file = None;
            return Ok(());
        };
        if &header[..8] != MAGIC {
            return Err(corrupt(0, "not a file of offsets"));
        }
        let found = u16::from_le_bytes([header[8], header[9]]);
        if found != VERSION {
            return Err(StorageError::Version {
                path: self.path.display().to_string(),
                found,
                known: VERSION,
            });
        }
        let count = records.len() / RECORD_BYTES;
        for (number, record) in records.chunks_exact(RECORD_BYTES).enumerate() {
            let Some((consumer, offset)) = decode(record) else {
                if number + 1 == count {
                    break;
                }
                let position = HEADER_BYTES + number * RECORD_BYTES;
                return Err(corrupt(position, "a record's checksum is wrong"));
            };
            match offset {
                NONE => self.offsets.remove(&consumer),
                offset => self.offsets.insert(consumer, offset),
            };
            self.records += 1;
        }
        Ok(())
    }

    pub(super) fn get(&self, consumer: ConsumerKey) -> Option<u64> {
        self.offsets.get(&consumer).copied()
    }

    pub(super) fn store(
        &mut self,
        consumer: ConsumerKey,
        offset: u64,
        durability: Durability,
    ) -> Result<(), StorageError> {
        self.write(consumer, offset, durability)?;
        self.offsets.insert(consumer, offset);
        self.maybe_rewrite()
    }

    pub(super) fn delete(
        &mut self,
        consumer: ConsumerKey,
        durability: Durability,
    ) -> Result<(), StorageError> {
        if !self.offsets.contains_key(&consumer) {
            return Err(StorageError::OffsetNotFound);
        }
        self.write(consumer, NONE, durability)?;
        self.offsets.remove(&consumer);
        Ok(())
    }

    fn write(
        &mut self,
        consumer: ConsumerKey,
        offset: u64,
        durability: Durability,
    ) -> Result<(), StorageError> {
        if self.file.is_none() {
            self.rewrite()?;
        }
        let Some(file) = &self.file else {
            return Ok(());
        };
        let at = HEADER_BYTES as u64 + self.records * RECORD_BYTES as u64;
        file.write_all_at(&encode(consumer, offset), at)
            .map_err(failed("write", &self.path))?;
        if durability == Durability::Synced {
            file.sync_data().map_err(failed("sync", &self.path))?;
        }
        self.records += 1;
        Ok(())
    }

    fn maybe_rewrite(&mut self) -> Result<(), StorageError> {
        let live = self.offsets.len() as u64;
        if self.records >= REWRITE_RECORDS_MIN && self.records > 8 * live {
            self.rewrite()?;
        }
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), StorageError> {
        let tmp = self.path.with_extension("tmp");
        let mut content = Vec::with_capacity(HEADER_BYTES + self.offsets.len() * RECORD_BYTES);
        content.extend_from_slice(MAGIC);
        content.extend_from_slice(&VERSION.to_le_bytes());
        content.resize(HEADER_BYTES, 0);
        for (consumer, offset) in &self.offsets {
            content.extend_from_slice(&encode(*consumer, *offset));
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&tmp)
            .map_err(failed("create", &tmp))?;
        file.write_all(&content)
            .and_then(|()| file.sync_data())
            .map_err(failed("write", &tmp))?;
        std::fs::rename(&tmp, &self.path).map_err(failed("rename", &tmp))?;
        if let Some(dir) = self.path.parent() {
            sync_dir(dir)?;
        }
        self.records = self.offsets.len() as u64;
        self.file = Some(file);
        Ok(())
    }
}

fn encode(consumer: ConsumerKey, offset: u64) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    out[0] = u8::from(consumer.group);
    out[1..5].copy_from_slice(&consumer.id.to_le_bytes());
    out[5..13].copy_from_slice(&offset.to_le_bytes());
    let crc = crc32c::crc32c(&out[..13]);
    out[13..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(record: &[u8]) -> Option<(ConsumerKey, u64)> {
    let (content, crc) = record.split_at_checked(13)?;
    if crc32c::crc32c(content).to_le_bytes() != crc {
        return None;
    }
    let consumer = ConsumerKey {
        group: content[0] != 0,
        id: u32::from_le_bytes(content[1..5].try_into().ok()?),
    };
    Some((
        consumer,
        u64::from_le_bytes(content[5..13].try_into().ok()?),
    ))
}
