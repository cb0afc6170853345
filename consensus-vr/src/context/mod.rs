//! What all roles share: identity, time, views, the log and what of it is durable and
//! committed, votes, reads, snapshots, and what is to be sent.
//!
//! Two types grant different rights over it. A role receives a [`Context`]: it may
//! prepare, commit, vote and send. The core owns a [`CoreContext`]: only that enters
//! views, advances time and turns changes into effects. Each part keeps its own
//! invariants; those that concern two parts are kept where both are in hand, in
//! [`Context`].

mod clock;
mod outbox;
mod owner;
mod progress;
mod reads;
mod shared;
mod snapshots;
mod views;
mod votes;

pub(crate) use owner::{CoreContext, Start};
pub(crate) use shared::Context;
pub(crate) use snapshots::Snapshot;
