//! The file of a table of offsets, version 2: of a partition whose table has been written by
//! [`Operation::Table`](crate::Operation::Table).
//!
//! ```text
//! offsets: magic 8 | version u16 | 0 u16 | crc32c u32 | records of 76 bytes
//! record: kind u8 | flags u8 | 0 u16 | id u32 | epoch u64 | version u64 | offset u64
//!     | client u128 | session u64 | request u64 | durable u64 | crc32c u32
//! kind 0, 1: a consumer's or a group's offset changes; flags: 1 it has one, 2 it has a tag
//! kind 2: the start changes: `offset` is its first one, `session` and `request` are epoch and
//!     index of its base
//! kind 3: all of the table: its start as in kind 2, `client` is the version of the start,
//!     `id` counts the records of the kinds 4 and 5 that follow; flags: what it may have lost,
//!     0 nothing, 1 its tail, 2 everything
//! kind 4, 5: a consumer's or a group's entry of it, as in kind 0 and 1
//! ```
//! A record has the version of the table after it, an entry that of its last change. The
//! checksum covers the position in the file.
//!
//! A file gets its name when it is on the disk with all of a table. What follows is appended.
//! Where a record is damaged, a crash has interrupted its write, and the table ends there,
//! unless a record after it proves otherwise: when that was written, everything before
//! `durable` was on the disk.

use std::path::Path;

use consensus::Index;
use tracing::warn;

use crate::bytes_at::{u32_at, u64_at};
use crate::record::Tag;
use crate::replication::{
    Epoch, OffsetEntry, OffsetTable, Position, Start, TableChange, TableVersion, TableWrite, Trust,
};
use crate::types::ConsumerKey;

/// Bytes of a record.
pub(super) const RECORD_BYTES: usize = 76;
const CRC_AT: usize = RECORD_BYTES - 4;
const CHANGE: u8 = 0;
const START: u8 = 2;
const WHOLE: u8 = 3;
const ENTRY: u8 = 4;
const HAS_OFFSET: u8 = 1;
const HAS_TAG: u8 = 2;

/// What a file contains.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) table: OffsetTable,
    /// What it lacks, as far as the file shows.
    pub(super) trust: Trust,
    /// Where records end that may be followed by others.
    pub(super) end: u64,
    /// Damaged records.
    pub(super) damaged: u64,
}

/// A record, decoded.
#[derive(Clone, Copy, Debug, Default)]
struct Raw {
    kind: u8,
    flags: u8,
    id: u32,
    at: TableVersion,
    offset: u64,
    client: u128,
    session: u64,
    request: u64,
    durable: u64,
}

impl Raw {
    fn consumer(
        kind: u8,
        at: TableVersion,
        consumer: ConsumerKey,
        offset: Option<u64>,
        tag: Option<Tag>,
    ) -> Self {
        let flags = u8::from(offset.is_some()) * HAS_OFFSET + u8::from(tag.is_some()) * HAS_TAG;
        Self {
            kind: kind + u8::from(consumer.group),
            flags,
            id: consumer.id,
            at,
            offset: offset.unwrap_or(0),
            client: tag.map_or(0, |tag| tag.client),
            session: tag.map_or(0, |tag| tag.session),
            request: tag.map_or(0, |tag| tag.request),
            durable: 0,
        }
    }

    fn start(kind: u8, at: TableVersion, start: Start) -> Self {
        Self {
            kind,
            at,
            offset: start.first_offset,
            session: start.base.epoch.0,
            request: start.base.index.0,
            ..Self::default()
        }
    }

