//! The step-persist-send-commit loop around a core, without its threads.
//!
//! A [`Replica`] accepts [`Event`]s and returns [`Output`]s, like the core inside it, so
//! that a node's threads and a simulator run the same code. It owns: batches of commands
//! and the replies to them; the messages that wait for the write-ahead log; the state
//! machine and the reads that wait for it; when to take a snapshot; and fetching
//! snapshots from a peer.
//!
//! The caller passes in all events that wait, calls [`Replica::flush`], and then carries
//! out the outputs of [`Replica::poll`] in order.

mod applying;
mod config;
mod counters;
mod error;
mod events;
mod fetching;
mod file_jobs;
mod peer_message;
mod proposals;
mod reads;
mod refused_leader;
mod replica;
mod sends;
mod snapshotting;
mod stamps;
mod status;

pub use config::ReplicaConfig;
pub use counters::{Counters, MessagesRefused, SizeHistogram};
pub use error::ReplicaError;
pub use events::{Applied, Channel, Event, Now, Output, Ticket};
pub use file_jobs::{FileEvent, FileJob};
pub use replica::Replica;
pub use status::ReplicaStatus;
