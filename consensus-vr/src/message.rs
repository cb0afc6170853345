//! Messages, and their bounded framing.
//!
//! ```text
//! version u8 | group u128 | kind u8 | from u64 | to u64 | view u64 | fields of the kind
//! ```
//! Version 2 has kinds that version 0.1 of the program does not know. They are sent only to
//! replicas that have shown that they know them: a primary by the numbers of its beats
//! ([`FIRST_BEAT`]), a backup by a message of version 2.
//!
//! Integers are little-endian; [`wire`] has entries and snapshots. Whether a message can
//! be true is decided elsewhere.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::wire::{self, cut, malformed};
use consensus::{Entry, Index, Parts, PartsWriter, RefusalReason, ReplicaId, SnapshotMeta};

use crate::ids::{Checksum, Head, Header, View};

const VERSION: u8 = 1;
/// Of the kinds from [`FIRST_KIND_OF_2`] on.
const VERSION_2: u8 = 2;
const FIRST_KIND_OF_2: u8 = 13;
const FIXED_BYTES: usize = 1 + 16 + 1 + 8 + 8 + 8;
const HEADER_BYTES: usize = 8 + 16 + 1;
const PRESENT: u8 = 1;
const NACK: u8 = 2;
/// Headers in one message at most: as many ops may be uncommitted.
pub(crate) const HEADERS_MAX: usize = 1 << 16;
/// A primary that knows version 2 counts its beats from here. One of version 0.1 counts
/// from zero, and does not come so far.
pub(crate) const FIRST_BEAT: u64 = 1 << 40;
/// Views and ops beyond this do not occur; sums of them do not overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// A message with its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Envelope {
    pub(crate) from: ReplicaId,
    pub(crate) to: ReplicaId,
    pub(crate) view: View,
    pub(crate) message: Message,
}

/// What replicas send to each other; the view is in the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    /// The primary orders these (VRR 4.1).
    Prepare {
        commit: Index,
        entries: Vec<Entry>,
    },
    /// Everything up to `op` is durable at the sender, up to `received` in memory. Also the
    /// answer to a `Commit`, whose beat it repeats.
    PrepareOk {
        op: Index,
        received: Index,
        beat: u64,
        /// That of `op`, when the primary knows version 2 and the sender knows it: with it
        /// the acknowledgement is for one log.
        checksum: Option<Checksum>,
    },
    /// The primary is alive (VRR 4.1). Beats are counted, so that an answer tells after
    /// which of them it was sent.
    Commit {
        commit: Index,
        beat: u64,
    },
    /// The sender votes for this view (VRR 4.2), and is in that one.
    StartViewChange {
        at: View,
    },
    DoViewChange(DoViewChange),
    /// The view has started with this log (VRR 4.2), of which some entries are included.
    StartView {
        commit: Index,
        head: Head,
        entries: Vec<Entry>,
    },
    /// The sender has missed the `StartView`; its log is committed up to `op`.
    RequestStartView {
        op: Index,
    },
    /// The sender lacks the log from `op` on.
    RequestPrepares {
        op: Index,
    },
    /// A piece of the log, as requested.
    Prepares {
        entries: Vec<Entry>,
    },
    /// The requested part of the log is compacted; this snapshot has its effects.
    SnapshotOffer {
        snapshot: SnapshotMeta,
        checksum: Option<Checksum>,
    },
    /// Requests the op that reads must have seen. The reply repeats nonce and round.
    ReadRequest {
        nonce: u64,
        round: u64,
    },
    ReadReply {
        nonce: u64,
        round: u64,
        commit: Index,
    },
    /// The primary has had an acknowledgement of `op`, and then one of less.
    Missing {
        op: Index,
    },
}

/// The log of a replica that has entered a view (VRR 4.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DoViewChange {
    pub(crate) log_view: View,
    pub(crate) commit: Index,
    pub(crate) head: Head,
    /// Of the last ops up to the head: from the committed one on, when the log has that.
    pub(crate) headers: Vec<Header>,
}

impl DoViewChange {
    /// The op of the first header.
    pub(crate) fn first(&self) -> Index {
        Index(self.head.op.0 + 1 - self.headers.len() as u64)
    }

    pub(crate) fn header(&self, op: Index) -> Option<&Header> {
        let at = op.0.checked_sub(self.first().0)?;
        self.headers.get(usize::try_from(at).ok()?)
    }
}

impl Envelope {
    pub(crate) fn encode(&self, group: u128) -> Parts {
        let mut out = PartsWriter::with_capacity(FIXED_BYTES + self.message.bytes());
        let fields = out.fields();
        let kind = self.message.kind();
        fields.put_u8(version_of(kind));
        fields.put_u128_le(group);
        fields.put_u8(kind);
        fields.put_u64_le(self.from.0);
        fields.put_u64_le(self.to.0);
        fields.put_u64_le(self.view.0);
        self.message.put(&mut out);
        out.finish()
    }

