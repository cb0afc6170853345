//! The metadata of the cluster, as any node serves it.
//!
//! A command reaches the leader, wherever it is, and is tried again under the
//! same session and request number until its outcome is known or time is up:
//! sessions make that safe. A read waits until the local state holds everything
//! that was acknowledged anywhere.

mod control;
mod members;
mod placement;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adapters::metadata::{Command, MetadataReader, Reply, code};
use bytes::Bytes;
use consensus::{ProposeError, ReplicaId};
use replica::driver::Applied;
use tokio::sync::watch;

use replicated_log::links::{RequestLinks, RpcError};
use replicated_log::{Leadership, ReplicatedLog};

pub(crate) use control::serve as serve_control;
pub(crate) use members::Members;
use placement::Placer;

/// Between two attempts, when nothing better tells when to try.
const PAUSE: Duration = Duration::from_millis(20);
/// One forwarded command is waited for this long before it is tried again.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a command or a read could not be served; each with Iggy's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The outcome is unknown.
    NotCommitted,
    /// It certainly had no effect.
    NotAccepted,
    /// It is refused for good.
    Refused(u32),
}

impl Failure {
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::NotCommitted => code::TRANSIENT_NOT_COMMITTED,
            Self::NotAccepted => code::TRANSIENT_NOT_ACCEPTED,
            Self::Refused(code) => code,
        }
    }
}

/// The replicated metadata, from one node's point of view.
pub(crate) struct Metadata {
    pub(crate) me: ReplicaId,
    pub(crate) log: Arc<dyn ReplicatedLog>,
    pub(crate) reader: MetadataReader,
    links: RequestLinks,
    placer: Placer,
    timeout: Duration,
    leaderless_since: Mutex<Option<Instant>>,
}

impl Metadata {
    pub(crate) fn new(
        me: ReplicaId,
        log: Arc<dyn ReplicatedLog>,
        reader: MetadataReader,
        links: RequestLinks,
        timeout: Duration,
    ) -> Self {
        Self {
            me,
            log,
            placer: Placer::default(),
            reader,
            links,
            timeout,
            leaderless_since: Mutex::default(),
        }
    }

    /// Whether this node has been asked this for so long and knew no leader: others
    /// may have decided what it does not know.
    pub(crate) fn is_leaderless_for(&self, bound: Duration) -> bool {
        if self.leadership().leader.is_some() {
            // Mostly it is none already, and nobody waits for anybody.
            let since = self.leaderless_since.try_lock();
            if let Ok(mut since) = since {
                *since = None;
            }
            return false;
        }
        let mut since = self
            .leaderless_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(Instant::now).elapsed() >= bound
    }

    /// The number under which this node is registered, while it is.
    pub(crate) fn registration(&self) -> Option<u64> {
        let state = self.reader.read();
        let node = state.node(self.me).filter(|node| node.live);
        node.map(|node| node.registration)
    }

    pub(crate) fn leadership(&self) -> Leadership {
        *self.log.leadership().borrow()
    }

