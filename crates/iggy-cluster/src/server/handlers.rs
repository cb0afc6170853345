//! What each request does.

use std::time::Duration;

use adapters::metadata::{
    ClientOperation, ClientRequest, Command, Identifier, MetadataError, PartitionKey,
    Reply as Answer, code,
};
use adapters::wire::v0_11::{self as wire, Eviction, Reply, RequestHeader, is_protocol_compatible};
use adapters::wire::{Credentials, OffsetTarget, Partitioning, PollRequest, Request, SendRequest};
use bytes::Bytes;
use iggy_binary_protocol::consensus::Operation;

use super::connection::{Bound, Connection, Outcome};
use crate::cluster::Failure;
use crate::partitions::{DataReply, DataRequest, Place};

/// A client that looks for the leader waits for an election rather than to be
/// told that there is none.
const LEADER_WAIT: Duration = Duration::from_secs(2);

type Body = Result<Vec<Bytes>, Failure>;

impl Connection {
    pub(super) async fn handle(&mut self, header: &RequestHeader, body: Bytes) -> Outcome {
        let request = match wire::decode(header, &body) {
            Ok(request) => request,
            Err(_) if header.operation == Operation::Register => {
                return Outcome::Evict(Eviction::MalformedLogin.encode(header.client));
            }
            Err(code) if self.is_bound(header) => {
                return Outcome::Reply(Reply::denied(header, self.commit, code));
            }
            Err(_) => return self.not_bound(header),
        };
        match request {
            Request::Ping => self.reply(header, Ok(Vec::new())),
            Request::Login {
                version,
                credentials,
            } => self.login(header, version, credentials).await,
            _ if !self.is_bound(header) => self.not_bound(header),
            Request::Logout => self.logout(header).await,
            Request::Change(operation) => self.change(header, operation).await,
            request => {
                let body = self.serve_request(header, request).await;
                self.reply(header, body)
            }
        }
    }

    /// A request speaks for the session of its connection or for none.
    fn is_bound(&self, header: &RequestHeader) -> bool {
        let Some(bound) = self.bound else {
            return false;
        };
        header.operation == Operation::NonReplicated
            || (bound.client == header.client && bound.session == header.session)
    }

    fn not_bound(&mut self, header: &RequestHeader) -> Outcome {
        match header.operation {
            Operation::NonReplicated => {
                Outcome::Reply(Reply::denied(header, self.commit, code::UNAUTHENTICATED))
            }
            // Whoever sends this believes to have a session, and has none.
            _ => Outcome::Evict(Eviction::NoSession.encode(header.client)),
        }
    }

    fn reply(&mut self, header: &RequestHeader, body: Body) -> Outcome {
        self.commit = self.commit.max(self.server.metadata.applied());
        Outcome::Reply(match body {
            Ok(body) => Reply::ok(header, self.commit, body),
            Err(failure) => Reply::refused(header, self.commit, failure.code()),
        })
    }

    async fn login(
        &mut self,
        header: &RequestHeader,
        version: u32,
        credentials: Credentials,
    ) -> Outcome {
        let evict = |reason: Eviction| Outcome::Evict(reason.encode(header.client));
        if !is_protocol_compatible(version) {
            return evict(Eviction::IncompatibleProtocol);
        }
        let Credentials::Password { username, password } = credentials else {
            return evict(Eviction::InvalidToken);
        };
        self.close_session();
        let metadata = std::sync::Arc::clone(&self.server.metadata);
        let registration = {
            let state = metadata.reader.read();
            let node = state.node(metadata.me);
            node.filter(|node| node.live).map(|node| node.registration)
        };
        // Until this node is registered, it speaks for nobody and may not
        // know the users yet; clients repeat.
        let Some(registration) = registration else {
            return self.reply(header, Err(Failure::NotCommitted));
        };
        let verified = self
            .server
            .credentials
            .verify(&metadata, &username, &password)
            .await;
        let verified = match verified {
            Ok(Some(verified)) => verified,
            Ok(None) => {
                self.server.metrics.logins_refused.inc();
                return evict(Eviction::InvalidCredentials);
            }
            Err(failure) => return self.reply(header, Err(failure)),
        };
        let command = Command::Register {
            client: header.client,
            user_id: verified.user_id,
            credential_version: verified.credential_version,
            node: metadata.me,
            registration,
        };
        match metadata.replicate(command).await {
            Ok((index, Answer::Registered { session })) => {
                self.bound = Some(Bound {
                    client: header.client,
                    session,
                });
                self.commit = self.commit.max(index);
                self.server
                    .clients
                    .set_user(self.id, Some(verified.user_id));
                self.reply(header, Ok(vec![wire::login(verified.user_id, session)]))
            }
            Ok((_, Answer::Refused(code::INVALID_CREDENTIALS))) => {
                evict(Eviction::InvalidCredentials)
            }
            // Fenced in the meantime: it will register again.
            Ok(_) => self.reply(header, Err(Failure::NotCommitted)),
            Err(failure) => self.reply(header, Err(failure)),
        }
    }

