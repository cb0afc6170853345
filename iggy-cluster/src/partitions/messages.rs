//! Requests for partitions between nodes, and their replies.
//!
//! Integers are little-endian. Batches are at the end of a request or a reply, in their
//! own format.

use ::partitions::replication::{Epoch, OffsetChange};
use ::partitions::{Appended, ConsumerKey, PartitionStats, PolledBatches, Tag};
use adapters::metadata::{ErrorCode, PartitionKey};
use adapters::wire::PollStart;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::readers::Reader;

/// The only kind of request on the data lane.
pub(crate) const REQUEST: u8 = 1;

/// A request to the owner of a partition.
#[derive(Clone, Debug)]
pub(crate) enum DataRequest {
    Append {
        key: PartitionKey,
        batch: Bytes,
    },
    /// An append to a partition with copies.
    Send(Send),
    Poll(Poll),
    /// A poll whose reply has at most so many bytes, or a single message: what the node of the
    /// client has memory for. Sent at feature level 0.2.
    PollWithin {
        poll: Poll,
        bytes_max: u64,
    },
    Offset {
        key: PartitionKey,
        consumer: ConsumerKey,
    },
    /// A change of an offset of a partition with copies.
    ChangeOffset(ChangeOffset),
    StoreOffset {
        key: PartitionKey,
        reader: Reader,
        offset: u64,
    },
    DeleteOffset {
        key: PartitionKey,
        reader: Reader,
    },
    Stats(Vec<PartitionKey>),
    /// The last offset of the oldest `count` sealed segments.
    SealedEnd {
        key: PartitionKey,
        count: u32,
    },
    /// Removes segments that end at or before this offset and that no consumer needs.
    Trim {
        key: PartitionKey,
        through: u64,
    },
    /// Which of these partitions have committed everything that was served to their holders
    /// in the group.
    Idle {
        group: u32,
        keys: Vec<PartitionKey>,
    },
}

/// An append that is known again when it is repeated.
#[derive(Clone, Debug)]
pub(crate) struct Send {
    pub(crate) key: PartitionKey,
    /// The epoch that its sender knows: the leader of another one refuses it.
    pub(crate) epoch: Epoch,
    /// The epoch of the first attempt, if this is not the first.
    pub(crate) first_epoch: Option<Epoch>,
    /// Which request of which session it is.
    pub(crate) tag: Option<Tag>,
    pub(crate) batch: Bytes,
}

/// A change of a consumer's offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChangeOffset {
    pub(crate) key: PartitionKey,
    pub(crate) reader: Reader,
    pub(crate) change: OffsetChange,
    pub(crate) tag: Option<Tag>,
}

/// A poll, in the form that the owner receives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Poll {
    pub(crate) key: PartitionKey,
    pub(crate) reader: Reader,
    pub(crate) start: PollStart,
    pub(crate) count: u32,
    pub(crate) auto_commit: bool,
}

/// The reply of an owner.
#[derive(Clone, Debug)]
pub(crate) enum DataReply {
    Done,
    Refused(ErrorCode),
    Appended(Appended),
    Polled(PolledBatches),
    Offset {
        stored: Option<u64>,
        current: u64,
    },
    Stats(Vec<PartitionStats>),
    /// The member does not hold the partition.
    Fenced,
    /// The ids of partitions.
    Idle(Vec<u32>),
    SealedEnd(Option<u64>),
}

impl DataRequest {
    /// A request that an owner answers with *partition not found* once it has caught up with
    /// the log. Nodes of version 0.1 do so too: they catch up before they remove segments,
    /// and no partition has the generation zero.
    pub(crate) fn barrier() -> Self {
        let key = PartitionKey {
            stream_id: 0,
            topic_id: 0,
            partition_id: 0,
            generation: 0,
        };
        Self::Trim { key, through: 0 }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        match self {
            Self::Poll(poll) | Self::PollWithin { poll, .. } => !poll.auto_commit,
            Self::Offset { .. } | Self::Stats(_) | Self::Idle { .. } => true,
            Self::SealedEnd { .. } => true,
            // Idempotent, but not read-only.
            Self::ChangeOffset(_) | Self::Send(_) => false,
            Self::StoreOffset { .. } | Self::DeleteOffset { .. } | Self::Trim { .. } => false,
            Self::Append { .. } => false,
        }
    }

