//! What a replica does in its view. Each role owns its state, handles what comes in with
//! the [`Context`](crate::context::Context), and returns what follows.

mod backup;
mod catch_up;
mod choose;
mod handler;
mod primary;
mod state_transfer;
mod view_change;

use std::ops::{Deref, DerefMut};

use handler::Handler;

pub(crate) use backup::Backup;
pub(crate) use handler::Next;
pub(crate) use primary::Primary;
pub(crate) use view_change::ViewChange;

/// The role of a replica in its view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// Orders proposals (VRR 4.1).
    Primary(Primary),
    /// Follows the primary. A primary that restarted, or lost its quorum, is a backup
    /// too, and seeks the next view.
    Backup(Backup),
    /// Waits for the view to start, or for its log (VRR 4.2).
    ViewChange(ViewChange),
}

impl Deref for Role {
    type Target = dyn Handler;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Primary(primary) => primary,
            Self::Backup(backup) => backup,
            Self::ViewChange(change) => change,
        }
    }
}

impl DerefMut for Role {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Primary(primary) => primary,
            Self::Backup(backup) => backup,
            Self::ViewChange(change) => change,
        }
    }
}