    pub(crate) fn decode(group: u128, mut bytes: Bytes) -> Result<Self, RefusalReason> {
        let version = bytes.try_get_u8().map_err(cut)?;
        if version != VERSION && version != VERSION_2 {
            return Err(malformed(format!(
                "format {version}, this program knows {VERSION} and {VERSION_2}"
            )));
        }
        if bytes.try_get_u128_le().map_err(cut)? != group {
            return Err(RefusalReason::WrongGroup);
        }
        let kind = bytes.try_get_u8().map_err(cut)?;
        if version != version_of(kind) {
            return Err(malformed(format!(
                "message kind {kind} of format {version}"
            )));
        }
        let from = ReplicaId(bytes.try_get_u64_le().map_err(cut)?);
        let to = ReplicaId(bytes.try_get_u64_le().map_err(cut)?);
        let view = View(number(&mut bytes)?);
        let message = Message::get(kind, &mut bytes)?;
        if !bytes.is_empty() {
            return Err(malformed("bytes after the end"));
        }
        Ok(Self {
            from,
            to,
            view,
            message,
        })
    }
}

fn version_of(kind: u8) -> u8 {
    match kind < FIRST_KIND_OF_2 {
        true => VERSION,
        false => VERSION_2,
    }
}

impl Message {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Prepare { .. } => "Prepare",
            Self::PrepareOk { .. } => "PrepareOk",
            Self::Commit { .. } => "Commit",
            Self::StartViewChange { .. } => "StartViewChange",
            Self::DoViewChange(_) => "DoViewChange",
            Self::StartView { .. } => "StartView",
            Self::RequestStartView { .. } => "RequestStartView",
            Self::RequestPrepares { .. } => "RequestPrepares",
            Self::Prepares { .. } => "Prepares",
            Self::SnapshotOffer { .. } => "SnapshotOffer",
            Self::ReadRequest { .. } => "ReadRequest",
            Self::ReadReply { .. } => "ReadReply",
            Self::Missing { .. } => "Missing",
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Prepare { .. } => 1,
            Self::PrepareOk { checksum: None, .. } => 2,
            Self::Commit { .. } => 3,
            Self::StartViewChange { .. } => 4,
            Self::DoViewChange(_) => 5,
            Self::StartView { .. } => 6,
            Self::RequestStartView { .. } => 7,
            Self::RequestPrepares { .. } => 8,
            Self::Prepares { .. } => 9,
            Self::SnapshotOffer { .. } => 10,
            Self::ReadRequest { .. } => 11,
            Self::ReadReply { .. } => 12,
            Self::PrepareOk { .. } => 13,
            Self::Missing { .. } => 14,
        }
    }

    /// About how many bytes its fields take.
    fn bytes(&self) -> usize {
        64 + match self {
            Self::Prepare { entries, .. }
            | Self::StartView { entries, .. }
            | Self::Prepares { entries } => wire::entries_fields_bytes(entries),
            Self::DoViewChange(log) => log.headers.len() * HEADER_BYTES,
            _ => 0,
        }
    }

    fn put(&self, out: &mut PartsWriter) {
        let fields = out.fields();
        match self {
            Self::Prepare { commit, entries } => {
                fields.put_u64_le(commit.0);
                wire::put_entries(out, entries);
            }
            Self::PrepareOk {
                op,
                received,
                beat,
                checksum,
            } => {
                fields.put_u64_le(op.0);
                fields.put_u64_le(received.0);
                fields.put_u64_le(*beat);
                if let Some(checksum) = checksum {
                    fields.put_u128_le(checksum.0);
                }
            }
            Self::Commit { commit, beat } => {
                fields.put_u64_le(commit.0);
                fields.put_u64_le(*beat);
            }
            Self::StartViewChange { at } => fields.put_u64_le(at.0),
            Self::DoViewChange(log) => {
                fields.put_u64_le(log.log_view.0);
                fields.put_u64_le(log.commit.0);
                put_head(fields, &log.head);
                put_headers(fields, &log.headers);
            }
            Self::StartView {
                commit,
                head,
                entries,
            } => {
                fields.put_u64_le(commit.0);
                put_head(fields, head);
                wire::put_entries(out, entries);
            }
            Self::RequestStartView { op } | Self::RequestPrepares { op } | Self::Missing { op } => {
                fields.put_u64_le(op.0);
            }
            Self::Prepares { entries } => wire::put_entries(out, entries),
            Self::SnapshotOffer { snapshot, checksum } => {
                wire::put_snapshot(fields, snapshot);
                put_checksum(fields, *checksum);
            }
            Self::ReadRequest { nonce, round } => {
                fields.put_u64_le(*nonce);
                fields.put_u64_le(*round);
            }
            Self::ReadReply {
                nonce,
                round,
                commit,
            } => {
                fields.put_u64_le(*nonce);
                fields.put_u64_le(*round);
                fields.put_u64_le(commit.0);
            }
        }
    }

    fn get(kind: u8, bytes: &mut Bytes) -> Result<Self, RefusalReason> {
        Ok(match kind {
            1 => Self::Prepare {
                commit: op(bytes)?,
                entries: wire::get_entries(bytes)?,
            },
            2 => Self::PrepareOk {
                op: op(bytes)?,
                received: op(bytes)?,
                beat: bytes.try_get_u64_le().map_err(cut)?,
                checksum: None,
            },
            3 => Self::Commit {
                commit: op(bytes)?,
                beat: bytes.try_get_u64_le().map_err(cut)?,
            },
            4 => Self::StartViewChange {
                at: View(number(bytes)?),
            },
            5 => {
                let log = DoViewChange {
                    log_view: View(number(bytes)?),
                    commit: op(bytes)?,
                    head: get_head(bytes)?,
                    headers: get_headers(bytes)?,
                };
                if log.headers.len() as u64 > log.head.op.0 {
                    return Err(malformed("more headers than ops"));
                }
                Self::DoViewChange(log)
            }
            6 => Self::StartView {
                commit: op(bytes)?,
                head: get_head(bytes)?,
                entries: wire::get_entries(bytes)?,
            },
            7 => Self::RequestStartView { op: op(bytes)? },
            8 => Self::RequestPrepares { op: op(bytes)? },
            9 => Self::Prepares {
                entries: wire::get_entries(bytes)?,
            },
            10 => Self::SnapshotOffer {
                snapshot: wire::get_snapshot(bytes)?,
                checksum: get_checksum(bytes)?,
            },
            11 => Self::ReadRequest {
                nonce: bytes.try_get_u64_le().map_err(cut)?,
                round: bytes.try_get_u64_le().map_err(cut)?,
            },
            12 => Self::ReadReply {
                nonce: bytes.try_get_u64_le().map_err(cut)?,
                round: bytes.try_get_u64_le().map_err(cut)?,
                commit: op(bytes)?,
            },
            13 => Self::PrepareOk {
                op: op(bytes)?,
                received: op(bytes)?,
                beat: bytes.try_get_u64_le().map_err(cut)?,
                checksum: Some(Checksum(bytes.try_get_u128_le().map_err(cut)?)),
            },
            14 => Self::Missing { op: op(bytes)? },
            _ => return Err(malformed(format!("message kind {kind}"))),
        })
    }
}