    pub(crate) fn encode(self) -> Vec<Bytes> {
        let mut out = BytesMut::with_capacity(64);
        let mut batch = None;
        match self {
            Self::Append { key, batch: sent } => {
                out.put_u8(1);
                put_key(&mut out, &key);
                batch = Some(sent);
            }
            Self::Send(send) => {
                let Send {
                    key,
                    epoch,
                    first_epoch,
                    tag,
                    batch: sent,
                } = send;
                out.put_u8(11);
                put_key(&mut out, &key);
                out.put_u64_le(epoch.0);
                put_option(&mut out, first_epoch.map(|epoch| epoch.0));
                put_tag(&mut out, tag);
                batch = Some(sent);
            }
            Self::ChangeOffset(changed) => {
                let ChangeOffset {
                    key,
                    reader,
                    change,
                    tag,
                } = changed;
                out.put_u8(12);
                put_key(&mut out, &key);
                put_reader(&mut out, reader);
                let (kind, offset) = match change {
                    OffsetChange::Store(offset) => (1, offset),
                    OffsetChange::Advance(offset) => (2, offset),
                    OffsetChange::Delete => (3, 0),
                };
                out.put_u8(kind);
                out.put_u64_le(offset);
                put_tag(&mut out, tag);
            }
            Self::Poll(poll) => {
                out.put_u8(2);
                put_poll(&mut out, poll);
            }
            Self::PollWithin { poll, bytes_max } => {
                out.put_u8(10);
                put_poll(&mut out, poll);
                out.put_u64_le(bytes_max);
            }
            Self::Offset { key, consumer } => {
                out.put_u8(3);
                put_key(&mut out, &key);
                put_consumer(&mut out, consumer);
            }
            Self::StoreOffset {
                key,
                reader,
                offset,
            } => {
                out.put_u8(4);
                put_key(&mut out, &key);
                put_reader(&mut out, reader);
                out.put_u64_le(offset);
            }
            Self::DeleteOffset { key, reader } => {
                out.put_u8(5);
                put_key(&mut out, &key);
                put_reader(&mut out, reader);
            }
            Self::Stats(keys) => {
                out.put_u8(6);
                for key in &keys {
                    put_key(&mut out, key);
                }
            }
            Self::SealedEnd { key, count } => {
                out.put_u8(8);
                put_key(&mut out, &key);
                out.put_u32_le(count);
            }
            Self::Trim { key, through } => {
                out.put_u8(9);
                put_key(&mut out, &key);
                out.put_u64_le(through);
            }
            Self::Idle { group, keys } => {
                out.put_u8(7);
                out.put_u32_le(group);
                for key in &keys {
                    put_key(&mut out, key);
                }
            }
        }
        let mut parts = vec![out.freeze()];
        parts.extend(batch);
        parts
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        let request = match bytes.try_get_u8().ok()? {
            1 => {
                let key = get_key(&mut bytes)?;
                return Some(Self::Append { key, batch: bytes });
            }
            2 => Self::Poll(get_poll(&mut bytes)?),
            10 => Self::PollWithin {
                poll: get_poll(&mut bytes)?,
                bytes_max: bytes.try_get_u64_le().ok()?,
            },
            11 => {
                return Some(Self::Send(Send {
                    key: get_key(&mut bytes)?,
                    epoch: Epoch(bytes.try_get_u64_le().ok()?),
                    first_epoch: get_option(&mut bytes)?.map(Epoch),
                    tag: get_tag(&mut bytes)?,
                    batch: bytes,
                }));
            }
            12 => Self::ChangeOffset(ChangeOffset {
                key: get_key(&mut bytes)?,
                reader: get_reader(&mut bytes)?,
                change: {
                    let kind = bytes.try_get_u8().ok()?;
                    let offset = bytes.try_get_u64_le().ok()?;
                    match kind {
                        1 => OffsetChange::Store(offset),
                        2 => OffsetChange::Advance(offset),
                        3 => OffsetChange::Delete,
                        _ => return None,
                    }
                },
                tag: get_tag(&mut bytes)?,
            }),
            3 => Self::Offset {
                key: get_key(&mut bytes)?,
                consumer: get_consumer(&mut bytes)?,
            },
            4 => Self::StoreOffset {
                key: get_key(&mut bytes)?,
                reader: get_reader(&mut bytes)?,
                offset: bytes.try_get_u64_le().ok()?,
            },
            5 => Self::DeleteOffset {
                key: get_key(&mut bytes)?,
                reader: get_reader(&mut bytes)?,
            },
            6 => Self::Stats(get_keys(&mut bytes)?),
            8 => Self::SealedEnd {
                key: get_key(&mut bytes)?,
                count: bytes.try_get_u32_le().ok()?,
            },
            9 => Self::Trim {
                key: get_key(&mut bytes)?,
                through: bytes.try_get_u64_le().ok()?,
            },
            7 => Self::Idle {
                group: bytes.try_get_u32_le().ok()?,
                keys: get_keys(&mut bytes)?,
            },
            _ => return None,
        };
        bytes.is_empty().then_some(request)
    }
}

