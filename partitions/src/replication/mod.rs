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
mod effect;
mod election;
mod event;
mod follower;
mod leader;
mod message;
mod progress;
mod replica;
mod sessions;
mod settings;
mod table;
mod wire;

pub use crate::record::Record;
pub use assignment::{Assignment, Member, Recovery};
pub use chain::{Chain, Epoch, Position};
pub use effect::{Alarm, AppendPlan, Effect, Outcome, Proposal, Refusal, Ticket};
pub use event::{Event, Read};
pub use message::{Ack, Beat, CopyState, Message, Trust};
pub use replica::PartitionReplica;
pub use sessions::{Known, SESSIONS_MAX, Sessions, SessionsError};
pub use settings::{Recovered, Settings};
pub use table::{
    DELETED_MAX, OffsetChange, OffsetEntry, OffsetTable, Start, TableChange, TableVersion,
    TableWrite,
};
pub use wire::{Envelope, WIRE_VERSION, WireError};
