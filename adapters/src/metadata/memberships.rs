//! Groups of the whole state, and who is in which.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::commands::{GroupChange, GroupOperation};
use super::error::MetadataError;
use super::groups::{Group, GroupKey, Member, Moment};
use super::reply::Reply;
use super::state::{MetadataState, Stream, Topic};
use partitions::PartitionKey;

use super::types::{Identifier, Name};

/// What follows from the groups of all topics; not stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Memberships {
    of_client: BTreeMap<u128, BTreeSet<GroupKey>>,
    /// Groups with hand-overs under way.
    revoking: BTreeSet<GroupKey>,
    /// Whether the command under way changed a group with hand-overs.
    pub(super) stirred: bool,
}

/// A group that is gone, and the partitions that may hold offsets of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedGroup {
    /// Its id within the topic.
    pub group_id: u32,
    /// The topic's partitions.
    pub partitions: Vec<PartitionKey>,
}

/// Queries.
impl MetadataState {
    /// A group by numbers, with its topic.
    #[must_use]
    pub fn group(&self, key: &GroupKey) -> Option<(&Arc<Topic>, &Arc<Group>)> {
        let stream = self.streams.get(&key.stream_id)?;
        let topic = stream.topic(&Identifier::Id(key.topic_id))?;
        Some((topic, topic.group(&Identifier::Id(key.group_id))?))
    }

    /// A client's membership in a group.
    #[must_use]
    pub fn member(&self, key: &GroupKey, client: u128) -> Option<&Member> {
        self.group(key)?.1.member(client)
    }

    /// The groups that a client is in.
    pub fn memberships(&self, client: u128) -> impl Iterator<Item = &GroupKey> {
        self.memberships
            .of_client
            .get(&client)
            .into_iter()
            .flatten()
    }

    /// The groups that have hand-overs under way.
    pub fn revoking_groups(&self) -> impl ExactSizeIterator<Item = &GroupKey> {
        self.memberships.revoking.iter()
    }
}

/// Changes. Each checks everything before it changes anything.
impl MetadataState {
    pub(super) fn change_group(
        &mut self,
        client: u128,
        operation: GroupOperation,
    ) -> Result<(Reply, Option<RemovedGroup>), MetadataError> {
        let GroupOperation {
            stream,
            topic,
            change,
        } = operation;
        let (stream_id, topic_id) = self.topic_ids(&stream, &topic)?;
        let find = |state: &Self, group: &Identifier| {
            let (_, topic) = state.topic(&stream, &topic)?;
            let group = topic.group(group).ok_or(MetadataError::GroupNotFound)?;
            Ok(GroupKey {
                stream_id,
                topic_id,
                group_id: group.id,
            })
        };
        match change {
            GroupChange::Create(name) => {
                let reply = self.topic_mut(stream_id, topic_id)?.create_group(name)?;
                return Ok((reply, None));
            }
            GroupChange::Delete(group) => {
                let key = find(self, &group)?;
                return Ok((Reply::Done, Some(self.delete_group(&key)?)));
            }
            GroupChange::Join { group, busy } => {
                let key = find(self, &group)?;
                let moment = self.moment();
                let joined = self.with_group(&key, |group, partitions| {
                    group.join(client, partitions, &busy, moment)
                })?;
                if joined {
                    self.note_member(client, key);
                }
            }
            GroupChange::Leave(group) => {
                let key = find(self, &group)?;
                let moment = self.moment();
                let left = self.with_group(&key, |group, partitions| {
                    group.leave(client, partitions, moment)
                })?;
                if !left {
                    return Err(MetadataError::MemberNotFound);
                }
                self.note_gone(client, &key);
            }
        }
        Ok((Reply::Done, None))
    }

    fn delete_group(&mut self, key: &GroupKey) -> Result<RemovedGroup, MetadataError> {
        let topic = self.topic_mut(key.stream_id, key.topic_id)?;
        let group = topic
            .remove_group(key.group_id)
            .ok_or(MetadataError::GroupNotFound)?;
        let removed = RemovedGroup {
            group_id: key.group_id,
            partitions: topic.keys(key.stream_id).collect(),
        };
        self.forget(*key, &group);
        Ok(removed)
    }

    /// A client without a session is in no group.
    pub(super) fn end_memberships(&mut self, client: u128) {
        let moment = self.moment();
        for key in self
            .memberships
            .of_client
            .remove(&client)
            .unwrap_or_default()
        {
            let _ = self.with_group(&key, |group, partitions| {
                group.leave(client, partitions, moment)
            });
        }
    }

