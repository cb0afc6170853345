//! The replicated metadata of a cluster.
//!
//! [`MetadataMachine`] is a deterministic state machine: everything that is not a
//! function of the log (time, password hashes, placement) travels inside the
//! commands. Semantics and error codes are those of Iggy's own server.
//!
//! Invariants: names are unique; ids are the lowest free, from zero; a client's
//! request takes effect at most once; time never goes back; nothing on a
//! request's path is linear in partitions, nodes or sessions.

mod apply;
mod commands;
mod credentials;
mod error;
mod groups;
mod machine;
mod memberships;
mod options;
pub mod permissions;
mod placement;
mod reply;
mod sessions;
mod snapshot;
mod state;
mod types;
mod users;

pub use commands::{
    ClientOperation, ClientRequest, Command, GroupChange, GroupOperation, NodeInfo, Proof,
    TokenHash, UserOperation,
};
pub use credentials::{CredentialError, hash_password, verify_password};
pub use error::{MetadataError, code};
pub use groups::{Group, GroupKey, Member, Revocation};
pub use machine::{MetadataEvent, MetadataMachine, MetadataReader, Observer};
pub use memberships::RemovedGroup;
pub use options::{OptionEntry, Options};
pub use partitions::PartitionKey;
pub use permissions::{Permissions, Rule, StreamPermissions};
pub use placement::{PlacementError, place};
pub use reply::{Reply, TopicInfo};
pub use sessions::{REPLY_BYTES_MAX, SESSIONS_MAX, Session, Sessions};
pub use state::{
    MetadataState, Node, PARTITIONS_MAX, Partition, STREAMS_MAX, Stream, TOPICS_MAX, Topic,
};
pub use types::{Identifier, NAME_BYTES_MAX, Name, NameError};
pub use users::{TOKENS_MAX, Token, User, Users};

#[cfg(test)]
mod tests;
