//! The copies of partitions on this node.
//!
//! [`Copies`] opens a copy when it is first used: by a client's request, by a message of
//! another copy, or because this node leads a partition with several copies. A [`Copy`] is
//! the state machine of `partitions::replication` with its log, and with the requests that
//! wait for it:
//!
//! ```text
//!  metadata ── follow ────▶ ┌──────┐ ◀─ operations done ─ storage
//!  clients  ── requests ──▶ │ Copy │ ── operations ─────▶ storage
//!  peers    ── lanes ─────▶ └──────┘ ── lanes ──────────▶ peers
//!                               └────── proposals ──────▶ metadata
//! ```
//!
//! Locks: that of a copy first, then that of a queue of messages. Nothing waits under either,
//! and lanes are woken under neither.

mod copy;
mod disk;
mod follow;
mod lanes;
mod outbound;
mod proposals;
mod recent;
mod registry;
mod requests;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use copy::Copy;
pub(crate) use lanes::CopyLanes;
pub(crate) use proposals::Proposed;
pub(crate) use registry::{Copies, CopiesSettings, Served};
pub(crate) use requests::{Append, Refused};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
