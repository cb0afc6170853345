//! Messages and consumers' offsets, wherever their partition is.

use std::sync::Arc;

use ::partitions::ConsumerKey;
use adapters::metadata::{Identifier, PartitionKey, Rule, code};
use adapters::wire::v0_11::{self as wire, RequestHeader};
use adapters::wire::{
    Consumer, GroupTarget, OffsetTarget, PartitionTarget, Partitioning, PollRequest, SendRequest,
};

use super::Body;
use crate::cluster::Failure;
use crate::partitions::{DataReply, DataRequest, Place, Poll, Reader, Right, has_session};
use crate::server::connection::{Bound, Connection, Trimming};

/// The member does not hold the partition.
const FENCED: Failure = Failure::Refused(code::PARTITION_NOT_OWNED);

/// What a request needs of the topic that it names.
type TopicRule = fn(u32, u32) -> Rule;

/// A client that was sent to another node is sent there again rather than to
/// repeat the request where it was.
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
    /// Where the partition is, of whose topic the client may do this.
    async fn place(
        &self,
        stream: &Identifier,
        topic: &Identifier,
        partition: &Partitioning,
        rule: TopicRule,
    ) -> Result<Place, Failure> {
        let partitions = &self.server.partitions;
        let found = partitions.find(stream, topic, partition, self.commit);
        let place = found.await?;
        let PartitionKey {
            stream_id,
            topic_id,
            ..
        } = place.key;
        self.permit(Some(rule(stream_id, topic_id))).await?;
        Ok(place)
    }

    /// Where the partition is, and who reads it.
    async fn find(&self, target: &OffsetTarget) -> Result<(Place, Reader), Failure> {
        let partitions = &self.server.partitions;
        match &target.consumer {
            Consumer::Single(id) => {
                let partition = Partitioning::Partition(target.partition);
                let place = self
                    .place(&target.stream, &target.topic, &partition, Rule::Poll)
                    .await?;
                Ok((place, Reader::Single(*id)))
            }
            Consumer::Group(group) => {
                let group = group_target(target, group);
                let found = partitions
                    .find_of_group(&group, target.partition, self.commit)
                    .await?;
                // Nobody is a member of what is not there.
                let (place, group) = found.ok_or(FENCED)?;
                let rule = Rule::Poll(place.key.stream_id, place.key.topic_id);
                self.permit(Some(rule)).await?;
                let Bound {
                    client, session, ..
                } = self.speaker()?;
                let reader = Reader::Member {
                    group,
                    client,
                    session,
                };
                Ok((place, reader))
            }
        }
    }

    /// The session that reads and stores here: of the consumer that this
    /// connection carries, or its own.
    fn speaker(&self) -> Result<Bound, Failure> {
        let speaker = self.attached.or(self.bound);
        speaker.ok_or(Failure::Refused(code::UNAUTHENTICATED))
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
        match self.find(&poll.target).await {
            Ok((place, reader)) => self.poll_at(place, reader, poll).await,
            Err(FENCED) => Ok(wire::fenced()),
            Err(failure) => Err(failure),
        }
    }

    /// The client was told that this node owns the partition, and carries the
    /// consumer's session here.
    pub(super) async fn poll_on_primary(&mut self, poll: PollRequest) -> Body {
        let attached = self
            .attached
            .ok_or(Failure::Refused(code::UNAUTHENTICATED))?;
        let lives = {
            let state = self.server.metadata.reader.read();
            has_session(&state, attached.client, attached.session)
        };
        if !lives {
            return Err(Failure::Refused(code::STALE_CLIENT));
        }
        match self.find(&poll.target).await {
            Ok((place, _)) if place.owner != self.server.metadata.me => Err(Failure::NotAccepted),
            Ok((place, reader)) => self.poll_at(place, reader, poll).await,
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
            let (reply, receipt) = partitions.poll_here(request).await?;
            self.receipt = receipt;
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
        let (place, reader) = self.find(target).await.map_err(elsewhere)?;
        let server = &self.server;
        let check = || reader.check(&server.metadata.reader.read(), &place.key, right);
        if check().is_err() {
            server.metadata.barrier().await.map_err(elsewhere)?;
            check().map_err(|denied| Failure::Refused(denied.code()))?;
        }
        let leader = server.metadata.leadership().leader;
        let owner = server.view(place.owner, leader, self.address.ip());
        if !owner.healthy {
            return Err(Failure::NotAccepted);
        }
        let session = self.bound.map_or(0, |bound| bound.session);
        let watermark = self.commit.max(server.metadata.applied());
        Ok(vec![wire::routing(
            header.client,
            session,
            watermark,
            &owner,
        )])
    }

    pub(super) async fn store_offset(&self, target: &OffsetTarget, offset: u64) -> Body {
        let (place, reader) = self.find(target).await?;
        let request = DataRequest::StoreOffset {
            key: place.key,
            reader,
            offset,
        };
        self.server.partitions.call(place, request).await?;
        Ok(Vec::new())
    }

    pub(super) async fn delete_offset(&self, target: &OffsetTarget) -> Body {
        let (place, reader) = self.find(target).await?;
        let request = DataRequest::DeleteOffset {
            key: place.key,
            reader,
        };
        self.server.partitions.call(place, request).await?;
        Ok(Vec::new())
    }

    /// Removes the oldest segments. Which ones those are is settled once, so a
    /// request that is repeated removes no more.
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
        let asked = Trimming {
            session: header.session,
            request: header.request,
            key,
            count,
        };
        let through = match self.trimming {
            Some((before, through)) if before == asked => through,
            _ => match partitions
                .call(place, DataRequest::SealedEnd { key, count })
                .await?
            {
                DataReply::SealedEnd(through) => through,
                _ => return Err(Failure::NotAccepted),
            },
        };
        self.trimming = Some((asked, through));
        if let Some(through) = through {
            let request = DataRequest::Trim { key, through };
            partitions.call(place, request).await?;
        }
        Ok(Vec::new())
    }

    pub(super) async fn offset(&self, target: &OffsetTarget) -> Body {
        let partition = Partitioning::Partition(target.partition);
        let partitions = &self.server.partitions;
        let place = self
            .place(&target.stream, &target.topic, &partition, Rule::Poll)
            .await?;
        let consumer = match &target.consumer {
            Consumer::Single(id) => Reader::Single(*id).key(),
            // Whoever may poll the topic may see how far its groups are.
            Consumer::Group(group) => {
                let group = group_target(target, group);
                let found = partitions
                    .find_of_group(&group, target.partition, self.commit)
                    .await?;
                let Some((_, id)) = found else {
                    return Ok(Vec::new());
                };
                ConsumerKey { group: true, id }
            }
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
