//! Iggy on a replicated log.
//!
//! [`metadata`] is the replicated state machine: streams, topics, partitions and their
//! owners, nodes, users, sessions. [`wire`] is the server side of Iggy's protocol over
//! bytes. Neither knows a consensus protocol, a socket or a peer. Both are functions of
//! their inputs: `clippy.toml` forbids clocks, threads, randomness and types whose order
//! differs between runs, because every replica must reach the same state.

#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

mod codec;
mod error_code;
pub mod metadata;
mod printable;
#[doc(hidden)]
pub mod rules;
pub mod wire;

pub use printable::Printable;
