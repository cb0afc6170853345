//! Messages as bytes: what nodes send each other.
//!
//! ```text
//! all numbers little-endian
//! version u8 | kind u8 | stream u32, topic u32, partition u32, generation u64
//!   | registration u64 | epoch u64 | fields of the kind
//! records: count u32 | per record its header, then its body, as they are stored
//! ```
//! Records are neither copied when they are encoded nor when they are decoded. Decoding
//! accepts exactly what encoding gives: bytes from outside lead to errors, never to
//! assertions.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::Index;
use thiserror::Error;

use super::chain::{Epoch, Position};
use super::message::{Ack, Beat, CopyState, Message, Trust};
use super::sessions::{Sessions, SessionsError};
use super::table::{OffsetEntry, OffsetTable, Start, TableChange, TableVersion};
use crate::key::PartitionKey;
use crate::record::{RECORD_HEADER_BYTES, Record, RecordError, Tag};
use crate::types::ConsumerKey;

/// The version of the encoding.
pub const WIRE_VERSION: u8 = 1;
/// Epochs, indices, versions and offsets are below this: sums of them do not overflow.
const NUMBER_MAX: u64 = 1 << 62;
/// Bytes before the fields of a kind.
const HEAD_BYTES: usize = 38;
/// Bytes of one consumer in a table, at least.
const ENTRY_BYTES: usize = 14;

