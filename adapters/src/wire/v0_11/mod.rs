//! The wire of Iggy 0.11.0 (server 0.9): 256-byte headers, then bodies.
//!
//! Everything that depends on this generation is in this module.

mod fields;
mod frame;
mod groups;
mod messages;
mod nodes;
mod options;
mod replication;
mod reply;
mod request;
mod resources;
mod system;
mod users;

pub use frame::{FrameError, HEADER_BYTES, RequestHeader, body_matches};
pub use groups::{assignment, created_group, fenced, group, groups};
pub use iggy_binary_protocol::version::{
    IGGY_PROTOCOL_VERSION, IGGY_PROTOCOL_VERSION_MIN, is_protocol_compatible,
};
pub use messages::{offset, polled, sent};
pub use nodes::{cluster, routing};
pub use options::{
    check_topic_update, create_stream_options, create_topic_options, update_topic_options,
};
pub use replication::{check_replication_update, complete_replication};
pub use reply::{Eviction, Reply, SERVER_VERSION};
pub use request::decode;
pub use resources::{created_stream, created_topic, no_topics, stream, streams, topic, topics};
pub use system::{client, clients, describe_options, login, stats};
pub use users::{created_token, created_user, tokens, user, users};

#[cfg(test)]
mod tests;
