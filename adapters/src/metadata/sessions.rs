//! Client sessions, which make a request take effect once.
//!
//! A client has at most one request in flight. The session keeps the number and the reply
//! of the last one; a repetition is answered with that reply. Request numbers may skip
//! (requests to partitions share the counter) but never decrease.
//!
//! From [`FeatureLevel::V0_2`](super::FeatureLevel::V0_2) on, a client that logs in again
//! under its old id, as the same user, may repeat the last request of its former session,
//! which may have ended meanwhile: [`History`] keeps it. Any other request starts afresh,
//! because clients choose their ids and numbers themselves.
//!
//! The table is bounded: when it is full, the session that was used least recently, by
//! position in the log, is evicted; members of groups last.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use consensus::ReplicaId;
use consensus::rule;
use consensus::rules::limit;

use super::error::MetadataError;
use super::history::{History, LastRequest};
use crate::codec::{Malformed, Reader, Result, Writer};

/// The most sessions: a constant of the state machine, not a key of the configuration,
/// because all replicas must evict the same.
pub const SESSIONS_MAX: usize = 100_000;
/// The name of the limit by which the simulator makes the table smaller.
pub const SESSIONS_LIMIT: &str = "sessions";
/// A reply larger than this is not kept: a repetition is answered with
/// `RequestAlreadyApplied`.
pub const REPLY_BYTES_MAX: usize = 16 << 10;

/// One client's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its number.
    pub session: u64,
    /// The user.
    pub user_id: u32,
    /// The node that the client is connected to.
    pub node: ReplicaId,
    /// That node's registration when the session was opened.
    pub registration: u64,
    /// The number of the last request that was executed.
    pub last_request: u64,
    last_checksum: u64,
    last_reply: Bytes,
    /// The last request of the former session, until one is executed in this.
    former: Option<LastRequest>,
    used: u64,
    /// Whether the client is a member of a group: others are evicted first.
    pinned: bool,
}

impl Session {
    /// Whether a request of this number may have been executed.
    #[must_use]
    pub fn may_have_executed(&self, request: u64) -> bool {
        let former = self.former.as_ref();
        self.last_request >= request || former.is_some_and(|former| former.number == request)
    }

    /// The last request that was executed, in this session or the former.
    fn last(self) -> Option<LastRequest> {
        if self.last_request == 0 {
            return self.former;
        }
        Some(LastRequest {
            user_id: self.user_id,
            number: self.last_request,
            checksum: self.last_checksum,
            reply: self.last_reply,
        })
    }
}

/// What to do with a request.
pub(super) enum Admission {
    /// Execute it, then record the reply.
    Execute,
    /// It was executed: this is its reply.
    Repeat(Bytes),
}

/// All sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    next: u64,
    /// Counts uses; orders sessions by recency.
    uses: u64,
    by_client: BTreeMap<u128, Session>,
    /// In the order of eviction: pinned ones last.
    by_use: BTreeSet<(bool, u64, u128)>,
    by_registration: BTreeSet<(ReplicaId, u64, u128)>,
    by_user: BTreeSet<(u32, u128)>,
    /// From feature level 0.2 on.
    history: Option<History>,
}

