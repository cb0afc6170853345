//! Snapshots of the state machine on disk.
//!
//! ```text
//! <index>.snap  a whole snapshot
//! <index>.part  one that is being received from a peer, as far as it has arrived
//! <index>.tmp   one that is being written; void after a restart
//! ```
//! A snapshot has its name only when all of it is durable. The newest
//! [`SNAPSHOTS_KEPT`] stay: a peer may still be reading the one before, and when
//! the newest is damaged and the log reaches back far enough, a replica starts from the
//! one before.
//!
//! A snapshot is transferred in pieces, its header first. Every piece has its own
//! checksum in the header: it is verified when it is read, when it arrives, and
//! when a transfer continues after a restart.

mod error;
mod format;
mod store;
mod worker;

pub use error::SnapshotError;
pub use format::{CHUNK_BYTES, PIECE_BYTES};
pub use store::{Base, SNAPSHOTS_KEPT, SnapshotStore};
pub use worker::FileWorker;
