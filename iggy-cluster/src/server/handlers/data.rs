//! Requests for messages and for consumers' offsets, of partitions on any node.

use std::sync::Arc;

use ::partitions::ConsumerKey;
use adapters::metadata::{Identifier, MetadataState, Rule, code};
use adapters::wire::v0_11::{self as wire, RequestHeader};
use adapters::wire::{
    Consumer, GroupTarget, OffsetTarget, PartitionTarget, Partitioning, PollRequest, SendRequest,
};

use super::Body;
use crate::cluster::Failure;
use crate::partitions::{
    DataReply, DataRequest, Denied, Partitions, Place, Poll, Reader, Right, has_session,
};
use crate::server::connection::{Bound, Connection, Trimming};

/// The member does not hold the partition.
const FENCED: Failure = Failure::Refused(code::PARTITION_NOT_OWNED);

/// The permission that a request needs for the topic that it names.
type TopicRule = fn(u32, u32) -> Rule;

/// A client that was routed to this node must ask for the route again rather than repeat
/// the request here.
fn elsewhere(failure: Failure) -> Failure {
    match failure {
        Failure::OutcomeUnknown => Failure::NotAccepted,
        failure => failure,
    }
}

fn group_target(target: &OffsetTarget, group: &Identifier) -> GroupTarget {
    GroupTarget {
        stream: target.stream.clone(),
        topic: target.topic.clone(),
        group: group.clone(),
    }
}

impl Connection {
    /// The partition that a permitted request names, by one state.
    async fn place(
        &self,
        stream: &Identifier,
        topic: &Identifier,
        partition: &Partitioning,
        rule: TopicRule,
    ) -> Result<Place, Failure> {
        self.view(|state| self.place_in(state, stream, topic, partition, rule))
            .await
    }

    fn place_in(
        &self,
        state: &MetadataState,
        stream: &Identifier,
        topic: &Identifier,
        partition: &Partitioning,
        rule: TopicRule,
    ) -> Result<Place, Failure> {
        self.may(state, None)?;
        let partitions = &self.server.partitions;
        let place = partitions.look_up(state, stream, topic, partition)?;
        let rule = rule(place.key.stream_id, place.key.topic_id);
        self.may(state, Some(rule))?;
        Ok(place)
    }

    /// The partition, and the consumer that reads it, by this state.
    fn find_in(
        &self,
        state: &MetadataState,
        target: &OffsetTarget,
    ) -> Result<(Place, Reader), Failure> {
        match &target.consumer {
            Consumer::Single(id) => {
                let partition = Partitioning::Partition(target.partition);
                let (stream, topic) = (&target.stream, &target.topic);
                let place = self.place_in(state, stream, topic, &partition, Rule::Poll)?;
                Ok((place, Reader::Single(*id)))
            }
            Consumer::Group(group) => {
                self.may(state, None)?;
                let group = group_target(target, group);
                let found = Partitions::look_up_group(state, &group, target.partition);
                // A group that does not exist has no members.
                let (place, group) = found.ok_or(FENCED)?;
                let rule = Rule::Poll(place.key.stream_id, place.key.topic_id);
                self.may(state, Some(rule))?;
                let Bound {
                    client, session, ..
                } = self.reading_session()?;
                let reader = Reader::Member {
                    group,
                    client,
                    session,
                };
                Ok((place, reader))
            }
        }
    }

    /// The same. If this node owns the partition, the reader must have the right to it;
    /// another owner judges that itself.
    fn find_for(
        &self,
        state: &MetadataState,
        target: &OffsetTarget,
        right: Right,
    ) -> Result<(Place, Reader), Failure> {
        let (place, reader) = self.find_in(state, target)?;
        if place.owner == self.server.metadata.me {
            reader
                .check(state, &place.key, right)
                .map_err(|denied| Failure::Refused(denied.code()))?;
        }
        Ok((place, reader))
    }

    /// The session that reads and stores on this connection: the attached one, or its own.
    fn reading_session(&self) -> Result<Bound, Failure> {
        let session = self.attached.or(self.bound);
        session.ok_or(Failure::Refused(code::UNAUTHENTICATED))
    }

    pub(super) async fn send(&self, send: SendRequest) -> Body {
        let SendRequest {
            stream,
            topic,
            partitioning,
            batch,
        } = send;
        let partitions = &self.server.partitions;
        let place = self
            .place(&stream, &topic, &partitioning, Rule::Send)
            .await?;
        let bytes = batch.len() as u64;
        let request = DataRequest::Append {
            key: place.key,
            batch,
        };
        match partitions.call(place, request).await? {
            DataReply::Appended(appended) => {
                let metrics = &self.server.metrics;
                metrics.messages_in.inc_by(u64::from(appended.messages));
                metrics.message_bytes_in.inc_by(bytes);
                Ok(vec![wire::sent(&place.key, appended)])
            }
            _ => Err(Failure::OutcomeUnknown),
        }
    }

    pub(super) async fn poll(&mut self, poll: PollRequest) -> Body {
        let found = self.view(|state| self.find_for(state, &poll.target, Right::Read));
        match found.await {
            Ok((place, reader)) => self.poll_at(place, reader, poll).await,
            Err(FENCED) => Ok(wire::fenced()),
            Err(failure) => Err(failure),
        }
    }

