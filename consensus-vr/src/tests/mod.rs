//! The protocol, message by message.

mod attack;
mod harness;
mod paper;
