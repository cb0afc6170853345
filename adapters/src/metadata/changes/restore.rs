//! Puts decoded streams into a state, and derives what a snapshot does not contain.

use std::sync::Arc;

use crate::metadata::state::{Memberships, MetadataState, Partition, STREAMS_MAX, Stream};
use crate::metadata::types::GroupKey;

impl MetadataState {
    /// `None` when the streams contradict each other, or name a node that is unknown or
    /// cannot lead.
    pub(in crate::metadata) fn restore_streams(&mut self, streams: Vec<Stream>) -> Option<()> {
        for stream in streams {
            if stream.id >= STREAMS_MAX {
                return None;
            }
            for topic in stream.topics() {
                let known = |it: Partition| {
                    let leads = |leader| !self.leaders_change() || self.is_live(leader);
                    it.leader().is_none_or(leads)
                        && it.replicas.iter().all(|it| self.nodes.contains_key(&it))
                };
                if !topic.partitions.iter().all(known) {
                    return None;
                }
                self.count_added(topic.partitions.iter());
            }
            let by_name = self.stream_names.insert(stream.name.clone(), stream.id);
            let by_id = self.streams.insert(stream.id, Arc::new(stream));
            if by_name.is_some() || by_id.is_some() {
                return None;
            }
        }
        self.free_stream_ids = (0..self.stream_ids_end())
            .filter(|id| !self.streams.contains_key(id))
            .collect();
        Some(())
    }

    /// `None` when a member of a group has no session.
    pub(in crate::metadata) fn restore_memberships(&mut self) -> Option<()> {
        let mut found = Memberships::default();
        for stream in self.streams.values() {
            for topic in stream.topics() {
                for group in topic.groups() {
                    let key = GroupKey {
                        stream_id: stream.id,
                        topic_id: topic.id,
                        group_id: group.id,
                    };
                    found.set_revoking(key, group.revocations().next().is_some());
                    for (_, member) in group.members() {
                        found.add(member.client, key);
                    }
                }
            }
        }
        for client in found.clients() {
            self.sessions.get(client)?;
            self.sessions.pin(client, true);
        }
        self.memberships = found;
        Some(())
    }
}