    /// Another node has routed the client here, because this node owns the partition. The
    /// connection has the consumer's session attached.
    pub(super) async fn poll_on_primary(&mut self, poll: PollRequest) -> Body {
        let attached = self
            .attached
            .ok_or(Failure::Refused(code::UNAUTHENTICATED))?;
        let found = self.view(|state| {
            self.may(state, None)?;
            if !has_session(state, attached.client, attached.session) {
                return Ok(None);
            }
            self.find_for(state, &poll.target, Right::Read).map(Some)
        });
        match found.await {
            Ok(None) => Err(Failure::Refused(code::STALE_CLIENT)),
            Ok(Some((place, _))) if place.owner != self.server.metadata.me => {
                Err(Failure::NotAccepted)
            }
            Ok(Some((place, reader))) => self.poll_at(place, reader, poll).await,
            Err(FENCED) => Ok(wire::fenced()),
            Err(failure) => Err(elsewhere(failure)),
        }
    }

    async fn poll_at(&mut self, place: Place, reader: Reader, poll: PollRequest) -> Body {
        let request = Poll {
            key: place.key,
            reader,
            start: poll.start,
            count: poll.count,
            auto_commit: poll.auto_commit,
        };
        let partitions = &self.server.partitions;
        let reply = if place.owner == self.server.metadata.me {
            let (reply, commit) = partitions.poll_here(request, place.options).await?;
            self.pending_commit = commit;
            reply
        } else {
            partitions.call(place, DataRequest::Poll(request)).await?
        };
        match reply {
            DataReply::Polled(polled) => {
                let metrics = &self.server.metrics;
                metrics.messages_out.inc_by(u64::from(polled.messages));
                Ok(wire::polled(place.key.partition_id, polled))
            }
            DataReply::Fenced => Ok(wire::fenced()),
            _ => Err(Failure::NotAccepted),
        }
    }

    pub(super) async fn routing(
        &self,
        header: &RequestHeader,
        target: &OffsetTarget,
        right: Right,
    ) -> Body {
        let server = &self.server;
        let leader = server.metadata.leadership().leader;
        let found = self.view(|state| {
            let (place, reader) = self.find_in(state, target)?;
            let denied = |denied: Denied| Failure::Refused(denied.code());
            reader.check(state, &place.key, right).map_err(denied)?;
            let owner = server.node_view(state, place.owner, leader, self.address.ip());
            Ok((owner, state.applied()))
        });
        let (owner, applied) = found.await.map_err(elsewhere)?;
        if !owner.healthy {
            return Err(Failure::NotAccepted);
        }
        let session = self.bound.map_or(0, |bound| bound.session);
        Ok(vec![wire::routing(
            header.client,
            session,
            self.watermark.max(applied),
            &owner,
        )])
    }

    pub(super) async fn store_offset(&self, target: &OffsetTarget, offset: u64) -> Body {
        let (place, reader) = self
            .view(|state| self.find_for(state, target, Right::Store))
            .await?;
        let request = DataRequest::StoreOffset {
            key: place.key,
            reader,
            offset,
        };
        self.server.partitions.call(place, request).await?;
        Ok(Vec::new())
    }

    pub(super) async fn delete_offset(&self, target: &OffsetTarget) -> Body {
        let (place, reader) = self
            .view(|state| self.find_for(state, target, Right::Store))
            .await?;
        let request = DataRequest::DeleteOffset {
            key: place.key,
            reader,
        };
        self.server.partitions.call(place, request).await?;
        Ok(Vec::new())
    }

    /// Removes the oldest segments. The offset through which to remove is determined once,
    /// so that a repeated request removes nothing more.
    pub(super) async fn delete_segments(
        &mut self,
        header: &RequestHeader,
        target: &PartitionTarget,
        count: u32,
    ) -> Body {
        let partition = Partitioning::Partition(target.partition);
        let partitions = Arc::clone(&self.server.partitions);
        let place = self
            .place(&target.stream, &target.topic, &partition, Rule::ManageTopic)
            .await?;
        let key = place.key;
        let requested = Trimming {
            session: header.session,
            request: header.request,
            key,
            count,
        };
        let through = match self.trimming {
            Some((before, through)) if before == requested => through,
            _ => match partitions
                .call(place, DataRequest::SealedEnd { key, count })
                .await?
            {
                DataReply::SealedEnd(through) => through,
                _ => return Err(Failure::NotAccepted),
            },
        };
        self.trimming = Some((requested, through));
        if let Some(through) = through {
            let request = DataRequest::Trim { key, through };
            partitions.call(place, request).await?;
        }
        Ok(Vec::new())
    }

    pub(super) async fn offset(&self, target: &OffsetTarget) -> Body {
        let partition = Partitioning::Partition(target.partition);
        let found = self.view(|state| {
            let (stream, topic) = (&target.stream, &target.topic);
            let place = self.place_in(state, stream, topic, &partition, Rule::Poll)?;
            let consumer = match &target.consumer {
                Consumer::Single(id) => Reader::Single(*id).key(),
                // Permission to poll a topic includes the offsets of its groups.
                Consumer::Group(group) => {
                    let group = group_target(target, group);
                    let found = Partitions::look_up_group(state, &group, target.partition);
                    let (_, id) = found.ok_or(FENCED)?;
                    ConsumerKey { group: true, id }
                }
            };
            Ok((place, consumer))
        });
        let (place, consumer) = match found.await {
            // The group does not exist.
            Err(FENCED) => return Ok(Vec::new()),
            found => found?,
        };
        let request = DataRequest::Offset {
            key: place.key,
            consumer,
        };
        match self.server.partitions.call(place, request).await? {
            DataReply::Offset { stored, current } => Ok(stored
                .map(|stored| wire::offset(target.partition, current, stored))
                .into_iter()
                .collect()),
            _ => Err(Failure::NotAccepted),
        }
    }
}
