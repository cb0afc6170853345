//! Raft messages in our own bounded framing. Protobuf never touches the wire.
//!
//! ```text
//! version u8 | group u128 | type u8 | flags u8
//! | to, from, term, log_term, index, commit, commit_term, reject_hint  u64 each
//! | context_length u16 | context
//! | entry_count u32 | { term u64 | index u64 | kind u8 | length u32 | payload } *
//! | snapshot, when flagged: index u64 | term u64 | epoch u64
//!     | voter_count u16 | voter u64 * | learner_count u16 | learner u64 *
//! ```
//! Integers are little-endian. Entries decode to slices of the message. What
//! raft-rs carries as the data of a read's only entry travels as the context.

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use consensus::{Entry, EntryKind, Index, Membership, ReplicaId, SnapshotMeta, StepError, Term};
use raft::eraftpb::{Message, MessageType};

use crate::translate;

const VERSION: u8 = 1;
const FLAG_REJECT: u8 = 1;
const FLAG_SNAPSHOT: u8 = 2;
const CONTEXT_BYTES_MAX: usize = 64;
const HEADER_BYTES: usize = 1 + 16 + 1 + 1 + 8 * 8 + 2;
const ENTRY_HEADER_BYTES: usize = 8 + 8 + 1 + 4;
const MEMBERS_MAX: usize = 4096;

/// A decoded message and, of a snapshot offer, what it offers.
pub(crate) struct Decoded {
    pub(crate) message: Message,
    pub(crate) snapshot: Option<SnapshotMeta>,
}

/// Encodes a message of this core. `membership` is what a snapshot offer
/// carries.
pub(crate) fn encode(group: u128, message: Message, snapshot: Option<&SnapshotMeta>) -> Bytes {
    let mut entries = message.entries.into_vec();
    let context = if is_read(message.msg_type) {
        entries.pop().unwrap_or_default().data
    } else {
        message.context
    };
    let payload: usize = entries.iter().map(|entry| entry.data.len()).sum();
    let mut out = BytesMut::with_capacity(
        HEADER_BYTES + 4 + entries.len() * ENTRY_HEADER_BYTES + payload + 64,
    );
    out.put_u8(VERSION);
    out.put_u128_le(group);
    out.put_u8(message.msg_type as u8);
    let mut flags = 0;
    if message.reject {
        flags |= FLAG_REJECT;
    }
    if snapshot.is_some() {
        flags |= FLAG_SNAPSHOT;
    }
    out.put_u8(flags);
    for number in [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
    ] {
        out.put_u64_le(number);
    }
    out.put_u16_le(context.len() as u16);
    out.put_slice(&context);
    out.put_u32_le(entries.len() as u32);
    for entry in entries {
        let entry = translate::from_raft_entry(entry);
        out.put_u64_le(entry.term.0);
        out.put_u64_le(entry.index.0);
        out.put_u8(entry.kind as u8);
        out.put_u32_le(entry.payload.len() as u32);
        out.put_slice(&entry.payload);
    }
    if let Some(meta) = snapshot {
        put_snapshot(&mut out, meta);
    }
    out.freeze()
}

fn put_snapshot(out: &mut BytesMut, meta: &SnapshotMeta) {
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

/// Decodes a peer's message. Checks its shape; whether it can be true is for
/// [`guard`](crate::guard).
pub(crate) fn decode(group: u128, mut bytes: Bytes) -> Result<Decoded, StepError> {
    let version = bytes.try_get_u8().map_err(cut)?;
    if version != VERSION {
        return Err(malformed(format!(
            "format {version}, this program knows {VERSION}"
        )));
    }
    if bytes.try_get_u128_le().map_err(cut)? != group {
        return Err(StepError::WrongGroup);
    }
    let kind = bytes.try_get_u8().map_err(cut)?;
    let kind = message_type(kind).ok_or_else(|| malformed(format!("message type {kind}")))?;
    let flags = bytes.try_get_u8().map_err(cut)?;
    if flags & !(FLAG_REJECT | FLAG_SNAPSHOT) != 0 {
        return Err(malformed(format!("flags {flags:#x}")));
    }
    let mut numbers = [0; 8];
    for number in &mut numbers {
        *number = bytes.try_get_u64_le().map_err(cut)?;
    }
    let [
        to,
        from,
        term,
        log_term,
        index,
        commit,
        commit_term,
        reject_hint,
    ] = numbers;
    let context_bytes = usize::from(bytes.try_get_u16_le().map_err(cut)?);
    if context_bytes > CONTEXT_BYTES_MAX {
        return Err(malformed(format!("context of {context_bytes} bytes")));
    }
    let context = take(&mut bytes, context_bytes)?;
    let entries = decode_entries(&mut bytes)?;
    let snapshot = match flags & FLAG_SNAPSHOT {
        0 => None,
        _ => Some(decode_snapshot(&mut bytes)?),
    };
    if !bytes.is_empty() {
        return Err(malformed("bytes behind the end".into()));
    }
    if snapshot.is_some() != (kind == MessageType::MsgSnapshot) {
        return Err(malformed("snapshot and message type disagree".into()));
    }
    let mut message = Message {
        to,
        from,
        term,
        log_term,
        index,
        commit,
        commit_term,
        reject_hint,
        reject: flags & FLAG_REJECT != 0,
        ..Message::default()
    };
    message.set_msg_type(kind);
    let mut entries: Vec<_> = entries.iter().map(translate::to_raft_entry).collect();
    if is_read(kind) {
        if !entries.is_empty() {
            return Err(malformed("entries in a read".into()));
        }
        entries.push(translate::command(context));
    } else {
        message.context = context;
    }
    message.set_entries(entries.into());
    if let Some(meta) = &snapshot {
        message.set_snapshot(translate::to_raft_snapshot(meta));
    }
    Ok(Decoded { message, snapshot })
}

fn is_read(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp
    )
}

