//! Iggy on a replicated log.
//!
//! [`metadata`] is the replicated state machine: streams, topics, partitions and
//! who owns them, nodes, users, sessions. [`storage`] holds the messages of the
//! partitions that a node owns. [`wire`] speaks the server side of Iggy's
//! protocol over bytes. None of them knows a consensus protocol, a socket or a
//! peer.

mod codec;
pub mod metadata;
pub mod storage;
pub mod wire;