impl DataReply {
    pub(crate) fn encode(self) -> Vec<Bytes> {
        let mut out = BytesMut::with_capacity(32);
        let mut batches = Vec::new();
        match self {
            Self::Done => out.put_u8(0),
            Self::Refused(code) => {
                out.put_u8(1);
                out.put_u32_le(code.number());
            }
            Self::Appended(appended) => {
                out.put_u8(2);
                out.put_u64_le(appended.base_offset);
                out.put_u32_le(appended.messages);
                out.put_u64_le(appended.base_timestamp);
            }
            Self::Polled(polled) => {
                out.put_u8(3);
                out.put_u64_le(polled.current_offset);
                out.put_u32_le(polled.messages);
                put_option(&mut out, polled.last_offset);
                batches = polled.batches;
            }
            Self::Offset { stored, current } => {
                out.put_u8(4);
                put_option(&mut out, stored);
                out.put_u64_le(current);
            }
            Self::Stats(stats) => {
                out.put_u8(5);
                for stats in stats {
                    out.put_u32_le(stats.segments);
                    out.put_u64_le(stats.bytes);
                    out.put_u64_le(stats.messages);
                    out.put_u64_le(stats.first_offset);
                    out.put_u64_le(stats.next_offset);
                }
            }
            Self::Fenced => out.put_u8(6),
            Self::SealedEnd(offset) => {
                out.put_u8(8);
                put_option(&mut out, offset);
            }
            Self::Idle(ids) => {
                out.put_u8(7);
                for id in ids {
                    out.put_u32_le(id);
                }
            }
        }
        let mut parts = vec![out.freeze()];
        parts.extend(batches);
        parts
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        let reply = match bytes.try_get_u8().ok()? {
            0 => Self::Done,
            1 => Self::Refused(ErrorCode::from_number(bytes.try_get_u32_le().ok()?)),
            2 => Self::Appended(Appended {
                base_offset: bytes.try_get_u64_le().ok()?,
                messages: bytes.try_get_u32_le().ok()?,
                base_timestamp: bytes.try_get_u64_le().ok()?,
            }),
            3 => {
                let polled = PolledBatches {
                    current_offset: bytes.try_get_u64_le().ok()?,
                    messages: bytes.try_get_u32_le().ok()?,
                    last_offset: get_option(&mut bytes)?,
                    batches: vec![bytes],
                };
                return Some(Self::Polled(polled));
            }
            4 => Self::Offset {
                stored: get_option(&mut bytes)?,
                current: bytes.try_get_u64_le().ok()?,
            },
            5 => {
                let mut stats = Vec::with_capacity(bytes.len() / 36);
                while !bytes.is_empty() {
                    stats.push(PartitionStats {
                        segments: bytes.try_get_u32_le().ok()?,
                        bytes: bytes.try_get_u64_le().ok()?,
                        messages: bytes.try_get_u64_le().ok()?,
                        first_offset: bytes.try_get_u64_le().ok()?,
                        next_offset: bytes.try_get_u64_le().ok()?,
                    });
                }
                Self::Stats(stats)
            }
            6 => Self::Fenced,
            8 => Self::SealedEnd(get_option(&mut bytes)?),
            7 => {
                let mut ids = Vec::with_capacity(bytes.len() / 4);
                while !bytes.is_empty() {
                    ids.push(bytes.try_get_u32_le().ok()?);
                }
                Self::Idle(ids)
            }
            _ => return None,
        };
        bytes.is_empty().then_some(reply)
    }
}

fn put_poll(out: &mut BytesMut, poll: Poll) {
    let Poll {
        key,
        reader,
        start,
        count,
        auto_commit,
    } = poll;
    put_key(out, &key);
    put_reader(out, reader);
    let (kind, value) = match start {
        PollStart::Offset(offset) => (1, offset),
        PollStart::Timestamp(timestamp) => (2, timestamp),
        PollStart::First => (3, 0),
        PollStart::Last => (4, 0),
        PollStart::Next => (5, 0),
    };
    out.put_u8(kind);
    out.put_u64_le(value);
    out.put_u32_le(count);
    out.put_u8(u8::from(auto_commit));
}