    async fn logout(&mut self, header: &RequestHeader) -> Outcome {
        let Some(Bound { client, session }) = self.bound else {
            return self.not_bound(header);
        };
        let command = Command::Unregister { client, session };
        let result = self.server.metadata.replicate(command).await;
        if result.is_ok() {
            self.bound = None;
            self.server.clients.set_user(self.id, None);
        }
        self.reply(header, result.map(|_| Vec::new()))
    }

    /// A change of metadata, once. A client that is told that it has no session,
    /// or that its request was not accepted, sends it again in a new session: both
    /// are denied to a request that may have taken effect.
    async fn change(&mut self, header: &RequestHeader, operation: ClientOperation) -> Outcome {
        let open = self.open.take() == Some(header.request);
        let command = Command::Client(ClientRequest {
            client: header.client,
            session: header.session,
            request: header.request,
            checksum: header.checksum as u64,
            operation,
        });
        let (index, answer) = match self.server.metadata.replicate(command).await {
            Ok(done) => done,
            Err(failure) => {
                let failure = match failure.code() {
                    code::TRANSIENT_NOT_ACCEPTED if open => Failure::NotCommitted,
                    _ => failure,
                };
                let unknown = failure.code() == code::TRANSIENT_NOT_COMMITTED;
                self.open = unknown.then_some(header.request);
                return self.reply(header, Err(failure));
            }
        };
        self.commit = self.commit.max(index);
        let body = match answer {
            Answer::Refused(code::UNAUTHENTICATED) => {
                let reason = match open {
                    true => Eviction::StaleClient,
                    false => Eviction::NoSession,
                };
                return Outcome::Evict(reason.encode(header.client));
            }
            Answer::Refused(code) => Err(Failure::Refused(code)),
            Answer::StreamCreated {
                id,
                created_at,
                name,
                options,
            } => Ok(vec![wire::created_stream(id, created_at, &name, &options)]),
            Answer::TopicCreated(topic) => Ok(vec![wire::created_topic(&topic)]),
            Answer::Done | Answer::Registered { .. } | Answer::NodeRegistered { .. } => {
                Ok(Vec::new())
            }
        };
        self.reply(header, body)
    }

    async fn serve_request(&mut self, header: &RequestHeader, request: Request) -> Body {
        match request {
            Request::ClusterMetadata => {
                self.server.metadata.leader_known(LEADER_WAIT).await;
                let roster = self.server.roster();
                Ok(vec![wire::cluster(
                    &self.server.config.cluster.name,
                    &roster,
                )])
            }
            Request::DescribeOptions { scope } => {
                let described = wire::describe_options(scope);
                described.map(|body| vec![body]).map_err(Failure::Refused)
            }
            Request::Me => {
                let me = self.server.clients.get(self.id);
                Ok(me.iter().map(wire::client).collect())
            }
            Request::Client { id } => {
                let client = self.server.clients.get(id);
                Ok(client.iter().map(wire::client).collect())
            }
            Request::Clients => Ok(vec![wire::clients(&self.server.clients.all())]),
            Request::AttachConsumerSession { watermark, .. } => self.attach(watermark).await,
            Request::Stats => self.stats().await,
            Request::Stream(stream) => self.stream(&stream).await,
            Request::Streams => self.streams().await,
            Request::Topic { stream, topic } => self.topic(&stream, &topic).await,
            Request::Topics(stream) => self.topics(&stream).await,
            Request::Send(send) => self.send(send).await,
            Request::Poll(poll) => self.poll(poll).await,
            Request::PollOnPrimary(poll) => self.poll_on_primary(poll).await,
            Request::PollRouting(target) | Request::OffsetRouting(target) => {
                self.routing(header, &target).await
            }
            Request::Offset(target) => self.offset(&target).await,
            Request::StoreOffset { target, offset } => {
                let place = self.find(&target).await?;
                let request = DataRequest::StoreOffset {
                    key: place.key,
                    consumer: target.consumer,
                    offset,
                };
                self.server.partitions.call(place, request).await?;
                Ok(Vec::new())
            }
            Request::DeleteOffset(target) => {
                let place = self.find(&target).await?;
                let request = DataRequest::DeleteOffset {
                    key: place.key,
                    consumer: target.consumer,
                };
                self.server.partitions.call(place, request).await?;
                Ok(Vec::new())
            }
            Request::Unserved => Err(Failure::Refused(code::FEATURE_UNAVAILABLE)),
            Request::Ping | Request::Login { .. } | Request::Logout | Request::Change(_) => {
                Err(Failure::Refused(code::INVALID_COMMAND))
            }
        }
    }

