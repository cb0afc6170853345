//! What a frame holds.

use bytes::{Buf, Bytes};
use consensus::{Entry, EntryKind, Index, PersistBatch, Term};

const RESET: u8 = 1;
const ENTRY: u8 = 2;
const HARD_STATE: u8 = 3;
const RECORD_HEADER_BYTES: usize = 1 + 4;
const ENTRY_HEADER_BYTES: usize = 8 + 8 + 1;

/// A record about to be written.
pub(super) enum Record<'a> {
    Reset(Index, Term),
    Entry(&'a Entry),
    HardState(&'a [u8]),
}

/// A record that was read.
pub(super) enum Read {
    Reset(Index, Term),
    Entry(Entry),
    HardState(Bytes),
}

/// The records of a batch, in the order that is safe to lose the end of.
pub(super) fn of(batch: &PersistBatch) -> impl Iterator<Item = Record<'_>> {
    let reset = batch
        .reset_to
        .map(|(index, term)| Record::Reset(index, term));
    let entries = batch.entries.iter().map(Record::Entry);
    let hard_state = batch.hard_state.as_deref().map(Record::HardState);
    reset.into_iter().chain(entries).chain(hard_state)
}

impl Record<'_> {
    /// Its size in a frame.
    pub(super) fn bytes(&self) -> usize {
        RECORD_HEADER_BYTES
            + match self {
                Self::Reset(..) => 16,
                Self::Entry(entry) => ENTRY_HEADER_BYTES + entry.payload.len(),
                Self::HardState(state) => state.len(),
            }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let length = (self.bytes() - RECORD_HEADER_BYTES) as u32;
        let kind = match self {
            Self::Reset(..) => RESET,
            Self::Entry(_) => ENTRY,
            Self::HardState(_) => HARD_STATE,
        };
        out.push(kind);
        out.extend_from_slice(&length.to_le_bytes());
        match self {
            Self::Reset(index, term) => {
                out.extend_from_slice(&index.0.to_le_bytes());
                out.extend_from_slice(&term.0.to_le_bytes());
            }
            Self::Entry(entry) => {
                out.extend_from_slice(&entry.term.0.to_le_bytes());
                out.extend_from_slice(&entry.index.0.to_le_bytes());
                out.push(entry.kind as u8);
                out.extend_from_slice(&entry.payload);
            }
            Self::HardState(state) => out.extend_from_slice(state),
        }
    }
}

/// Decodes the records of a frame whose checksum is right.
pub(super) fn decode(mut frame: Bytes) -> Option<Vec<Read>> {
    let mut records = Vec::new();
    while !frame.is_empty() {
        let kind = frame.try_get_u8().ok()?;
        let length = frame.try_get_u32_le().ok()? as usize;
        if length > frame.len() {
            return None;
        }
        let mut body = frame.split_to(length);
        records.push(match kind {
            RESET => {
                let index = Index(body.try_get_u64_le().ok()?);
                Read::Reset(index, Term(body.try_get_u64_le().ok()?))
            }
            ENTRY => Read::Entry(Entry {
                term: Term(body.try_get_u64_le().ok()?),
                index: Index(body.try_get_u64_le().ok()?),
                kind: EntryKind::from_wire(body.try_get_u8().ok()?)?,
                payload: body,
            }),
            HARD_STATE => Read::HardState(body),
            _ => return None,
        });
    }
    Some(records)
}
