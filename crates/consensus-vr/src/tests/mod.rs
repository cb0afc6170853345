//! The protocol, message by message.
