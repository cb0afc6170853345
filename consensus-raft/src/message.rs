//! Raft messages in our own bounded framing. Protobuf never touches the wire.
//!
//! ```text
//! version u8 | group u128 | type u8 | flags u8
//! | to, from, term, log_term, index, commit, commit_term, reject_hint  u64 each
//! | context_length u16 | context
//! | entries | snapshot, when flagged
//! ```
//! Integers are little-endian; [`wire`] has entries and snapshots. The data
//! of a read's only entry in raft-rs travels as the context.

use bytes::{Buf, BufMut, Bytes};
use consensus::wire::{self, cut, malformed, take};
use consensus::{EntryKind, Parts, PartsWriter, RefusalReason, SnapshotMeta};
use raft::eraftpb::{Message, MessageType};

use crate::translate;

const VERSION: u8 = 1;
const FLAG_REJECT: u8 = 1;
const FLAG_SNAPSHOT: u8 = 2;
const CONTEXT_BYTES_MAX: usize = 64;
const HEADER_BYTES: usize = 1 + 16 + 1 + 1 + 8 * 8 + 2;

/// A decoded message and, of a snapshot offer, what it offers.
pub(crate) struct Decoded {
    pub(crate) message: Message,
    pub(crate) snapshot: Option<SnapshotMeta>,
}

/// Encodes a message of this core. `membership` is what a snapshot offer
/// carries.
pub(crate) fn encode(group: u128, message: Message, snapshot: Option<&SnapshotMeta>) -> Parts {
    let mut entries = message.entries.into_vec();
    let context = if is_read(message.msg_type) {
        entries.pop().unwrap_or_default().data
    } else {
        message.context
    };
    let entries: Vec<_> = entries
        .into_iter()
        .map(translate::from_raft_entry)
        .collect();
    let mut out =
        PartsWriter::with_capacity(HEADER_BYTES + wire::entries_fields_bytes(&entries) + 64);
    let fields = out.fields();
    fields.put_u8(VERSION);
    fields.put_u128_le(group);
    fields.put_u8(message.msg_type as u8);
    let mut flags = 0;
    if message.reject {
        flags |= FLAG_REJECT;
    }
    if snapshot.is_some() {
        flags |= FLAG_SNAPSHOT;
    }
    fields.put_u8(flags);
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
        fields.put_u64_le(number);
    }
    fields.put_u16_le(context.len() as u16);
    fields.put_slice(&context);
    wire::put_entries(&mut out, &entries);
    if let Some(meta) = snapshot {
        wire::put_snapshot(out.fields(), meta);
    }
    out.finish()
}

/// Decodes a peer's message. Checks its shape; whether it can be true is for
/// [`guard`](crate::guard).
pub(crate) fn decode(group: u128, mut bytes: Bytes) -> Result<Decoded, RefusalReason> {
    let version = bytes.try_get_u8().map_err(cut)?;
    if version != VERSION {
        return Err(malformed(format!(
            "format {version}, this program knows {VERSION}"
        )));
    }
    if bytes.try_get_u128_le().map_err(cut)? != group {
        return Err(RefusalReason::WrongGroup);
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
    let entries = wire::get_entries(&mut bytes)?;
    if entries
        .iter()
        .any(|entry| entry.kind == EntryKind::Noop && !entry.payload.is_empty())
    {
        return Err(malformed("a no-op with a payload"));
    }
    let snapshot = match flags & FLAG_SNAPSHOT {
        0 => None,
        _ => Some(wire::get_snapshot(&mut bytes)?),
    };
    if !bytes.is_empty() {
        return Err(malformed("bytes after the end"));
    }
    if snapshot.is_some() != (kind == MessageType::MsgSnapshot) {
        return Err(malformed("snapshot and message type disagree"));
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
            return Err(malformed("entries in a read"));
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

/// The name of a message in Raft's words.
pub(crate) fn name(message: &Message) -> &'static str {
    match message.get_msg_type() {
        MessageType::MsgAppend => "AppendEntries",
        MessageType::MsgAppendResponse => "AppendEntries response",
        MessageType::MsgRequestVote => "RequestVote",
        MessageType::MsgRequestVoteResponse => "RequestVote response",
        MessageType::MsgSnapshot => "InstallSnapshot",
        MessageType::MsgHeartbeat => "Heartbeat",
        MessageType::MsgHeartbeatResponse => "Heartbeat response",
        MessageType::MsgTimeoutNow => "TimeoutNow",
        MessageType::MsgReadIndex => "ReadIndex",
        MessageType::MsgReadIndexResp => "ReadIndex response",
        MessageType::MsgRequestPreVote => "PreVote",
        MessageType::MsgRequestPreVoteResponse => "PreVote response",
        _ => "message",
    }
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

#[cfg(test)]
mod tests {
    use consensus::{Entry, Index, Membership, ReplicaId, Term};

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
                payload: Bytes::from(vec![7; 2_048]),
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
        encode(9, message, None).to_bytes()
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
        encode(9, message, Some(&meta)).to_bytes()
    }

    #[test]
    fn messages_come_back_as_they_were_sent() {
        for bytes in [append(), offer()] {
            let decoded = decode(9, bytes.clone()).unwrap();
            let again = encode(9, decoded.message, decoded.snapshot.as_ref());
            assert_eq!(again.to_bytes(), bytes);
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
    fn another_group_is_distinguished_from_garbage() {
        assert!(matches!(
            decode(8, append()),
            Err(RefusalReason::WrongGroup)
        ));
    }
}
