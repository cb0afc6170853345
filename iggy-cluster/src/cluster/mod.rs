//! The cluster, as one of its nodes takes part in it: replicated metadata, registration
//! and fencing.

mod control;
mod decisions;
mod failure;
mod members;
mod metadata;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use failure::Failure;
pub(crate) use members::{LastContact, Members};
pub(crate) use metadata::Metadata;
