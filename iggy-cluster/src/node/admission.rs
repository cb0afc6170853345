//! Whether a node whose disk is empty may begin.
//!
//! A node that comes back without what it has promised is worse than one that
//! stays away: it votes again in a term in which it has voted, and what it has
//! acknowledged is held by fewer than a majority. An empty directory looks the
//! same for a node that has never run and for one whose disk was lost, so the
//! others are asked. A node begins when every other voter says that it is as empty,
//! or that it has never heard of this node. Until then it waits; `iggy-cluster
//! format` begins it regardless, by an operator who knows.
//!
//! A node may have voted and acknowledged before it was registered. So whoever
//! says that it has not heard of this node has taken no consensus message of it
//! since it started itself, and first has something committed, after the question.
//! - **What was acknowledged** keeps its majority: the node that asks takes no part
//!   in that commit, so a majority of the others holds it, and with it all that was
//!   committed before, also with this node's help.
//! - **What was voted** is held in the memory of whom it was sent to, and nowhere
//!   else. Nobody holds it, so it counts in no election. All voters are asked for
//!   that: of five, one that is cut off could hold such a vote, ignore the commit,
//!   and be elected later with the vote, while this node, begun anew, commits with
//!   the others what the elected one has never seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adapters::metadata::Intent;
use async_trait::async_trait;
use consensus::{Index, ReplicaId, Term};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::cluster::{Failure, Metadata};
use replicated_log::links::{Standing, Target, Witness, ask};

/// Between two questions to one peer; grows up to the longer one.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A peer answers within this time, or is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is said for whom the node waits.
const REMINDER: Duration = Duration::from_secs(5);
/// How long a running node looks for a leader before it says that it has none.
const CURRENT_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Begin,
    /// This peer knows the node.
    Refuse(ReplicaId),
    /// Without these peers it cannot be told.
    Wait(Vec<ReplicaId>),
}

/// Asks the peers until it is clear. The error is the peer that knows this node.
/// Ends as well when an operator has `formatted` the directory meanwhile.
pub(super) async fn admit(
    voters: Vec<Target>,
    formatted: impl Fn() -> bool,
) -> Result<(), ReplicaId> {
    let mut answers: BTreeMap<_, _> = voters.iter().map(|peer| (peer.replica, None)).collect();
    let (sender, mut answered) = mpsc::channel(voters.len().max(1));
    // They stop asking when this function returns.
    let mut tasks = JoinSet::new();
    for target in voters {
        let sender = sender.clone();
        tasks.spawn(async move {
            let mut pause = PAUSE;
            loop {
                let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask(&target)).await;
                if let Ok(Some(standing)) = answer
                    && sender.send((target.replica, standing)).await.is_err()
                {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = PAUSE_MAX.min(2 * pause);
            }
        });
    }
    let mut reminder = tokio::time::interval(REMINDER);
    reminder.tick().await;
    loop {
        let missing = match decide(&answers) {
            Verdict::Begin => return Ok(()),
            Verdict::Refuse(peer) => return Err(peer),
            Verdict::Wait(missing) => missing,
        };
        tokio::select! {
            Some((peer, standing)) = answered.recv() => note(&mut answers, peer, standing),
            _ = reminder.tick() => {
                if formatted() {
                    return Ok(());
                }
                let missing: Vec<_> = missing.iter().map(|id| id.0 - 1).collect();
                warn!(
                    waiting_for_replica_ids = ?missing,
                    "the data directory is empty: asking the others whether this node has run before; only if it never has, `iggy-cluster format` begins it without them"
                );
            }
        }
    }
}

/// That a peer was empty stays true of what this node can have promised to it.
fn note(answers: &mut BTreeMap<ReplicaId, Option<Standing>>, peer: ReplicaId, standing: Standing) {
    let known = answers.entry(peer).or_default();
    if *known != Some(Standing::Empty) || standing != Standing::Undecided {
        *known = Some(standing);
    }
}

fn decide(answers: &BTreeMap<ReplicaId, Option<Standing>>) -> Verdict {
    let says = |standing| answers.iter().find(|(_, said)| **said == Some(standing));
    if let Some((peer, _)) = says(Standing::Known) {
        return Verdict::Refuse(*peer);
    }
    let missing: Vec<_> = answers
        .iter()
        .filter(|(_, said)| !matches!(said, Some(Standing::Empty | Standing::Unknown)))
        .map(|(peer, _)| *peer)
        .collect();
    match missing.is_empty() {
        true => Verdict::Begin,
        false => Verdict::Wait(missing),
    }
}

/// Answers for a node that runs.
pub(super) struct Registered(pub(super) Arc<Metadata>);

impl Registered {
    fn knows(&self, node: ReplicaId) -> bool {
        self.0.reader.read().node(node).is_some()
    }

    /// Commits something without the node that asks, which takes no part as long as
    /// it waits. See the module's description.
    async fn agree(&self) -> Result<(), Failure> {
        self.0.replicate(Intent::Noop).await?;
        self.0.barrier().await.map(drop)
    }

    async fn is_empty(&self) -> bool {
        let status = self.0.log.status().await;
        status.is_some_and(|status| {
            status.core.term == Term(0) && status.core.last == Index(0) && status.snapshot.is_none()
        })
    }
}

#[async_trait]
impl Witness for Registered {
    async fn standing(&self, of: ReplicaId) -> Standing {
        if self.knows(of) {
            return Standing::Known;
        }
        if self.is_empty().await {
            return Standing::Empty;
        }
        match tokio::time::timeout(CURRENT_TIMEOUT, self.agree()).await {
            Ok(Ok(())) if self.knows(of) => Standing::Known,
            Ok(Ok(())) => {
                info!(replica_id = of.0 - 1, "a node that never ran begins");
                Standing::Unknown
            }
            _ => Standing::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Empty, Known, Undecided, Unknown};
    use super::*;

    fn answers(said: &[Option<Standing>]) -> BTreeMap<ReplicaId, Option<Standing>> {
        let ids = (2..).map(ReplicaId);
        ids.zip(said.iter().copied()).collect()
    }

    #[test]
    fn an_empty_node_begins_only_where_it_cannot_have_run() {
        use Verdict::{Begin, Refuse, Wait};
        let wait = |ids: &[u64]| Wait(ids.iter().map(|id| ReplicaId(*id)).collect());
        for (said, verdict) in [
            // Alone in its cluster.
            (&[][..], Begin),
            (&[Some(Empty), Some(Empty)], Begin),
            // The other may hold what this node has acknowledged.
            (&[Some(Empty), None], wait(&[3])),
            (&[Some(Empty), Some(Undecided)], wait(&[3])),
            (&[None, None], wait(&[2, 3])),
            // The one that is silent may hold its vote.
            (&[None, Some(Unknown)], wait(&[2])),
            (&[Some(Empty), Some(Unknown)], Begin),
            (&[Some(Unknown), Some(Unknown)], Begin),
            (&[Some(Unknown), Some(Known)], Refuse(ReplicaId(3))),
            (&[None, Some(Known)], Refuse(ReplicaId(3))),
        ] {
            assert_eq!(decide(&answers(said)), verdict, "{said:?}");
        }
    }

    #[test]
    fn a_peer_that_was_empty_may_become_what_knows_better() {
        let peer = ReplicaId(2);
        for (before, now, stays) in [
            (Empty, Undecided, Empty),
            (Empty, Unknown, Unknown),
            (Empty, Known, Known),
            (Undecided, Empty, Empty),
        ] {
            let mut answers = answers(&[Some(before)]);
            note(&mut answers, peer, now);
            assert_eq!(answers[&peer], Some(stays));
        }
    }
}
