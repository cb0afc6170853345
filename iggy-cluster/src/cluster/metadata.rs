//! The metadata of the cluster, as any node serves it.
//!
//! An intent reaches the leader, at any node, and is repeated with the same session and
//! request number until its outcome is known or the timeout expires: sessions make that
//! safe. The leader decides it and proposes the command. A read waits until the local
//! state contains everything that was acknowledged by any node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adapters::metadata::{Command, Intent, MetadataReader, Reply, code};
use bytes::Bytes;
use consensus::{ProposeError, ReplicaId};
use replicated_log::links::{RequestLinks, RpcError, RpcReply};
use replicated_log::{Leadership, ReplicatedLog};
use tokio::sync::watch;
use tracing::warn;

use super::control;
use super::decisions::Decisions;
use super::failure::Failure;
use super::lease::{Lease, LeaseTime};

/// Between two attempts, unless the leader changes.
const PAUSE: Duration = Duration::from_millis(20);
/// The answer to a forwarded intent is awaited this long before it is repeated.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);

/// The replicated metadata, from one node's point of view.
pub(crate) struct Metadata {
    pub(crate) me: ReplicaId,
    pub(crate) log: Arc<dyn ReplicatedLog>,
    pub(crate) reader: MetadataReader,
    links: RequestLinks,
    decisions: Decisions,
    timeout: Duration,
    lease: Lease,
}

impl Metadata {
    pub(crate) fn new(
        me: ReplicaId,
        log: Arc<dyn ReplicatedLog>,
        reader: MetadataReader,
        links: RequestLinks,
        timeout: Duration,
        lease: Duration,
    ) -> Self {
        Self {
            me,
            log,
            reader,
            links,
            decisions: Decisions::default(),
            timeout,
            lease: Lease::new(lease),
        }
    }

    /// Whether the local state contains everything that was acknowledged anywhere up to one
    /// lease ago. To be called before the state is read.
    pub(crate) fn is_current(&self) -> bool {
        self.lease.is_valid(LeaseTime::now())
    }

    /// The lease starts now.
    #[cfg(test)]
    pub(crate) fn renew(&self) {
        self.lease.renew(LeaseTime::now());
    }

    /// Longer than any node serves from a state without a change, once it is committed.
    pub(crate) fn lease_over(&self) -> Duration {
        self.lease.certainly_over()
    }

    /// Renews the lease before it ends, so that no request has to. Runs until the task is
    /// aborted.
    pub(crate) async fn keep_current(self: Arc<Self>) {
        loop {
            // Tried again in the next round, and by the next request. A failure takes the
            // timeout of requests, so this is logged once in that time.
            if self.barrier().await.is_err() && !self.is_current() {
                warn!(
                    "this node has not caught up with the log for the fencing timeout and serves nothing until it has: check its links to the other nodes, and its disk"
                );
            }
            tokio::time::sleep(self.lease.renewal_interval()).await;
        }
    }

    /// The number of this node's registration, unless it is fenced.
    pub(crate) fn registration(&self) -> Option<u64> {
        let state = self.reader.read();
        let node = state.node(self.me).filter(|node| node.live);
        node.map(|node| node.registration)
    }

    pub(crate) fn leadership(&self) -> Leadership {
        *self.log.leadership().borrow()
    }

