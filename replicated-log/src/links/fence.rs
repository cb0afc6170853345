//! Which incarnations of the replicas are out of date.
//!
//! A replica registers with its incarnation in the replicated state. One that presents a
//! lower one later has forgotten that: its disk was lost and formatted, or is an older copy.
//! It has also forgotten what it has voted and acknowledged since, so every node refuses it,
//! and it stops when it learns of that.

use std::fmt;
use std::sync::OnceLock;

use consensus::ReplicaId;
use tokio::sync::watch;

type Registered = Box<dyn Fn(ReplicaId) -> Option<u64> + Send + Sync>;

/// A peer that has refused this node because its disk is out of date, and what it replied.
#[derive(Clone, Debug)]
pub(crate) struct Outdated {
    pub(crate) peer: ReplicaId,
    pub(crate) reason: String,
}

/// The registered incarnations, and whether that of this node is lower than its own.
pub(crate) struct Fence {
    registered: OnceLock<Registered>,
    outdated: watch::Sender<Option<Outdated>>,
}

impl Default for Fence {
    fn default() -> Self {
        Self {
            registered: OnceLock::new(),
            outdated: watch::Sender::new(None),
        }
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").finish_non_exhaustive()
    }
}

impl Fence {
    /// Sets where registrations are looked up. The first call counts.
    pub(crate) fn set(&self, registered: Registered) {
        let _ = self.registered.set(registered);
    }

    /// The incarnation with which the replica is registered, as far as this node knows.
    pub(super) fn registered(&self, replica: ReplicaId) -> Option<u64> {
        self.registered.get().and_then(|lookup| lookup(replica))
    }

    /// A peer has refused this node.
    pub(super) fn note(&self, peer: ReplicaId, reason: String) {
        self.outdated.send_replace(Some(Outdated { peer, reason }));
    }

    /// Waits until a peer has refused this node.
    pub(crate) async fn outdated(&self) -> Outdated {
        let mut refused = self.outdated.subscribe();
        let found = refused.wait_for(Option::is_some).await;
        match found.ok().and_then(|found| found.clone()) {
            Some(outdated) => outdated,
            None => std::future::pending().await,
        }
    }
}