    fn put(&self, position: u64, durable: u64, out: &mut Vec<u8>) {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = self.kind;
        bytes[1] = self.flags;
        bytes[4..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.at.epoch.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.at.version.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.offset.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.client.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.session.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.request.to_le_bytes());
        bytes[64..72].copy_from_slice(&durable.to_le_bytes());
        let crc = crc(&bytes, position);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&bytes);
    }

    fn decode(bytes: &[u8], position: u64) -> Option<Self> {
        if u32_at(bytes, CRC_AT) != crc(bytes, position) || bytes[0] > ENTRY + 1 {
            return None;
        }
        let mut client = [0; 16];
        client.copy_from_slice(&bytes[32..48]);
        Some(Self {
            kind: bytes[0],
            flags: bytes[1],
            id: u32_at(bytes, 4),
            at: TableVersion {
                epoch: Epoch(u64_at(bytes, 8)),
                version: u64_at(bytes, 16),
            },
            offset: u64_at(bytes, 24),
            client: u128::from_le_bytes(client),
            session: u64_at(bytes, 48),
            request: u64_at(bytes, 56),
            durable: u64_at(bytes, 64),
        })
    }

    fn consumer_key(&self) -> ConsumerKey {
        ConsumerKey {
            group: self.kind == CHANGE + 1 || self.kind == ENTRY + 1,
            id: self.id,
        }
    }

    fn stored(&self) -> (Option<u64>, Option<Tag>) {
        let tag = Tag {
            client: self.client,
            session: self.session,
            request: self.request,
        };
        (
            (self.flags & HAS_OFFSET != 0).then_some(self.offset),
            (self.flags & HAS_TAG != 0).then_some(tag),
        )
    }

    fn start_of(&self) -> Start {
        Start {
            base: Position {
                epoch: Epoch(self.session),
                index: Index(self.request),
            },
            first_offset: self.offset,
        }
    }

    fn change(&self) -> TableChange {
        if self.kind == START {
            return TableChange::Start(self.start_of());
        }
        let (offset, tag) = self.stored();
        TableChange::Consumer {
            consumer: self.consumer_key(),
            offset,
            tag,
        }
    }

    fn trust(&self) -> Trust {
        match self.flags {
            0 => Trust::Trusted,
            1 => Trust::TailLost,
            _ => Trust::Lost,
        }
    }

    /// The table without its entries.
    fn empty(&self) -> OffsetTable {
        OffsetTable {
            at: self.at,
            start: self.start_of(),
            // It was put there from as many bits.
            start_version: u64::try_from(self.client).unwrap_or(u64::MAX),
            ..OffsetTable::default()
        }
    }

    fn enter(&self, table: &mut OffsetTable) {
        let (offset, tag) = self.stored();
        let entry = OffsetEntry {
            offset,
            version: self.at.version,
            tag,
        };
        table.entries.insert(self.consumer_key(), entry);
    }
}

fn crc(record: &[u8], position: u64) -> u32 {
    let seed = crc32c::crc32c(&position.to_le_bytes());
    crc32c::crc32c_append(seed, &record[..CRC_AT])
}

/// Appends the records of a write that stand at `position`, when everything before `durable` is
/// on the disk.
pub(super) fn put(
    write: &TableWrite,
    trust: Trust,
    position: u64,
    durable: u64,
    out: &mut Vec<u8>,
) {
    match write {
        TableWrite::Whole(table) => put_whole(table, trust, position, durable, out),
        TableWrite::Change { at, change } => {
            let raw = match *change {
                TableChange::Start(start) => Raw::start(START, *at, start),
                TableChange::Consumer {
                    consumer,
                    offset,
                    tag,
                } => Raw::consumer(CHANGE, *at, consumer, offset, tag),
            };
            raw.put(position, durable, out);
        }
    }
}

/// Appends all of a table.
pub(super) fn put_whole(
    table: &OffsetTable,
    trust: Trust,
    position: u64,
    durable: u64,
    out: &mut Vec<u8>,
) {
    let whole = Raw {
        id: u32::try_from(table.entries.len()).unwrap_or(u32::MAX),
        flags: trust as u8,
        client: u128::from(table.start_version),
        ..Raw::start(WHOLE, table.at, table.start)
    };
    whole.put(position, durable, out);
    let entries = table.entries.iter();
    for ((consumer, entry), number) in entries.zip(1..) {
        let at = TableVersion {
            epoch: Epoch(0),
            version: entry.version,
        };
        let raw = Raw::consumer(ENTRY, at, *consumer, entry.offset, entry.tag);
        raw.put(position + number * RECORD_BYTES as u64, durable, out);
    }
}

