//! A cluster in one process with virtual time, from one 64-bit seed.
//!
//! Runs what production runs: the protocol cores, the loop around them, the
//! write-ahead log, snapshots and their transfer, the metadata state machine with
//! its sessions. Simulated are time, disks, the network, processes and clients;
//! everything that happens to them is drawn from the seed, so a seed that fails
//! fails again.
//!
//! A run has three parts: the cluster forms, then faults happen while clients
//! work, then the faults stop and everything has to come together again. A fault
//! that was drawn has to have done something, or the run fails: what is not
//! delivered shows nothing.
//!
//! [`mutants`] breaks rules of the code on purpose, and counts the seeds until
//! that is seen; [`shrink`] looks for the fewest faults with which a seed fails.

mod check;
mod client;
mod disk;
mod durable;
mod fault;
mod history;
pub mod mutants;
mod plan;
mod process;
mod random;
pub mod shrink;
mod trace;
mod world;

pub use fault::{Delivered, Fault};
pub use plan::{Backend, Plan};
pub use world::{Failure, Outcome, simulate};
