//! Which connection of a peer is the newest.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lets the frames of the newest connection of a peer pass, on one lane.
#[derive(Debug, Default)]
pub(in crate::links) struct Gate(Mutex<u64>);

impl Gate {
    fn newest(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this connection the newest, unless a later one has arrived. No frame of an earlier
    /// one is delivered from here on.
    pub(in crate::links) fn replace(&self, connection: u64) -> bool {
        let mut newest = self.newest();
        let is_newer = connection > *newest;
        if is_newer {
            *newest = connection;
        }
        is_newer
    }

    /// Delivers a frame of this connection, unless there is a newer one.
    pub(super) fn deliver(&self, connection: u64, deliver: impl FnOnce()) -> bool {
        let newest = self.newest();
        let is_newest = *newest == connection;
        if is_newest {
            deliver();
        }
        is_newest
    }
}
