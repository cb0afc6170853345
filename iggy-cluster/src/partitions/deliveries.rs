//! Polls, and the offsets that they commit once their messages are delivered.
//!
//! If the owner of a partition is another node, that node cannot know when the messages have
//! arrived at the client. So the poll is forwarded without its commit, and the node of the
//! client stores the offset when they have.

use std::time::Duration;

use ::partitions::replication::OffsetChange;
use adapters::metadata::FeatureLevel;
use adapters::wire::PollStart;
use consensus::ReplicaId;
use replicated_log::ReservedMemory;
use replicated_log::links::RpcError;
use tracing::debug;

use super::messages::{ChangeOffset, DataReply, DataRequest, Poll, REQUEST};
use super::pending_commits::PendingCommit;
use super::place::Place;
use super::readers::Reader;
use super::reading::{PollMemory, Read, Source};
use super::{Failure, OWNER_TIMEOUT, Partitions};

/// A commit at another node that takes longer is given up: the client's next request waits
/// for it. The messages are perhaps served again.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// What a poll commits when its messages are delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Delivery {
    /// Of a partition of this node.
    Here(PendingCommit),
    /// Of a partition of another node.
    Elsewhere {
        place: Place,
        reader: Reader,
        offset: u64,
    },
}

impl Partitions {
    /// Polls a partition. If this node owns it, the poll must have been judged by the state
    /// that `place` is from. Returns also what to commit once the messages are delivered.
    pub(crate) async fn poll(
        &self,
        place: Place,
        poll: Poll,
        memory: &PollMemory,
    ) -> Result<(DataReply, Option<Delivery>), Failure> {
        let (place, reply, commit) = self.poll_leader(place, poll, memory).await?;
        if let Some(commit) = commit {
            return Ok((reply, Some(Delivery::Here(commit))));
        }
        if place.owner == self.metadata.me {
            return Ok((reply, None));
        }
        let last = match &reply {
            DataReply::Polled(polled) if poll.auto_commit => polled.last_offset,
            _ => None,
        };
        let delivery = last.map(|offset| Delivery::Elsewhere {
            place,
            reader: poll.reader,
            offset,
        });
        Ok((reply, delivery))
    }

    /// Has another node serve a poll without its commit, within memory that is reserved here.
    pub(super) async fn poll_elsewhere(
        &self,
        place: &Place,
        poll: Poll,
        memory: &PollMemory,
    ) -> Result<DataReply, Failure> {
        let there = There {
            partitions: self,
            owner: place.owner,
            poll,
            level: self.metadata.reader.read().feature_level(),
        };
        match self.local.gather(memory, poll.count, &there).await {
            Ok(Some(polled)) => Ok(DataReply::Polled(polled)),
            Ok(None) => Err(Failure::NotAccepted),
            Err(other) => other,
        }
    }

    /// Stores the offset of a poll whose messages are delivered.
    pub(crate) async fn delivered(&self, delivery: Delivery) {
        match delivery {
            Delivery::Here(commit) => self.local.delivered(commit).await,
            Delivery::Elsewhere {
                place,
                reader,
                offset,
            } => {
                let commit = self.commit_at(place, reader, offset);
                // Without the commit, the messages are served again.
                match tokio::time::timeout(COMMIT_TIMEOUT, commit).await {
                    Ok(Ok(())) => {}
                    Ok(Err(failure)) => {
                        debug!(key = ?place.key, %failure, "the commit of a poll failed");
                    }
                    Err(_) => debug!(key = ?place.key, "the commit of a poll takes too long"),
                }
            }
        }
    }

    /// Drops the commit of a poll whose messages may not have been delivered.
    pub(crate) fn drop_commit(&self, delivery: &Delivery) {
        if let Delivery::Here(commit) = delivery {
            self.local.drop_commit(commit);
        }
    }

    /// Advances a consumer's offset at another node: a poll never sets it back.
    async fn commit_at(&self, place: Place, reader: Reader, offset: u64) -> Result<(), Failure> {
        let key = place.key;
        if place.epoch.is_some() {
            let advance = DataRequest::ChangeOffset(ChangeOffset {
                key,
                reader,
                change: OffsetChange::Advance(offset),
                tag: None,
            });
            return self.call(place, advance).await.map(drop);
        }
        let consumer = reader.key();
        let found = self.call(place, DataRequest::Offset { key, consumer });
        if let DataReply::Offset { stored, .. } = found.await?
            && stored.is_none_or(|stored| stored < offset)
        {
            let store = DataRequest::StoreOffset {
                key,
                reader,
                offset,
            };
            self.call(place, store).await?;
        }
        Ok(())
    }
}

/// A partition of another node.
struct There<'a> {
    partitions: &'a Partitions,
    owner: ReplicaId,
    poll: Poll,
    level: FeatureLevel,
}

impl Source for There<'_> {
    /// A reply without messages, or none.
    type Error = Result<DataReply, Failure>;

    async fn read(
        &self,
        after: Option<u64>,
        messages_max: u32,
        reserved: ReservedMemory,
    ) -> Result<Read, Self::Error> {
        let start = after.map(|last| PollStart::Offset(last + 1));
        let poll = Poll {
            start: start.unwrap_or(self.poll.start),
            count: messages_max,
            auto_commit: false,
            ..self.poll
        };
        let request = match self.level >= FeatureLevel::V0_2 {
            true => DataRequest::PollWithin {
                poll,
                bytes_max: reserved.bytes() as u64,
            },
            // A longer reply than there is memory for is dropped, and requested again.
            false => DataRequest::Poll(poll),
        };
        let links = &self.partitions.links;
        let parts = request.encode();
        let call = links.call_within(self.owner, REQUEST, parts, OWNER_TIMEOUT, reserved);
        let reply = match call.await {
            Ok(reply) => DataReply::decode(reply).map(DataReply::or_failure),
            Err(RpcError::NoRoom(bytes)) => return Ok(Read::NoRoom(bytes)),
            Err(RpcError::NotSent | RpcError::Unknown) => None,
        };
        match reply {
            Some(Ok(DataReply::Polled(polled))) => Ok(Read::Batches(polled)),
            Some(other) => Err(other),
            None => Err(Err(Failure::NotAccepted)),
        }
    }
}
