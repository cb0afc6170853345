//! The server side of Iggy's protocol, over bytes: no sockets, no clocks.
//!
//! Requests are independent of the generation of the wire ([`Request`]), and so is what
//! replies are made of; the encoding is one module per generation. The generation served
//! is 0.11 ([`v0_11`]).

mod facts;
mod option_block;
mod request;
mod settings;
pub mod v0_11;

pub use facts::{ConnectedClient, NodeView, StatsOf, SystemStats};
pub use request::{
    ArchiveSection, Consumer, Credentials, GroupTarget, OffsetTarget, PartitionTarget,
    Partitioning, PollRequest, PollStart, Request, SendRequest, UserRequest,
};
pub use settings::TopicSettings;
