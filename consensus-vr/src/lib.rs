//! Viewstamped Replication behind the [`consensus::Consensus`] contract.
//!
//! After Liskov and Cowling, *Viewstamped Replication Revisited* (VRR), with its
//! known errors fixed, and with what TigerBeetle and *Protocol-Aware Recovery*
//! (PAR) add. `docs/design/protocol-vr.md` describes the protocol as it is here, with
//! every difference from the paper and its reason; the invariants that the code
//! asserts are numbered there.
//!
//! A file uses only those below it in this table:
//!
//! | file | what |
//! | --- | --- |
//! | `core` | the replica: inputs, effects, transitions between roles |
//! | `guard` | messages that cannot be true |
//! | `recover` | restart from a trusted log |
//! | `roles/primary/`, `roles/backup` | normal operation (VRR 4.1) |
//! | `roles/view_change` | a view that has not started here (VRR 4.2) |
//! | `roles/handler` | what every role answers for, and what may follow from an input |
//! | `roles/catch_up` | fetching what the log of a view has and this replica lacks |
//! | `roles/choose` | the log with which a view starts |
//! | `roles/state_transfer` | the log and snapshots for others, and from them (VRR 5.1, 5.2) |
//! | `context/` | what all roles share, and its invariants |
//! | `context/votes`, `context/reads`, ... | one part of it each |
//! | `journal` | the log together with what of it is on disk |
//! | `durability`, `hard_state` | batches, and the numbers beside the log |
//! | `log` | the hash chain |
//! | `message` | the wire |
//! | `ids` | the numbers of the protocol |
//!
//! Time, disks and the network are left to the driver.

mod context;
mod core;
mod durability;
mod guard;
mod hard_state;
mod ids;
mod journal;
mod log;
mod message;
mod recover;
mod roles;
#[doc(hidden)]
pub mod rules;

#[cfg(test)]
mod tests;

pub use crate::core::VrCore;