    /// Has an intent decided and replicated; returns the position of the command in the
    /// log and its reply.
    pub(crate) async fn replicate(&self, intent: Intent) -> Result<(u64, Reply), Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut leadership = self.log.leadership();
        let newest = self.newest_session(&intent);
        // Of all attempts: an earlier one may still take effect.
        let mut outcome = Failure::NotAccepted;
        loop {
            let leader = leadership.borrow_and_update().leader;
            match self.attempt(leader, &intent, newest, deadline).await {
                // The session that could tell whether an attempt took effect is gone.
                Ok((_, Reply::Refused(code::UNAUTHENTICATED)))
                    if outcome == Failure::OutcomeUnknown =>
                {
                    return Err(outcome);
                }
                Ok(applied) => return Ok(applied),
                Err(refused @ Failure::Refused(_)) => return Err(refused),
                Err(Failure::OutcomeUnknown) => outcome = Failure::OutcomeUnknown,
                Err(Failure::NotAccepted) => {}
            }
            if Instant::now() >= deadline {
                return Err(outcome);
            }
            changed_or_pause(&mut leadership, leader.is_none(), deadline).await;
        }
    }

    async fn attempt(
        &self,
        leader: Option<ReplicaId>,
        intent: &Intent,
        newest: Option<u64>,
        deadline: Instant,
    ) -> Result<(u64, Reply), Failure> {
        match leader {
            Some(leader) if leader == self.me => {
                self.propose(intent.clone(), newest, deadline).await
            }
            Some(leader) => self.forward(leader, intent, newest).await,
            None => Err(Failure::NotAccepted),
        }
    }

    /// Decides and proposes at this node, which leads or recently did. Its own disk may
    /// hang while it stays the leader.
    async fn propose(
        &self,
        intent: Intent,
        newest: Option<u64>,
        deadline: Instant,
    ) -> Result<(u64, Reply), Failure> {
        if matches!(intent, Intent::Register { .. }) {
            self.catch_up_once(deadline).await?;
        }
        if newest.is_some_and(|newest| self.is_outdated(&intent, newest)) {
            // The client repeats the login, if it still waits for it.
            return Err(Failure::Refused(code::TRANSIENT_NOT_COMMITTED));
        }
        let decision = self.decisions.decide(intent, &self.reader)?;
        let command = decision.command.encode();
        // A replica stops at a committed command that it cannot decode.
        if Command::decode(&command).is_err() {
            return Err(Failure::Refused(code::INVALID_COMMAND));
        }
        let submitted = self.log.submit(command);
        let submitted = tokio::time::timeout_at(deadline.into(), submitted).await;
        drop(decision);
        let applied = submitted.unwrap_or(Err(ProposeError::OutcomeUnknown))?;
        match Reply::decode(&applied.reply) {
            Ok(reply) => Ok((applied.index.0, reply)),
            // It was applied: repeating it yields the same.
            Err(_) => Err(Failure::Refused(code::TRANSIENT_NOT_COMMITTED)),
        }
    }

    /// Waits, once per term, until the state contains what former leaders have decided: whether
    /// a client's id has a session of another user must not be decided without it.
    async fn catch_up_once(&self, deadline: Instant) -> Result<(), Failure> {
        let term = self.leadership().term;
        if self.decisions.is_caught_up(term) {
            return Ok(());
        }
        let read = tokio::time::timeout_at(deadline.into(), self.log.read()).await;
        if !matches!(read, Ok(Ok(_))) || self.leadership().term != term {
            // Nothing was proposed.
            return Err(Failure::NotAccepted);
        }
        self.decisions.caught_up(term);
        Ok(())
    }

    /// The newest session of the client that the intent logs in, as far as this node knows:
    /// 0 for none. `None` for any other intent.
    fn newest_session(&self, intent: &Intent) -> Option<u64> {
        let Intent::Register { client, .. } = intent else {
            return None;
        };
        let state = self.reader.read();
        let known = state.sessions().get(*client);
        Some(known.map_or(0, |known| known.session))
    }

    /// Whether the client has opened a session at another node since it logged in with this
    /// intent. One at the same node is that of an earlier attempt.
    fn is_outdated(&self, intent: &Intent, newest: u64) -> bool {
        let Intent::Register {
            client,
            node,
            registration,
            ..
        } = intent
        else {
            return false;
        };
        let state = self.reader.read();
        let open = state.sessions().get(*client);
        open.is_some_and(|open| {
            open.session > newest && (open.node, open.registration) != (*node, *registration)
        })
    }

    async fn forward(
        &self,
        leader: ReplicaId,
        intent: &Intent,
        newest: Option<u64>,
    ) -> Result<(u64, Reply), Failure> {
        let intent = intent.encode();
        if let Some(newest) = newest {
            let newest = Bytes::copy_from_slice(&newest.to_le_bytes());
            let parts = vec![newest, intent.clone()];
            match self.call(leader, control::REGISTER, parts).await {
                // It is of version 0.1, and has not looked at it.
                Err(Failure::Refused(code::TRANSIENT_NOT_ACCEPTED)) => {}
                outcome => return outcome,
            }
        }
        self.call(leader, control::SUBMIT, vec![intent]).await
    }

    async fn call(
        &self,
        leader: ReplicaId,
        kind: u8,
        parts: Vec<Bytes>,
    ) -> Result<(u64, Reply), Failure> {
        let call = self.links.call(leader, kind, parts, FORWARD_TIMEOUT);
        match call.await {
            Ok(answer) => control::decode(answer),
            Err(RpcError::NotSent) => Err(Failure::NotAccepted),
            Err(RpcError::Unknown | RpcError::NoRoom(_)) => Err(Failure::OutcomeUnknown),
        }
    }

    /// Requests the report of another node.
    pub(crate) async fn request_report(
        &self,
        of: ReplicaId,
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        let call = self.links.call(of, control::REPORT, Vec::new(), timeout);
        call.await
    }

    /// Serves a request of the control lane.
    pub(crate) async fn serve_control(&self, kind: u8, payload: Bytes) -> RpcReply {
        let outcome = match kind {
            control::SUBMIT => self.forwarded(payload, None).await,
            control::REGISTER => match payload.split_first_chunk() {
                Some((newest, intent)) => {
                    let newest = Some(u64::from_le_bytes(*newest));
                    self.forwarded(payload.slice_ref(intent), newest).await
                }
                None => Err(Failure::Refused(code::INVALID_COMMAND)),
            },
            _ => Err(Failure::Refused(code::TRANSIENT_NOT_ACCEPTED)),
        };
        vec![control::encode(outcome)]
    }

    /// One attempt at this node, for an intent that another node forwards.
    async fn forwarded(&self, intent: Bytes, newest: Option<u64>) -> Result<(u64, Reply), Failure> {
        match Intent::decode(&intent) {
            Ok(intent) => {
                let deadline = Instant::now() + FORWARD_TIMEOUT;
                self.propose(intent, newest, deadline).await
            }
            Err(_) => Err(Failure::Refused(code::INVALID_COMMAND)),
        }
    }

    /// Returns when the local state contains everything that was acknowledged before;
    /// with the position that it has reached.
    pub(crate) async fn barrier(&self) -> Result<u64, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut leadership = self.log.leadership();
        loop {
            let leaderless = leadership.borrow_and_update().leader.is_none();
            let started = LeaseTime::now();
            // A confirmed read waits until this node has applied what it needs.
            let read = tokio::time::timeout_at(deadline.into(), self.log.read()).await;
            let failure = match read {
                Ok(Ok(index)) => {
                    self.lease.renew(started);
                    return Ok(index.0);
                }
                Ok(Err(error)) => Failure::from(error),
                Err(_) => Failure::OutcomeUnknown,
            };
            if Instant::now() >= deadline {
                return Err(failure);
            }
            changed_or_pause(&mut leadership, leaderless, deadline).await;
        }
    }

    /// Waits until a leader is known, or for a bounded time.
    pub(crate) async fn leader_known(&self, at_most: Duration) {
        let mut leadership = self.log.leadership();
        let known = leadership.wait_for(|leadership| leadership.leader.is_some());
        let _ = tokio::time::timeout(at_most, known).await;
    }

    pub(crate) fn applied(&self) -> u64 {
        self.reader.read().applied()
    }
}

