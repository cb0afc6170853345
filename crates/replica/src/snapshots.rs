//! Snapshots of the state machine on disk.
//!
//! ```text
//! snapshots/<index>.snap: magic 8 | version u16 | index u64 | term u64 | epoch u64
//!     | voters u16, u64 * | learners u16, u64 * | state length u64
//!     | state crc32c | header crc32c | state
//! snapshots/<index>.part: the same, as far as a peer has sent it
//! ```
//! A snapshot has its name only when all of it is durable. The newest
//! [`SNAPSHOTS_KEPT`] stay: a peer may still be reading the one before.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use consensus::{Index, Membership, ReplicaId, SnapshotMeta, Term};
use crc32c::crc32c;
use thiserror::Error;

use crate::disk::{self, Disk, DiskError};
use crate::driver::{FileEvent, FileJob};

/// Snapshots that stay on disk.
pub const SNAPSHOTS_KEPT: usize = 2;
/// A piece that is sent to a peer at once, in bytes.
pub const CHUNK_BYTES: usize = 1 << 20;

const DIR: &str = "snapshots";
const MAGIC: &[u8; 8] = b"IGGYSNP\n";
const VERSION: u16 = 1;
const MEMBERS_MAX: usize = 4096;

/// Why a snapshot cannot be stored or read.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Written by another version.
    #[error(
        "{path} has format {found}, this program knows {VERSION}; use the version that wrote it"
    )]
    Version {
        /// The file.
        path: String,
        /// Its format.
        found: u16,
    },
    /// Not what was written.
    #[error("{path} is corrupt: {what}")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// The snapshots of one replica.
pub struct SnapshotStore {
    disk: Arc<dyn Disk>,
}

