//! Who may do what.
//!
//! Reads and what concerns messages are judged here, by the local state: a refusal
//! is made only after that state was brought up to date, so a fresh grant is never
//! missed. What names a stream or a topic is judged where the name is looked up, by
//! what it was found to be. A node that has known no leader for longer than it takes
//! to be fenced no longer trusts its state. Changes of metadata are judged when they
//! are applied; here they are only kept away from the log when it is clear how that
//! would end.

use adapters::metadata::{ClientOperation, MetadataState, PartitionCount, Rule, code};
use adapters::wire::Request;
use adapters::wire::v0_11::RequestHeader;

use crate::cluster::Failure;
use crate::partitions::has_session;
use crate::server::connection::Connection;

impl Connection {
    /// Whether the connection's session lives and its user may do this, as far as
    /// that can be told before what the request names is looked up.
    pub(super) async fn authorize(&self, request: &Request) -> Result<(), Failure> {
        self.permit(rule_of(request)).await
    }

    /// The same for a rule, by a state in which the client's own changes are.
    pub(super) async fn permit(&self, rule: Option<Rule>) -> Result<(), Failure> {
        let metadata = &self.server.metadata;
        let trusted = {
            let state = metadata.reader.read();
            state.applied() >= self.commit && self.may(&state, rule).is_ok()
        };
        let bound = self.server.config.cluster.fencing_timeout.duration();
        if trusted && !metadata.is_leaderless_for(bound) {
            return Ok(());
        }
        metadata.barrier().await?;
        self.may(&metadata.reader.read(), rule)
    }

    /// The same by this state, which is up to date.
    pub(super) fn may(&self, state: &MetadataState, rule: Option<Rule>) -> Result<(), Failure> {
        let bound = self.bound.ok_or(Failure::Refused(code::UNAUTHENTICATED))?;
        if !has_session(state, bound.client, bound.session) {
            return Err(Failure::Refused(code::UNAUTHENTICATED));
        }
        match rule.is_none_or(|rule| state.allows(bound.user_id, rule)) {
            true => Ok(()),
            false => Err(Failure::Refused(code::UNAUTHORIZED)),
        }
    }

    /// Whether a change is refused for certain. One that may have been executed is
    /// not: its first reply stands.
    pub(super) async fn authorize_change(
        &self,
        header: &RequestHeader,
        operation: &ClientOperation<PartitionCount>,
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

/// What a request needs that does not depend on what it names.
fn rule_of(request: &Request) -> Option<Rule> {
    match request {
        Request::Stats | Request::Archive(_) | Request::Client { .. } | Request::Clients => {
            Some(Rule::Servers)
        }
        Request::Users => Some(Rule::ReadUsers),
        Request::Streams => Some(Rule::ListStreams),
        _ => None,
    }
}
