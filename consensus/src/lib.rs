//! The contract between a replicated log and the backends that replicate it.
//!
//! A [`Consensus`] object is one replica of one group: a pure state machine
//! that accepts [`Input`]s and returns [`Effect`]s. It performs no I/O, reads no
//! clock, draws no randomness and spawns nothing, so equal inputs have equal
//! effects, byte for byte. Its driver (a node, a simulator) owns time, disks and
//! the network.
//!
//! What a backend promises is documented at [`Consensus`]. The suite that checks
//! it is `conformance`, over the in-memory group of `testing`; both are features
//! for tests, and no part of a production build.

mod batch;
mod config;
mod contract;
mod entry;
mod ids;
mod log_window;
mod membership;
mod parts;
#[doc(hidden)]
pub mod rules;
mod state_machine;
pub mod wire;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "testing")]
pub mod testing;

pub use batch::{Batch, BatchBuilder, BatchError};
pub use config::{CoreConfig, DISK_STALL_ELECTION_TIMEOUTS, Limits, RecoverError, Recovered};
pub use contract::{
    Committed, Consensus, Effect, Input, PeerProgress, PeerState, PersistBatch, ProposeError,
    ReadError, RefusalReason, RefusedMessage, Role, Status, StepError,
};
pub use entry::{Entry, EntryKind, SnapshotMeta};
pub use ids::{Index, PersistId, ProposalId, ReadToken, ReplicaId, Term, Tick};
pub use log_window::LogWindow;
pub use membership::{Membership, MembershipError};
pub use parts::{Parts, PartsWriter};
pub use state_machine::{ApplyContext, FrozenState, RestoreError, StateMachine, UnknownCommand};
