//! A disk in memory that forgets unsynced writes, and fails on request.
//!
//! It keeps what programs see and what the medium holds apart. A crash leaves of
//! every unsynced write the sectors that the caller's [`Survival`] picks, and of
//! the unsynced directory changes a prefix. A failed sync behaves like Linux: the
//! data can still be read, counts as clean, and no later sync writes it.

mod disk;
mod state;

pub use disk::MemoryDisk;
pub use state::Survival;