fn decode_entries(bytes: &mut Bytes) -> Result<Vec<Entry>, StepError> {
    let count = bytes.try_get_u32_le().map_err(cut)? as usize;
    if count > bytes.len() / ENTRY_HEADER_BYTES {
        return Err(malformed("more entries than bytes".into()));
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let term = Term(bytes.try_get_u64_le().map_err(cut)?);
        let index = Index(bytes.try_get_u64_le().map_err(cut)?);
        let kind = bytes.try_get_u8().map_err(cut)?;
        let kind =
            EntryKind::from_wire(kind).ok_or_else(|| malformed(format!("entry kind {kind}")))?;
        let length = bytes.try_get_u32_le().map_err(cut)? as usize;
        let payload = take(bytes, length)?;
        if kind == EntryKind::Noop && !payload.is_empty() {
            return Err(malformed("a no-op with a payload".into()));
        }
        entries.push(Entry {
            term,
            index,
            kind,
            payload,
        });
    }
    Ok(entries)
}

fn decode_snapshot(bytes: &mut Bytes) -> Result<SnapshotMeta, StepError> {
    let index = Index(bytes.try_get_u64_le().map_err(cut)?);
    let term = Term(bytes.try_get_u64_le().map_err(cut)?);
    let epoch = bytes.try_get_u64_le().map_err(cut)?;
    let voters = decode_ids(bytes)?;
    let learners = decode_ids(bytes)?;
    let membership = Membership::new(epoch, voters, learners)
        .map_err(|error| malformed(format!("membership: {error}")))?;
    if index == Index::ZERO || term == Term(0) {
        return Err(malformed("a snapshot of nothing".into()));
    }
    Ok(SnapshotMeta {
        index,
        term,
        membership,
    })
}

fn decode_ids(bytes: &mut Bytes) -> Result<Vec<ReplicaId>, StepError> {
    let count = usize::from(bytes.try_get_u16_le().map_err(cut)?);
    if count > MEMBERS_MAX || count > bytes.len() / 8 {
        return Err(malformed("more members than bytes".into()));
    }
    (0..count)
        .map(|_| Ok(ReplicaId(bytes.try_get_u64_le().map_err(cut)?)))
        .collect()
}

/// The types that travel between replicas. Proposals and leader transfers are
/// not forwarded by raft-rs: the layer above does that.
fn message_type(byte: u8) -> Option<MessageType> {
    [
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgSnapshot,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgTimeoutNow,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
    ]
    .into_iter()
    .find(|kind| *kind as u8 == byte)
}

fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes, StepError> {
    if length > bytes.len() {
        return Err(malformed("cut short".into()));
    }
    Ok(bytes.split_to(length))
}

fn cut(_: TryGetError) -> StepError {
    malformed("cut short".into())
}

fn malformed(what: String) -> StepError {
    StepError::Malformed(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append() -> Bytes {
        let mut message = Message {
            to: 2,
            from: 1,
            term: 7,
            log_term: 6,
            index: 40,
            commit: 39,
            context: Bytes::from_static(b"context"),
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgAppend);
        let entries = [
            Entry {
                term: Term(6),
                index: Index(41),
                kind: EntryKind::Command,
                payload: Bytes::from_static(b"payload"),
            },
            Entry {
                term: Term(7),
                index: Index(42),
                kind: EntryKind::Noop,
                payload: Bytes::new(),
            },
        ];
        message.set_entries(
            entries
                .iter()
                .map(translate::to_raft_entry)
                .collect::<Vec<_>>()
                .into(),
        );
        encode(9, message, None)
    }

    fn offer() -> Bytes {
        let meta = SnapshotMeta {
            index: Index(5),
            term: Term(2),
            membership: Membership::new(3, [ReplicaId(2), ReplicaId(1)], [ReplicaId(3)]).unwrap(),
        };
        let mut message = Message {
            to: 2,
            from: 1,
            term: 7,
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgSnapshot);
        message.set_snapshot(translate::to_raft_snapshot(&meta));
        encode(9, message, Some(&meta))
    }

    #[test]
    fn messages_come_back_as_they_were_sent() {
        for bytes in [append(), offer()] {
            let decoded = decode(9, bytes.clone()).unwrap();
            assert_eq!(encode(9, decoded.message, decoded.snapshot.as_ref()), bytes);
        }
        let offered = decode(9, offer()).unwrap().snapshot.unwrap();
        assert_eq!(offered.membership.voters(), [ReplicaId(2), ReplicaId(1)]);
    }

    #[test]
    fn every_truncation_is_refused_and_no_changed_byte_panics() {
        for whole in [append(), offer()] {
            for length in 0..whole.len() {
                assert!(decode(9, whole.slice(..length)).is_err(), "{length}");
            }
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut changed = whole.to_vec();
                    changed[at] ^= 1 << bit;
                    let _ = decode(9, changed.into());
                }
            }
        }
    }

    #[test]
    fn another_group_is_told_apart_from_garbage() {
        assert!(matches!(decode(8, append()), Err(StepError::WrongGroup)));
    }
}
