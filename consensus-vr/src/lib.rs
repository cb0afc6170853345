//! Viewstamped Replication behind the [`consensus::Consensus`] contract.
//!
//! After Liskov and Cowling, *Viewstamped Replication Revisited* (VRR), with its
//! known errors fixed, and with what TigerBeetle and *Protocol-Aware Recovery*
//! (PAR) add. `docs/protocol-vr.md` describes the protocol as it is here, with
//! every difference from the paper and its reason; the invariants that the code
//! asserts are numbered there.
//!
//! One role or message family per file:
//!
//! | file | what |
//! | --- | --- |
//! | `core` | the replica: inputs, effects, what a step leaves behind |
//! | `primary`, `backup` | normal operation (VRR 4.1) |
//! | `view_change`, `choose` | view changes (VRR 4.2), and which log a view begins with |
//! | `catch_up` | fetching what the view's log has and this replica has not |
//! | `state_transfer` | checkpoints and snapshots (VRR 5.1, 5.2) |
//! | `reads` | reads that a quorum confirms |
//! | `recover` | restart from a trusted log |
//! | `log`, `durability`, `hard_state` | the hash chain, and what of it is on disk |
//! | `message`, `guard` | the wire, and what on it cannot be true |
//!
//! Leaves time, disks and the network to its driver.

mod backup;
mod catch_up;
mod choose;
mod core;
mod durability;
mod guard;
mod hard_state;
mod ids;
mod log;
mod message;
mod primary;
mod reads;
mod recover;
#[doc(hidden)]
pub mod rules;
mod state_transfer;
mod view_change;

#[cfg(test)]
mod tests;

pub use crate::core::VrCore;