/// A message with what names partition and sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Which partition.
    pub key: PartitionKey,
    /// The registration of the sender's process.
    pub registration: u64,
    /// The message.
    pub message: Message,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// They end too early.
    #[error("the message is cut short")]
    Short,
    /// Bytes follow its end.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// The version is not known.
    #[error("version {0} of messages between copies is not known; upgrade this node")]
    Version(u8),
    /// The kind is not known.
    #[error("kind {0} of messages between copies is not known")]
    Kind(u8),
    /// A field has a value that no copy sends.
    #[error("{0} is out of range")]
    Field(&'static str),
    /// A record is damaged.
    #[error("a record is damaged: {0}")]
    Record(#[from] RecordError),
    /// The sessions are damaged.
    #[error(transparent)]
    Sessions(#[from] SessionsError),
}

mod kind {
    pub(super) const QUERY: u8 = 1;
    pub(super) const ANSWER: u8 = 2;
    pub(super) const FETCH: u8 = 3;
    pub(super) const FETCHED: u8 = 4;
    pub(super) const FETCH_START: u8 = 5;
    pub(super) const FETCH_TABLE: u8 = 6;
    pub(super) const APPEND: u8 = 7;
    pub(super) const MISMATCH: u8 = 8;
    pub(super) const START: u8 = 9;
    pub(super) const TABLE: u8 = 10;
    pub(super) const OFFSET: u8 = 11;
    pub(super) const ACK: u8 = 12;
}

impl Envelope {
    /// The bytes, in parts to be sent one after the other.
    #[must_use]
    pub fn encode(&self) -> Vec<Bytes> {
        let mut out = BytesMut::with_capacity(192);
        out.put_u8(WIRE_VERSION);
        out.put_u8(kind_of(&self.message));
        out.put_u32_le(self.key.stream_id);
        out.put_u32_le(self.key.topic_id);
        out.put_u32_le(self.key.partition_id);
        out.put_u64_le(self.key.generation);
        out.put_u64_le(self.registration);
        out.put_u64_le(self.message.epoch().0);
        let records = put_fields(&mut out, &self.message);
        let mut parts = Vec::with_capacity(1 + 2 * records.len());
        parts.push(out.freeze());
        for record in records {
            parts.push(record.header.clone());
            if !record.body.is_empty() {
                parts.push(record.body.clone());
            }
        }
        parts
    }

    /// From the bytes of one message. Records share its memory.
    ///
    /// # Errors
    /// When the bytes are not those of a message, or a record is damaged.
    pub fn decode(frame: Bytes) -> Result<Self, WireError> {
        let mut reader = Reader(frame);
        reader.need(HEAD_BYTES)?;
        let version = reader.0.get_u8();
        if version != WIRE_VERSION {
            return Err(WireError::Version(version));
        }
        let kind = reader.0.get_u8();
        let key = PartitionKey {
            stream_id: reader.0.get_u32_le(),
            topic_id: reader.0.get_u32_le(),
            partition_id: reader.0.get_u32_le(),
            generation: reader.0.get_u64_le(),
        };
        let registration = reader.0.get_u64_le();
        let epoch = reader.epoch()?;
        let message = reader.message(kind, epoch)?;
        match reader.0.len() {
            0 => Ok(Self {
                key,
                registration,
                message,
            }),
            trailing => Err(WireError::Trailing(trailing)),
        }
    }
}

fn kind_of(message: &Message) -> u8 {
    match message {
        Message::Query { .. } => kind::QUERY,
        Message::Answer { .. } => kind::ANSWER,
        Message::Fetch { .. } => kind::FETCH,
        Message::Fetched { .. } => kind::FETCHED,
        Message::FetchStart { .. } => kind::FETCH_START,
        Message::FetchTable { .. } => kind::FETCH_TABLE,
        Message::Append { .. } => kind::APPEND,
        Message::Mismatch { .. } => kind::MISMATCH,
        Message::Start { .. } => kind::START,
        Message::Table { .. } => kind::TABLE,
        Message::Offset { .. } => kind::OFFSET,
        Message::Ack { .. } => kind::ACK,
    }
}

/// Writes everything but records, which follow.
fn put_fields<'m>(out: &mut BytesMut, message: &'m Message) -> &'m [Record] {
    match message {
        Message::Query { .. } | Message::FetchStart { .. } | Message::FetchTable { .. } => {}
        Message::Answer { state, .. } => {
            out.put_u8(trust_code(state.trust));
            out.put_u64_le(state.adopted.0);
            put_position(out, state.last);
            out.put_u64_le(state.commit.0);
            out.put_u64_le(state.next_offset);
            out.put_u8(trust_code(state.table_trust));
            put_table_version(out, state.table);
        }
        Message::Fetch { after, .. } => put_position(out, *after),
        Message::Fetched {
            predecessor,
            records,
            ..
        } => {
            put_position(out, *predecessor);
            put_count(out, records.len());
            return records;
        }
        Message::Append {
            predecessor,
            records,
            beat,
            ..
        } => {
            put_position(out, *predecessor);
            out.put_u64_le(beat.sent_micros);
            out.put_u64_le(beat.commit.0);
            out.put_u64_le(beat.table_commit);
            out.put_u64_le(beat.end.0);
            put_count(out, records.len());
            return records;
        }
        Message::Mismatch { probed, have, .. } => {
            put_position(out, *probed);
            put_position(out, *have);
        }
        Message::Start {
            start, sessions, ..
        } => {
            put_start(out, *start);
            let sessions = sessions.encode();
            put_count(out, sessions.len());
            out.put_slice(&sessions);
        }
        Message::Table { table, .. } => put_table(out, table),
        Message::Offset {
            version, change, ..
        } => {
            out.put_u64_le(*version);
            put_change(out, change);
        }
        Message::Ack { ack, .. } => {
            out.put_u64_le(ack.matched.0);
            out.put_u64_le(ack.written.0);
            out.put_u64_le(ack.synced.0);
            out.put_u8(u8::from(ack.trusted));
            out.put_u64_le(ack.table);
            out.put_u64_le(ack.beat_micros);
        }
    }
    &[]
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).unwrap_or(u32::MAX));
}

fn put_position(out: &mut BytesMut, position: Position) {
    out.put_u64_le(position.epoch.0);
    out.put_u64_le(position.index.0);
}

fn put_table_version(out: &mut BytesMut, at: TableVersion) {
    out.put_u64_le(at.epoch.0);
    out.put_u64_le(at.version);
}

fn put_start(out: &mut BytesMut, start: Start) {
    put_position(out, start.base);
    out.put_u64_le(start.first_offset);
}

fn put_table(out: &mut BytesMut, table: &OffsetTable) {
    put_table_version(out, table.at);
    put_start(out, table.start);
    out.put_u64_le(table.start_version);
    put_count(out, table.entries.len());
    for (consumer, entry) in &table.entries {
        put_consumer(out, *consumer);
        out.put_u64_le(entry.version);
        put_offset(out, entry.offset, entry.tag);
    }
}

