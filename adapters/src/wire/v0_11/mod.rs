//! The wire of Iggy 0.11.0 (server 0.9): 256-byte headers, then bodies.
//!
//! Everything that depends on this generation is in here.

mod frame;
mod groups;
mod options;
mod reply;
mod request;
mod users;
mod views;

pub use frame::{FrameError, HEADER_BYTES, RequestHeader, body_matches};
pub use groups::{assignment, created_group, fenced, group, groups};
pub use iggy_binary_protocol::version::{
    IGGY_PROTOCOL_VERSION, IGGY_PROTOCOL_VERSION_MIN, is_protocol_compatible,
};
pub(super) use options::to_wire;
pub use options::{
    check_topic_update, create_stream_options, create_topic_options, update_topic_options,
};
pub use reply::{Eviction, Reply, SERVER_VERSION};
pub use request::decode;
pub use users::{created_token, created_user, tokens, user, users};
pub use views::{
    client, clients, cluster, created_stream, created_topic, describe_options, login, offset,
    polled, routing, sent, stats, stream, streams, topic, topics,
};

#[cfg(test)]
mod tests;
