//! The server side of Iggy's protocol, over bytes: no sockets, no clocks.
//!
//! What clients ask is neutral ([`Request`]), and so is what they are told; how it is
//! written is one module per generation of the wire. The generation served is 0.11
//! ([`v0_11`]).

mod facts;
mod request;
mod settings;
pub mod v0_11;

pub use facts::{ConnectedClient, NodeView, StatsOf, SystemStats};
pub use request::{
    ArchiveSection, Consumer, Credentials, GroupTarget, OffsetTarget, PartitionTarget,
    Partitioning, PollRequest, PollStart, Request, SendRequest, UserRequest,
};
pub use settings::TopicSettings;