fn put_change(out: &mut BytesMut, change: &TableChange) {
    match change {
        TableChange::Consumer {
            consumer,
            offset,
            tag,
        } => {
            out.put_u8(0);
            put_consumer(out, *consumer);
            put_offset(out, *offset, *tag);
        }
        TableChange::Start(start) => {
            out.put_u8(1);
            put_start(out, *start);
        }
    }
}

fn put_consumer(out: &mut BytesMut, consumer: ConsumerKey) {
    out.put_u8(u8::from(consumer.group));
    out.put_u32_le(consumer.id);
}

/// Which of the two are there, then those.
fn put_offset(out: &mut BytesMut, offset: Option<u64>, tag: Option<Tag>) {
    out.put_u8(u8::from(offset.is_some()) | u8::from(tag.is_some()) << 1);
    if let Some(offset) = offset {
        out.put_u64_le(offset);
    }
    if let Some(tag) = tag {
        out.put_u128_le(tag.client);
        out.put_u64_le(tag.session);
        out.put_u64_le(tag.request);
    }
}

fn trust_code(trust: Trust) -> u8 {
    match trust {
        Trust::Trusted => 0,
        Trust::TailLost => 1,
        Trust::Lost => 2,
    }
}

struct Reader(Bytes);

impl Reader {
    fn need(&self, bytes: usize) -> Result<(), WireError> {
        match self.0.len() >= bytes {
            true => Ok(()),
            false => Err(WireError::Short),
        }
    }

    fn take(&mut self, bytes: usize) -> Result<Bytes, WireError> {
        self.need(bytes)?;
        Ok(self.0.split_to(bytes))
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.need(4)?;
        Ok(self.0.get_u32_le())
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.need(8)?;
        Ok(self.0.get_u64_le())
    }

    /// A number that others may be added to.
    fn number(&mut self, name: &'static str) -> Result<u64, WireError> {
        let number = self.u64()?;
        match number < NUMBER_MAX {
            true => Ok(number),
            false => Err(WireError::Field(name)),
        }
    }

