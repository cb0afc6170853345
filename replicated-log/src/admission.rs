//! Whether a replica whose disk is empty may start.
//!
//! A replica that comes back without what it has promised is worse than one that stays
//! away: it votes again in a term in which it has voted, and what it has acknowledged is
//! held by fewer than a majority. An empty disk looks the same on a replica that has never
//! run and on one whose disk was lost, so the peers are consulted. A replica starts when
//! every other voter replies that it is empty as well, or that this replica has never run.
//! Until then it waits; an operator who knows that it has never run can format its disk.
//!
//! A replica may have voted and acknowledged before it was registered. So a peer that
//! replies [`NeverRan`](DiskHistory::NeverRan) has received no message of the protocol from
//! this replica since it started itself, and first has something committed, after the
//! request.
//! - **What was acknowledged** keeps its majority: the requesting replica takes no part in
//!   that commit, so a majority of the others holds it, and with it everything that was
//!   committed before, also with the help of this replica.
//! - **What was voted** is in the memory of the replicas to which the vote was sent, and
//!   nowhere else. None of them has it, so it counts in no election. For that, all voters
//!   must reply: of five, one that is partitioned away could have such a vote, miss the
//!   commit, and be elected later with the vote, while this replica, started empty, commits
//!   with the others what the elected one has never seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use consensus::{Index, ReplicaId, Term};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::handle::ReplicatedLog;
use crate::links::{AdmissionService, DiskHistory, HandshakeError, Target, request_disk_history};

/// Between two requests to one peer; grows up to the longer one.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A peer that does not reply within this time receives another request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the log names the peers for which this replica waits.
const REMINDER: Duration = Duration::from_secs(5);
/// A replica that cannot commit within this time replies that it is undecided.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(1);

/// The start of a replica, as it is registered and presented to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Starts of the replica on its disk, this one included.
    pub incarnation: u64,
    /// Names its disk; zero when version 0.1 started it.
    pub storage_id: u128,
}

/// The record of replicas that have run, kept by the program around the log in the
/// replicated state.
#[async_trait]
pub trait ReplicaRegistry: Send + Sync {
    /// Whether the local state records this replica as one that has run.
    fn is_registered(&self, replica: ReplicaId) -> bool;

    /// What the local state records this replica with: one that connects with a lower
    /// incarnation or another storage is refused, because its disk is not the one that it has
    /// had. By default, the storage that a replica has presented first is compared, and only
    /// until this node stops.
    fn registration(&self, _replica: ReplicaId) -> Option<Registration> {
        None
    }

    /// Commits a command that changes nothing and waits until it is applied here. `false`
    /// when that failed. Called before a replica whose disk is empty may start.
    async fn commit_noop(&self) -> bool;
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Start,
    /// This peer knows that the replica has run.
    Refuse(ReplicaId),
    /// These peers must reply first.
    Wait(Vec<ReplicaId>),
}

/// Why a replica whose disk is empty may not start.
#[derive(Debug)]
pub(crate) enum NotAdmitted {
    /// This peer knows that it has run.
    HasRun(ReplicaId),
    /// A peer belongs to a cluster with other replicas.
    Members(HandshakeError),
}

/// Consults the peers until the verdict is clear. Ends as well when an operator has
/// formatted the disk meanwhile.
pub(crate) async fn admit(
    voters: Vec<Target>,
    is_formatted: impl Fn() -> bool,
) -> Result<(), NotAdmitted> {
    let mut replies: BTreeMap<_, _> = voters.iter().map(|peer| (peer.replica, None)).collect();
    let (sender, mut received) = mpsc::channel(voters.len().max(1));
    // The requests end when this function returns.
    let mut tasks = JoinSet::new();
    for target in voters {
        tasks.spawn(repeat_request(target, sender.clone()));
    }
    let mut reminder = tokio::time::interval(REMINDER);
    reminder.tick().await;
    loop {
        let missing = match decide(&replies) {
            Verdict::Start => return Ok(()),
            Verdict::Refuse(peer) => return Err(NotAdmitted::HasRun(peer)),
            Verdict::Wait(missing) => missing,
        };
        tokio::select! {
            Some((peer, reply)) = received.recv() => match reply {
                Ok(history) => note(&mut replies, peer, history),
                Err(error) => return Err(NotAdmitted::Members(error)),
            },
            _ = reminder.tick() => {
                if is_formatted() {
                    return Ok(());
                }
                let missing: Vec<_> = missing.iter().map(|id| id.number()).collect();
                warn!(
                    waiting_for_replica_ids = ?missing,
                    "the disk is empty: waiting for the peers to confirm that this replica has never run; start them, or format the disk if you know that it has never run"
                );
            }
        }
    }
}

/// Consults the peers once, before an operator formats the disk. Returns those that have
/// not confirmed that this replica has never run: they cannot be reached, or do not know.
pub(crate) async fn check_format(voters: Vec<Target>) -> Result<Vec<ReplicaId>, NotAdmitted> {
    let mut unconfirmed: BTreeSet<_> = voters.iter().map(|peer| peer.replica).collect();
    let mut tasks = JoinSet::new();
    for target in voters {
        tasks.spawn(async move { (target.replica, request(&target).await) });
    }
    while let Some(replied) = tasks.join_next().await {
        let Ok((peer, reply)) = replied else {
            continue;
        };
        match reply.map_err(NotAdmitted::Members)? {
            Some(DiskHistory::HasRun) => return Err(NotAdmitted::HasRun(peer)),
            Some(DiskHistory::PeerIsEmpty | DiskHistory::NeverRan) => {
                unconfirmed.remove(&peer);
            }
            Some(DiskHistory::Undecided) | None => {}
        }
    }
    Ok(unconfirmed.into_iter().collect())
}

