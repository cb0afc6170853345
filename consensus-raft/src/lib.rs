//! tikv's raft-rs behind the [`consensus::Consensus`] contract.
//!
//! Owns everything that names Raft or protobuf. raft-rs 0.7.0 is wrapped
//! defensively: it panics on messages that cannot be true, drops reads and
//! proposals silently, and draws its election timeouts from the thread's
//! randomness; `guard`, `reads` and `timeouts` prevent that.
//!
//! Leaves time, disks and the network to its driver.

mod core;
mod guard;
mod hard_state;
mod message;
mod reads;
#[doc(hidden)]
pub mod rules;
mod snapshots;
mod storage;
mod timeouts;
mod translate;

pub use crate::core::RaftCore;
