//! A replicated log for any deterministic state machine, on Raft or Viewstamped
//! Replication.
//!
//! A [`LogNode`] runs one replica: its disk, its threads, and its links to the other
//! replicas. The program around it implements [`StateMachine`], submits commands by
//! [`ReplicatedLog`], and serves its clients. The [`links`] also carry the program's own
//! requests between nodes, for instance to forward a command to the leader.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! use bytes::Bytes;
//! use replicated_log::{
//!     ApplyContext, EmptyDisk, FrozenState, LogConfig, LogNode, MemoryDisk, PeerAddress, Peers,
//!     ProposeError, ReplicaId, ReplicatedLog, RestoreError, StateMachine, UnknownCommand,
//! };
//! use tokio::net::TcpListener;
//!
//! /// The sum of all numbers that were submitted, shared with its readers.
//! struct Sum(Arc<AtomicU64>);
//!
//! impl StateMachine for Sum {
//!     fn apply(&mut self, _: ApplyContext, command: &[u8]) -> Result<Bytes, UnknownCommand> {
//!         let number = command.try_into().map_or(0, u64::from_le_bytes);
//!         let sum = self.0.fetch_add(number, Ordering::Relaxed) + number;
//!         Ok(Bytes::copy_from_slice(&sum.to_le_bytes()))
//!     }
//!
//!     fn freeze(&self) -> Box<dyn FrozenState> {
//!         Box::new(Snapshot(self.0.load(Ordering::Relaxed)))
//!     }
//!
//!     fn restore(&mut self, encoded: &[u8]) -> Result<(), RestoreError> {
//!         let Ok(encoded) = encoded.try_into() else {
//!             return Err(RestoreError::Malformed("it does not have 8 bytes".into()));
//!         };
//!         self.0.store(u64::from_le_bytes(encoded), Ordering::Relaxed);
//!         Ok(())
//!     }
//! }
//!
//! struct Snapshot(u64);
//!
//! impl FrozenState for Snapshot {
//!     fn encode(&self) -> Vec<u8> {
//!         self.0.to_le_bytes().to_vec()
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Three replicas in this process; in production there is one in each process.
//!     let mut peers = Peers::default();
//!     let mut listeners = Vec::new();
//!     for replica in (0..3).map(ReplicaId::from_number) {
//!         let listener = TcpListener::bind("127.0.0.1:0").await?;
//!         let address = listener.local_addr()?.to_string();
//!         peers.insert(PeerAddress { replica, address });
//!         listeners.push((replica, listener));
//!     }
//!     let (mut nodes, mut sums) = (Vec::new(), Vec::new());
//!     for (replica, listener) in listeners {
//!         let sum = Arc::new(AtomicU64::new(0));
//!         let config = LogConfig::new("sums", replica, peers.clone(), "data")?;
//!         let node = LogNode::builder(config, Box::new(Sum(Arc::clone(&sum))))
//!             .disk(Arc::new(MemoryDisk::new())) // without it, the directory "data"
//!             .empty_disk(EmptyDisk::Format)
//!             .listener(listener)
//!             .start()
//!             .await?;
//!         nodes.push(node);
//!         sums.push(sum);
//!     }
//!
//!     // The leader accepts commands.
//!     let command = Bytes::copy_from_slice(&42_u64.to_le_bytes());
//!     let mut leadership = nodes[0].log().leadership();
//!     let applied = loop {
//!         let known = leadership.wait_for(|now| now.leader.is_some()).await?;
//!         let leader = known.leader.map_or(0, |id| id.number() as usize);
//!         drop(known);
//!         match nodes[leader].log().submit(command.clone()).await {
//!             // It had no effect.
//!             Err(ProposeError::NotLeader { .. }) => tokio::task::yield_now().await,
//!             result => break result?,
//!         }
//!     };
//!     assert_eq!(applied.reply[..], 42_u64.to_le_bytes());
//!
//!     // Any replica serves linearizable reads.
//!     for (node, sum) in nodes.iter().zip(&sums) {
//!         while node.log().read().await.is_err() {}
//!         assert_eq!(sum.load(Ordering::Relaxed), 42);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Threads
//! A thread that has a message for the replica runs it itself: mostly the thread of the
//! runtime that has read the message from a socket. Three threads complete that: one runs
//! the replica when time passes and when no other thread does, one writes the write-ahead
//! log, one reads and writes snapshots.

mod accept;
mod address;
mod admission;
mod config;
mod disk_watch;
mod engine;
mod error;
mod exclusive;
mod handle;
mod inbox;
pub mod links;
mod log_limit;
mod memory;
mod metrics;
mod node;
mod outcome;
mod patient_disk;
mod peer_links;
mod peers;
mod pending;
mod refusals;
mod storage;
mod threads;
mod throttle;
mod units;
mod wal_thread;

pub use accept::Acceptor;
pub use address::{join_host_port, listen};
pub use admission::{Registration, ReplicaRegistry};
pub use config::{Backend, ConsensusSettings, LogConfig};
pub use error::{FatalCause, FatalError, LogError, LogThread, TransferError};
pub use handle::{Leadership, LogHandle, ReplicatedLog};
pub use memory::{CountedBuffer, MemoryAccount, MemoryBudget, MemoryShare, ReservedMemory};
pub use metrics::LogMetrics;
pub use node::{EmptyDisk, LogNode, LogNodeBuilder, OpenedNode};
pub use outcome::{Outcome, Outcomes};
pub use peers::{PeerAddress, Peers};
pub use storage::is_empty;
pub use throttle::Throttle;
pub use units::{HumanDuration, HumanSize};

// What the interface of this crate is made of, so that a program needs no other crate.
pub use consensus::{
    ApplyContext, FrozenState, Index, Membership, MembershipError, ProposeError, ReadError,
    ReplicaId, RestoreError, StateMachine, StepError, Term, UnknownCommand,
};
pub use replica::disk::{Disk, MemoryDisk, RealDisk};
pub use replica::driver::{Applied, ReplicaStatus};
pub use replica::open::OpenError;
pub use replica::superblock::SuperblockError;
