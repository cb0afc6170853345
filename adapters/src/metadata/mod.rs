//! The replicated metadata of a cluster.
//!
//! [`MetadataMachine`] is a deterministic state machine: everything that is not a
//! function of the log (time, password hashes, placement) is part of the commands. Nodes
//! request an [`Intent`]; [`decide()`] turns it into the [`Command`] that the leader
//! proposes. Semantics and error codes are those of Iggy's own server.
//!
//! Invariants: names are unique; ids are the lowest free, from zero; a client's request
//! takes effect at most once; time never moves backwards; the cost of a request does not
//! depend on the number of partitions, nodes or sessions.
//!
//! | from the bottom | owns |
//! | --- | --- |
//! | `types`, `options`, `permissions`, `replicas`, `error`, `feature_level` | values |
//! | `commands`, `reply`, `events` | what goes into the state machine, and what comes out |
//! | `groups`, `users`, `sessions`, `history` | tables, each with its rules |
//! | `state` | all of them at one position of the log, and queries |
//! | `authorize`, `placement` | judgements by a state |
//! | `changes`, `apply`, `snapshot`, `machine` | the state machine |
//! | `decide` | the leader's decisions |

mod apply;
mod authorize;
mod changes;
mod commands;
mod decide;
mod error;
mod events;
mod feature_level;
mod groups;
mod history;
mod machine;
mod options;
pub mod permissions;
mod placement;
mod replicas;
mod reply;
mod sessions;
mod snapshot;
mod state;
mod types;
mod users;

pub use crate::error_code::{ErrorCode, code};
pub use ::partitions::PartitionKey;
pub use ::partitions::replication::Epoch;
pub use commands::{
    AlterInSync, ClientOperation, ClientRequest, Command, CopiesCommand, ForceRecover, GroupChange,
    GroupOperation, InSyncChange, Intent, LeaderMove, LogState, MetadataCommand, NewPartitions,
    NodeInfo, NodeStart, PartitionCount, Placement, Proof, Recover, UserOperation,
};
pub use decide::{DecisionError, decide};
pub use error::MetadataError;
pub use events::{AssignmentsChange, MetadataEvent, Observer, OwnersAffected, RemovedGroup};
pub use feature_level::FeatureLevel;
pub use groups::{Group, Member, Revocation};
pub use machine::{MetadataMachine, MetadataReader};
pub use options::{MIN_IN_SYNC_REPLICAS, OptionEntry, Options, REPLICATION_FACTOR};
pub use permissions::{Permissions, Rule, StreamPermissions};
pub use placement::{Load, PlacementError, place};
pub use replicas::{COPIES_MAX, Replicas};
pub use reply::{Reply, TopicInfo};
pub use sessions::{REPLY_BYTES_MAX, SESSIONS_LIMIT, SESSIONS_MAX, Session, Sessions};
pub use state::{
    Leadership, MetadataState, Node, PARTITIONS_MAX, Partition, Partitions, STREAMS_MAX, Stream,
    TOPICS_MAX, Topic,
};
pub use types::{GroupKey, Identifier, NAME_BYTES_MAX, Name, NameError, TokenHash};
pub use users::{TOKENS_MAX, Token, User, Users};

#[cfg(test)]
mod tests;