    fn bool(&mut self, name: &'static str) -> Result<bool, WireError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Field(name)),
        }
    }

    fn trust(&mut self) -> Result<Trust, WireError> {
        match self.byte()? {
            0 => Ok(Trust::Trusted),
            1 => Ok(Trust::TailLost),
            2 => Ok(Trust::Lost),
            _ => Err(WireError::Field("trust")),
        }
    }

    fn epoch(&mut self) -> Result<Epoch, WireError> {
        self.number("an epoch").map(Epoch)
    }

    fn index(&mut self) -> Result<Index, WireError> {
        self.number("an index").map(Index)
    }

    fn position(&mut self) -> Result<Position, WireError> {
        Ok(Position {
            epoch: self.epoch()?,
            index: self.index()?,
        })
    }

    fn table_version(&mut self) -> Result<TableVersion, WireError> {
        Ok(TableVersion {
            epoch: self.epoch()?,
            version: self.number("a version")?,
        })
    }

    fn start(&mut self) -> Result<Start, WireError> {
        Ok(Start {
            base: self.position()?,
            first_offset: self.number("an offset")?,
        })
    }

    fn message(&mut self, kind: u8, epoch: Epoch) -> Result<Message, WireError> {
        Ok(match kind {
            kind::QUERY => Message::Query { epoch },
            kind::FETCH_START => Message::FetchStart { epoch },
            kind::FETCH_TABLE => Message::FetchTable { epoch },
            kind::ANSWER => Message::Answer {
                epoch,
                state: self.state()?,
            },
            kind::FETCH => Message::Fetch {
                epoch,
                after: self.position()?,
            },
            kind::FETCHED => Message::Fetched {
                epoch,
                predecessor: self.position()?,
                records: self.records()?,
            },
            kind::APPEND => Message::Append {
                epoch,
                predecessor: self.position()?,
                beat: self.beat()?,
                records: self.records()?,
            },
            kind::MISMATCH => Message::Mismatch {
                epoch,
                probed: self.position()?,
                have: self.position()?,
            },
            kind::START => Message::Start {
                epoch,
                start: self.start()?,
                sessions: self.sessions()?,
            },
            kind::TABLE => Message::Table {
                epoch,
                table: self.table()?,
            },
            kind::OFFSET => Message::Offset {
                epoch,
                version: self.number("a version")?,
                change: self.change()?,
            },
            kind::ACK => Message::Ack {
                epoch,
                ack: self.ack()?,
            },
            unknown => return Err(WireError::Kind(unknown)),
        })
    }

    fn state(&mut self) -> Result<CopyState, WireError> {
        Ok(CopyState {
            trust: self.trust()?,
            adopted: self.epoch()?,
            last: self.position()?,
            commit: self.index()?,
            next_offset: self.number("an offset")?,
            table_trust: self.trust()?,
            table: self.table_version()?,
        })
    }

    fn beat(&mut self) -> Result<Beat, WireError> {
        Ok(Beat {
            sent_micros: self.u64()?,
            commit: self.index()?,
            table_commit: self.number("a version")?,
            end: self.index()?,
        })
    }

    fn ack(&mut self) -> Result<Ack, WireError> {
        let ack = Ack {
            matched: self.index()?,
            written: self.index()?,
            synced: self.index()?,
            trusted: self.bool("trusted")?,
            table: self.number("a version")?,
            beat_micros: self.u64()?,
        };
        match ack.synced <= ack.written && ack.written <= ack.matched {
            true => Ok(ack),
            false => Err(WireError::Field("an acknowledgement")),
        }
    }

    fn records(&mut self) -> Result<Vec<Record>, WireError> {
        let count = self.u32()? as usize;
        if count > self.0.len() / RECORD_HEADER_BYTES {
            return Err(WireError::Short);
        }
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            let header = self.take(RECORD_HEADER_BYTES)?;
            let body = self.take(Record::body_bytes(&header)?)?;
            let record = Record::parse(header, body)?;
            let position = record.position;
            let numbers = [position.epoch.0, position.index.0, record.next_offset()];
            if numbers.iter().any(|&number| number >= NUMBER_MAX) {
                return Err(WireError::Field("a record's position"));
            }
            records.push(record);
        }
        Ok(records)
    }

    fn sessions(&mut self) -> Result<Sessions, WireError> {
        let bytes = self.u32()? as usize;
        Ok(Sessions::decode(&self.take(bytes)?)?)
    }

    fn table(&mut self) -> Result<OffsetTable, WireError> {
        let mut table = OffsetTable {
            at: self.table_version()?,
            start: self.start()?,
            start_version: self.number("a version")?,
            ..OffsetTable::default()
        };
        let count = self.u32()? as usize;
        if count > self.0.len() / ENTRY_BYTES {
            return Err(WireError::Short);
        }
        for _ in 0..count {
            let consumer = self.consumer()?;
            let version = self.number("a version")?;
            let (offset, tag) = self.offset()?;
            let entry = OffsetEntry {
                offset,
                version,
                tag,
            };
            let last = table.entries.last_key_value().map(|(key, _)| *key);
            if last.is_some_and(|last| last >= consumer) || version > table.at.version {
                return Err(WireError::Field("a consumer"));
            }
            table.entries.insert(consumer, entry);
        }
        Ok(table)
    }

    fn change(&mut self) -> Result<TableChange, WireError> {
        match self.byte()? {
            0 => {
                let consumer = self.consumer()?;
                let (offset, tag) = self.offset()?;
                Ok(TableChange::Consumer {
                    consumer,
                    offset,
                    tag,
                })
            }
            1 => Ok(TableChange::Start(self.start()?)),
            _ => Err(WireError::Field("a change")),
        }
    }

    fn consumer(&mut self) -> Result<ConsumerKey, WireError> {
        Ok(ConsumerKey {
            group: self.bool("a consumer")?,
            id: self.u32()?,
        })
    }

    fn offset(&mut self) -> Result<(Option<u64>, Option<Tag>), WireError> {
        let present = self.byte()?;
        if present > 3 {
            return Err(WireError::Field("an offset"));
        }
        let offset = match present & 1 {
            1 => Some(self.u64()?),
            _ => None,
        };
        if present & 2 == 0 {
            return Ok((offset, None));
        }
        self.need(32)?;
        let tag = Tag {
            client: self.0.get_u128_le(),
            session: self.0.get_u64_le(),
            request: self.0.get_u64_le(),
        };
        Ok((offset, Some(tag)))
    }
}
