//! Requests for messages and for consumers' offsets, of partitions on any node.

use ::partitions::replication::OffsetChange;
use ::partitions::{ConsumerKey, Tag};
use adapters::metadata::{Identifier, MetadataState, Rule, code};
use adapters::wire::v0_11::{self as wire, RequestHeader};
use adapters::wire::{
    Consumer, GroupTarget, OffsetTarget, PartitionTarget, Partitioning, PollRequest, SendRequest,
};
use bytes::Bytes;
use iggy_binary_protocol::consensus::Operation;

use super::Body;
use crate::cluster::Failure;
use crate::partitions::{
    ChangeOffset, DataReply, DataRequest, Delivery, Denied, Partitions, Place, Poll, PollMemory,
    Reader, Right, Send, bytes_of, has_session,
};
use crate::server::connection::{Bound, Connection, Trimming};

/// The member does not hold the partition.
const FENCED: Failure = Failure::Refused(code::PARTITION_NOT_OWNED);

/// The partition does not exist, at its owner or in a state.
const NO_PARTITION: Failure = Failure::Refused(code::PARTITION_NOT_FOUND);

/// How often a partition is looked up for one request, if it is purged or created again each
/// time before its owner is reached. Then the client repeats the request.
const LOOKUPS_MAX: usize = 3;

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

fn is_member(reader: Reader) -> bool {
    matches!(reader, Reader::Member { .. })
}

fn group_target(target: &OffsetTarget, group: &Identifier) -> GroupTarget {
    GroupTarget {
        stream: target.stream.clone(),
        topic: target.topic.clone(),
        group: group.clone(),
    }
}

impl Connection {
    /// Looks a partition up for an attempt to have its owner serve a request. If the owner does
    /// not know that partition, the state in which it was looked up was old: the next attempt
    /// catches up with the log first. So *partition not found* is answered only by a state
    /// that has caught up.
    async fn find<T>(
        &self,
        attempt: &mut usize,
        look: impl Fn(&MetadataState) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let metadata = &self.server.metadata;
        *attempt += 1;
        match *attempt {
            1 => self.view(look).await,
            2..=LOOKUPS_MAX => {
                metadata.barrier().await?;
                look(&metadata.reader.read())
            }
            _ => Err(Failure::NotAccepted),
        }
    }

