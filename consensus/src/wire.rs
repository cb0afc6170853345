//! What the messages of every backend are made of.
//!
//! ```text
//! entries:  count u32 | { term u64 | index u64 | kind u8 | length u32 | payload } *
//! snapshot: index u64 | term u64 | epoch u64
//!           | voter_count u16 | voter u64 * | learner_count u16 | learner u64 *
//! ```
//! Integers are little-endian. Decoded payloads are slices of the message, so
//! nothing is copied, and no count is believed that the bytes do not bear out.

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};

use crate::{
    Entry, EntryKind, Index, Membership, PartsWriter, RefusalReason, ReplicaId, SnapshotMeta, Term,
};

const ENTRY_HEADER_BYTES: usize = 8 + 8 + 1 + 4;
const MEMBERS_MAX: usize = 4096;

/// Bytes that the fields of so many entries take, payloads that are copied included.
#[must_use]
pub fn entries_fields_bytes(entries: &[Entry]) -> usize {
    let payloads = entries.iter().map(|entry| entry.payload.len());
    let copied: usize = payloads.filter(|bytes| PartsWriter::copies(*bytes)).sum();
    4 + entries.len() * ENTRY_HEADER_BYTES + copied
}

/// Encodes entries.
pub fn put_entries(out: &mut PartsWriter, entries: &[Entry]) {
    out.fields().put_u32_le(entries.len() as u32);
    for entry in entries {
        let fields = out.fields();
        fields.put_u64_le(entry.term.0);
        fields.put_u64_le(entry.index.0);
        fields.put_u8(entry.kind as u8);
        fields.put_u32_le(entry.payload.len() as u32);
        out.payload(&entry.payload);
    }
}

/// Decodes entries.
///
/// # Errors
/// [`RefusalReason::Malformed`] when the bytes are none.
pub fn get_entries(bytes: &mut Bytes) -> Result<Vec<Entry>, RefusalReason> {
    let count = bytes.try_get_u32_le().map_err(cut)? as usize;
    if count > bytes.len() / ENTRY_HEADER_BYTES {
        return Err(malformed("more entries than bytes"));
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let term = Term(bytes.try_get_u64_le().map_err(cut)?);
        let index = Index(bytes.try_get_u64_le().map_err(cut)?);
        let kind = bytes.try_get_u8().map_err(cut)?;
        let kind =
            EntryKind::from_wire(kind).ok_or_else(|| malformed(format!("entry kind {kind}")))?;
        let length = bytes.try_get_u32_le().map_err(cut)? as usize;
        entries.push(Entry {
            term,
            index,
            kind,
            payload: take(bytes, length)?,
        });
    }
    Ok(entries)
}

/// Encodes what a snapshot stands for.
pub fn put_snapshot(out: &mut BytesMut, meta: &SnapshotMeta) {
    out.put_u64_le(meta.index.0);
    out.put_u64_le(meta.term.0);
    out.put_u64_le(meta.membership.epoch);
    for ids in [meta.membership.voters(), meta.membership.learners()] {
        out.put_u16_le(ids.len() as u16);
        for id in ids {
            out.put_u64_le(id.0);
        }
    }
}

/// Decodes what a snapshot stands for.
///
/// # Errors
/// [`RefusalReason::Malformed`] when the bytes are no snapshot, or one of nothing.
pub fn get_snapshot(bytes: &mut Bytes) -> Result<SnapshotMeta, RefusalReason> {
    let index = Index(bytes.try_get_u64_le().map_err(cut)?);
    let term = Term(bytes.try_get_u64_le().map_err(cut)?);
    let epoch = bytes.try_get_u64_le().map_err(cut)?;
    let voters = get_ids(bytes)?;
    let learners = get_ids(bytes)?;
    let membership = Membership::new(epoch, voters, learners)
        .map_err(|error| malformed(format!("membership: {error}")))?;
    if index == Index::ZERO || term == Term(0) {
        return Err(malformed("a snapshot of nothing"));
    }
    Ok(SnapshotMeta {
        index,
        term,
        membership,
    })
}

fn get_ids(bytes: &mut Bytes) -> Result<Vec<ReplicaId>, RefusalReason> {
    let count = usize::from(bytes.try_get_u16_le().map_err(cut)?);
    if count > MEMBERS_MAX || count > bytes.len() / 8 {
        return Err(malformed("more members than bytes"));
    }
    (0..count)
        .map(|_| Ok(ReplicaId(bytes.try_get_u64_le().map_err(cut)?)))
        .collect()
}

/// The next bytes, as a slice of the message.
///
/// # Errors
/// [`RefusalReason::Malformed`] when there are not as many.
pub fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes, RefusalReason> {
    if length > bytes.len() {
        return Err(malformed("cut short"));
    }
    Ok(bytes.split_to(length))
}

/// For `map_err` on reads of a message.
#[must_use]
pub fn cut(_: TryGetError) -> RefusalReason {
    malformed("cut short")
}

/// A message that does not decode.
#[must_use]
pub fn malformed(what: impl Into<String>) -> RefusalReason {
    RefusalReason::Malformed(what.into())
}
