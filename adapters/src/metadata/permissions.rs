//! What a user is allowed to do.
//!
//! Grants are bits in the order in which Iggy's wire has them. A rule is allowed
//! by any one of several grants: of the whole server, of a stream, or of a topic.

use std::collections::BTreeMap;

use crate::codec::{Malformed, Reader, Result, Writer};

/// Grants of the whole server.
pub mod global {
    /// Manage servers.
    pub const MANAGE_SERVERS: u16 = 1 << 0;
    /// See servers.
    pub const READ_SERVERS: u16 = 1 << 1;
    /// Manage users.
    pub const MANAGE_USERS: u16 = 1 << 2;
    /// See users.
    pub const READ_USERS: u16 = 1 << 3;
    /// Manage streams.
    pub const MANAGE_STREAMS: u16 = 1 << 4;
    /// See streams.
    pub const READ_STREAMS: u16 = 1 << 5;
    /// Manage topics.
    pub const MANAGE_TOPICS: u16 = 1 << 6;
    /// See topics.
    pub const READ_TOPICS: u16 = 1 << 7;
    /// Poll messages.
    pub const POLL: u16 = 1 << 8;
    /// Send messages.
    pub const SEND: u16 = 1 << 9;
    /// Everything.
    pub const ALL: u16 = (1 << 10) - 1;
}

/// Grants of one stream.
pub mod stream {
    /// Manage the stream.
    pub const MANAGE: u8 = 1 << 0;
    /// See it.
    pub const READ: u8 = 1 << 1;
    /// Manage its topics.
    pub const MANAGE_TOPICS: u8 = 1 << 2;
    /// See them.
    pub const READ_TOPICS: u8 = 1 << 3;
    /// Poll from them.
    pub const POLL: u8 = 1 << 4;
    /// Send to them.
    pub const SEND: u8 = 1 << 5;
    /// Everything.
    pub const ALL: u8 = (1 << 6) - 1;
}

/// Grants of one topic.
pub mod topic {
    /// Manage the topic.
    pub const MANAGE: u8 = 1 << 0;
    /// See it.
    pub const READ: u8 = 1 << 1;
    /// Poll from it.
    pub const POLL: u8 = 1 << 2;
    /// Send to it.
    pub const SEND: u8 = 1 << 3;
    /// Everything.
    pub const ALL: u8 = (1 << 4) - 1;
}

/// All grants of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Bits of [`global`].
    pub global: u16,
    /// Grants of single streams, by their ids.
    pub streams: BTreeMap<u32, StreamPermissions>,
}

/// Grants of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamPermissions {
    /// Bits of [`stream`].
    pub grants: u8,
    /// Bits of [`topic`] of single topics, by their ids.
    pub topics: BTreeMap<u32, u8>,
}

/// A permission that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// See servers and clients.
    Servers,
    /// See users.
    ReadUsers,
    /// Manage users.
    ManageUsers,
    /// See all streams.
    ListStreams,
    /// See a stream.
    ReadStream(u32),
    /// Create a stream.
    CreateStream,
    /// Change a stream.
    ManageStream(u32),
    /// See all topics of a stream.
    ListTopics(u32),
    /// See a topic, and manage its consumer groups.
    ReadTopic(u32, u32),
    /// Create a topic in a stream.
    CreateTopic(u32),
    /// Change a topic.
    ManageTopic(u32, u32),
    /// Poll from a topic, and keep offsets in it.
    Poll(u32, u32),
    /// Send to a topic.
    Send(u32, u32),
}

