//! The cluster, from one node's point of view: replicated metadata, registration and
//! fencing of nodes.

pub(crate) mod control;
mod decisions;
mod failure;
mod lease;
mod members;
mod metadata;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use failure::Failure;
pub(crate) use members::{FoundStorage, Members};
pub(crate) use metadata::Metadata;
