//! Intents and commands, and their versioned encoding.
//!
//! An [`Intent`] is the request of a node or of its client, and is forwarded to the leader.
//! A [`Command`] is what the log contains, with every value that replicas could find
//! differently. The leader turns one into the other in [`decide`](super::decide()); today
//! that decides which nodes have copies of new partitions.
//!
//! ```text
//! version u8 | tag u8 | body
//! new partitions with one copy each: count u32 | owners u32 | owner u64 ...
//! new partitions with more: count u32 | (copies u8 | replica_id u8 ...) ...
//! ```
//!
//! # Compatibility
//! Nodes of version 0.1 forward, and write to the log, what this version does:
//! - Version 0.1 has one type for both, and forwards a command with an empty list of
//!   owners. An intent is encoded the same way. Owners in the bytes of an intent are
//!   ignored, as the leader of version 0.1 overwrites them.
//! - A command has as many owners as partitions: no leader of any version has proposed
//!   another one. The bytes of an intent that creates partitions are no command.
//! - [`MetadataCommand::Noop`] is encoded as `FenceNode` with registration 0, which no
//!   node has: version 0.1 proposes that where it needs a command without effect, and
//!   its leader refuses to propose a tag that it does not know.
//! - [`MetadataCommand::Copies`] is unknown to version 0.1, and is proposed only when every
//!   node knows it.

mod command;
mod copies;
mod group;
mod new_partitions;
mod node;
mod operation;
mod user;

pub use command::{ClientRequest, Command, Intent, MetadataCommand, Proof};
pub use copies::{
    AlterInSync, CopiesCommand, ForceRecover, InSyncChange, LeaderMove, NodeStart, Recover,
};
pub use group::{GroupChange, GroupOperation};
pub use new_partitions::{NewPartitions, PartitionCount, Placement};
pub use node::{LogState, NodeInfo};
pub use operation::ClientOperation;
pub use user::UserOperation;
