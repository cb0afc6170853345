//! Members of consumer groups at the owner of a partition.
//!
//! The owner alone judges who may read: both the former and the next holder of a
//! partition are judged by its state, in which one of them holds it. What it has
//! served to a holder is remembered until the holder has committed it; while it
//! has not, the partition is *busy*, and a hand-over waits.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ::partitions::ConsumerKey;
use adapters::metadata::{ErrorCode, GroupKey, MetadataState, PartitionKey, code};

/// Who reads a partition, or stores an offset of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A consumer of its own.
    Single(u32),
    /// A member of a group.
    Member {
        /// The group.
        group: u32,
        /// The client.
        client: u128,
        /// Its session.
        session: u64,
    },
}

/// What a member wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Be served messages.
    Read,
    /// Change the group's offset.
    Store,
}

/// Why a member may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Another member holds the partition, or will.
    Fenced,
    /// Its session is gone.
    Stale,
}

impl Denied {
    /// Iggy's code.
    pub(crate) fn code(self) -> ErrorCode {
        match self {
            Self::Fenced => code::PARTITION_NOT_OWNED,
            Self::Stale => code::STALE_CLIENT,
        }
    }
}

impl Reader {
    /// Where its offset is.
    pub(crate) fn key(self) -> ConsumerKey {
        match self {
            Self::Single(id) => ConsumerKey { group: false, id },
            Self::Member { group, .. } => ConsumerKey {
                group: true,
                id: group,
            },
        }
    }

    /// Whether there is still what its offset belongs to.
    pub(super) fn lives(self, state: &MetadataState, key: &PartitionKey) -> bool {
        state.partition(key).is_some()
            && match self {
                Self::Single(_) => true,
                Self::Member { group, .. } => state.group(&group_of(key, group)).is_some(),
            }
    }

    /// Whether it may, by this state.
    pub(crate) fn check(
        self,
        state: &MetadataState,
        key: &PartitionKey,
        right: Right,
    ) -> Result<(), Denied> {
        let Self::Member {
            group,
            client,
            session,
        } = self
        else {
            return Ok(());
        };
        if !has_session(state, client, session) {
            return Err(Denied::Stale);
        }
        let group = group_of(key, group);
        let member = state.member(&group, client).ok_or(Denied::Fenced)?;
        // The partition of another life is none of this group's.
        let lives = state.partition(key).is_some();
        let may = match right {
            Right::Read => member.may_read(key.partition_id),
            Right::Store => member.holds(key.partition_id),
        };
        match lives && may {
            true => Ok(()),
            false => Err(Denied::Fenced),
        }
    }
}

/// Whether the client has this session.
pub(crate) fn has_session(state: &MetadataState, client: u128, session: u64) -> bool {
    let found = state.sessions().get(client);
    found.is_some_and(|found| found.session == session)
}

pub(super) fn group_of(key: &PartitionKey, group_id: u32) -> GroupKey {
    GroupKey {
        stream_id: key.stream_id,
        topic_id: key.topic_id,
        group_id,
    }
}

/// What was served to members of groups, of partitions that this node owns.
#[derive(Default)]
pub(super) struct Served {
    last: Mutex<HashMap<(PartitionKey, u32), (u128, u64)>>,
}

impl Served {
    /// Takes note of the last message served to a member.
    pub(super) fn note(&self, key: PartitionKey, reader: Reader, offset: u64) {
        if let Reader::Member { group, client, .. } = reader {
            let mut last = self.lock();
            let served = last.entry((key, group)).or_insert((client, offset));
            *served = match *served {
                (same, before) if same == client => (client, before.max(offset)),
                _ => (client, offset),
            };
        }
    }

    /// The last message that was served to this client.
    pub(super) fn to(&self, key: PartitionKey, group: u32, client: u128) -> Option<u64> {
        let last = self.lock();
        let (to, offset) = last.get(&(key, group))?;
        (*to == client).then_some(*offset)
    }

    /// Forgets what is not so any more.
    pub(super) fn retain(&self, keep: impl Fn(&PartitionKey, u32) -> bool) {
        self.lock().retain(|(key, group), _| keep(key, *group));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(PartitionKey, u32), (u128, u64)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
