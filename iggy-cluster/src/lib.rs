//! A clustering plugin for Apache Iggy.
//!
//! A [`Node`] replicates Iggy's metadata with the other nodes of its cluster, stores the
//! messages of the partitions that it owns, and serves stock Iggy clients. The binary
//! `iggy-cluster` starts it with a configuration file. A program can also embed it:
//!
//! ```
//! use iggy_cluster::config::{Backend, ClusterConfig, PortsSection, RootUser};
//! use iggy_cluster::{Node, StartError};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! // A cluster of one node; the others of a larger one are in the same list.
//! let ports = PortsSection { tcp: 30_890, tcp_replica: 31_890, admin: 30_300 };
//! let mut config = ClusterConfig::on_this_machine(Backend::Raft, [ports]);
//! config.storage.path = directory.path().to_path_buf();
//! let node = Node::builder(config)
//!     .replica_id(0)
//!     .root(RootUser::default())
//!     .start()
//!     .await?;
//! // Clients connect to 127.0.0.1:30890 now, and `node.log()` replicates the metadata.
//! node.stop().await;
//! # Ok::<_, StartError>(())
//! # })?;
//! # Ok(())
//! # }
//! ```
//!
//! [`NodeBuilder::storage`] replaces the built-in partition storage. The replicated log
//! alone, for another state machine, is the crate `replicated-log`.
//!
//! # Features
//! - `cli` (default): the command line in [`commands`], and reports of other nodes in
//!   [`admin`]. The binary needs it.
//! - `bench` (default): `iggy-cluster bench` and `iggy-cluster advise`.
//!
//! An embedding program needs neither: `default-features = false`.

pub mod admin;
mod cluster;
#[cfg(feature = "cli")]
pub mod commands;
pub mod config;
mod copies;
pub mod log_lines;
mod metrics;
mod node;
mod partitions;
mod password;
mod server;
mod view;

pub use ::partitions as storage;
pub use config::ClusterConfig;
pub use node::{Node, NodeBuilder, StartError};
pub use replicated_log::{FatalError, Leadership, LogError, OpenError, ReplicatedLog};
pub use server::TlsError;

/// The code of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
