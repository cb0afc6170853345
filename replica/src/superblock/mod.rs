//! Which replica this disk belongs to, in two slots of one file.
//!
//! The slots are written in turn, so a write that a crash tears leaves the other.
//! The checksum is the last thing in a slot in every version, so that another
//! version can be distinguished from damage.
//!
//! ```text
//! slot (4 KiB): magic 8 | version u16 | sequence u64 | group u128 | replica u64
//!               | incarnation u64 | storage id u128 | cluster length u16 | cluster
//!               | backend length u16 | backend | voters u16 | their ids u64 each
//!               | learners u16 | their ids u64 each | zeros | crc32c of all before
//! ```
//!
//! Version 1 has no storage id, and in slots that 0.1 wrote zeros in place of the lists. A
//! disk without lists adopts those of the configuration when it is started, and one without a
//! storage id the one that it is given then. Both slots have it before it is used.
//!
//! The storage id is not the incarnation's: a disk that is lost and formatted counts its
//! starts from one again, and would come to the same numbers.
//!
//! An incarnation is never used twice, not even when a slot is damaged: the one
//! that may have been in it is skipped.

mod error;
mod lifecycle;
mod slots;

pub use error::SuperblockError;
pub use lifecycle::{
    check, check_members, exists, format, has_data, is_unchecked, skip_peer_check,
    start_incarnation,
};
pub use slots::Superblock;