fn get_poll(bytes: &mut Bytes) -> Option<Poll> {
    Some(Poll {
        key: get_key(bytes)?,
        reader: get_reader(bytes)?,
        start: {
            let kind = bytes.try_get_u8().ok()?;
            let value = bytes.try_get_u64_le().ok()?;
            match kind {
                1 => PollStart::Offset(value),
                2 => PollStart::Timestamp(value),
                3 => PollStart::First,
                4 => PollStart::Last,
                5 => PollStart::Next,
                _ => return None,
            }
        },
        count: bytes.try_get_u32_le().ok()?,
        auto_commit: bytes.try_get_u8().ok()? != 0,
    })
}

fn put_key(out: &mut BytesMut, key: &PartitionKey) {
    out.put_u32_le(key.stream_id);
    out.put_u32_le(key.topic_id);
    out.put_u32_le(key.partition_id);
    out.put_u64_le(key.generation);
}

fn get_key(bytes: &mut Bytes) -> Option<PartitionKey> {
    Some(PartitionKey {
        stream_id: bytes.try_get_u32_le().ok()?,
        topic_id: bytes.try_get_u32_le().ok()?,
        partition_id: bytes.try_get_u32_le().ok()?,
        generation: bytes.try_get_u64_le().ok()?,
    })
}

fn get_keys(bytes: &mut Bytes) -> Option<Vec<PartitionKey>> {
    let mut keys = Vec::with_capacity(bytes.len() / 20);
    while !bytes.is_empty() {
        keys.push(get_key(bytes)?);
    }
    Some(keys)
}

/// A node of 0.1 takes an administrator for a member without a session, and refuses it: no
/// client has this id.
const ADMINISTRATOR: (u128, u64) = (0, 0);

fn put_reader(out: &mut BytesMut, reader: Reader) {
    put_consumer(out, reader.key());
    let (client, session) = match reader {
        Reader::Single(_) => return,
        Reader::Member {
            client, session, ..
        } => (client, session),
        Reader::Administrator { .. } => ADMINISTRATOR,
    };
    out.put_u128_le(client);
    out.put_u64_le(session);
}

fn get_reader(bytes: &mut Bytes) -> Option<Reader> {
    let key = get_consumer(bytes)?;
    Some(match key.group {
        false => Reader::Single(key.id),
        true => {
            let group = key.id;
            match (bytes.try_get_u128_le().ok()?, bytes.try_get_u64_le().ok()?) {
                ADMINISTRATOR => Reader::Administrator { group },
                (client, session) => Reader::Member {
                    group,
                    client,
                    session,
                },
            }
        }
    })
}

fn put_consumer(out: &mut BytesMut, consumer: ConsumerKey) {
    out.put_u8(u8::from(consumer.group));
    out.put_u32_le(consumer.id);
}

fn get_consumer(bytes: &mut Bytes) -> Option<ConsumerKey> {
    Some(ConsumerKey {
        group: bytes.try_get_u8().ok()? != 0,
        id: bytes.try_get_u32_le().ok()?,
    })
}

fn put_tag(out: &mut BytesMut, tag: Option<Tag>) {
    out.put_u8(u8::from(tag.is_some()));
    if let Some(tag) = tag {
        out.put_u128_le(tag.client);
        out.put_u64_le(tag.session);
        out.put_u64_le(tag.request);
    }
}

fn get_tag(bytes: &mut Bytes) -> Option<Option<Tag>> {
    Some(match bytes.try_get_u8().ok()? {
        0 => None,
        1 => Some(Tag {
            client: bytes.try_get_u128_le().ok()?,
            session: bytes.try_get_u64_le().ok()?,
            request: bytes.try_get_u64_le().ok()?,
        }),
        _ => return None,
    })
}

fn put_option(out: &mut BytesMut, value: Option<u64>) {
    out.put_u8(u8::from(value.is_some()));
    out.put_u64_le(value.unwrap_or(0));
}

fn get_option(bytes: &mut Bytes) -> Option<Option<u64>> {
    let some = bytes.try_get_u8().ok()? != 0;
    let value = bytes.try_get_u64_le().ok()?;
    Some(some.then_some(value))
}
