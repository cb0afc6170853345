//! The write-ahead log: one format for every backend.
//!
//! # On disk
//! Segments of one size, `<number>.wal`, preallocated; those that are no longer
//! needed become `spare-<number>` and are used again. A segment is a header block
//! and frames:
//!
//! ```text
//! header (4 KiB): magic 8 | version u16 | flags u8 | group u128 | segment u64
//!                 | first frame u64 | nonce u64 | crc32c
//! frame:          magic u32 | segment u64 | sequence u64 | synced u64 | length u32 | crc32c | records
//! ```
//! A frame is the result of one write; it starts at a multiple of 4 KiB, so that
//! writing it never touches a sector of an acknowledged one. Its checksum covers
//! all of it, so a frame is there or it is not. It carries its segment's number,
//! which is never used twice, and its checksum starts with the segment's nonce:
//! neither what a recycled file contained before, nor a payload that was crafted to
//! look like a frame, is one. `synced` is the last frame that was durable when
//! this one was written.
//!
//! # Recovery
//! Frames are read in sequence. Where the next one is not whole, either a crash
//! tore what was never acknowledged, or something acknowledged is damaged. Of the
//! frames since the last sync a crash may leave any, so a whole frame after a
//! missing one proves nothing by itself. It is damage when a later segment exists,
//! or when a later frame of the segment records that the missing one was durable: then
//! recovery refuses. Otherwise it is a torn tail and ends the log.
//!
//! Damage to the very last frame, which nothing vouches for yet, looks like a torn one. What
//! would vouch for it has to be durable before the frame is acknowledged, and costs another
//! fsync. A record that is written without one, as partitions have, proves nothing after a
//! power loss; and while the machine runs, the frame is read from the page cache, as it was
//! written. So the loss of one last frame goes unnoticed here. The leader of the group
//! notices it by what this replica has acknowledged, and the replica stops. A change is lost
//! only if, before that, all other replicas that have it are down and a leader is elected
//! without them: that takes one disk that damages what it has fsynced, and one more failure
//! at the same time.
//!
//! What nothing vouches for is written once more and synced before it counts.
//! Every start opens a new segment, whose header ends the one before: nothing is ever
//! written after a torn tail, and it can never come back.
//!
//! # Batches
//! A [`PersistBatch`](consensus::PersistBatch) is recovered whole or not at all, and of
//! several a prefix, which includes all that were durable. Whole batches matter: a log
//! that lost the end of a batch which replaces a suffix is neither the old log nor the
//! new one, under a hard state (Raft's term and vote, VR's view and log-view) that
//! describes one of them. Inside a batch a reset comes first, then entries, then the hard
//! state. A batch too large for one frame, or for what is left of the segment, spans
//! several frames or segments; its records count when the last one is there.
//!
//! # Failure
//! After a failed write or sync the log refuses everything: what is on the disk is
//! then unknown, and trying again could acknowledge what is not there.

mod active;
mod config;
mod error;
mod log;
mod record;
mod recovered;
mod recovery;
mod replay;
mod segment;
mod spares;
mod stats;

pub use config::WalConfig;
pub use error::WalError;
pub use log::{HARD_STATE_BYTES_MAX, Wal};
pub use recovered::RecoveredLog;
pub use stats::{WalSize, WalStats};

#[cfg(test)]
mod tests;
