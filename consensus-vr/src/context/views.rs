//! The view that the replica is in, and the view of which its log is.

use consensus::PersistId;

use crate::ids::View;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Views {
    /// Invariant 1: never goes back, and is durable before a message of it leaves.
    current: View,
    /// The last view whose log this is. Invariant 2: `log_view <= current`.
    log_view: View,
    /// The batch that makes `current` durable.
    entered: PersistId,
    /// The batch that makes `log_view` durable.
    joined: PersistId,
}

impl Views {
    /// Of a replica that has these on disk.
    ///
    /// # Panics
    /// When the log is of a later view, which the hard state does not decode to.
    pub(super) fn recovered(current: View, log_view: View) -> Self {
        assert!(log_view <= current, "a log of a later view (invariant 2)");
        Self {
            current,
            log_view,
            entered: PersistId(0),
            joined: PersistId(0),
        }
    }

    /// Moves to a later view, whose log is not here yet.
    ///
    /// # Panics
    /// When the view is not later.
    pub(super) fn enter(&mut self, view: View, batch: PersistId) {
        assert!(view > self.current, "views do not go back (invariant 1)");
        self.current = view;
        self.entered = batch;
    }

    /// The log is now that of the current view.
    pub(super) fn join(&mut self, batch: PersistId) {
        self.log_view = self.current;
        self.joined = batch;
    }

    pub(super) fn current(&self) -> View {
        self.current
    }

    pub(super) fn log_view(&self) -> View {
        self.log_view
    }

    pub(super) fn entered(&self) -> PersistId {
        self.entered
    }

    pub(super) fn joined(&self) -> PersistId {
        self.joined
    }
}