impl Permissions {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self {
            global: global::ALL,
            streams: BTreeMap::new(),
        }
    }

    /// Whether the rule is allowed.
    #[must_use]
    pub fn allow(&self, rule: Rule) -> bool {
        let (on_server, on_stream, on_topic) = grants(rule);
        let (stream_id, topic_id) = scope(rule);
        let stream = stream_id.and_then(|id| self.streams.get(&id));
        let topic = stream
            .zip(topic_id)
            .and_then(|(stream, id)| stream.topics.get(&id));
        self.global & on_server != 0
            || stream.is_some_and(|stream| stream.grants & on_stream != 0)
            || topic.is_some_and(|topic| topic & on_topic != 0)
    }

    /// Whether the rule is allowed for any stream or topic.
    #[must_use]
    pub fn allow_somewhere(&self, rule: Rule) -> bool {
        let (on_server, on_stream, on_topic) = grants(rule);
        self.global & on_server != 0
            || self.streams.values().any(|stream| {
                let mut topics = stream.topics.values();
                stream.grants & on_stream != 0 || topics.any(|topic| topic & on_topic != 0)
            })
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let global = reader.u16()?;
        let count = reader.count(9)?;
        let streams = (0..count)
            .map(|_| {
                let id = reader.u32()?;
                let grants = reader.u8()?;
                let count = reader.count(5)?;
                let topics: BTreeMap<u32, u8> = (0..count)
                    .map(|_| Ok((reader.u32()?, reader.u8()?)))
                    .collect::<Result<_>>()?;
                let known = topics.values().all(|grants| grants & !topic::ALL == 0);
                match known && grants & !stream::ALL == 0 {
                    true => Ok((id, StreamPermissions { grants, topics })),
                    false => Err(Malformed("an unknown permission")),
                }
            })
            .collect::<Result<_>>()?;
        match global & !global::ALL {
            0 => Ok(Self { global, streams }),
            _ => Err(Malformed("an unknown permission")),
        }
    }

    pub(super) fn write(&self, out: &mut impl Writer) {
        out.put_u16_le(self.global);
        out.put_u32_le(self.streams.len() as u32);
        for (id, stream) in &self.streams {
            out.put_u32_le(*id);
            out.put_u8(stream.grants);
            out.put_u32_le(stream.topics.len() as u32);
            for (id, grants) in &stream.topics {
                out.put_u32_le(*id);
                out.put_u8(*grants);
            }
        }
    }

    pub(super) fn read_option(reader: &mut Reader<'_>) -> Result<Option<Self>> {
        match reader.bool()? {
            true => Self::read(reader).map(Some),
            false => Ok(None),
        }
    }

    pub(super) fn write_option(permissions: Option<&Self>, out: &mut impl Writer) {
        out.put_bool(permissions.is_some());
        if let Some(permissions) = permissions {
            permissions.write(out);
        }
    }
}

/// The grants of which one is enough: of the server, of the stream, of the topic.
fn grants(rule: Rule) -> (u16, u8, u8) {
    const LIST_STREAMS: u16 = global::MANAGE_STREAMS | global::READ_STREAMS;
    const MANAGE_TOPICS: u16 = global::MANAGE_STREAMS | global::MANAGE_TOPICS;
    const READ_TOPICS: u16 = LIST_STREAMS | global::MANAGE_TOPICS | global::READ_TOPICS;
    const STREAM_TOPICS: u8 = stream::MANAGE | stream::MANAGE_TOPICS;
    const STREAM_READS: u8 = STREAM_TOPICS | stream::READ | stream::READ_TOPICS;
    const TOPIC_READS: u8 = topic::MANAGE | topic::READ;
    match rule {
        Rule::Servers => (global::MANAGE_SERVERS | global::READ_SERVERS, 0, 0),
        Rule::ReadUsers => (global::MANAGE_USERS | global::READ_USERS, 0, 0),
        Rule::ManageUsers => (global::MANAGE_USERS, 0, 0),
        Rule::ListStreams => (LIST_STREAMS, 0, 0),
        Rule::ReadStream(_) => (LIST_STREAMS, stream::MANAGE | stream::READ, 0),
        Rule::CreateStream => (global::MANAGE_STREAMS, 0, 0),
        Rule::ManageStream(_) => (global::MANAGE_STREAMS, stream::MANAGE, 0),
        Rule::ListTopics(_) => (READ_TOPICS, STREAM_READS, 0),
        Rule::ReadTopic(..) => (READ_TOPICS, STREAM_READS, TOPIC_READS),
        Rule::CreateTopic(_) => (MANAGE_TOPICS, STREAM_TOPICS, 0),
        Rule::ManageTopic(..) => (MANAGE_TOPICS, STREAM_TOPICS, topic::MANAGE),
        Rule::Poll(..) => (
            READ_TOPICS | global::POLL,
            STREAM_READS | stream::POLL,
            TOPIC_READS | topic::POLL,
        ),
        Rule::Send(..) => (
            MANAGE_TOPICS | global::SEND,
            STREAM_TOPICS | stream::SEND,
            topic::MANAGE | topic::SEND,
        ),
    }
}

fn scope(rule: Rule) -> (Option<u32>, Option<u32>) {
    match rule {
        Rule::Servers
        | Rule::ReadUsers
        | Rule::ManageUsers
        | Rule::ListStreams
        | Rule::CreateStream => (None, None),
        Rule::ReadStream(stream)
        | Rule::ManageStream(stream)
        | Rule::ListTopics(stream)
        | Rule::CreateTopic(stream) => (Some(stream), None),
        Rule::ReadTopic(stream, topic)
        | Rule::ManageTopic(stream, topic)
        | Rule::Poll(stream, topic)
        | Rule::Send(stream, topic) => (Some(stream), Some(topic)),
    }
}

#[cfg(test)]
mod tests;