    /// Replicates a command; returns its reply and its position in the log.
    pub(crate) async fn replicate(&self, command: Command) -> Result<(u64, Reply), Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut leadership = self.log.leadership();
        // Whether an attempt may have taken effect.
        let mut open = false;
        loop {
            let leader = leadership.borrow_and_update().leader;
            let attempt = match leader {
                Some(leader) if leader == self.me => self.here(command.clone(), deadline).await,
                Some(leader) => self.forward(leader, &command).await,
                None => Attempt::Again { effect: false },
            };
            match attempt {
                // The session that knew whether an attempt took effect is gone.
                Attempt::Done(_, Reply::Refused(code::UNAUTHENTICATED)) if open => {
                    return Err(Failure::NotCommitted);
                }
                Attempt::Done(index, reply) => return Ok((index, reply)),
                Attempt::Failed(failure) => return Err(failure),
                Attempt::Again { effect } => open |= effect,
            }
            if Instant::now() >= deadline {
                return Err(match open {
                    true => Failure::NotCommitted,
                    false => Failure::NotAccepted,
                });
            }
            changed_or_pause(&mut leadership, leader.is_none(), deadline).await;
        }
    }

    /// Proposes at this node, which leads or recently did. Its own disk may hang
    /// while it goes on leading.
    async fn here(&self, command: Command, deadline: Instant) -> Attempt {
        let placed = match self.placer.place(&self.reader, command) {
            Ok(placed) => placed,
            Err(_) => return Attempt::Again { effect: false },
        };
        let submitted = self.log.submit(placed.command.encode());
        let submitted = tokio::time::timeout_at(deadline.into(), submitted).await;
        placed.release();
        match submitted.unwrap_or(Err(ProposeError::OutcomeUnknown)) {
            Ok(Applied { index, reply }) => match Reply::decode(&reply) {
                Ok(reply) => Attempt::Done(index.0, reply),
                Err(_) => Attempt::Failed(Failure::NotCommitted),
            },
            Err(ProposeError::OutcomeUnknown) => Attempt::Again { effect: true },
            Err(ProposeError::NotLeader { .. } | ProposeError::Overloaded) => {
                Attempt::Again { effect: false }
            }
            Err(ProposeError::TooLarge { .. }) => {
                Attempt::Failed(Failure::Refused(code::INVALID_COMMAND))
            }
        }
    }

    async fn forward(&self, leader: ReplicaId, command: &Command) -> Attempt {
        let parts = vec![command.encode()];
        let call = self
            .links
            .call(leader, control::SUBMIT, parts, FORWARD_TIMEOUT);
        let answer = call.await;
        match answer {
            Ok(answer) => control::decode_answer(answer),
            Err(RpcError::NotSent) => Attempt::Again { effect: false },
            Err(RpcError::Unknown) => Attempt::Again { effect: true },
        }
    }

    /// One attempt at this node, for a command that another node forwards.
    async fn forwarded(&self, command: Bytes) -> Attempt {
        match Command::decode(&command) {
            Ok(command) => self.here(command, Instant::now() + FORWARD_TIMEOUT).await,
            Err(_) => Attempt::Failed(Failure::Refused(code::INVALID_COMMAND)),
        }
    }

    /// Returns when the local state holds everything acknowledged before; with
    /// the position that it has reached.
    pub(crate) async fn barrier(&self) -> Result<u64, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut leadership = self.log.leadership();
        loop {
            let leaderless = leadership.borrow_and_update().leader.is_none();
            // A confirmed read waits until this node has applied what it needs.
            let read = tokio::time::timeout_at(deadline.into(), self.log.read()).await;
            if let Ok(Ok(index)) = read {
                return Ok(index.0);
            }
            if Instant::now() >= deadline {
                return Err(Failure::NotCommitted);
            }
            changed_or_pause(&mut leadership, leaderless, deadline).await;
        }
    }

    /// Waits until somebody leads, or for a bounded time.
    pub(crate) async fn leader_known(&self, at_most: Duration) {
        let mut leadership = self.log.leadership();
        let known = leadership.wait_for(|leadership| leadership.leader.is_some());
        let _ = tokio::time::timeout(at_most, known).await;
    }

    pub(crate) fn applied(&self) -> u64 {
        self.reader.read().applied()
    }
}

/// How one attempt ended.
enum Attempt {
    Done(u64, Reply),
    Failed(Failure),
    /// To be tried again; whether it may have taken effect.
    Again {
        effect: bool,
    },
}

/// Waits for another leader, or a moment.
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
    use adapters::metadata::Name;

    use super::testing::{FakeLog, Fate};
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(50);

    fn command() -> Command {
        Command::BootstrapRoot {
            username: Name::new("iggy").unwrap(),
            password_hash: String::new(),
        }
    }

    /// This node leads, and its own disk hangs.
    #[tokio::test]
    async fn a_command_that_hangs_is_answered_in_time() {
        let (log, metadata) = FakeLog::start(TIMEOUT);
        log.expect(Fate::Stuck);
        let answer = tokio::time::timeout(100 * TIMEOUT, metadata.replicate(command()));
        assert_eq!(answer.await, Ok(Err(Failure::NotCommitted)));
    }

    /// The position is confirmed, and this node is far behind it.
    #[tokio::test]
    async fn a_read_that_hangs_is_answered_in_time() {
        let (log, metadata) = FakeLog::start(TIMEOUT);
        log.stop_reads();
        let answer = tokio::time::timeout(100 * TIMEOUT, metadata.barrier());
        assert_eq!(answer.await, Ok(Err(Failure::NotCommitted)));
    }
}
