//! The snapshot files of one replica.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use consensus::rule;
use consensus::{Index, SnapshotMeta};

use super::error::SnapshotError;
use super::format::{self, HEADER_BYTES_MAX, Header};
use crate::disk::{self, Disk, DiskError, DiskFile};
use crate::wal::RecoveredLog;

/// Snapshots that stay on disk.
pub const SNAPSHOTS_KEPT: usize = 2;

const DIR: &str = "snapshots";

/// A snapshot that a replica can start from.
#[derive(Debug, Default)]
pub struct Base {
    /// The snapshot and its state; `None` when the log starts with its first
    /// entry.
    pub snapshot: Option<(SnapshotMeta, Bytes)>,
    /// Newer snapshots that are damaged, newest first.
    pub damaged: Vec<SnapshotError>,
}

/// The snapshots of one replica.
pub struct SnapshotStore {
    disk: Arc<dyn Disk>,
}

impl SnapshotStore {
    /// Opens the store of a disk, or creates it.
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

    /// The newest snapshot that is whole, if the log continues it at least
    /// as far as the damaged ones reached: then nothing is lost. It is durable.
    ///
    /// # Errors
    /// When the newest is damaged and the log does not replace it, or the disk
    /// fails.
    pub fn base(&self, log: &RecoveredLog) -> Result<Base, SnapshotError> {
        let mut base = Base::default();
        let indexes = self.indexes()?;
        let Some(newest) = indexes.last() else {
            return Ok(base);
        };
        for index in indexes.iter().rev() {
            match self.read(&path(*index)) {
                Ok((meta, state)) => {
                    let replaces = base.damaged.is_empty()
                        || replaces(log, &meta, Index(*newest))
                        || !rule!(OlderSnapshotWithItsLog);
                    if replaces {
                        self.secure(&meta, &state)?;
                        base.snapshot = Some((meta, state));
                        return Ok(base);
                    }
                }
                Err(error @ (SnapshotError::Corrupt { .. } | SnapshotError::Version { .. })) => {
                    base.damaged.push(error);
                }
                Err(error) if rule!(UnreadableSnapshotRefused) => return Err(error),
                Err(error) => base.damaged.push(error),
            }
        }
        let from_the_first = log.entries.first().is_some_and(|e| e.index == Index(1));
        if from_the_first && log.last().0 >= *newest {
            return Ok(base);
        }
        match base.damaged.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(Base::default()),
        }
    }

    /// Stores a snapshot durably and drops those that are no longer kept.
    ///
    /// # Errors
    /// When the disk fails; what was there stays.
    pub fn save(&self, meta: &SnapshotMeta, state: &[u8]) -> Result<(), SnapshotError> {
        let tmp = format!("{DIR}/{:020}.tmp", meta.index.0);
        let written = self.write(&tmp, meta, state);
        if written.is_err() {
            // A full disk must not stay full because of it. Opening removes it too.
            let _ = self.disk.remove(&tmp);
        }
        written?;
        self.name(&tmp, meta.index.0)
    }

    /// Stores a snapshot again after reading it, before anything depends on it. It
    /// may be in the page cache only: where the sync of the directory failed, the
    /// name is still listed, and no later sync writes it to the disk.
    fn secure(&self, meta: &SnapshotMeta, state: &[u8]) -> Result<(), SnapshotError> {
        if !rule!(ListedSnapshotRewritten) {
            return Ok(());
        }
        match self.save(meta, state) {
            Err(SnapshotError::Disk(error)) if error.is_full() => {}
            saved => return saved,
        }
        // On a full disk the same bytes are written where they are: whatever a crash leaves
        // of that is what was there before.
        let path = path(meta.index.0);
        let file = self.disk.open(&path)?;
        self.write_to(file.as_ref(), meta, state)?;
        Ok(self.disk.sync_dir(DIR)?)
    }

    fn write(&self, path: &str, meta: &SnapshotMeta, state: &[u8]) -> Result<(), DiskError> {
        let file = self.disk.create(path, 0)?;
        self.write_to(file.as_ref(), meta, state)
    }

    fn write_to(
        &self,
        file: &dyn DiskFile,
        meta: &SnapshotMeta,
        state: &[u8],
    ) -> Result<(), DiskError> {
        let header = format::encode_header(meta, state);
        file.write_at(0, &header)?;
        file.write_at(header.len() as u64, state)?;
        if !rule!(SnapshotSyncedBeforeName) {
            return Ok(());
        }
        file.sync()
    }

    /// The rest from `offset` of the piece of a snapshot that contains this byte (at most
    /// [`CHUNK_BYTES`](super::CHUNK_BYTES)), and the length of the whole file in bytes;
    /// `None` when there is no such snapshot or byte.
    ///
    /// # Errors
    /// When the disk fails, or the piece is damaged.
    pub fn chunk(&self, index: Index, offset: u64) -> Result<Option<(Bytes, u64)>, SnapshotError> {
        let path = path(index.0);
        let Some(file) = self.existing(&path)? else {
            return Ok(None);
        };
        let (header, header_bytes) = read_header(&path, file.as_ref())?;
        let total = header.total_bytes();
        if offset < header.bytes {
            return Ok(Some((header_bytes.slice(offset as usize..), total)));
        }
        let Some(piece) = header.piece_at(offset) else {
            return Ok(None);
        };
        let bytes = read_at(file.as_ref(), piece.at, piece.bytes)?;
        if !piece.is(&bytes) {
            let what = "the state's checksum is wrong";
            return Err(SnapshotError::Corrupt { path, what });
        }
        Ok(Some((bytes.slice((offset - piece.at) as usize..), total)))
    }

    /// How many bytes of a snapshot have been received and are as they were sent;
    /// the state when all are, and then the snapshot is durable. What was received
    /// of other snapshots is removed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn resume(&self, meta: &SnapshotMeta) -> Result<(u64, Option<Bytes>), SnapshotError> {
        let whole = path(meta.index.0);
        if self.existing(&whole)?.is_some()
            && let Ok((found, state)) = self.read(&whole)
            && found == *meta
        {
            self.secure(meta, &state)?;
            return Ok((0, Some(state)));
        }
        let part = part_path(meta.index.0);
        for name in self.disk.list(DIR)? {
            let other = format!("{DIR}/{name}");
            if name.ends_with(".part") && other != part {
                self.disk.remove(&other)?;
            }
        }
        let Some(file) = self.existing(&part)? else {
            return Ok((0, None));
        };
        match read_header(&part, file.as_ref()) {
            Ok((header, _)) if header.meta == *meta => {
                let (last, have) = verified(file.as_ref(), &header)?;
                // Each piece was durable before the next was written. Of the last
                // that may be untrue: where its sync failed, its bytes are still read
                // and no later sync writes them to the disk.
                let bytes = read_at(file.as_ref(), last, (have - last) as usize)?;
                if rule!(FetchedPieceRewritten) {
                    file.write_at(last, &bytes)?;
                }
                file.sync()?;
                self.advance(&header, have)
            }
            Err(SnapshotError::Disk(error)) => Err(error.into()),
            _ => {
                self.disk.remove(&part)?;
                Ok((0, None))
            }
        }
    }

    /// Stores a piece after those that have been received. Returns the next byte that is
    /// missing, and the state when none is: the snapshot is then durable.
    ///
    /// # Errors
    /// When the disk fails, or the piece does not belong to the snapshot that was
    /// announced; what was received of it is then removed, since it is unknown
    /// which of the pieces belong to another one.
    pub fn receive(
        &self,
        meta: &SnapshotMeta,
        offset: u64,
        total: u64,
        bytes: &[u8],
    ) -> Result<(u64, Option<Bytes>), SnapshotError> {
        let part = part_path(meta.index.0);
        let stored = if offset == 0 {
            self.receive_header(&part, meta, total, bytes)
        } else {
            self.receive_piece(&part, meta, offset, total, bytes)
        };
        if stored.is_err() {
            self.disk.remove(&part)?;
        }
        stored
    }

    fn receive_header(
        &self,
        part: &str,
        meta: &SnapshotMeta,
        total: u64,
        bytes: &[u8],
    ) -> Result<(u64, Option<Bytes>), SnapshotError> {
        let header = Header::decode(part, bytes)?;
        if header.bytes != bytes.len() as u64 {
            return Err(corrupt(part, "the first piece is not the header"));
        }
        check_announced(part, &header, meta, total)?;
        let file = self.disk.create(part, 0)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        self.disk.sync_dir(DIR)?;
        self.advance(&header, header.bytes)
    }

    fn receive_piece(
        &self,
        part: &str,
        meta: &SnapshotMeta,
        offset: u64,
        total: u64,
        bytes: &[u8],
    ) -> Result<(u64, Option<Bytes>), SnapshotError> {
        let file = self.disk.open(part)?;
        let (header, _) = read_header(part, file.as_ref())?;
        check_announced(part, &header, meta, total)?;
        let piece = header.piece_at(offset);
        if !piece.is_some_and(|piece| piece.at == offset && piece.is(bytes)) {
            return Err(corrupt(part, "a piece is not the one that is missing"));
        }
        file.write_at(offset, bytes)?;
        // So that the peer need not send it again after a power loss.
        if rule!(PieceSynced) {
            file.sync()?;
        }
        self.advance(&header, offset + bytes.len() as u64)
    }

    /// The first `have` bytes are durable; when that is all, the snapshot gets its
    /// name.
    fn advance(&self, header: &Header, have: u64) -> Result<(u64, Option<Bytes>), SnapshotError> {
        if have < header.total_bytes() {
            return Ok((have, None));
        }
        let index = header.meta.index.0;
        let part = part_path(index);
        let (_, state) = self.read(&part)?;
        self.name(&part, index)?;
        Ok((have, Some(state)))
    }

    fn name(&self, from: &str, index: u64) -> Result<(), SnapshotError> {
        self.disk.rename(from, &path(index))?;
        if rule!(SnapshotNameSynced) {
            self.disk.sync_dir(DIR)?;
        }
        let indexes = self.indexes()?;
        for old in indexes.iter().rev().skip(SNAPSHOTS_KEPT) {
            if *old != index {
                self.disk.remove(&path(*old))?;
            }
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

    fn existing(&self, path: &str) -> Result<Option<Box<dyn DiskFile>>, SnapshotError> {
        match self.disk.open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads and verifies a whole file.
    fn read(&self, path: &str) -> Result<(SnapshotMeta, Bytes), SnapshotError> {
        let bytes = Bytes::from(disk::read_all(self.disk.open(path)?.as_ref())?);
        let header = Header::decode(path, &bytes)?;
        if bytes.len() as u64 != header.total_bytes() {
            return Err(corrupt(path, "its length is wrong"));
        }
        for piece in header.pieces() {
            if !piece.is(&bytes[piece.at as usize..piece.at as usize + piece.bytes]) {
                return Err(corrupt(path, "the state's checksum is wrong"));
            }
        }
        let state = bytes.slice(header.bytes as usize..);
        Ok((header.meta, state))
    }
}

/// Whether the log continues the snapshot, at least to `through`.
fn replaces(log: &RecoveredLog, meta: &SnapshotMeta, through: Index) -> bool {
    let Some(first) = log.entries.first() else {
        return false;
    };
    let at_snapshot = meta
        .index
        .0
        .checked_sub(first.index.0)
        .and_then(|at| log.entries.get(usize::try_from(at).ok()?));
    first.index <= meta.index.next()
        && log.last() >= through
        && at_snapshot.is_none_or(|entry| entry.term == meta.term)
}

fn check_announced(
    part: &str,
    header: &Header,
    meta: &SnapshotMeta,
    total: u64,
) -> Result<(), SnapshotError> {
    if header.meta != *meta || header.total_bytes() != total {
        return Err(corrupt(part, "it is another snapshot than announced"));
    }
    Ok(())
}

/// How many bytes from the start of the file match the header, and the start of the last
/// piece of them, which may be the header.
fn verified(file: &dyn DiskFile, header: &Header) -> Result<(u64, u64), SnapshotError> {
    let (mut last, mut have) = (0, header.bytes);
    for piece in header.pieces() {
        if !piece.is(&read_at(file, piece.at, piece.bytes)?) {
            break;
        }
        last = piece.at;
        have += piece.bytes as u64;
    }
    Ok((last, have))
}

/// The header of a file, decoded and as bytes.
fn read_header(path: &str, file: &dyn DiskFile) -> Result<(Header, Bytes), SnapshotError> {
    let bytes = read_at(file, 0, HEADER_BYTES_MAX)?;
    let header = Header::decode(path, &bytes)?;
    let bytes = bytes.slice(..header.bytes as usize);
    Ok((header, bytes))
}

fn read_at(file: &dyn DiskFile, offset: u64, bytes: usize) -> Result<Bytes, SnapshotError> {
    let mut buffer = vec![0; bytes];
    let read = file.read_at(offset, &mut buffer)?;
    buffer.truncate(read);
    Ok(buffer.into())
}

fn corrupt(path: &str, what: &'static str) -> SnapshotError {
    SnapshotError::Corrupt {
        path: path.to_owned(),
        what,
    }
}

fn path(index: u64) -> String {
    format!("{DIR}/{index:020}.snap")
}

fn part_path(index: u64) -> String {
    format!("{DIR}/{index:020}.part")
}

#[cfg(test)]
mod tests;