impl Sessions {
    /// The number of open sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_client.len()
    }

    /// Whether no session is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    /// A client's session.
    #[must_use]
    pub fn get(&self, client: u128) -> Option<&Session> {
        self.by_client.get(&client)
    }

    /// From now on the last requests of sessions that end are kept.
    pub(super) fn keep_history(&mut self) {
        self.history.get_or_insert_default();
    }

    /// Opens a session, which replaces a former one of the client. Returns its number and
    /// the client whose session was evicted, if any.
    pub(super) fn open(
        &mut self,
        client: u128,
        user_id: u32,
        node: ReplicaId,
        registration: u64,
    ) -> (u64, Option<u128>) {
        self.end(client);
        let mut evicted = None;
        if self.by_client.len() >= limit(SESSIONS_LIMIT, SESSIONS_MAX)
            && let Some((_, _, oldest)) = self.next_to_evict()
        {
            self.end(oldest);
            evicted = Some(oldest);
        }
        self.next += 1;
        self.uses += 1;
        let history = self.history.as_mut();
        let former = history.and_then(|history| history.take(client));
        self.insert(
            client,
            Session {
                session: self.next,
                user_id,
                node,
                registration,
                last_request: 0,
                last_checksum: 0,
                last_reply: Bytes::new(),
                former: former.filter(|former| former.user_id == user_id),
                used: self.uses,
                pinned: false,
            },
        );
        (self.next, evicted)
    }

    fn next_to_evict(&self) -> Option<(bool, u64, u128)> {
        if rule!(OldestSessionEvicted) {
            return self.by_use.first().copied();
        }
        self.by_use.last().copied()
    }

    fn insert(&mut self, client: u128, session: Session) {
        self.by_use.insert((session.pinned, session.used, client));
        self.by_registration
            .insert((session.node, session.registration, client));
        self.by_user.insert((session.user_id, client));
        self.by_client.insert(client, session);
    }

    fn remove(&mut self, client: u128) -> Option<Session> {
        let session = self.by_client.remove(&client)?;
        self.by_use.remove(&(session.pinned, session.used, client));
        self.by_registration
            .remove(&(session.node, session.registration, client));
        self.by_user.remove(&(session.user_id, client));
        Some(session)
    }

    /// Ends a session.
    fn end(&mut self, client: u128) -> bool {
        let Some(session) = self.remove(client) else {
            return false;
        };
        if let (Some(history), Some(last)) = (&mut self.history, session.last())
            && rule!(LastRequestOfEndedSessionKept)
        {
            history.put(client, last);
        }
        true
    }

    /// Closes a session, unless the client has a newer one.
    pub(super) fn close(&mut self, client: u128, session: u64) -> bool {
        let current = self.get(client).is_some_and(|s| s.session == session);
        current && self.end(client)
    }

    /// Closes all sessions of a node's registration and returns their clients.
    pub(super) fn close_of(&mut self, node: ReplicaId, registration: u64) -> Vec<u128> {
        let clients: Vec<u128> = self
            .by_registration
            .range((node, registration, 0)..=(node, registration, u128::MAX))
            .map(|(_, _, client)| *client)
            .collect();
        for client in &clients {
            self.end(*client);
        }
        clients
    }

    /// Sets whether others are evicted before a client's session.
    pub(super) fn pin(&mut self, client: u128, pinned: bool) {
        if let Some(session) = self.by_client.get_mut(&client) {
            self.by_use.remove(&(session.pinned, session.used, client));
            session.pinned = pinned;
            self.by_use.insert((pinned, session.used, client));
        }
    }

    /// Closes all sessions of a user and returns their clients. Nothing of them is kept.
    pub(super) fn close_of_user(&mut self, user_id: u32) -> Vec<u128> {
        let clients: Vec<u128> = self
            .by_user
            .range((user_id, 0)..=(user_id, u128::MAX))
            .map(|(_, client)| *client)
            .collect();
        for client in &clients {
            self.remove(*client);
        }
        if let Some(history) = &mut self.history {
            history.forget_user(user_id);
        }
        clients
    }

    pub(super) fn admit(
        &mut self,
        client: u128,
        session: u64,
        request: u64,
        checksum: u64,
    ) -> std::result::Result<Admission, MetadataError> {
        let Some(found) = self.by_client.get_mut(&client) else {
            return Err(MetadataError::SessionExpired);
        };
        if found.session != session && rule!(ReplacedSessionEnded) {
            return Err(MetadataError::SessionExpired);
        }
        self.by_use.remove(&(found.pinned, found.used, client));
        self.uses += 1;
        found.used = self.uses;
        self.by_use.insert((found.pinned, found.used, client));
        if let Some(former) = &found.former
            && former.is_repeated(request, checksum)
            && rule!(FormerRequestAnswered)
        {
            return match former.reply.is_empty() {
                true => Err(MetadataError::RequestAlreadyApplied),
                false => Ok(Admission::Repeat(former.reply.clone())),
            };
        }
        if request > found.last_request || !rule!(RequestExecutedOnce) {
            return Ok(Admission::Execute);
        }
        let compared = checksum > 0 && found.last_checksum > 0 && rule!(RequestContentCompared);
        let same = !compared || checksum == found.last_checksum;
        let older = request < found.last_request && rule!(OlderRequestRefused);
        if older || !same || found.last_reply.is_empty() {
            return Err(MetadataError::RequestAlreadyApplied);
        }
        Ok(Admission::Repeat(found.last_reply.clone()))
    }

    pub(super) fn record(&mut self, client: u128, request: u64, checksum: u64, reply: &Bytes) {
        if let Some(session) = self.by_client.get_mut(&client) {
            session.former = None;
            session.last_request = request;
            session.last_checksum = checksum;
            let fits = reply.len() <= REPLY_BYTES_MAX && rule!(ReplyKept);
            session.last_reply = match fits {
                true => reply.clone(),
                false => Bytes::new(),
            };
        }
    }

    /// `with_history` as from feature level 0.2 on.
    pub(super) fn read(reader: &mut Reader<'_>, with_history: bool) -> Result<Self> {
        let mut sessions = Self {
            next: reader.u64()?,
            uses: reader.u64()?,
            ..Self::default()
        };
        for _ in 0..reader.count(72)? {
            let client = reader.u128()?;
            let session = Session {
                session: reader.u64()?,
                user_id: reader.u32()?,
                node: ReplicaId(reader.u64()?),
                registration: reader.u64()?,
                last_request: reader.u64()?,
                last_checksum: reader.u64()?,
                used: reader.u64()?,
                last_reply: Bytes::copy_from_slice(reader.bytes(REPLY_BYTES_MAX)?),
                former: match with_history && reader.bool()? {
                    true => Some(LastRequest::read(reader)?),
                    false => None,
                },
                pinned: false,
            };
            if session.used > sessions.uses || session.session > sessions.next {
                return Err(Malformed("a session from the future"));
            }
            sessions.insert(client, session);
        }
        if with_history {
            sessions.history = Some(History::read(reader)?);
        }
        Ok(sessions)
    }

    pub(super) fn write(&self, out: &mut impl Writer) {
        out.put_u64_le(self.next);
        out.put_u64_le(self.uses);
        let written = match rule!(SessionsInSnapshot) {
            true => self.by_client.len(),
            false => 0,
        };
        out.put_u32_le(written as u32);
        for (client, session) in self.by_client.iter().take(written) {
            out.put_u128_le(*client);
            out.put_u64_le(session.session);
            out.put_u32_le(session.user_id);
            out.put_u64_le(session.node.0);
            out.put_u64_le(session.registration);
            let kept = rule!(LastRequestInSnapshot);
            out.put_u64_le(session.last_request * u64::from(kept));
            out.put_u64_le(session.last_checksum);
            out.put_u64_le(session.used);
            out.put_bytes_with_length(&session.last_reply);
            if self.history.is_some() {
                out.put_bool(session.former.is_some());
                if let Some(former) = &session.former {
                    former.write(out);
                }
            }
        }
        if let Some(history) = &self.history {
            history.write(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> (Sessions, u64) {
        let mut sessions = Sessions::default();
        let (session, _) = sessions.open(7, 0, ReplicaId(1), 5);
        (sessions, session)
    }

    fn execute(sessions: &mut Sessions, session: u64, request: u64, reply: &'static str) {
        let admitted = sessions.admit(7, session, request, 9);
        assert!(matches!(admitted, Ok(Admission::Execute)));
        sessions.record(7, request, 9, &Bytes::from_static(reply.as_bytes()));
    }

    #[test]
    fn a_repeated_request_gets_the_first_reply() {
        let (mut sessions, session) = sessions();
        execute(&mut sessions, session, 3, "three");
        for checksum in [9, 0] {
            match sessions.admit(7, session, 3, checksum) {
                Ok(Admission::Repeat(reply)) => assert_eq!(reply, "three"),
                _ => panic!("executed twice"),
            }
        }
        execute(&mut sessions, session, 8, "eight");
    }

    #[test]
    fn an_older_or_different_request_is_refused() {
        let (mut sessions, session) = sessions();
        execute(&mut sessions, session, 3, "three");
        for (request, checksum) in [(2, 9), (3, 10)] {
            assert_eq!(
                sessions.admit(7, session, request, checksum).err(),
                Some(MetadataError::RequestAlreadyApplied)
            );
        }
    }

    #[test]
    fn an_unknown_or_replaced_session_executes_nothing() {
        let (mut sessions, first) = sessions();
        let (second, _) = sessions.open(7, 0, ReplicaId(1), 5);
        for (client, session) in [(7, first), (8, second), (7, second + 1)] {
            assert_eq!(
                sessions.admit(client, session, 1, 0).err(),
                Some(MetadataError::SessionExpired)
            );
        }
        assert!(!sessions.close(7, first), "the newer one stays");
        assert!(sessions.close(7, second));
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let mut sessions = Sessions::default();
        for client in 0..SESSIONS_MAX as u128 {
            sessions.open(client, 0, ReplicaId(1), 5);
        }
        sessions.admit(0, 1, 1, 0).unwrap();
        let (_, evicted) = sessions.open(u128::MAX, 0, ReplicaId(1), 5);
        assert_eq!(evicted, Some(1));
        assert_eq!(sessions.len(), SESSIONS_MAX);
    }

    #[test]
    fn a_fenced_registration_takes_its_sessions_along() {
        let mut sessions = Sessions::default();
        sessions.open(1, 0, ReplicaId(1), 5);
        sessions.open(2, 0, ReplicaId(1), 6);
        sessions.open(3, 0, ReplicaId(2), 5);
        assert_eq!(sessions.close_of(ReplicaId(1), 5), [1]);
        assert_eq!(sessions.len(), 2);
    }
}
