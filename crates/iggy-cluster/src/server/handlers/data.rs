//! Messages and consumers' offsets, wherever their partition is.

use adapters::wire::v0_11::{self as wire, RequestHeader};
use adapters::wire::{OffsetTarget, Partitioning, PollRequest, SendRequest};

use super::Body;
use crate::cluster::Failure;
use crate::partitions::{DataReply, DataRequest, Place};
use crate::server::connection::Connection;

impl Connection {
    async fn find(&self, target: &OffsetTarget) -> Result<Place, Failure> {
        let partition = Partitioning::Partition(target.partition);
        let partitions = &self.server.partitions;
        partitions
            .find(&target.stream, &target.topic, &partition, self.commit)
            .await
    }

    pub(super) async fn send(&self, send: SendRequest) -> Body {
        let SendRequest {
            stream,
            topic,
            partitioning,
            batch,
        } = send;
        let partitions = &self.server.partitions;
        let place = partitions
            .find(&stream, &topic, &partitioning, self.commit)
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
            _ => Err(Failure::NotCommitted),
        }
    }

    pub(super) async fn poll(&self, poll: PollRequest) -> Body {
        let place = self.find(&poll.target).await?;
        self.poll_at(place, poll).await
    }

    /// The client was told that this node owns the partition.
    pub(super) async fn poll_on_primary(&self, poll: PollRequest) -> Body {
        let place = self.find(&poll.target).await?;
        if place.owner != self.server.metadata.me {
            return Err(Failure::NotAccepted);
        }
        self.poll_at(place, poll).await
    }

    async fn poll_at(&self, place: Place, poll: PollRequest) -> Body {
        let request = DataRequest::Poll {
            key: place.key,
            consumer: poll.target.consumer,
            start: poll.start,
            count: poll.count,
            auto_commit: poll.auto_commit,
        };
        match self.server.partitions.call(place, request).await? {
            DataReply::Polled(polled) => {
                let metrics = &self.server.metrics;
                metrics.messages_out.inc_by(u64::from(polled.messages));
                Ok(wire::polled(place.key.partition_id, polled))
            }
            _ => Err(Failure::NotAccepted),
        }
    }

    pub(super) async fn routing(&self, header: &RequestHeader, target: &OffsetTarget) -> Body {
        let place = self.find(target).await?;
        let server = &self.server;
        let owner = server.view(place.owner, server.metadata.leadership().leader);
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
        let place = self.find(target).await?;
        let request = DataRequest::StoreOffset {
            key: place.key,
            consumer: target.consumer,
            offset,
        };
        self.server.partitions.call(place, request).await?;
        Ok(Vec::new())
    }

    pub(super) async fn delete_offset(&self, target: &OffsetTarget) -> Body {
        let place = self.find(target).await?;
        let request = DataRequest::DeleteOffset {
            key: place.key,
            consumer: target.consumer,
        };
        self.server.partitions.call(place, request).await?;
        Ok(Vec::new())
    }

    pub(super) async fn offset(&self, target: &OffsetTarget) -> Body {
        let place = self.find(target).await?;
        let request = DataRequest::Offset {
            key: place.key,
            consumer: target.consumer,
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
