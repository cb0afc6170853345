//! One in-memory group of replicas for the tests of all backends.
//!
//! [`Replica`] is a core with its disk, generic over the core: a test of one backend
//! keeps typed access to its internals, a model checker clones, compares and hashes it.
//! [`Group`] adds a [`Network`] of packets that a test can inspect, virtual time,
//! crashes, restarts, snapshots, and checks that hold after every effect: one
//! [`History`], gap-free commits of durable entries, one committing leader per term,
//! nothing sent before what it reveals is durable, every proposal answered once.

mod config;
mod disk;
mod drive;
mod group;
mod history;
mod member;
mod network;
mod replica;
mod requests;

pub use config::{ELECTION_TICKS, GROUP, HEARTBEAT_TICKS, config};
pub use disk::Disk;
pub use group::{Answer, Build, Group};
pub use history::History;
pub use network::{Network, Packet, Verdict};
pub use replica::Replica;
