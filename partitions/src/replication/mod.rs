//! Copies of one partition: how records reach the others, when they are committed, and
//! what happens when the leader changes.
//!
//! Consensus decides who leads which epoch and which copies are in sync; the messages
//! themselves flow beside it, fenced by epochs. [`PartitionReplica`] is one copy without
//! I/O, clock or threads: [`handle`](PartitionReplica::handle) accepts an [`Event`], and
//! [`poll`](PartitionReplica::poll) returns what the caller has to do. The rules, and why
//! nothing acknowledged is lost, are in `docs/design/partitions.md`.
//!
//! ```text
//!  metadata ── Assigned ──▶ ┌──────────────────┐ ── Write, Truncate, Sync, Adopt ──▶ disk
//!  clients  ── Append ────▶ │ PartitionReplica │ ◀── Done ────────────────────────── disk
//!  peers    ── Message ───▶ └──────────────────┘ ── Send, Propose, Reply ──▶
//! ```

mod assignment;
mod chain;
mod context;
mod election;
mod follower;
mod leader;
mod message;
mod progress;
mod replica;

pub use crate::record::Record;
pub use assignment::{Assignment, Member, Recovery};
pub use chain::{Chain, Epoch, Position};
pub use message::{Message, Trust};
pub use replica::{
    Alarm, AppendPlan, Effect, Event, Outcome, PartitionReplica, Proposal, Recovered, Refusal,
    Settings, Ticket,
};
