//! What a frame holds.
//!
//! ```text
//! record: kind u8 (highest bit: last of its batch) | length u32 | body
//! reset:      index u64 | term u64
//! entry:      term u64 | index u64 | kind u8 | payload
//! hard state: opaque bytes of the backend
//! ```

use bytes::{Buf, Bytes};
use consensus::rule;
use consensus::{Entry, EntryKind, Index, PersistBatch, Term};

const RESET: u8 = 1;
const ENTRY: u8 = 2;
const HARD_STATE: u8 = 3;
const LAST_OF_BATCH: u8 = 0x80;
const RECORD_HEADER_BYTES: usize = 1 + 4;
const ENTRY_HEADER_BYTES: usize = 8 + 8 + 1;

/// A record about to be written.
pub(super) struct Record<'a> {
    pub(super) body: Body<'a>,
    /// With this one its batch is whole.
    pub(super) last: bool,
}

pub(super) enum Body<'a> {
    Reset(Index, Term),
    Entry(&'a Entry),
    HardState(&'a [u8]),
}

/// A record that was read.
pub(super) struct Read {
    pub(super) body: ReadBody,
    pub(super) last: bool,
}

pub(super) enum ReadBody {
    Reset(Index, Term),
    Entry(Entry),
    HardState(Bytes),
}

/// The records of batches, in order.
pub(super) fn of(batches: &[PersistBatch]) -> Vec<Record<'_>> {
    let mut records = Vec::new();
    for batch in batches {
        let before = records.len();
        let mut push = |body| records.push(Record { body, last: false });
        if let Some((index, term)) = batch.reset_to
            && rule!(ResetLogged)
        {
            push(Body::Reset(index, term));
        }
        batch.entries.iter().map(Body::Entry).for_each(&mut push);
        if let Some(state) = &batch.hard_state {
            push(Body::HardState(state));
        }
        if let Some(last) = records[before..].last_mut() {
            last.last = true;
        }
    }
    records
}

impl Record<'_> {
    /// Its size in a frame, in bytes.
    pub(super) fn bytes(&self) -> usize {
        RECORD_HEADER_BYTES
            + match self.body {
                Body::Reset(..) => 16,
                Body::Entry(entry) => ENTRY_HEADER_BYTES + entry.payload.len(),
                Body::HardState(state) => state.len(),
            }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let length = (self.bytes() - RECORD_HEADER_BYTES) as u32;
        let kind = match self.body {
            Body::Reset(..) => RESET,
            Body::Entry(_) => ENTRY,
            Body::HardState(_) => HARD_STATE,
        };
        out.push(if self.last {
            kind | LAST_OF_BATCH
        } else {
            kind
        });
        out.extend_from_slice(&length.to_le_bytes());
        match self.body {
            Body::Reset(index, term) => {
                out.extend_from_slice(&index.0.to_le_bytes());
                out.extend_from_slice(&term.0.to_le_bytes());
            }
            Body::Entry(entry) => {
                out.extend_from_slice(&entry.term.0.to_le_bytes());
                out.extend_from_slice(&entry.index.0.to_le_bytes());
                out.push(entry.kind as u8);
                out.extend_from_slice(&entry.payload);
            }
            Body::HardState(state) => out.extend_from_slice(state),
        }
    }
}

/// Decodes the records of a frame whose checksum is right. `None` when they are
/// not what this program writes.
pub(super) fn decode(mut frame: Bytes) -> Option<Vec<Read>> {
    let mut records = Vec::new();
    while !frame.is_empty() {
        let kind = frame.try_get_u8().ok()?;
        let length = frame.try_get_u32_le().ok()? as usize;
        if length > frame.len() {
            return None;
        }
        records.push(Read {
            body: decode_body(kind & !LAST_OF_BATCH, frame.split_to(length))?,
            last: kind & LAST_OF_BATCH != 0,
        });
    }
    Some(records)
}

/// Copies what it keeps: a slice would keep a whole segment in memory.
fn decode_body(kind: u8, mut body: Bytes) -> Option<ReadBody> {
    let decoded = match kind {
        RESET => {
            let index = index(&mut body)?;
            ReadBody::Reset(index, Term(body.try_get_u64_le().ok()?))
        }
        ENTRY => ReadBody::Entry(Entry {
            term: Term(body.try_get_u64_le().ok()?),
            index: index(&mut body).filter(|index| *index > Index::ZERO)?,
            kind: EntryKind::from_wire(body.try_get_u8().ok()?)?,
            payload: Bytes::copy_from_slice(&body.split_off(0)),
        }),
        HARD_STATE => ReadBody::HardState(Bytes::copy_from_slice(&body.split_off(0))),
        _ => return None,
    };
    body.is_empty().then_some(decoded)
}

/// An index that has a next.
fn index(body: &mut Bytes) -> Option<Index> {
    let index = body.try_get_u64_le().ok()?;
    (index < u64::MAX).then_some(Index(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(batch: PersistBatch) -> Vec<u8> {
        let mut out = Vec::new();
        for record in of(&[batch]) {
            let before = out.len();
            record.encode(&mut out);
            assert_eq!(out.len() - before, record.bytes());
        }
        out
    }

    fn batch() -> PersistBatch {
        PersistBatch {
            reset_to: Some((Index(4), Term(2))),
            entries: vec![Entry {
                term: Term(3),
                index: Index(5),
                kind: EntryKind::Noop,
                payload: Bytes::from_static(b"payload"),
            }],
            hard_state: Some(Bytes::from_static(b"state")),
            ..PersistBatch::default()
        }
    }

    #[test]
    fn only_the_last_record_of_a_batch_completes_it() {
        let records = decode(encoded(batch()).into()).unwrap();
        let last: Vec<_> = records.iter().map(|record| record.last).collect();
        assert_eq!(last, [false, false, true]);
        assert!(matches!(
            records[0].body,
            ReadBody::Reset(Index(4), Term(2))
        ));
        assert!(matches!(&records[1].body, ReadBody::Entry(e) if *e == batch().entries[0]));
        assert!(matches!(&records[2].body, ReadBody::HardState(s) if *s == "state"));
        assert!(of(&[PersistBatch::default()]).is_empty());
    }

    #[test]
    fn what_is_cut_or_impossible_does_not_decode_and_does_not_panic() {
        let whole = encoded(batch());
        let boundaries = [0, 21, 50];
        for length in 0..whole.len() {
            let decoded = decode(Bytes::copy_from_slice(&whole[..length]));
            assert_eq!(
                decoded.is_some(),
                boundaries.contains(&length) || length == 51 - 1,
                "{length}"
            );
        }
        let mut unknown = whole.clone();
        unknown[0] = 9;
        assert!(decode(unknown.into()).is_none());
        let mut endless = whole;
        endless[5..13].fill(0xff);
        assert!(decode(endless.into()).is_none());
    }
}