    /// The groups of topics that are gone go with them.
    pub(super) fn forget_groups<'a>(
        &mut self,
        stream_id: u32,
        topics: impl Iterator<Item = &'a Arc<Topic>>,
    ) {
        for topic in topics {
            for group in topic.groups() {
                let key = GroupKey {
                    stream_id,
                    topic_id: topic.id,
                    group_id: group.id,
                };
                self.forget(key, group);
            }
        }
    }

    /// The topic has another number of partitions.
    pub(super) fn resize_groups(&mut self, stream_id: u32, topic_id: u32) {
        let moment = self.moment();
        let Ok(topic) = self.topic_mut(stream_id, topic_id) else {
            return;
        };
        let ids: Vec<u32> = topic.groups().map(|group| group.id).collect();
        for group_id in ids {
            let key = GroupKey {
                stream_id,
                topic_id,
                group_id,
            };
            let _ = self.with_group(&key, |group, partitions| group.resize(partitions, moment));
        }
    }

    /// What was served of a partition is committed: the next member takes over.
    pub(super) fn complete_revocation(&mut self, key: &GroupKey, partition: u32, id: u64) {
        let _ = self.with_group(key, |group, _| group.complete(partition, id));
    }

    /// Hand-overs that take longer than this end now.
    pub(super) fn expire_revocations(&mut self, timeout_micros: u64) {
        let Some(latest) = self.now.checked_sub(timeout_micros) else {
            return;
        };
        let keys: Vec<GroupKey> = self.memberships.revoking.iter().copied().collect();
        for key in keys {
            let _ = self.with_group(&key, |group, _| group.expire(latest));
        }
    }

    /// Derives what is not stored; `None` when a member has no session.
    pub(super) fn adopt_groups(&mut self) -> Option<()> {
        let mut found = Memberships::default();
        for stream in self.streams.values() {
            for (key, group) in groups_of(stream) {
                if group.revocations().next().is_some() {
                    found.revoking.insert(key);
                }
                for (_, member) in group.members() {
                    let keys = found.of_client.entry(member.client).or_default();
                    keys.insert(key);
                }
            }
        }
        for client in found.of_client.keys() {
            self.sessions.get(*client)?;
            self.sessions.hold(*client, true);
        }
        self.memberships = found;
        Some(())
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.now,
            life: self.life,
        }
    }

    fn with_group<T>(
        &mut self,
        key: &GroupKey,
        change: impl FnOnce(&mut Group, u32) -> T,
    ) -> Result<T, MetadataError> {
        let topic = self.topic_mut(key.stream_id, key.topic_id)?;
        let partitions = topic.partitions.len() as u32;
        let group = topic
            .group_mut(key.group_id)
            .ok_or(MetadataError::GroupNotFound)?;
        let changed = change(group, partitions);
        let revoking = group.revocations().next().is_some();
        if revoking {
            self.memberships.revoking.insert(*key);
            self.memberships.stirred = true;
        } else {
            self.memberships.revoking.remove(key);
        }
        Ok(changed)
    }

    fn note_member(&mut self, client: u128, key: GroupKey) {
        let keys = self.memberships.of_client.entry(client).or_default();
        keys.insert(key);
        self.sessions.hold(client, true);
    }

    fn note_gone(&mut self, client: u128, key: &GroupKey) {
        let of_client = &mut self.memberships.of_client;
        if let Some(keys) = of_client.get_mut(&client) {
            keys.remove(key);
            if keys.is_empty() {
                of_client.remove(&client);
                self.sessions.hold(client, false);
            }
        }
    }

    fn forget(&mut self, key: GroupKey, group: &Group) {
        for (_, member) in group.members() {
            self.note_gone(member.client, &key);
        }
        self.memberships.revoking.remove(&key);
    }
}

fn groups_of(stream: &Stream) -> impl Iterator<Item = (GroupKey, &Arc<Group>)> {
    stream.topics().flat_map(|topic| {
        topic.groups().map(|group| {
            let key = GroupKey {
                stream_id: stream.id,
                topic_id: topic.id,
                group_id: group.id,
            };
            (key, group)
        })
    })
}

/// The groups of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    by_id: BTreeMap<u32, Arc<Group>>,
    names: BTreeMap<Name, u32>,
    /// The id of the next one; ids are not given again while the topic lives.
    pub(super) next: u32,
}

impl Groups {
    /// Groups as they were stored; `None` when they contradict each other.
    pub(super) fn restored(next: u32, groups: Vec<Group>) -> Option<Self> {
        let mut restored = Self {
            next,
            ..Self::default()
        };
        for group in groups {
            let known = group.id >= next
                || restored
                    .names
                    .insert(group.name.clone(), group.id)
                    .is_some()
                || restored.by_id.insert(group.id, Arc::new(group)).is_some();
            if known {
                return None;
            }
        }
        Some(restored)
    }
}

impl Topic {
    /// The groups, by id.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &Arc<Group>> {
        self.groups.by_id.values()
    }

    /// The group so named.
    #[must_use]
    pub fn group(&self, group: &Identifier) -> Option<&Arc<Group>> {
        let id = match group {
            Identifier::Id(id) => id,
            Identifier::Name(name) => self.groups.names.get(name)?,
        };
        self.groups.by_id.get(id)
    }

    fn group_mut(&mut self, id: u32) -> Option<&mut Group> {
        self.groups.by_id.get_mut(&id).map(Arc::make_mut)
    }

    fn create_group(&mut self, name: Name) -> Result<Reply, MetadataError> {
        let partitions = self.partitions.len() as u32;
        let groups = &mut self.groups;
        if groups.names.contains_key(&name) {
            return Err(MetadataError::GroupNameAlreadyExists);
        }
        let id = groups.next;
        // No client names more than 2^32 groups.
        groups.next = id.checked_add(1).ok_or(MetadataError::InvalidCommand)?;
        groups.names.insert(name.clone(), id);
        groups
            .by_id
            .insert(id, Arc::new(Group::new(id, name.clone())));
        Ok(Reply::GroupCreated {
            id,
            partitions,
            name,
        })
    }

    fn remove_group(&mut self, id: u32) -> Option<Arc<Group>> {
        let group = self.groups.by_id.remove(&id)?;
        self.groups.names.remove(&group.name);
        Some(group)
    }
}