fn number(bytes: &mut Bytes) -> Result<u64, RefusalReason> {
    let number = bytes.try_get_u64_le().map_err(cut)?;
    if number > NUMBER_MAX {
        return Err(malformed(format!("the number {number}")));
    }
    Ok(number)
}

fn op(bytes: &mut Bytes) -> Result<Index, RefusalReason> {
    number(bytes).map(Index)
}

fn put_head(out: &mut BytesMut, head: &Head) {
    out.put_u64_le(head.op.0);
    put_checksum(out, head.checksum);
}

fn get_head(bytes: &mut Bytes) -> Result<Head, RefusalReason> {
    Ok(Head {
        op: op(bytes)?,
        checksum: get_checksum(bytes)?,
    })
}

fn put_checksum(out: &mut BytesMut, checksum: Option<Checksum>) {
    out.put_u8(u8::from(checksum.is_some()));
    out.put_u128_le(checksum.unwrap_or_default().0);
}

fn get_checksum(bytes: &mut Bytes) -> Result<Option<Checksum>, RefusalReason> {
    let known = bytes.try_get_u8().map_err(cut)?;
    let checksum = Checksum(bytes.try_get_u128_le().map_err(cut)?);
    match known {
        0 if checksum == Checksum::default() => Ok(None),
        1 => Ok(Some(checksum)),
        _ => Err(malformed("a checksum that is neither known nor unknown")),
    }
}

fn put_headers(out: &mut BytesMut, headers: &[Header]) {
    out.put_u32_le(headers.len() as u32);
    for header in headers {
        out.put_u64_le(header.view.0);
        out.put_u128_le(header.checksum.0);
        let present = if header.present { PRESENT } else { 0 };
        out.put_u8(present | if header.nack { NACK } else { 0 });
    }
}