/// The records that stand from `first` on.
struct Records<'a> {
    bytes: &'a [u8],
    first: u64,
}

impl Records<'_> {
    fn position(&self, number: usize) -> u64 {
        self.first + (number * RECORD_BYTES) as u64
    }

    fn count(&self) -> usize {
        self.bytes.len() / RECORD_BYTES
    }

    fn get(&self, number: usize) -> Option<Raw> {
        let at = number * RECORD_BYTES;
        let bytes = self.bytes.get(at..at + RECORD_BYTES)?;
        Raw::decode(bytes, self.position(number))
    }

    /// The table up to the first record that is not valid, and how many there are before it.
    fn valid(&self) -> (OffsetTable, Trust, usize) {
        let (mut table, mut trust) = (OffsetTable::default(), Trust::Lost);
        let mut number = 0;
        while let Some(raw) = self.get(number) {
            match raw.kind {
                WHOLE => {
                    let entries = (1..=raw.id as usize).map(|it| self.get(number + it));
                    let is_entry = |it: &Raw| it.kind >= ENTRY;
                    let mut whole = raw.empty();
                    for entry in entries {
                        let Some(entry) = entry.filter(is_entry) else {
                            return (table, trust, number);
                        };
                        entry.enter(&mut whole);
                    }
                    (table, trust) = (whole, raw.trust());
                    number += raw.id as usize;
                }
                kind if kind >= ENTRY || number == 0 || raw.at <= table.at => break,
                _ => table.apply(raw.at, raw.change()),
            }
            number += 1;
        }
        (table, trust, number)
    }

    /// Whether what is damaged from record `number` on was on the disk once.
    fn was_durable(&self, number: usize) -> bool {
        // The first table of a file always was.
        let from = self.position(number);
        let mut later = (number + 1..self.count()).filter_map(|it| self.get(it));
        number == 0 || later.any(|it| it.durable > from)
    }
}

/// Reads the records of a file; the first one stands at `first`. The table ends where one is
/// damaged. It then lacks something, unless a crash has interrupted a write there.
pub(super) fn load(path: &Path, bytes: &[u8], first: u64) -> Loaded {
    let records = Records { bytes, first };
    let (table, mut trust, valid) = records.valid();
    let end = records.position(valid);
    let damaged = end < first + bytes.len() as u64 && records.was_durable(valid);
    if damaged || valid == 0 {
        warn!(
            path = %path.display(),
            position = end,
            "a table of consumer offsets is damaged; this copy of it counts for nothing until \
             it has been completed from another copy"
        );
        trust = trust.max(Trust::TailLost);
    }
    Loaded {
        table,
        trust,
        end,
        damaged: u64::from(damaged || valid == 0),
    }
}

/// The same where no other copy can complete it: damaged records are left out.
pub(super) fn load_alone(path: &Path, bytes: &[u8], first: u64) -> Loaded {
    let records = Records { bytes, first };
    let mut table = OffsetTable::default();
    let (mut number, mut damaged) = (0, 0);
    while number < records.count() {
        let invalid = match records.get(number) {
            None => Some(number),
            Some(raw) if raw.kind == WHOLE => {
                let mut entries = number + 1..=number + raw.id as usize;
                entries.find(|it| records.get(*it).is_none())
            }
            Some(_) => None,
        };
        if invalid.is_some_and(|invalid| !records.was_durable(invalid)) {
            break;
        }
        match records.get(number) {
            Some(raw) if raw.kind == WHOLE => table = raw.empty(),
            Some(raw) if raw.kind >= ENTRY => raw.enter(&mut table),
            Some(raw) => table.apply(raw.at, raw.change()),
            None => {
                damaged += 1;
                warn!(
                    path = %path.display(),
                    position = records.position(number),
                    "a consumer offset is damaged; the consumer continues from the one it had \
                     stored before"
                );
            }
        }
        number += 1;
    }
    Loaded {
        table,
        trust: Trust::Trusted,
        end: records.position(number),
        damaged,
    }
}