impl SnapshotStore {
    /// The store of a disk; made when it is not there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self, SnapshotError> {
        disk.create_dir(DIR)?;
        for name in disk.list(DIR)? {
            if name.ends_with(".tmp") {
                disk.remove(&format!("{DIR}/{name}"))?;
            }
        }
        Ok(Self { disk })
    }

    /// The newest snapshot and its state.
    ///
    /// # Errors
    /// When it cannot be read: a snapshot has its name only once it is whole, so
    /// that is damage, and the log in front of it is gone.
    pub fn newest(&self) -> Result<Option<(SnapshotMeta, Bytes)>, SnapshotError> {
        match self.indexes()?.last() {
            Some(index) => Ok(Some(self.read(&path(*index))?)),
            None => Ok(None),
        }
    }

    /// Stores a snapshot durably and drops those that are no longer kept.
    ///
    /// # Errors
    /// When the disk fails; what was there stays.
    pub fn save(&self, meta: &SnapshotMeta, state: &[u8]) -> Result<(), SnapshotError> {
        let header = encode_header(meta, state);
        let tmp = format!("{DIR}/{:020}.tmp", meta.index.0);
        let file = self.disk.create(&tmp, 0)?;
        file.write_at(0, &header)?;
        file.write_at(header.len() as u64, state)?;
        file.sync()?;
        self.name(&tmp, meta.index.0)
    }

    /// A piece of a snapshot, and how long all of it is; `None` when there is no
    /// such snapshot or byte.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn chunk(&self, index: Index, offset: u64) -> Result<Option<(Bytes, u64)>, SnapshotError> {
        if !self.indexes()?.contains(&index.0) {
            return Ok(None);
        }
        let file = self.disk.open(&path(index.0))?;
        let total = file.len()?;
        if offset >= total {
            return Ok(None);
        }
        let mut chunk = vec![0; CHUNK_BYTES.min((total - offset) as usize)];
        let read = file.read_at(offset, &mut chunk)?;
        chunk.truncate(read);
        Ok(Some((chunk.into(), total)))
    }

    /// How many bytes of a snapshot have been received; the state when all have.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn resume(&self, meta: &SnapshotMeta) -> Result<(u64, Option<Bytes>), SnapshotError> {
        if self.indexes()?.contains(&meta.index.0)
            && let Ok((found, state)) = self.read(&path(meta.index.0))
            && found == *meta
        {
            return Ok((0, Some(state)));
        }
        let part = part_path(meta.index.0);
        let mut have = 0;
        for name in self.disk.list(DIR)? {
            let other = format!("{DIR}/{name}");
            if other == part {
                have = self.disk.open(&part)?.len()?;
            } else if name.ends_with(".part") {
                self.disk.remove(&other)?;
            }
        }
        Ok((have, None))
    }

    /// Stores a piece behind those that are here. Returns the next byte that is
    /// missing, and the state when none is: the snapshot is then durable.
    ///
    /// # Errors
    /// When the disk fails, or the whole is not the snapshot that was announced;
    /// what was received of it is then gone.
    pub fn receive(
        &self,
        meta: &SnapshotMeta,
        offset: u64,
        total: u64,
        bytes: &[u8],
    ) -> Result<(u64, Option<Bytes>), SnapshotError> {
        let part = part_path(meta.index.0);
        let file = if offset == 0 {
            self.disk.create(&part, 0)?
        } else {
            self.disk.open(&part)?
        };
        file.write_at(offset, bytes)?;
        let next = offset + bytes.len() as u64;
        if next < total {
            return Ok((next, None));
        }
        file.sync()?;
        let checked = match self.read(&part) {
            Ok((found, state)) if found == *meta => Ok(state),
            Ok(_) => Err(SnapshotError::Corrupt {
                path: part.clone(),
                what: "it is another snapshot than announced",
            }),
            Err(error) => Err(error),
        };
        match checked {
            Ok(state) => {
                self.name(&part, meta.index.0)?;
                Ok((next, Some(state)))
            }
            Err(error) => {
                self.disk.remove(&part)?;
                Err(error)
            }
        }
    }

    fn name(&self, from: &str, index: u64) -> Result<(), SnapshotError> {
        self.disk.rename(from, &path(index))?;
        self.disk.sync_dir(DIR)?;
        let indexes = self.indexes()?;
        for old in indexes.iter().rev().skip(SNAPSHOTS_KEPT) {
            self.disk.remove(&path(*old))?;
        }
        Ok(())
    }

    fn indexes(&self) -> Result<Vec<u64>, SnapshotError> {
        let names = self.disk.list(DIR)?;
        let mut indexes: Vec<u64> = names
            .iter()
            .filter_map(|name| name.strip_suffix(".snap")?.parse().ok())
            .collect();
        indexes.sort_unstable();
        Ok(indexes)
    }

    fn read(&self, path: &str) -> Result<(SnapshotMeta, Bytes), SnapshotError> {
        let bytes = Bytes::from(disk::read_all(self.disk.open(path)?.as_ref())?);
        decode(path, &bytes)
    }
}

/// Carries out the file jobs of a replica.
///
/// The caller runs it beside the replica, one job after the other.
pub struct FileWorker {
    store: SnapshotStore,
}

impl FileWorker {
    /// A worker on this store.
    #[must_use]
    pub fn new(store: SnapshotStore) -> Self {
        Self { store }
    }

    /// Carries out one job.
    pub fn execute(&self, job: FileJob) -> FileEvent {
        match job {
            FileJob::Save { meta, state } => {
                let saved = self.store.save(&meta, &state.encode());
                FileEvent::Saved(saved.map(|()| meta).map_err(|error| error.to_string()))
            }
            FileJob::Read { to, index, offset } => match self.store.chunk(index, offset) {
                Ok(Some((bytes, total))) => FileEvent::Chunk {
                    to,
                    index,
                    offset,
                    total,
                    bytes,
                },
                Ok(None) | Err(_) => FileEvent::NoChunk { to, index },
            },
            FileJob::Resume(meta) => {
                let found = self.store.resume(&meta);
                received(meta, found)
            }
            FileJob::Receive {
                meta,
                offset,
                total,
                bytes,
            } => {
                let stored = self.store.receive(&meta, offset, total, &bytes);
                received(meta, stored)
            }
        }
    }
}

