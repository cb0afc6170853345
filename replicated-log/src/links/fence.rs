//! Which replicas are not on the disk that they have had.
//!
//! A replica registers with its incarnation and the id of its storage in the replicated state.
//! One that presents a lower incarnation later, or another storage, has forgotten that: its
//! disk was lost and formatted, or is an older copy. It has also forgotten what it has voted
//! and acknowledged since, so every node refuses it, and it stops when it learns of that.
//!
//! The incarnation alone would not show it: a formatted disk counts its starts from one, and
//! comes to the registered number again. Until a replica has registered, the storage counts
//! that it has presented first since this node started.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use consensus::ReplicaId;
use tokio::sync::watch;

use super::handshake::HandshakeError;
use crate::admission::Registration;

type Registered = Box<dyn Fn(ReplicaId) -> Option<Registration> + Send + Sync>;

/// A peer that has refused this node because its disk is out of date, and what it replied.
#[derive(Clone, Debug)]
pub(crate) struct Outdated {
    pub(crate) peer: ReplicaId,
    pub(crate) reason: String,
}

/// What the others are registered with, and whether one of them refuses this node.
pub(crate) struct Fence {
    registered: OnceLock<Registered>,
    /// The storage that each peer has presented: the first one, until it is registered.
    presented: Mutex<BTreeMap<ReplicaId, u128>>,
    outdated: watch::Sender<Option<Outdated>>,
}

impl Default for Fence {
    fn default() -> Self {
        Self {
            registered: OnceLock::new(),
            presented: Mutex::default(),
            outdated: watch::Sender::new(None),
        }
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").finish_non_exhaustive()
    }
}

/// The storage that a replica must have: the registered one, or that which it has presented.
/// `None` while no storage is known, as before version 0.2.
fn storage_of(registered: Option<Registration>, presented: Option<u128>) -> Option<u128> {
    let registered = registered.map(|known| known.storage_id);
    registered.filter(|id| *id != 0).or(presented)
}

impl Fence {
    /// Sets where registrations are looked up. The first call counts.
    pub(crate) fn set(&self, registered: Registered) {
        let _ = self.registered.set(registered);
    }

    fn registered(&self, replica: ReplicaId) -> Option<Registration> {
        self.registered.get().and_then(|lookup| lookup(replica))
    }

    fn presented(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, u128>> {
        self.presented
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks what a peer presents, and remembers its storage.
    ///
    /// # Errors
    /// When it is not on the disk that it has had, as far as this node knows.
    pub(super) fn admit(
        &self,
        replica: ReplicaId,
        shown: Registration,
    ) -> Result<(), HandshakeError> {
        let registered = self.registered(replica);
        let mut presented = self.presented();
        let known = storage_of(registered, presented.get(&replica).copied());
        if let Some(known) = registered
            && shown.incarnation < known.incarnation
        {
            return Err(HandshakeError::Outdated {
                replica,
                incarnation: shown.incarnation,
                registered: known.incarnation,
            });
        }
        if known.is_some_and(|known| known != shown.storage_id) {
            return Err(HandshakeError::OtherDisk {
                replica,
                presented: shown.storage_id,
                known: known.unwrap_or_default(),
            });
        }
        if shown.storage_id != 0 {
            presented.insert(replica, shown.storage_id);
        }
        Ok(())
    }

    /// The peers that have registered with another storage than they had presented when they
    /// connected. They are forgotten: each is returned once.
    pub(super) fn take_refuted(&self) -> Vec<(ReplicaId, HandshakeError)> {
        let mut presented = self.presented();
        let refuted = presented.iter().filter_map(|(replica, shown)| {
            let known = storage_of(self.registered(*replica), None)?;
            let error = HandshakeError::OtherDisk {
                replica: *replica,
                presented: *shown,
                known,
            };
            (known != *shown).then_some((*replica, error))
        });
        let refuted: Vec<_> = refuted.collect();
        for (replica, _) in &refuted {
            presented.remove(replica);
        }
        refuted
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

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: ReplicaId = ReplicaId(2);

    fn shown(incarnation: u64, storage_id: u128) -> Registration {
        Registration {
            incarnation,
            storage_id,
        }
    }

    fn fence(registered: Option<Registration>) -> Fence {
        let fence = Fence::default();
        fence.set(Box::new(move |_| registered));
        fence
    }

    fn refused(fence: &Fence, incarnation: u64, storage_id: u128) -> Option<&'static str> {
        let result = fence.admit(PEER, shown(incarnation, storage_id));
        result.err().map(|error| error.label())
    }

    #[test]
    fn a_replica_on_another_disk_is_refused_whatever_its_incarnation() {
        for (registered, incarnation, storage_id, expected) in [
            (None, 1, 7, None),
            (None, 1, 0, None),
            (Some(shown(1, 7)), 1, 7, None),
            (Some(shown(1, 7)), 2, 7, None),
            // Lost and formatted: its first start, and that of a supervisor after it.
            (Some(shown(1, 7)), 1, 8, Some("other_disk")),
            (Some(shown(1, 7)), 2, 8, Some("other_disk")),
            (Some(shown(1, 7)), 9, 0, Some("other_disk")),
            (Some(shown(3, 7)), 2, 7, Some("outdated")),
            (Some(shown(3, 7)), 2, 8, Some("outdated")),
            // Registered by version 0.1.
            (Some(shown(1, 0)), 1, 8, None),
            (Some(shown(1, 0)), 1, 0, None),
            (Some(shown(2, 0)), 1, 8, Some("outdated")),
        ] {
            let found = refused(&fence(registered), incarnation, storage_id);
            assert_eq!(found, expected, "{registered:?} {incarnation} {storage_id}");
        }
    }

    /// It may have voted, and what it voted for is in the memory of this node.
    #[test]
    fn the_disk_that_a_replica_has_presented_counts_until_it_registers() {
        for registered in [None, Some(shown(1, 0))] {
            let fence = fence(registered);
            assert_eq!(refused(&fence, 1, 0), None, "of version 0.1");
            assert_eq!(refused(&fence, 1, 7), None);
            assert_eq!(refused(&fence, 1, 8), Some("other_disk"));
            assert_eq!(refused(&fence, 2, 8), Some("other_disk"));
            // Version 0.1 cannot open the disk that it has had.
            assert_eq!(refused(&fence, 2, 0), Some("other_disk"));
            assert_eq!(refused(&fence, 2, 7), None);
        }
    }

    #[test]
    fn a_peer_that_turns_out_to_be_on_another_disk_is_returned_once() {
        let registered = std::sync::Arc::new(Mutex::new(None));
        let (fence, lookup) = (Fence::default(), registered.clone());
        fence.set(Box::new(move |_| *lookup.lock().unwrap()));
        assert_eq!(refused(&fence, 1, 8), None);
        for (state, expected) in [
            (None, 0),
            (Some(shown(1, 0)), 0),
            (Some(shown(1, 8)), 0),
            (Some(shown(1, 7)), 1),
            (Some(shown(1, 7)), 0),
        ] {
            *registered.lock().unwrap() = state;
            assert_eq!(fence.take_refuted().len(), expected, "{state:?}");
        }
        assert_eq!(refused(&fence, 1, 8), Some("other_disk"));
        assert_eq!(refused(&fence, 1, 7), None);
    }
}
