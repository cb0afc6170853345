//! The few file operations that durable state needs.
//!
//! Paths are relative to the disk's root, with `/` between the parts.
//!
//! # What users of a disk rely on
//! - A sector of [`SECTOR_BYTES`] that is being written when power fails holds
//!   its old bytes or its new ones. Of the sectors of an unsynced write any may
//!   be on the medium.
//! - Directory changes reach the medium in the order in which they were made
//!   (every journaling file system does that); how many of the unsynced ones
//!   reach it is open.
//! - After a failed sync the state of what was written before it is unknown, and a
//!   later sync that succeeds proves nothing about it.

mod memory;
mod real;
mod traits;

pub use memory::{MemoryDisk, Survival};
pub use real::{RealDisk, create_dirs, open_to_others};
pub use traits::{Disk, DiskError, DiskFile, SECTOR_BYTES, read_all};
