//! Changes of consumer groups.

use std::sync::Arc;

use crate::metadata::commands::{GroupChange, GroupOperation};
use crate::metadata::error::MetadataError;
use crate::metadata::events::RemovedGroup;
use crate::metadata::groups::{Group, Moment};
use crate::metadata::reply::Reply;
use crate::metadata::state::{MetadataState, Topic};
use crate::metadata::types::{GroupKey, Identifier};

impl MetadataState {
    pub(in crate::metadata) fn change_group(
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
                let topic = self.topic_mut(stream_id, topic_id)?;
                let reply = Reply::GroupCreated {
                    id: topic.create_group(name.clone())?,
                    partitions: topic.partitions.len() as u32,
                    name,
                };
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
                    self.add_membership(client, key);
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
                self.remove_membership(client, &key);
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

    /// A client without a session is a member of no group.
    pub(in crate::metadata) fn end_memberships(&mut self, client: u128) {
        let moment = self.moment();
        for key in self.memberships.remove_client(client) {
            let _ = self.with_group(&key, |group, partitions| {
                group.leave(client, partitions, moment)
            });
        }
    }

    /// Removes what is known of the groups of topics that are gone.
    pub(in crate::metadata) fn forget_groups<'a>(
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

    /// Reassigns partitions after their number has changed.
    pub(in crate::metadata) fn resize_groups(&mut self, stream_id: u32, topic_id: u32) {
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

    /// The holder of a partition has committed what it was served: the next member gets
    /// the partition.
    pub(in crate::metadata) fn complete_revocation(
        &mut self,
        key: &GroupKey,
        partition: u32,
        id: u64,
    ) {
        let _ = self.with_group(key, |group, _| group.complete(partition, id));
    }

    /// Completes the revocations that are pending for this long.
    pub(in crate::metadata) fn expire_revocations(&mut self, timeout_micros: u64) {
        let Some(latest) = self.now.checked_sub(timeout_micros) else {
            return;
        };
        let keys: Vec<GroupKey> = self.revoking_groups().copied().collect();
        for key in keys {
            let _ = self.with_group(&key, |group, _| group.expire(latest));
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.now,
            command_id: self.command_id,
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
        self.memberships.set_revoking(*key, revoking);
        self.memberships.revoking_changed |= revoking;
        Ok(changed)
    }

    fn add_membership(&mut self, client: u128, key: GroupKey) {
        self.memberships.add(client, key);
        self.sessions.pin(client, true);
    }

    fn remove_membership(&mut self, client: u128, key: &GroupKey) {
        if self.memberships.remove(client, key) {
            self.sessions.pin(client, false);
        }
    }

    fn forget(&mut self, key: GroupKey, group: &Group) {
        for (_, member) in group.members() {
            self.remove_membership(member.client, &key);
        }
        self.memberships.set_revoking(key, false);
    }
}