/// One request, in bounded time.
async fn request(target: &Target) -> Result<Option<DiskHistory>, HandshakeError> {
    let reply = tokio::time::timeout(REPLY_TIMEOUT, request_disk_history(target)).await;
    reply.unwrap_or(Ok(None))
}

/// A peer, and what it has replied.
type Reply = (ReplicaId, Result<DiskHistory, HandshakeError>);

/// Requests the history of this replica from one peer, until the receiver of the replies is
/// dropped.
async fn repeat_request(target: Target, replies: mpsc::Sender<Reply>) {
    let mut pause = PAUSE;
    loop {
        if let Some(reply) = request(&target).await.transpose()
            && replies.send((target.replica, reply)).await.is_err()
        {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = PAUSE_MAX.min(2 * pause);
    }
}

/// That a peer was empty remains true of what this replica can have promised to it.
fn note(
    replies: &mut BTreeMap<ReplicaId, Option<DiskHistory>>,
    peer: ReplicaId,
    history: DiskHistory,
) {
    let known = replies.entry(peer).or_default();
    if *known != Some(DiskHistory::PeerIsEmpty) || history != DiskHistory::Undecided {
        *known = Some(history);
    }
}

fn decide(replies: &BTreeMap<ReplicaId, Option<DiskHistory>>) -> Verdict {
    let mut known_to = replies
        .iter()
        .filter(|(_, reply)| **reply == Some(DiskHistory::HasRun));
    if let Some((peer, _)) = known_to.next() {
        return Verdict::Refuse(*peer);
    }
    let allows = |reply: &Option<DiskHistory>| {
        matches!(
            reply,
            Some(DiskHistory::PeerIsEmpty | DiskHistory::NeverRan)
        )
    };
    let missing: Vec<_> = replies
        .iter()
        .filter(|(_, reply)| !allows(reply))
        .map(|(peer, _)| *peer)
        .collect();
    match missing.is_empty() {
        true => Verdict::Start,
        false => Verdict::Wait(missing),
    }
}

/// Replies for a replica that runs.
pub(crate) struct Admission {
    pub(crate) log: Arc<dyn ReplicatedLog>,
    /// Without one, a replica that is not empty cannot tell whether another has run.
    pub(crate) registry: Option<Arc<dyn ReplicaRegistry>>,
}

impl Admission {
    async fn is_empty(&self) -> bool {
        let status = self.log.status().await;
        status.is_some_and(|status| {
            status.core.term == Term(0) && status.core.last == Index(0) && status.snapshot.is_none()
        })
    }
}

#[async_trait]
impl AdmissionService for Admission {
    async fn history(&self, of: ReplicaId) -> DiskHistory {
        let is_registered = || {
            let registry = self.registry.as_ref();
            registry.is_some_and(|registry| registry.is_registered(of))
        };
        if is_registered() {
            return DiskHistory::HasRun;
        }
        if self.is_empty().await {
            return DiskHistory::PeerIsEmpty;
        }
        let Some(registry) = &self.registry else {
            return DiskHistory::Undecided;
        };
        match tokio::time::timeout(COMMIT_TIMEOUT, registry.commit_noop()).await {
            Ok(true) if is_registered() => DiskHistory::HasRun,
            Ok(true) => {
                info!(replica = %of, "a replica that has never run may start");
                DiskHistory::NeverRan
            }
            _ => DiskHistory::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DiskHistory::{HasRun, NeverRan, PeerIsEmpty, Undecided};
    use super::*;

    fn replies(given: &[Option<DiskHistory>]) -> BTreeMap<ReplicaId, Option<DiskHistory>> {
        let ids = (2..).map(ReplicaId);
        ids.zip(given.iter().copied()).collect()
    }

    #[test]
    fn an_empty_replica_starts_only_where_it_cannot_have_run() {
        use Verdict::{Refuse, Start, Wait};
        let wait = |ids: &[u64]| Wait(ids.iter().map(|id| ReplicaId(*id)).collect());
        for (given, verdict) in [
            // Alone in its cluster.
            (&[][..], Start),
            (&[Some(PeerIsEmpty), Some(PeerIsEmpty)], Start),
            // The other may hold what this replica has acknowledged.
            (&[Some(PeerIsEmpty), None], wait(&[3])),
            (&[Some(PeerIsEmpty), Some(Undecided)], wait(&[3])),
            (&[None, None], wait(&[2, 3])),
            // The silent one may have its vote.
            (&[None, Some(NeverRan)], wait(&[2])),
            (&[Some(PeerIsEmpty), Some(NeverRan)], Start),
            (&[Some(NeverRan), Some(NeverRan)], Start),
            (&[Some(NeverRan), Some(HasRun)], Refuse(ReplicaId(3))),
            (&[None, Some(HasRun)], Refuse(ReplicaId(3))),
        ] {
            assert_eq!(decide(&replies(given)), verdict, "{given:?}");
        }
    }

    #[test]
    fn a_peer_that_was_empty_may_later_reply_with_what_it_knows() {
        let peer = ReplicaId(2);
        for (before, now, expected) in [
            (PeerIsEmpty, Undecided, PeerIsEmpty),
            (PeerIsEmpty, NeverRan, NeverRan),
            (PeerIsEmpty, HasRun, HasRun),
            (Undecided, PeerIsEmpty, PeerIsEmpty),
        ] {
            let mut replies = replies(&[Some(before)]);
            note(&mut replies, peer, now);
            assert_eq!(replies[&peer], Some(expected));
        }
    }
}
