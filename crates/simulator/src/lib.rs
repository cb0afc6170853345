//! A cluster in one process with virtual time, from one 64-bit seed.
//!
//! Runs what production runs: the protocol cores, the loop around them, the
//! write-ahead log, snapshots and their transfer, the metadata state machine with
//! its sessions. Simulated are time, disks, the network, processes and clients;
//! everything that happens to them is drawn from the seed, so a seed that fails
//! fails again.
//!
//! A run has three parts: the cluster forms, then faults happen while clients
//! work, then the faults stop and everything has to come together again.

mod check;
mod client;
mod plan;
mod process;
mod random;
mod trace;
mod world;

pub use plan::{Backend, Plan};
pub use world::{Failure, Outcome, simulate};
