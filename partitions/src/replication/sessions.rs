//! Which requests of which sessions the log contains: how a repetition is recognized.
//!
//! The state is a function of the log: the last [`SESSIONS_MAX`] sessions in the order of
//! their last records. So all copies compute the same, also those that become leaders. What
//! is not known to be committed can be undone, since a new leader may cut it.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::{Index, rule};
use thiserror::Error;

use super::chain::{Epoch, Position};
use crate::record::{Record, Tag};

/// Sessions that a partition remembers; the one without a record for the longest time is
/// forgotten first.
pub const SESSIONS_MAX: usize = 1024;
/// Bytes of a session in [`Sessions::encode`].
const ENCODED_BYTES: usize = 56;
/// Bytes before the sessions.
const HEAD_BYTES: usize = 29;
const VERSION: u8 = 1;

/// The last request of each session that has sent to the partition lately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// The state is the one after this record.
    through: Position,
    last: BTreeMap<Session, LastRequest>,
    /// By the index of the last record of each.
    order: BTreeMap<Index, Session>,
    /// The latest epoch of a last record that was forgotten; zero for none.
    forgotten: Epoch,
    /// How to take back records that may be cut, oldest first.
    undo: VecDeque<Undo>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Session {
    client: u128,
    session: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LastRequest {
    request: u64,
    first_offset: u64,
    position: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Undo {
    index: Index,
    session: Session,
    before: Option<LastRequest>,
    evicted: Option<(Session, LastRequest)>,
    forgotten: Epoch,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it was not stored.
    New,
    /// It is stored.
    Stored {
        /// The index of its record.
        index: Index,
        /// Offset of its first message.
        first_offset: u64,
    },
    /// The session has sent a later one.
    Older,
    /// It may have been stored, and forgotten since.
    Forgotten,
}

/// Bytes are not those of [`Sessions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the sessions of a partition are damaged or of an unknown version")]
pub struct SessionsError;

impl Session {
    fn of(tag: Tag) -> Self {
        let session = if rule!(TagNamesSession) {
            tag.session
        } else {
            0
        };
        Self {
            client: tag.client,
            session,
        }
    }
}

impl Sessions {
    /// What is known of a request. `first_epoch` is the epoch of its first attempt, if this
    /// is a repetition.
    #[must_use]
    pub fn known(&self, tag: Tag, first_epoch: Option<Epoch>) -> Known {
        match self.last.get(&Session::of(tag)) {
            Some(last) if tag.request < last.request => Known::Older,
            Some(last) if tag.request == last.request => Known::Stored {
                index: last.position.index,
                first_offset: last.first_offset,
            },
            Some(_) => Known::New,
            // Had its record been forgotten, it would have been of this epoch or a later one.
            None if first_epoch.is_some_and(|first| first <= self.forgotten) => Known::Forgotten,
            None => Known::New,
        }
    }

    /// Takes in the next record of the log; one that is contained already changes nothing.
    pub fn apply(&mut self, record: &Record) {
        let position = record.position;
        if position.index <= self.through.index {
            if position.epoch <= self.through.epoch {
                return;
            }
            // After a recovery other records take the places of those that are contained.
            self.truncate(Index(position.index.0.saturating_sub(1)));
        }
        self.through = position;
        let Some(tag) = record.tag else { return };
        let session = Session::of(tag);
        let last = LastRequest {
            request: tag.request,
            first_offset: record.first_offset,
            position,
        };
        let mut undo = Undo {
            index: position.index,
            session,
            before: self.set(session, Some(last)),
            evicted: None,
            forgotten: self.forgotten,
        };
        if self.last.len() > sessions_max()
            && let Some((_, oldest)) = self.order.pop_first()
            && let Some(evicted) = self.last.remove(&oldest)
        {
            self.forgotten = self.forgotten.max(evicted.position.epoch);
            undo.evicted = Some((oldest, evicted));
        }
        self.undo.push_back(undo);
    }

    /// Records up to here are not cut any more.
    pub(crate) fn settle(&mut self, commit: Index) {
        while self.undo.front().is_some_and(|undo| undo.index <= commit) {
            self.undo.pop_front();
        }
    }

    /// Records after this one are cut.
    pub(super) fn truncate(&mut self, end: Index) {
        while self.undo.back().is_some_and(|undo| undo.index > end) {
            if let Some(undo) = self.undo.pop_back() {
                self.take_back(undo);
            }
        }
        // After a recovery a cut may take what was known to be committed: what was before
        // is not known any more.
        while self.order.last_key_value().is_some_and(|(at, _)| *at > end) {
            if let Some((_, session)) = self.order.pop_last() {
                self.last.remove(&session);
            }
        }
        self.through.index = self.through.index.min(end);
    }

    /// The state after this record, after which everything can be undone.
    pub(super) fn as_of(&self, commit: Index) -> Self {
        let mut before = self.clone();
        before.truncate(commit);
        before.undo.clear();
        before
    }

    fn take_back(&mut self, undo: Undo) {
        if let Some((session, evicted)) = undo.evicted {
            self.set(session, Some(evicted));
        }
        self.set(undo.session, undo.before);
        self.forgotten = undo.forgotten;
    }

    fn set(&mut self, session: Session, to: Option<LastRequest>) -> Option<LastRequest> {
        let before = match to {
            Some(last) => self.last.insert(session, last),
            None => self.last.remove(&session),
        };
        if let Some(before) = before {
            self.order.remove(&before.position.index);
        }
        if let Some(last) = to {
            self.order.insert(last.position.index, session);
        }
        before
    }

    /// As bytes, at most 64 KiB: to be kept with a segment, before whose first record this
    /// is the state.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32 + self.last.len() * ENCODED_BYTES);
        out.put_u8(VERSION);
        out.put_u64_le(self.through.epoch.0);
        out.put_u64_le(self.through.index.0);
        out.put_u64_le(self.forgotten.0);
        out.put_u32_le(u32::try_from(self.last.len()).unwrap_or(u32::MAX));
        for session in self.order.values() {
            let Some(last) = self.last.get(session) else {
                continue;
            };
            out.put_u128_le(session.client);
            out.put_u64_le(session.session);
            out.put_u64_le(last.request);
            out.put_u64_le(last.first_offset);
            out.put_u64_le(last.position.epoch.0);
            out.put_u64_le(last.position.index.0);
        }
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    /// From the bytes of [`encode`](Self::encode).
    ///
    /// # Errors
    /// When the bytes are not such.
    pub fn decode(bytes: &[u8]) -> Result<Self, SessionsError> {
        let (mut body, crc) = bytes.split_last_chunk::<4>().ok_or(SessionsError)?;
        let intact = u32::from_le_bytes(*crc) == crc32c::crc32c(body);
        if !intact || body.len() < HEAD_BYTES || body.get_u8() != VERSION {
            return Err(SessionsError);
        }
        let mut sessions = Self {
            through: Position {
                epoch: Epoch(body.get_u64_le()),
                index: Index(body.get_u64_le()),
            },
            forgotten: Epoch(body.get_u64_le()),
            ..Self::default()
        };
        let count = body.get_u32_le() as usize;
        if count > SESSIONS_MAX || body.len() != count * ENCODED_BYTES {
            return Err(SessionsError);
        }
        for _ in 0..count {
            let session = Session {
                client: body.get_u128_le(),
                session: body.get_u64_le(),
            };
            let last = LastRequest {
                request: body.get_u64_le(),
                first_offset: body.get_u64_le(),
                position: Position {
                    epoch: Epoch(body.get_u64_le()),
                    index: Index(body.get_u64_le()),
                },
            };
            let newest = sessions.order.last_key_value().map(|(at, _)| *at);
            let at = last.position.index;
            let ordered = newest.is_none_or(|newest| newest < at) && at <= sessions.through.index;
            if !ordered || sessions.set(session, Some(last)).is_some() {
                return Err(SessionsError);
            }
        }
        Ok(sessions)
    }
}

/// [`SESSIONS_MAX`], unless a test has lowered it.
fn sessions_max() -> usize {
    consensus::rules::limit("sessions", SESSIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RecordFlags, Stamp};

    fn tag(session: u64, request: u64) -> Tag {
        Tag {
            client: 7,
            session,
            request,
        }
    }

    fn record(epoch: u64, index: u64, tag: Tag) -> Record {
        Record::epoch_start(Stamp {
            partition_id: 3,
            position: Position {
                epoch: Epoch(epoch),
                index: Index(index),
            },
            first_offset: index * 10,
            timestamp: 0,
            flags: RecordFlags::NONE,
            tag: Some(tag),
        })
    }

    fn stored(index: u64) -> Known {
        Known::Stored {
            index: Index(index),
            first_offset: index * 10,
        }
    }

    #[test]
    fn a_repetition_is_known_and_an_older_request_is_not_new() {
        let mut sessions = Sessions::default();
        sessions.apply(&record(1, 1, tag(1, 5)));
        sessions.apply(&record(1, 2, tag(2, 1)));
        assert_eq!(sessions.known(tag(1, 5), None), stored(1));
        assert_eq!(sessions.known(tag(1, 4), None), Known::Older);
        assert_eq!(sessions.known(tag(1, 6), None), Known::New);
        assert_eq!(sessions.known(tag(3, 5), Some(Epoch(1))), Known::New);
    }

    #[test]
    fn a_cut_takes_back_what_it_removes() {
        let mut sessions = Sessions::default();
        sessions.apply(&record(1, 1, tag(1, 5)));
        let before = sessions.encode();
        sessions.apply(&record(1, 2, tag(1, 6)));
        sessions.apply(&record(1, 3, tag(2, 1)));
        assert_eq!(sessions.as_of(Index(1)).encode(), before);
        sessions.truncate(Index(1));
        assert_eq!(sessions.encode(), before);
        assert_eq!(sessions.known(tag(1, 5), None), stored(1));
    }

    #[test]
    fn the_session_that_was_silent_for_longest_is_forgotten_until_the_cut() {
        let mut sessions = Sessions::default();
        let count = SESSIONS_MAX as u64;
        for number in 1..=count {
            sessions.apply(&record(4, number, tag(number, 1)));
        }
        let full = sessions.clone();
        sessions.apply(&record(5, count + 1, tag(count + 1, 1)));
        let first = tag(1, 1);
        assert_eq!(sessions.known(first, Some(Epoch(4))), Known::Forgotten);
        assert_eq!(sessions.known(first, Some(Epoch(5))), Known::New);
        assert_eq!(sessions.known(first, None), Known::New);
        sessions.truncate(Index(count));
        assert_eq!(sessions.known(first, Some(Epoch(4))), stored(1));
        assert_eq!(sessions.last, full.last);
        let decoded = Sessions::decode(&full.encode()).expect("what was encoded");
        assert_eq!((decoded.last, decoded.order), (full.last, full.order));
    }

    #[test]
    fn other_bytes_are_refused() {
        let mut sessions = Sessions::default();
        sessions.apply(&record(1, 1, tag(1, 5)));
        let bytes = sessions.encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert_eq!(Sessions::decode(&changed), Err(SessionsError));
            assert_eq!(Sessions::decode(&bytes[..at]), Err(SessionsError));
        }
    }
}