fn get_headers(bytes: &mut Bytes) -> Result<Vec<Header>, RefusalReason> {
    let count = bytes.try_get_u32_le().map_err(cut)? as usize;
    if count > HEADERS_MAX || count > bytes.len() / HEADER_BYTES {
        return Err(malformed("more headers than bytes"));
    }
    (0..count)
        .map(|_| {
            let view = View(number(bytes)?);
            let checksum = Checksum(bytes.try_get_u128_le().map_err(cut)?);
            let flags = bytes.try_get_u8().map_err(cut)?;
            if flags & !(PRESENT | NACK) != 0 {
                return Err(malformed(format!("header flags {flags:#x}")));
            }
            Ok(Header {
                view,
                checksum,
                present: flags & PRESENT != 0,
                nack: flags & NACK != 0,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use consensus::{EntryKind, Membership, Term};

    use super::*;

    fn messages() -> Vec<Message> {
        let entries = vec![Entry {
            term: Term(3),
            index: Index(8),
            kind: EntryKind::Command,
            payload: Bytes::from_static(b"0123456789abcdefbody"),
        }];
        let head = Head {
            op: Index(8),
            checksum: Some(Checksum(77)),
        };
        let header = |present, nack| Header {
            view: View(3),
            checksum: Checksum(1 << 100),
            present,
            nack,
        };
        vec![
            Message::Prepare {
                commit: Index(7),
                entries: entries.clone(),
            },
            Message::PrepareOk {
                op: Index(8),
                received: Index(9),
                beat: 4,
                checksum: None,
            },
            Message::PrepareOk {
                op: Index(8),
                received: Index(9),
                beat: FIRST_BEAT,
                checksum: Some(Checksum(5)),
            },
            Message::Missing { op: Index(4) },
            Message::Commit {
                commit: Index(8),
                beat: 5,
            },
            Message::StartViewChange { at: View(2) },
            Message::DoViewChange(DoViewChange {
                log_view: View(3),
                commit: Index(6),
                head,
                headers: vec![
                    header(true, false),
                    header(false, true),
                    header(false, false),
                ],
            }),
            Message::StartView {
                commit: Index(7),
                head: Head {
                    op: Index(8),
                    checksum: None,
                },
                entries: entries.clone(),
            },
            Message::RequestStartView { op: Index(6) },
            Message::RequestPrepares { op: Index(7) },
            Message::Prepares { entries },
            Message::SnapshotOffer {
                snapshot: SnapshotMeta {
                    index: Index(5),
                    term: Term(2),
                    membership: Membership::new(1, [ReplicaId(2), ReplicaId(1)], []).unwrap(),
                },
                checksum: Some(Checksum(9)),
            },
            Message::ReadRequest { nonce: 1, round: 2 },
            Message::ReadReply {
                nonce: 1,
                round: 2,
                commit: Index(3),
            },
        ]
    }

    fn encoded(message: Message) -> Bytes {
        let envelope = Envelope {
            from: ReplicaId(1),
            to: ReplicaId(2),
            view: View(4),
            message,
        };
        envelope.encode(9).to_bytes()
    }

    #[test]
    fn every_message_comes_back_as_it_was_sent() {
        let mut kinds = std::collections::BTreeSet::new();
        for message in messages() {
            kinds.insert(message.kind());
            let decoded = Envelope::decode(9, encoded(message.clone())).unwrap();
            assert_eq!(decoded.message, message);
        }
        assert_eq!(kinds.len(), 14);
    }

    #[test]
    fn every_truncation_is_refused_and_no_changed_byte_panics() {
        for message in messages() {
            let whole = encoded(message);
            for length in 0..whole.len() {
                assert!(Envelope::decode(9, whole.slice(..length)).is_err());
            }
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut changed = whole.to_vec();
                    changed[at] ^= 1 << bit;
                    let _ = Envelope::decode(9, changed.into());
                }
            }
        }
    }

    /// What version 0.1 of the program knows is of version 1, and nothing else is.
    #[test]
    fn each_kind_is_of_one_version() {
        for message in messages() {
            let mut bytes = encoded(message.clone()).to_vec();
            assert_eq!(bytes[0], if message.kind() <= 12 { 1 } else { 2 });
            bytes[0] = 3 - bytes[0];
            assert!(Envelope::decode(9, bytes.into()).is_err());
        }
    }

    #[test]
    fn another_group_is_distinguished_from_garbage() {
        let bytes = encoded(Message::StartViewChange { at: View(2) });
        assert_eq!(
            Envelope::decode(8, bytes).unwrap_err(),
            RefusalReason::WrongGroup
        );
    }
}
