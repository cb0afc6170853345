//! Consumer groups.

use adapters::metadata::{
    ClientOperation, GroupChange, GroupOperation, Identifier, PartitionCount, Rule,
};
use adapters::wire::GroupTarget;
use adapters::wire::v0_11 as wire;
use bytes::Bytes;

use super::Body;
use crate::cluster::Failure;
use crate::server::connection::Connection;

impl Connection {
    /// The change that makes the client a member, with what only nodes know of the
    /// group's partitions.
    pub(super) async fn join_of(
        &self,
        target: GroupTarget,
    ) -> Result<ClientOperation<PartitionCount>, Failure> {
        self.server.metadata.barrier().await?;
        let busy = self.server.partitions.busy(&target).await;
        Ok(ClientOperation::Group(GroupOperation {
            stream: target.stream,
            topic: target.topic,
            change: GroupChange::Join {
                group: target.group,
                busy,
            },
        }))
    }

    /// One group; an empty body when it does not exist.
    pub(super) async fn group(&self, target: &GroupTarget) -> Body {
        self.server.metadata.barrier().await?;
        let state = self.server.metadata.reader.read();
        let (stream, topic) = state
            .topic(&target.stream, &target.topic)
            .map_err(Failure::from)?;
        self.may(&state, Some(Rule::ReadTopic(stream.id, topic.id)))?;
        let group = topic.group(&target.group);
        Ok(group
            .map(|group| wire::group(topic, group))
            .into_iter()
            .collect())
    }

    /// All groups of a topic.
    pub(super) async fn groups(&self, stream: &Identifier, topic: &Identifier) -> Body {
        self.server.metadata.barrier().await?;
        let state = self.server.metadata.reader.read();
        let (stream, topic) = state.topic(stream, topic).map_err(Failure::from)?;
        self.may(&state, Some(Rule::ReadTopic(stream.id, topic.id)))?;
        Ok(vec![wire::groups(topic)])
    }

    /// The partitions that this client may read as a member, without those whose owners are
    /// down: a stock client would wait for them, and read no others meanwhile. It requests
    /// its assignment with each heartbeat. An empty body when it is not a member.
    pub(super) async fn sync_group(&self, target: &GroupTarget) -> Body {
        self.server.metadata.barrier().await?;
        let Some(bound) = self.bound else {
            return Ok(Vec::new());
        };
        let state = self.server.metadata.reader.read();
        let topic = state.topic(&target.stream, &target.topic).ok();
        let assignment = topic.and_then(|(_, topic)| {
            let group = topic.group(&target.group)?;
            let member = group.member(bound.client)?;
            let is_available = |partition: u32| {
                let partition = topic.partitions.get(partition);
                let leader = partition.and_then(|partition| partition.leader());
                leader.is_some_and(|leader| state.is_live(leader))
            };
            Some(wire::assignment(group, member, is_available))
        });
        Ok(assignment.into_iter().collect())
    }

    /// A connection of this node, in the encoding for clients.
    pub(super) fn client(&self, id: u32) -> Vec<Bytes> {
        let client = self.server.clients.get(id);
        let state = self.server.metadata.reader.read();
        client
            .map(|client| wire::client(&state, &client))
            .into_iter()
            .collect()
    }
}