    /// The partition that a permitted request names, by this state.
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
    ///
    /// As on Iggy's server, permission to poll a topic is sufficient to change the offset of
    /// any consumer that is not in a group. The offset of a group changes by its members; when
    /// it has none, by clients that may manage the topic.
    fn find_in(
        &self,
        state: &MetadataState,
        target: &OffsetTarget,
        right: Right,
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
                let administrator = Reader::Administrator { group };
                let manage = Rule::ManageTopic(place.key.stream_id, place.key.topic_id);
                if administrator.check(state, &place.key, right).is_ok()
                    && self.may(state, Some(manage)).is_ok()
                {
                    return Ok((place, administrator));
                }
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
    /// another owner judges that itself. A member neither reads a partition whose owner is
    /// down nor stores its offset: it requests its assignment, which leaves the partition
    /// out. A client that waited for the owner would poll nothing else meanwhile.
    fn find_for(
        &self,
        state: &MetadataState,
        target: &OffsetTarget,
        right: Right,
    ) -> Result<(Place, Reader), Failure> {
        let (place, reader) = self.find_in(state, target, right)?;
        if !place.live && is_member(reader) {
            return Err(FENCED);
        }
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

    /// Names a client's request, so that a repetition is known again.
    fn tag(header: &RequestHeader) -> Option<Tag> {
        let named = header.operation != Operation::NonReplicated && header.session != 0;
        named.then_some(Tag {
            client: header.client,
            session: header.session,
            request: header.request,
        })
    }

    pub(super) async fn send(&self, header: &RequestHeader, send: SendRequest) -> Body {
        let SendRequest {
            stream,
            topic,
            partitioning,
            batch,
        } = send;
        let bytes = batch.len() as u64;
        let mut attempt = 0;
        let (key, appended) = loop {
            let look = |state: &MetadataState| {
                self.place_in(state, &stream, &topic, &partitioning, Rule::Send)
            };
            let place = self.find(&mut attempt, look).await?;
            let (key, batch) = (place.key, batch.clone());
            let request = match place.epoch {
                Some(epoch) => DataRequest::Send(Send {
                    key,
                    epoch,
                    first_epoch: None,
                    tag: Self::tag(header),
                    batch,
                }),
                None => DataRequest::Append { key, batch },
            };
            match self.server.partitions.call(place, request).await {
                Err(NO_PARTITION) => {}
                Ok(DataReply::Appended(appended)) => break (place.key, appended),
                Ok(_) => return Err(Failure::OutcomeUnknown),
                Err(failure) => return Err(failure),
            }
        };
        let metrics = &self.server.metrics;
        metrics.messages_in.inc_by(u64::from(appended.messages));
        metrics.message_bytes_in.inc_by(bytes);
        Ok(vec![wire::sent(&key, appended)])
    }

    pub(super) async fn poll(&mut self, poll: PollRequest) -> Body {
        let mut attempt = 0;
        let polled = loop {
            let look = |state: &MetadataState| self.find_for(state, &poll.target, Right::Read);
            match self.find(&mut attempt, look).await {
                Ok((place, reader)) => match self.poll_at(place, reader, &poll).await {
                    Err(NO_PARTITION) => {}
                    polled => break polled,
                },
                Err(failure) => break Err(failure),
            }
        };
        self.polled(polled)
    }

    /// Another node has routed the client here, because this node owns the partition. The
    /// connection has the consumer's session attached.
    pub(super) async fn poll_on_primary(&mut self, poll: PollRequest) -> Body {
        let attached = self
            .attached
            .ok_or(Failure::Refused(code::UNAUTHENTICATED))?;
        let mut attempt = 0;
        let polled = loop {
            let look = |state: &MetadataState| {
                self.may(state, None)?;
                if !has_session(state, attached.client, attached.session) {
                    return Ok(None);
                }
                self.find_for(state, &poll.target, Right::Read).map(Some)
            };
            match self.find(&mut attempt, look).await {
                Ok(None) => break Err(Failure::Refused(code::STALE_CLIENT)),
                Ok(Some((place, _))) if place.owner != self.server.metadata.me => {
                    break Err(Failure::NotAccepted);
                }
                Ok(Some((place, reader))) => match self.poll_at(place, reader, &poll).await {
                    Err(NO_PARTITION) => {}
                    polled => break polled,
                },
                Err(failure) => break Err(elsewhere(failure)),
            }
        };
        self.polled(polled)
    }

    /// The body of a poll, and what it commits once the messages are delivered.
    async fn poll_at(
        &mut self,
        place: Place,
        reader: Reader,
        poll: &PollRequest,
    ) -> Result<(Vec<Bytes>, Option<Delivery>), Failure> {
        let request = Poll {
            key: place.key,
            reader,
            start: poll.start,
            count: poll.count,
            auto_commit: poll.auto_commit,
        };
        let memory = PollMemory::new(self.memory().clone(), self.poll_bytes);
        let polled = self.server.partitions.poll(place, request, &memory);
        let (reply, commit) = polled.await?;
        match reply {
            DataReply::Polled(polled) => {
                self.poll_bytes.note(bytes_of(&polled.batches));
                let metrics = &self.server.metrics;
                metrics.messages_out.inc_by(u64::from(polled.messages));
                Ok((wire::polled(place.key.partition_id, polled), commit))
            }
            DataReply::Fenced => Err(FENCED),
            _ => Err(Failure::NotAccepted),
        }
    }

    fn polled(&mut self, polled: Result<(Vec<Bytes>, Option<Delivery>), Failure>) -> Body {
        match polled {
            Ok((body, commit)) => {
                self.pending_commit = commit;
                Ok(body)
            }
            Err(FENCED) => Ok(wire::fenced()),
            Err(failure) => Err(failure),
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
            let (place, reader) = self.find_in(state, target, right)?;
            let denied = |denied: Denied| Failure::Refused(denied.code());
            reader.check(state, &place.key, right).map_err(denied)?;
            let owner = server.node_view(state, place.owner, leader, self.address.ip());
            match owner.healthy {
                true => Ok((owner, state.applied())),
                false if is_member(reader) => Err(FENCED),
                false => Err(Failure::NotAccepted),
            }
        });
        let (owner, applied) = found.await.map_err(elsewhere)?;
        let session = self.bound.map_or(0, |bound| bound.session);
        Ok(vec![wire::routing(
            header.client,
            session,
            self.watermark.max(applied),
            &owner,
        )])
    }

    /// Stores the offset of a consumer, or deletes it.
    pub(super) async fn change_offset(
        &self,
        header: &RequestHeader,
        target: &OffsetTarget,
        change: OffsetChange,
    ) -> Body {
        let mut attempt = 0;
        loop {
            let look = |state: &MetadataState| self.find_for(state, target, Right::Store);
            let (place, reader) = self.find(&mut attempt, look).await?;
            let key = place.key;
            let request = match (place.epoch, change) {
                (Some(_), change) => DataRequest::ChangeOffset(ChangeOffset {
                    key,
                    reader,
                    change,
                    tag: Self::tag(header),
                }),
                (None, OffsetChange::Store(offset) | OffsetChange::Advance(offset)) => {
                    DataRequest::StoreOffset {
                        key,
                        reader,
                        offset,
                    }
                }
                (None, OffsetChange::Delete) => DataRequest::DeleteOffset { key, reader },
            };
            match self.server.partitions.call(place, request).await {
                Err(NO_PARTITION) => {}
                changed => return changed.map(|_| Vec::new()),
            }
        }
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
        let mut attempt = 0;
        loop {
            let look = |state: &MetadataState| {
                let (stream, topic) = (&target.stream, &target.topic);
                self.place_in(state, stream, topic, &partition, Rule::ManageTopic)
            };
            let place = self.find(&mut attempt, look).await?;
            let requested = Trimming {
                session: header.session,
                request: header.request,
                key: place.key,
                count,
            };
            match self.trim(place, requested).await {
                Err(NO_PARTITION) => {}
                trimmed => return trimmed.map(|()| Vec::new()),
            }
        }
    }

    async fn trim(&mut self, place: Place, requested: Trimming) -> Result<(), Failure> {
        let partitions = &self.server.partitions;
        let Trimming { key, count, .. } = requested;
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
        Ok(())
    }

    pub(super) async fn offset(&self, target: &OffsetTarget) -> Body {
        let partition = Partitioning::Partition(target.partition);
        let mut attempt = 0;
        loop {
            let look = |state: &MetadataState| {
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
            };
            let (place, consumer) = match self.find(&mut attempt, look).await {
                // The group does not exist.
                Err(FENCED) => return Ok(Vec::new()),
                found => found?,
            };
            let request = DataRequest::Offset {
                key: place.key,
                consumer,
            };
            match self.server.partitions.call(place, request).await {
                Err(NO_PARTITION) => {}
                Ok(DataReply::Offset { stored, current }) => {
                    let offset = stored.map(|it| wire::offset(target.partition, current, it));
                    return Ok(offset.into_iter().collect());
                }
                Ok(_) => return Err(Failure::NotAccepted),
                Err(failure) => return Err(failure),
            }
        }
    }
}
