//! Who may do what.
//!
//! Reads and what concerns messages are judged here, by the local state: a refusal
//! is made only after that state was brought up to date, so a fresh grant is never
//! missed. Changes of metadata are judged when they are applied; here they are only
//! kept away from the log when it is clear how that would end.

use adapters::metadata::{ClientOperation, Identifier, MetadataState, Rule, code};
use adapters::wire::Request;
use adapters::wire::v0_11::RequestHeader;

use crate::cluster::Failure;
use crate::partitions::has_session;
use crate::server::connection::{Bound, Connection};

impl Connection {
    /// Whether the connection's session lives and its user may do this.
    pub(super) async fn authorize(&self, request: &Request) -> Result<(), Failure> {
        let bound = self.bound.ok_or(Failure::Refused(code::UNAUTHENTICATED))?;
        let check = || judge(&self.server.metadata.reader.read(), bound, request);
        if check().is_ok() {
            return Ok(());
        }
        self.server.metadata.barrier().await?;
        check()
    }

    /// Whether a change is refused for certain. One that may have been executed is
    /// not: its first reply stands.
    pub(super) async fn authorize_change(
        &self,
        header: &RequestHeader,
        operation: &ClientOperation,
    ) -> Result<(), Failure> {
        let Some(bound) = self.bound else {
            return Ok(());
        };
        let check = || {
            let state = self.server.metadata.reader.read();
            let session = state.sessions().get(bound.client);
            let executed = session.is_some_and(|found| found.last_request >= header.request);
            executed || state.allows_change(bound.user_id, operation)
        };
        if check() {
            return Ok(());
        }
        self.server.metadata.barrier().await?;
        match check() {
            true => Ok(()),
            false => Err(Failure::Refused(code::UNAUTHORIZED)),
        }
    }
}

fn judge(state: &MetadataState, bound: Bound, request: &Request) -> Result<(), Failure> {
    if !has_session(state, bound.client, bound.session) {
        return Err(Failure::Refused(code::UNAUTHENTICATED));
    }
    let rule = rule_of(state, bound.user_id, request);
    match rule.is_none_or(|rule| state.allows(bound.user_id, rule)) {
        true => Ok(()),
        false => Err(Failure::Refused(code::UNAUTHORIZED)),
    }
}

/// What a request needs; nothing when what it names is not there, because that is
/// said first.
fn rule_of(state: &MetadataState, user_id: u32, request: &Request) -> Option<Rule> {
    let stream_id = |stream: &Identifier| state.stream(stream).map(|stream| stream.id);
    let of_topic = |stream: &Identifier, topic: &Identifier, rule: fn(u32, u32) -> Rule| {
        let found = state.topic(stream, topic).ok();
        found.map(|(stream, topic)| rule(stream.id, topic.id))
    };
    match request {
        Request::Stats | Request::Archive(_) | Request::Client { .. } | Request::Clients => {
            Some(Rule::Servers)
        }
        Request::User(user) => {
            let other = state.users().find(user).filter(|user| user.id != user_id);
            other.map(|_| Rule::ReadUsers)
        }
        Request::Users => Some(Rule::ReadUsers),
        Request::Stream(stream) => stream_id(stream).map(Rule::ReadStream),
        Request::Streams => Some(Rule::ListStreams),
        Request::Topic { stream, topic } | Request::Groups { stream, topic } => {
            of_topic(stream, topic, Rule::ReadTopic)
        }
        Request::Topics(stream) => stream_id(stream).map(Rule::ListTopics),
        Request::Group(target) => of_topic(&target.stream, &target.topic, Rule::ReadTopic),
        Request::Send(send) => of_topic(&send.stream, &send.topic, Rule::Send),
        Request::DeleteSegments { target, .. } => {
            of_topic(&target.stream, &target.topic, Rule::ManageTopic)
        }
        Request::Poll(poll) | Request::PollOnPrimary(poll) => {
            of_topic(&poll.target.stream, &poll.target.topic, Rule::Poll)
        }
        Request::PollRouting(target)
        | Request::OffsetRouting(target)
        | Request::Offset(target)
        | Request::StoreOffset { target, .. }
        | Request::DeleteOffset(target) => of_topic(&target.stream, &target.topic, Rule::Poll),
        Request::Ping
        | Request::Login { .. }
        | Request::Logout
        | Request::LegacyLogin
        | Request::ClusterMetadata
        | Request::DescribeOptions { .. }
        | Request::AttachConsumerSession { .. }
        | Request::Me
        | Request::Tokens
        | Request::SyncGroup(_)
        | Request::Change(_)
        | Request::ChangeUser(_)
        | Request::Unserved => None,
    }
}