/// Waits for another leader, or for a moment.
async fn changed_or_pause(
    leadership: &mut watch::Receiver<Leadership>,
    leaderless: bool,
    deadline: Instant,
) {
    let pause = match leaderless {
        true => deadline.saturating_duration_since(Instant::now()),
        false => PAUSE,
    };
    let _ = tokio::time::timeout(pause, leadership.changed()).await;
}

#[cfg(test)]
mod tests {
    use adapters::metadata::{Name, Proof};

    use super::*;
    use crate::cluster::testing::{FakeLog, Fate, ME};

    const TIMEOUT: Duration = Duration::from_millis(50);

    fn intent() -> Intent {
        Intent::BootstrapRoot {
            username: Name::new("iggy").unwrap(),
            password_hash: String::new(),
        }
    }

    fn login(client: u128, user_id: u32) -> Intent {
        Intent::Register {
            client,
            user_id,
            proof: Proof::Password(1),
            node: ME,
            registration: 1,
        }
    }

    const OF_ANOTHER_USER: Result<(u64, Reply), Failure> =
        Err(Failure::Refused(code::UNAUTHENTICATED));

    /// A login that a former leader has proposed may not be applied yet.
    #[tokio::test]
    async fn a_new_leader_does_not_end_a_session_that_it_has_not_applied() {
        let (log, metadata) = FakeLog::start(Duration::from_secs(5));
        log.commit_unseen(Command::decode(&login(7, 0).encode()).unwrap());
        assert_eq!(metadata.replicate(login(7, 1)).await, OF_ANOTHER_USER);
        let state = metadata.reader.read();
        assert_eq!(state.sessions().get(7).unwrap().user_id, 0);
    }

