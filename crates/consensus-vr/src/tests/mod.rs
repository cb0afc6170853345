//! The protocol, message by message.

mod harness;
mod paper;
