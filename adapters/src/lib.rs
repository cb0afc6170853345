//! Iggy on a replicated log.
//!
//! [`metadata`] is the replicated state machine: streams, topics, partitions and
//! who owns them, nodes, users, sessions. [`wire`] speaks the server side of Iggy's
//! protocol over bytes. None of them knows a consensus protocol, a socket or a
//! peer.

mod codec;
pub mod metadata;
#[doc(hidden)]
pub mod rules;
pub mod wire;
