//! Permissions.
//!
//! Reads and requests for messages are judged here, by the local state. A refusal is made
//! only after that state has caught up with the log, so a new grant is never missed. A request
//! that names a stream or a topic is judged by the state in which the name is looked up.
//! A node that has not caught up for the fencing timeout does not rely on its local state.
//! Changes of metadata are judged when they are applied; here they are only kept out
//! of the log when they would certainly be refused.

use adapters::metadata::{ClientOperation, MetadataState, PartitionCount, Rule, code};
use adapters::wire::Request;
use adapters::wire::v0_11::RequestHeader;
use iggy_binary_protocol::codes::SEND_MESSAGES_CODE;

use crate::cluster::Failure;
use crate::partitions::has_session;
use crate::server::connection::Connection;
use crate::view::view;

/// A request is at most this much longer than the command that it becomes.
const OVERHEAD_BYTES_MAX: u64 = 64 << 10;

impl Connection {
    /// Whether the connection's session exists and its user may do this, as far as that is
    /// known before the names in the request are looked up.
    pub(super) async fn authorize(&self, request: &Request) -> Result<(), Failure> {
        match judges_itself(request) {
            true => Ok(()),
            false => {
                let rule = rule_of(request);
                self.view(|state| self.may(state, rule)).await
            }
        }
    }

    /// Whether a request with a long body may succeed, by its header alone: only messages are
    /// longer than an entry of the log, and only of users who may send to some topic.
    pub(in crate::server) async fn judge_long(
        &self,
        header: &RequestHeader,
    ) -> Result<(), Failure> {
        if header.code != SEND_MESSAGES_CODE {
            let entry_bytes_max = self.server.config.cluster.consensus.batch_size_max.bytes();
            return match header.body_bytes as u64 > entry_bytes_max + OVERHEAD_BYTES_MAX {
                true => Err(Failure::Refused(code::INVALID_SIZE)),
                false => Ok(()),
            };
        }
        let rule = Rule::Send(0, 0);
        self.view(|state| {
            self.may(state, None)?;
            let user_id = self.bound.map_or(u32::MAX, |bound| bound.user_id);
            match state.allows_somewhere(user_id, rule) {
                true => Ok(()),
                false => Err(Failure::Refused(code::UNAUTHORIZED)),
            }
        })
        .await
    }

    /// Evaluates a request by one state that contains the client's own changes.
    pub(super) async fn view<T>(
        &self,
        look: impl Fn(&MetadataState) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        view(&self.server.metadata, self.watermark, look).await
    }

    /// Whether the connection's session exists and its user may do this, by this state.
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

    /// Refuses a change that would certainly be refused when it is applied. One that may
    /// have been executed is not refused: its first reply is still valid. Neither is one whose
    /// session has ended, for instance because its user was deleted: a user that does not exist
    /// has no permission, but the reason is that there is no session.
    pub(super) async fn authorize_change(
        &self,
        header: &RequestHeader,
        operation: &ClientOperation<PartitionCount>,
    ) -> Result<(), Failure> {
        let Some(bound) = self.bound else {
            return Ok(());
        };
        // `None` without a session.
        let check = || {
            let state = self.server.metadata.reader.read();
            let session = state.sessions().get(bound.client);
            let session = session.filter(|found| found.session == bound.session)?;
            let executed = session.may_have_executed(header.request);
            Some(executed || state.allows_change(bound.user_id, operation))
        };
        if check() == Some(true) {
            return Ok(());
        }
        self.server.metadata.barrier().await?;
        match check() {
            Some(false) => Err(Failure::Refused(code::UNAUTHORIZED)),
            _ => Ok(()),
        }
    }
}

/// Requests that are judged in the view in which their names are looked up.
fn judges_itself(request: &Request) -> bool {
    matches!(
        request,
        Request::Send(_)
            | Request::Poll(_)
            | Request::PollOnPrimary(_)
            | Request::PollRouting(_)
            | Request::OffsetRouting(_)
            | Request::Offset(_)
            | Request::StoreOffset { .. }
            | Request::DeleteOffset(_)
            | Request::DeleteSegments { .. }
    )
}

/// The permission that a request needs regardless of the names in it.
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
