//! Changes that take effect at the owners of partitions before they are acknowledged.
//!
//! A purge, for instance, is committed when a quorum has it, which the owner of a partition
//! may not be part of. Would it be acknowledged then, a send that follows it could reach an
//! owner that has not applied it yet: that send would be acknowledged, and deleted. So the
//! node that answers such a change waits until each owner has confirmed that it has caught
//! up. An owner that does not reply delays the answer only as long as it may serve from a
//! state without the change: until its lease has certainly ended, or until it has been
//! fenced for that long, because a fenced node serves no partitions.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adapters::metadata::{MetadataEvent, OwnersAffected, code};
use consensus::ReplicaId;
use replicated_log::links::RequestLinks;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::messages::{DataReply, DataRequest, REQUEST};
use crate::cluster::{Failure, Metadata};

/// Between two attempts to reach an owner.
const PAUSE: Duration = Duration::from_millis(20);

/// What this node has applied of each client's last change that affects owners.
pub(crate) struct Affected(Mutex<Inner>);

struct Inner {
    /// Changes before this are not known one by one.
    since: Instant,
    /// Of clients with a session.
    last: HashMap<u128, Change>,
    /// The registrations under which nodes are fenced, and when this was first noticed.
    fenced: HashMap<ReplicaId, (u64, Instant)>,
}

#[derive(Clone)]
struct Change {
    request: u64,
    owners: BTreeSet<ReplicaId>,
    applied: Instant,
}

impl Default for Affected {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            since: Instant::now(),
            last: HashMap::new(),
            fenced: HashMap::new(),
        }))
    }
}

impl Affected {
    /// Notes what a command has changed. Called in the order of the log, before anything
    /// that follows the command.
    pub(crate) fn note(&self, event: &MetadataEvent) {
        match event {
            MetadataEvent::OwnersAffected(OwnersAffected {
                client,
                request,
                owners,
            }) => {
                let change = Change {
                    request: *request,
                    owners: owners.clone(),
                    applied: Instant::now(),
                };
                self.lock().last.insert(*client, change);
            }
            MetadataEvent::SessionsClosed(clients) => {
                let mut inner = self.lock();
                for client in clients {
                    // It may be repeated in the client's next session.
                    if let Some(change) = inner.last.remove(client) {
                        inner.since = inner.since.max(change.applied);
                    }
                }
            }
            MetadataEvent::Restored => {
                let mut inner = self.lock();
                inner.since = Instant::now();
                inner.last.clear();
            }
            _ => {}
        }
    }

    /// Waits until the owners that a client's applied request affects have caught up with
    /// the position `index`, at which or before which it was applied.
    pub(super) async fn wait(
        &self,
        metadata: &Arc<Metadata>,
        links: &RequestLinks,
        (client, request): (u128, u64),
        index: u64,
    ) -> Result<(), Failure> {
        if metadata.applied() < index {
            let caught_up = metadata.barrier().await;
            caught_up.map_err(|_| Failure::OutcomeUnknown)?;
        }
        let lease_over = metadata.lease_over();
        let mut calls = JoinSet::new();
        for (owner, since) in self.owners(metadata, client, request) {
            let call = confirmed(links.clone(), owner);
            calls.spawn(async move {
                let confirmed = tokio::time::timeout_at(since + lease_over, call).await;
                if confirmed.is_err() {
                    debug!(replica_id = %owner, "an owner does not confirm a change; its lease has ended");
                }
            });
        }
        calls.join_all().await;
        Ok(())
    }

    /// The other nodes that have to confirm a request, and since when they cannot have
    /// renewed a lease without it. Where the request was applied before this node knew of
    /// requests, all nodes have to.
    fn owners(&self, metadata: &Metadata, client: u128, request: u64) -> Vec<(ReplicaId, Instant)> {
        let state = metadata.reader.read();
        let mut inner = self.lock();
        let found = inner.last.get(&client);
        let (owners, since) = match found.filter(|change| change.request == request) {
            Some(change) => (change.owners.clone(), change.applied),
            None => (
                state.nodes().map(|node| node.info.node).collect(),
                inner.since,
            ),
        };
        let others = owners.into_iter().filter(|owner| *owner != metadata.me);
        others
            .map(|owner| match state.node(owner) {
                Some(node) if !node.live => {
                    let noticed = inner.fenced_since(owner, node.registration);
                    (owner, since.min(noticed))
                }
                _ => (owner, since),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn fenced_since(&mut self, node: ReplicaId, registration: u64) -> Instant {
        let now = Instant::now();
        let fenced = self.fenced.entry(node).or_insert((registration, now));
        if fenced.0 != registration {
            *fenced = (registration, now);
        }
        fenced.1
    }
}

/// Returns when the owner has caught up with everything that was acknowledged before this
/// call.
async fn confirmed(links: RequestLinks, owner: ReplicaId) {
    loop {
        let request = DataRequest::barrier().encode();
        // An owner that is cut off replies after its own timeout, or never.
        let reply = links.call(owner, REQUEST, request, Duration::MAX).await;
        if let Ok(reply) = reply
            && let Some(DataReply::Refused(code::PARTITION_NOT_FOUND)) = DataReply::decode(reply)
        {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::{FakeLog, ME};

    const OTHER: ReplicaId = ReplicaId(2);

    fn changed(request: u64) -> MetadataEvent {
        MetadataEvent::OwnersAffected(OwnersAffected {
            client: 7,
            request,
            owners: [ME, OTHER].into(),
        })
    }

    /// Each change would otherwise wait as long as the first one after the fence.
    #[tokio::test]
    async fn a_change_waits_no_longer_for_a_node_that_is_fenced_for_long() {
        let (log, metadata) = FakeLog::start(Duration::from_secs(5));
        log.register_node(OTHER);
        let affected = Affected::default();
        let registration = metadata.reader.read().node(OTHER).map(|it| it.registration);
        log.apply(&adapters::metadata::Command::FenceNode {
            node: OTHER,
            registration: registration.unwrap(),
        });
        affected.note(&changed(1));
        affected.owners(&metadata, 7, 1);
        let noticed = affected.lock().fenced[&OTHER].1;
        affected.note(&changed(2));
        let applied = affected.lock().last[&7].applied;
        assert!(noticed <= applied);
        assert_eq!(affected.owners(&metadata, 7, 2), [(OTHER, noticed)]);
    }

    /// It was applied before this node started, restored a snapshot, or the client's session
    /// ended.
    #[tokio::test]
    async fn a_change_that_is_not_known_waits_for_all_nodes() {
        let (log, metadata) = FakeLog::start(Duration::from_secs(5));
        log.register_node(OTHER);
        let affected = Affected::default();
        let since = affected.lock().since;
        assert_eq!(affected.owners(&metadata, 7, 1), [(OTHER, since)]);
        affected.note(&changed(1));
        assert_ne!(affected.owners(&metadata, 7, 1), [(OTHER, since)]);
        let applied = affected.lock().last[&7].applied;
        affected.note(&MetadataEvent::SessionsClosed(vec![7]));
        assert_eq!(affected.owners(&metadata, 7, 1), [(OTHER, applied)]);
        affected.note(&MetadataEvent::Restored);
        let since = affected.lock().since;
        assert_eq!(affected.owners(&metadata, 7, 1), [(OTHER, since)]);
    }
}
