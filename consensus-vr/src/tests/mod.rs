//! The protocol, message by message.

mod attack;
mod divergence;
mod harness;
mod normal;
mod paper;
mod scenario;
mod snapshots;
mod view_changes;