    /// This connection carries a consumer of a session that another node opened.
    /// What that client has seen of the metadata must be seen here too.
    async fn attach(&mut self, watermark: u64) -> Body {
        if self.server.metadata.applied() < watermark
            && self.server.metadata.barrier().await? < watermark
        {
            return Err(Failure::NotAccepted);
        }
        Ok(Vec::new())
    }

    async fn find(&self, target: &OffsetTarget) -> Result<Place, Failure> {
        let partition = Partitioning::Partition(target.partition);
        let partitions = &self.server.partitions;
        partitions
            .find(&target.stream, &target.topic, &partition, self.commit)
            .await
    }

    async fn send(&self, send: SendRequest) -> Body {
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

    async fn poll(&self, poll: PollRequest) -> Body {
        let place = self.find(&poll.target).await?;
        self.poll_at(place, poll).await
    }

    /// The client was told that this node owns the partition.
    async fn poll_on_primary(&self, poll: PollRequest) -> Body {
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

    async fn routing(&self, header: &RequestHeader, target: &OffsetTarget) -> Body {
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

    async fn offset(&self, target: &OffsetTarget) -> Body {
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

    async fn stream(&self, stream: &Identifier) -> Body {
        self.server.metadata.barrier().await?;
        let found = self.server.metadata.reader.read().stream(stream).cloned();
        let Some(stream) = found else {
            return Ok(Vec::new());
        };
        let keys = stream.topics().flat_map(|topic| topic.keys(stream.id));
        let stats = self.server.partitions.stats_of(keys.collect()).await;
        let of = |key: &PartitionKey| stats.get(key).copied().unwrap_or_default();
        Ok(vec![wire::stream(&stream, &of)])
    }

    async fn streams(&self) -> Body {
        self.server.metadata.barrier().await?;
        let stats = self.server.partitions.stats_of(self.all_keys()).await;
        let of = |key: &PartitionKey| stats.get(key).copied().unwrap_or_default();
        let state = self.server.metadata.reader.read();
        Ok(vec![wire::streams(&state, &of)])
    }

    fn all_keys(&self) -> Vec<PartitionKey> {
        let state = self.server.metadata.reader.read();
        state
            .streams()
            .flat_map(|stream| stream.topics().flat_map(|topic| topic.keys(stream.id)))
            .collect()
    }

    async fn topic(&self, stream: &Identifier, topic: &Identifier) -> Body {
        self.server.metadata.barrier().await?;
        let found = {
            let state = self.server.metadata.reader.read();
            let found = state.topic(stream, topic);
            found
                .ok()
                .map(|(stream, topic)| (stream.clone(), topic.clone()))
        };
        let Some((stream, topic)) = found else {
            return Ok(Vec::new());
        };
        let keys = topic.keys(stream.id).collect();
        let stats = self.server.partitions.stats_of(keys).await;
        let of = |key: &PartitionKey| stats.get(key).copied().unwrap_or_default();
        Ok(vec![wire::topic(&stream, &topic, &of)])
    }

    async fn topics(&self, stream: &Identifier) -> Body {
        self.server.metadata.barrier().await?;
        let found = self.server.metadata.reader.read().stream(stream).cloned();
        let stream = found.ok_or(Failure::Refused(MetadataError::StreamNotFound.code()))?;
        let keys = stream.topics().flat_map(|topic| topic.keys(stream.id));
        let stats = self.server.partitions.stats_of(keys.collect()).await;
        let of = |key: &PartitionKey| stats.get(key).copied().unwrap_or_default();
        Ok(vec![wire::topics(&stream, &of)])
    }

    async fn stats(&self) -> Body {
        self.server.metadata.barrier().await?;
        let stats = self.server.partitions.stats_of(self.all_keys()).await;
        let of = |key: &PartitionKey| stats.get(key).copied().unwrap_or_default();
        let clients = self.server.clients.all().len() as u32;
        let system = self.server.system.read(clients);
        let state = self.server.metadata.reader.read();
        Ok(vec![wire::stats(&state, system, &of)])
    }
}

#[cfg(test)]
mod tests;
