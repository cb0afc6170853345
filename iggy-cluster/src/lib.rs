//! A clustering plugin for Apache Iggy.
//!
//! A [`Node`] replicates Iggy's metadata with the others of its cluster, holds the
//! messages of the partitions that it owns, and serves stock Iggy clients. Embed
//! it with [`Node::start`], or with a partition storage of your own by
//! [`Node::start_with`]; the binary `iggy-cluster` does the same from a file. The
//! replicated log alone, for a state machine of your own, is the crate `replicated-log`.

pub mod admin;
mod cluster;
pub mod config;
pub mod logs;
mod metrics;
mod node;
mod partitions;
mod password;
mod server;

pub use ::partitions as storage;
pub use config::ClusterConfig;
pub use node::{Node, StartError};
pub use replicated_log::{FatalError, Leadership, LogError, OpenError, ReplicatedLog};
pub use server::TlsError;
