//! One replica without its threads.
//!
//! Owns what a replica keeps on disk (the [write-ahead log](wal), the
//! [snapshots], the [superblock]) over a small [`disk`] trait, and the
//! [loop](driver) around a consensus core. A node runs it on real disks and
//! threads, a simulator on disks with injected faults; both run this code.

pub mod disk;
pub mod driver;
pub mod open;
#[doc(hidden)]
pub mod rules;
pub mod snapshots;
pub mod superblock;
pub mod wal;