    /// Of two users who log in with one id concurrently, the second is refused; and of two
    /// logins of one user, the second is judged when the first is applied: it may be the
    /// older one, of a connection that the client has given up.
    #[tokio::test]
    async fn a_login_in_flight_reserves_its_client_id() {
        let (_, metadata) = FakeLog::start(Duration::from_secs(5));
        let decide = |user_id| {
            metadata
                .decisions
                .decide(login(7, user_id), &metadata.reader)
        };
        let first = decide(0).unwrap();
        for user_id in [0, 1] {
            assert_eq!(decide(user_id).err(), Some(Failure::NotAccepted));
        }
        drop(first);
        for user_id in [0, 1] {
            assert!(decide(user_id).is_ok());
        }
    }

    /// The client has given up on the node, or the node has hung, and it is connected to
    /// another one since.
    #[tokio::test]
    async fn a_login_that_arrives_late_does_not_replace_a_newer_session() {
        const CLIENT: u128 = 7;
        let (log, metadata) = FakeLog::start(TIMEOUT);
        let session = || {
            let state = metadata.reader.read();
            let open = state.sessions().get(CLIENT);
            open.map(|open| (open.session, open.node))
        };
        let other = ReplicaId(2);
        let registration = log.register_node(other);
        let login = |node, registration| Intent::Register {
            client: CLIENT,
            user_id: 0,
            proof: Proof::Password(1),
            node,
            registration,
        };
        let forwarded = async |node, registration, newest: u64| {
            let intent = login(node, registration).encode();
            let payload = [&newest.to_le_bytes()[..], &intent].concat();
            let mut answer = metadata
                .serve_control(control::REGISTER, payload.into())
                .await;
            control::decode(answer.remove(0))
        };
        let first = log.register(CLIENT);
        assert_eq!(session(), Some((first, ME)));
        assert!(forwarded(other, registration, first).await.is_ok());
        let second = session().unwrap();
        assert_eq!(second.1, other);
        // Of this node, when the client had no session, or its first.
        for newest in [0, first] {
            assert_eq!(
                forwarded(ME, 1, newest).await,
                Err(Failure::Refused(code::TRANSIENT_NOT_COMMITTED))
            );
        }
        assert_eq!(session(), Some(second));
        // Repeated at the same node, and after the client has seen the newer one.
        assert!(forwarded(other, registration, first).await.is_ok());
        let third = session().unwrap();
        assert!(forwarded(ME, 1, third.0).await.is_ok());
        assert_eq!(session().unwrap().1, ME);
        // A leader of version 0.1 answers another kind like this.
        let mut answer = metadata.serve_control(9, Bytes::new()).await;
        assert_eq!(
            control::decode(answer.remove(0)),
            Err(Failure::Refused(code::TRANSIENT_NOT_ACCEPTED))
        );
    }

    /// This node leads, and its own disk hangs.
    #[tokio::test]
    async fn a_command_that_hangs_is_answered_in_time() {
        let (log, metadata) = FakeLog::start(TIMEOUT);
        log.expect(Fate::Stuck);
        let answer = tokio::time::timeout(100 * TIMEOUT, metadata.replicate(intent()));
        assert_eq!(answer.await, Ok(Err(Failure::OutcomeUnknown)));
    }

    /// The position is confirmed, and this node lags behind it.
    #[tokio::test]
    async fn a_read_that_hangs_is_answered_in_time() {
        let (log, metadata) = FakeLog::start(TIMEOUT);
        log.stop_reads();
        let answer = tokio::time::timeout(100 * TIMEOUT, metadata.barrier());
        assert_eq!(answer.await, Ok(Err(Failure::OutcomeUnknown)));
    }
}
