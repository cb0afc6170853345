//! Members of consumer groups at the owner of a partition.
//!
//! The owner alone judges which member may read: both the former and the next holder of a
//! partition are judged by its state, in which one of them holds it. The owner remembers
//! what it has served to a holder until the holder has committed it. Until then the
//! partition is *busy*, and its revocation waits.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ::partitions::ConsumerKey;
use adapters::metadata::{ErrorCode, GroupKey, MetadataState, PartitionKey, code};

/// A consumer that reads a partition or stores an offset of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A consumer that is not in a group.
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
    /// A client that may manage the topic, and that changes the offset of a group without
    /// members. The node that it is connected to has judged its permission.
    Administrator {
        /// The group.
        group: u32,
    },
}

/// What a member may be permitted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// To be served messages.
    Read,
    /// To change the group's offset.
    Store,
}

/// Why a request of a member is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Another member holds the partition, or the partition is being revoked.
    Fenced,
    /// The session has ended.
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
    /// The key of its offset.
    pub(crate) fn key(self) -> ConsumerKey {
        match self {
            Self::Single(id) => ConsumerKey { group: false, id },
            Self::Member { group, .. } | Self::Administrator { group } => ConsumerKey {
                group: true,
                id: group,
            },
        }
    }

    /// The client of a member; zero for a consumer that is not in a group.
    pub(crate) fn client(self) -> u128 {
        match self {
            Self::Single(_) | Self::Administrator { .. } => 0,
            Self::Member { client, .. } => client,
        }
    }

    /// Whether the partition and the group that its offset belongs to exist.
    pub(super) fn exists(self, state: &MetadataState, key: &PartitionKey) -> bool {
        state.partition(key).is_some()
            && match self {
                Self::Single(_) => true,
                Self::Member { group, .. } | Self::Administrator { group } => {
                    state.group(&group_of(key, group)).is_some()
                }
            }
    }

    /// Whether this state permits it.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(
        self,
        state: &MetadataState,
        key: &PartitionKey,
        right: Right,
    ) -> Result<(), Denied> {
        let (group, client, session) = match self {
            Self::Single(_) => return Ok(()),
            Self::Member {
                group,
                client,
                session,
            } => (group, client, session),
            Self::Administrator { group } => {
                let exists = state.partition(key).is_some();
                let inactive = state
                    .group(&group_of(key, group))
                    .is_some_and(|(_, group)| group.members().next().is_none());
                return match exists && inactive && right == Right::Store {
                    true => Ok(()),
                    false => Err(Denied::Fenced),
                };
            }
        };
        if !has_session(state, client, session) {
            return Err(Denied::Stale);
        }
        let group = group_of(key, group);
        let member = state.member(&group, client).ok_or(Denied::Fenced)?;
        // A deleted partition with the same id was of an earlier generation.
        let exists = state.partition(key).is_some();
        let permitted = match right {
            Right::Read => member.may_read(key.partition_id),
            Right::Store => member.holds(key.partition_id),
        };
        match exists && permitted {
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

/// A consumer as people know it: the name of its group, or its id. Of an individual consumer
/// only the id is stored; that of a named one is a hash of its name.
pub(super) fn name_of(state: &MetadataState, key: &PartitionKey, consumer: ConsumerKey) -> String {
    if !consumer.group {
        return format!("consumer {}", consumer.id);
    }
    match state.group(&group_of(key, consumer.id)) {
        Some((_, group)) => format!("group {}", group.name),
        None => format!("group {}, which is deleted", consumer.id),
    }
}

/// The last offsets served to members of groups, of partitions that this node owns.
#[derive(Default)]
pub(super) struct Served {
    last: Mutex<HashMap<(PartitionKey, u32), (u128, u64)>>,
}

impl Served {
    /// Remembers the last message served to a member.
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

    /// Removes entries of partitions and groups that `keep` rejects.
    pub(super) fn retain(&self, keep: impl Fn(&PartitionKey, u32) -> bool) {
        self.lock().retain(|(key, group), _| keep(key, *group));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(PartitionKey, u32), (u128, u64)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