fn received(meta: SnapshotMeta, result: Result<(u64, Option<Bytes>), SnapshotError>) -> FileEvent {
    match result {
        Ok((next, state)) => FileEvent::Received { meta, next, state },
        Err(error) => FileEvent::ReceiveFailed {
            meta,
            why: error.to_string(),
        },
    }
}

fn path(index: u64) -> String {
    format!("{DIR}/{index:020}.snap")
}

fn part_path(index: u64) -> String {
    format!("{DIR}/{index:020}.part")
}

fn encode_header(meta: &SnapshotMeta, state: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.put_slice(MAGIC);
    out.put_u16_le(VERSION);
    out.put_u64_le(meta.index.0);
    out.put_u64_le(meta.term.0);
    out.put_u64_le(meta.membership.epoch);
    for ids in [meta.membership.voters(), meta.membership.learners()] {
        out.put_u16_le(ids.len() as u16);
        for id in ids {
            out.put_u64_le(id.0);
        }
    }
    out.put_u64_le(state.len() as u64);
    out.put_u32_le(crc32c(state));
    let crc = crc32c(&out);
    out.put_u32_le(crc);
    out
}

fn decode(path: &str, file: &Bytes) -> Result<(SnapshotMeta, Bytes), SnapshotError> {
    let corrupt = |what| SnapshotError::Corrupt {
        path: path.to_owned(),
        what,
    };
    let mut rest = file
        .strip_prefix(&MAGIC[..])
        .ok_or_else(|| corrupt("not a snapshot"))?;
    let found = rest
        .try_get_u16_le()
        .map_err(|_| corrupt("the header is cut short"))?;
    if found != VERSION {
        return Err(SnapshotError::Version {
            path: path.to_owned(),
            found,
        });
    }
    let (meta, length, state_crc) =
        decode_header(&mut rest).ok_or_else(|| corrupt("the header does not decode"))?;
    let covered = file.len() - rest.len();
    let header_crc = rest
        .try_get_u32_le()
        .map_err(|_| corrupt("the header is cut short"))?;
    if crc32c(&file[..covered]) != header_crc {
        return Err(corrupt("the header's checksum is wrong"));
    }
    if rest.len() as u64 != length {
        return Err(corrupt("its length is wrong"));
    }
    if crc32c(rest) != state_crc {
        return Err(corrupt("the state's checksum is wrong"));
    }
    Ok((meta, file.slice(file.len() - rest.len()..)))
}

