//! The requests of clients.

mod authorize;
mod change;
mod data;
mod groups;
mod session;
mod users;
mod views;

use std::time::Duration;

use ::partitions::replication::OffsetChange;
use adapters::metadata::code;
use adapters::wire::Request;
use adapters::wire::v0_11::{self as wire, Eviction, Reply, RequestHeader};
use bytes::Bytes;
use iggy_binary_protocol::consensus::Operation;

use super::connection::{Connection, Outcome, UNCOUNTED_BYTES_MAX};
use crate::cluster::Failure;
use crate::partitions::Right;

pub(super) use users::hash_of;

/// How long a client that requests the leader waits for an election.
const LEADER_WAIT: Duration = Duration::from_secs(2);

pub(super) type Body = Result<Vec<Bytes>, Failure>;

impl Connection {
    pub(super) async fn handle(&mut self, header: &RequestHeader, body: Bytes) -> Outcome {
        let request = match wire::decode(header, &body) {
            Ok(request) => request,
            Err(_) if header.operation == Operation::Register => {
                return Outcome::Evict(Eviction::MalformedLogin.encode(header.client));
            }
            Err(code) if self.is_bound(header) => {
                return Outcome::Reply(Reply::denied(header, self.watermark, code));
            }
            Err(_) => return self.not_bound(header),
        };
        match request {
            Request::Ping => self.reply(header, Ok(Vec::new())),
            Request::Login {
                version,
                credentials,
            } => self.login(header, version, credentials).await,
            Request::LegacyLogin => Outcome::Evict(Eviction::MalformedLogin.encode(header.client)),
            Request::Logout if self.bound.is_none() => self.logout(header).await,
            _ if !self.is_bound(header) => self.not_bound(header),
            Request::Logout => self.logout(header).await,
            Request::Change(mut operation) => match self.complete_change(&mut operation) {
                Ok(()) => self.change(header, operation).await,
                Err(failure) => self.reply(header, Err(failure)),
            },
            Request::ChangeUser(request) => self.change_user(header, request).await,
            Request::JoinGroup(target) => match self.join_of(target).await {
                Ok(join) => self.change(header, join).await,
                Err(failure) => self.reply(header, Err(failure)),
            },
            request => {
                let is_poll = matches!(request, Request::Poll(_) | Request::PollOnPrimary(_));
                let body = match self.authorize(&request).await {
                    Ok(()) => self.serve_request(header, request).await,
                    Err(failure) => Err(failure),
                };
                match (is_poll, body) {
                    // What was read of a partition is counted already.
                    (true, body) => self.reply(header, body),
                    (false, Ok(body)) => match self.count(body) {
                        Some(body) => self.reply(header, Ok(body)),
                        None => self.without_memory(header),
                    },
                    (false, Err(failure)) => self.reply(header, Err(failure)),
                }
            }
        }
    }

    /// Counts a long reply in the memory of the node until it is sent; `None` when there is
    /// none.
    fn count(&mut self, mut body: Vec<Bytes>) -> Option<Vec<Bytes>> {
        let bytes = body.iter().map(Bytes::len).sum();
        if bytes > UNCOUNTED_BYTES_MAX {
            let reserved = self.memory().try_reserve(bytes)?;
            // All parts are dropped together.
            let first = body.first_mut()?;
            *first = reserved.attach(std::mem::take(first));
        }
        Some(body)
    }

    /// The reply to a request for which there is no memory: the client repeats it.
    pub(super) fn without_memory(&mut self, header: &RequestHeader) -> Outcome {
        self.server.without_memory();
        self.reply(header, Err(Failure::NotAccepted))
    }

    /// Whether a request belongs to the session of its connection.
    fn is_bound(&self, header: &RequestHeader) -> bool {
        let Some(bound) = self.bound else {
            return false;
        };
        header.operation == Operation::NonReplicated
            || (bound.client == header.client && bound.session == header.session)
    }

    pub(super) fn not_bound(&mut self, header: &RequestHeader) -> Outcome {
        match header.operation {
            Operation::NonReplicated => {
                Outcome::Reply(Reply::denied(header, self.watermark, code::UNAUTHENTICATED))
            }
            // The client assumes a session that it does not have.
            _ => Outcome::Evict(Eviction::NoSession.encode(header.client)),
        }
    }

    pub(super) fn reply(&mut self, header: &RequestHeader, body: Body) -> Outcome {
        self.watermark = self.watermark.max(self.server.metadata.applied());
        Outcome::Reply(match body {
            Ok(body) => Reply::ok(header, self.watermark, body),
            Err(failure) => Reply::refused(header, self.watermark, failure.code()),
        })
    }

    async fn serve_request(&mut self, header: &RequestHeader, request: Request) -> Body {
        match request {
            Request::ClusterMetadata => {
                self.server.metadata.leader_known(LEADER_WAIT).await;
                let roster = self.server.roster(self.address.ip());
                Ok(vec![wire::cluster(
                    &self.server.config.cluster.name,
                    &roster,
                )])
            }
            Request::DescribeOptions { scope } => {
                let described =
                    wire::describe_options(scope, self.server.config.replication_factor());
                described.map(|body| vec![body]).map_err(Failure::Refused)
            }
            Request::Me => Ok(self.client(self.id)),
            Request::Client { id } => Ok(self.client(id)),
            Request::Clients => {
                let clients = self.server.clients.all();
                let state = self.server.metadata.reader.read();
                Ok(vec![wire::clients(&state, &clients)])
            }
            Request::AttachConsumerSession {
                client,
                session,
                watermark,
            } => self.attach(client, session, watermark).await,
            Request::Stats => self.stats().await,
            Request::Stream(stream) => self.stream(&stream).await,
            Request::Streams => self.streams().await,
            Request::Topic { stream, topic } => self.topic(&stream, &topic).await,
            Request::Topics(stream) => self.topics(&stream).await,
            Request::Send(send) => self.send(header, send).await,
            Request::Poll(poll) => self.poll(poll).await,
            Request::PollOnPrimary(poll) => self.poll_on_primary(poll).await,
            Request::PollRouting(target) => self.routing(header, &target, Right::Read).await,
            Request::OffsetRouting(target) => self.routing(header, &target, Right::Store).await,
            Request::Offset(target) => self.offset(&target).await,
            Request::StoreOffset { target, offset } => {
                let store = OffsetChange::Store(offset);
                self.change_offset(header, &target, store).await
            }
            Request::DeleteOffset(target) => {
                let delete = OffsetChange::Delete;
                self.change_offset(header, &target, delete).await
            }
            Request::Archive(sections) => Ok(vec![self.server.archive(&sections).await?]),
            Request::DeleteSegments { target, count } => {
                self.delete_segments(header, &target, count).await
            }
            Request::User(user) => self.user(&user).await,
            Request::Users => self.users().await,
            Request::Tokens => self.tokens().await,
            Request::Group(target) => self.group(&target).await,
            Request::Groups { stream, topic } => self.groups(&stream, &topic).await,
            Request::SyncGroup(target) => self.sync_group(&target).await,
            Request::Ping
            | Request::Login { .. }
            | Request::LegacyLogin
            | Request::Logout
            | Request::Change(_)
            | Request::ChangeUser(_)
            | Request::JoinGroup(_) => Err(Failure::Refused(code::INVALID_COMMAND)),
        }
    }
}

#[cfg(test)]
mod tests;
