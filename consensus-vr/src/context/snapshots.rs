//! The snapshots that the replica has, and fetches.

use consensus::SnapshotMeta;

use crate::ids::Checksum;

/// A snapshot, with the checksum of its last op where that is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Snapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) checksum: Option<Checksum>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Snapshots {
    newest: Option<Snapshot>,
    fetching: Option<Snapshot>,
}

impl Snapshots {
    pub(super) fn recovered(newest: Option<Snapshot>) -> Self {
        Self {
            newest,
            fetching: None,
        }
    }

    /// The newest that is durable here.
    pub(super) fn newest(&self) -> Option<&Snapshot> {
        self.newest.as_ref()
    }

    pub(super) fn set_newest(&mut self, snapshot: Snapshot) {
        self.newest = Some(snapshot);
    }

    pub(super) fn fetching(&self) -> Option<&Snapshot> {
        self.fetching.as_ref()
    }

    /// Whether the snapshot is to be fetched: one at a time.
    pub(super) fn start_fetch(&mut self, snapshot: Snapshot) -> bool {
        let idle = self.fetching.is_none();
        if idle {
            self.fetching = Some(snapshot);
        }
        idle
    }

    /// The snapshot that was being fetched, when it is this one.
    pub(super) fn finish_fetch(&mut self, meta: &SnapshotMeta) -> Option<Snapshot> {
        self.fetching.take_if(|fetching| fetching.meta == *meta)
    }

    pub(super) fn fail_fetch(&mut self) {
        self.fetching = None;
    }
}