fn decode_header(rest: &mut &[u8]) -> Option<(SnapshotMeta, u64, u32)> {
    let index = Index(rest.try_get_u64_le().ok()?);
    let term = Term(rest.try_get_u64_le().ok()?);
    let epoch = rest.try_get_u64_le().ok()?;
    let mut ids = || -> Option<Vec<ReplicaId>> {
        let count = usize::from(rest.try_get_u16_le().ok()?);
        if count > MEMBERS_MAX {
            return None;
        }
        (0..count)
            .map(|_| Some(ReplicaId(rest.try_get_u64_le().ok()?)))
            .collect()
    };
    let voters = ids()?;
    let learners = ids()?;
    let membership = Membership::new(epoch, voters, learners).ok()?;
    let length = rest.try_get_u64_le().ok()?;
    let state_crc = rest.try_get_u32_le().ok()?;
    let meta = SnapshotMeta {
        index,
        term,
        membership,
    };
    Some((meta, length, state_crc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            index: Index(index),
            term: Term(3),
            membership: Membership::new(1, [ReplicaId(2), ReplicaId(1)], [ReplicaId(3)]).unwrap(),
        }
    }

    fn state(index: u64) -> Vec<u8> {
        (0..3 * CHUNK_BYTES / 2)
            .map(|at| (at as u64 * 31 + index) as u8)
            .collect()
    }

    fn store(disk: &MemoryDisk) -> SnapshotStore {
        SnapshotStore::open(Arc::new(disk.clone())).unwrap()
    }

    #[test]
    fn the_newest_is_found_and_the_oldest_go() {
        let disk = MemoryDisk::new();
        let snapshots = store(&disk);
        assert!(snapshots.newest().unwrap().is_none());
        for index in [5, 10, 15] {
            snapshots.save(&meta(index), &state(index)).unwrap();
        }
        let (newest, bytes) = store(&disk).newest().unwrap().unwrap();
        assert_eq!((newest, bytes.to_vec()), (meta(15), state(15)));
        assert!(snapshots.chunk(Index(10), 0).unwrap().is_some());
        assert!(snapshots.chunk(Index(5), 0).unwrap().is_none());
    }

    #[test]
    fn a_crash_at_every_operation_leaves_the_old_or_the_new() {
        for fail_at in 1.. {
            let disk = MemoryDisk::new();
            let snapshots = store(&disk);
            snapshots.save(&meta(5), &state(5)).unwrap();
            disk.fail_after(Some(fail_at));
            let saved = snapshots.save(&meta(10), &state(10));
            let mut seed = fail_at;
            disk.crash(&mut || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed >> 33
            });
            let (newest, bytes) = store(&disk).newest().unwrap().unwrap();
            assert_eq!(bytes.to_vec(), state(newest.index.0));
            if saved.is_ok() {
                assert_eq!(newest, meta(10));
                return;
            }
        }
    }

    #[test]
    fn a_snapshot_travels_in_pieces_and_goes_on_where_it_stopped() {
        let (near, far) = (MemoryDisk::new(), MemoryDisk::new());
        let sender = store(&near);
        sender.save(&meta(5), &state(5)).unwrap();
        let mut receiver = store(&far);
        let mut next = 0;
        loop {
            let (chunk, total) = sender.chunk(Index(5), next).unwrap().unwrap();
            let (after, whole) = receiver.receive(&meta(5), next, total, &chunk).unwrap();
            if let Some(whole) = whole {
                assert_eq!(whole.to_vec(), state(5));
                break;
            }
            next = after;
            receiver = store(&far);
            assert_eq!(receiver.resume(&meta(5)).unwrap(), (next, None));
        }
        assert!(receiver.resume(&meta(5)).unwrap().1.is_some());
        assert_eq!(receiver.newest().unwrap().unwrap().0, meta(5));
    }

    #[test]
    fn a_damaged_transfer_is_refused_and_begins_anew() {
        let (near, far) = (MemoryDisk::new(), MemoryDisk::new());
        let sender = store(&near);
        sender.save(&meta(5), &state(5)).unwrap();
        let receiver = store(&far);
        let (first, total) = sender.chunk(Index(5), 0).unwrap().unwrap();
        let mut damaged = first.to_vec();
        damaged[5_000] ^= 1;
        let (next, _) = receiver.receive(&meta(5), 0, total, &damaged).unwrap();
        let (second, _) = sender.chunk(Index(5), next).unwrap().unwrap();
        assert!(receiver.receive(&meta(5), next, total, &second).is_err());
        assert_eq!(receiver.resume(&meta(5)).unwrap(), (0, None));
        assert!(receiver.newest().unwrap().is_none());
    }

    #[test]
    fn every_damaged_byte_of_the_header_is_noticed() {
        let disk = MemoryDisk::new();
        store(&disk).save(&meta(5), b"state").unwrap();
        let length = disk.open(&path(5)).unwrap().len().unwrap();
        for at in 0..length {
            let damaged = disk.copy();
            damaged.flip(&path(5), at as usize, 4);
            assert!(store(&damaged).newest().is_err(), "byte {at}");
        }
    }
}
