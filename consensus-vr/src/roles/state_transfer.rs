//! Parts of the log and snapshots for others, and snapshots from others (VRR 5.1, 5.2).
//!
//! The driver takes snapshots and transfers their bytes; this decides when one replaces
//! the log. Never while the log continues after it (E2): a log that has the snapshot's
//! last op needs no snapshot, and one that differs from it there or ends before it has
//! nothing after it that may be committed.

use consensus::rule;
use consensus::{Index, RefusalReason, ReplicaId};

use super::handler::Next;
use crate::context::{Context, Snapshot};
use crate::message::Message;

/// Sends what follows in the log, or a snapshot when that is compacted, to a replica of
/// this view.
pub(super) fn send_log(context: &mut Context, to: ReplicaId, op: Index) {
    if op > context.log().last() {
        return;
    }
    if op < context.log().first() {
        offer_snapshot(context, to);
        return;
    }
    let bytes_max = context.limits().message_bytes_max;
    let entries = context.log().slice(op, bytes_max);
    context.send_durable(to, Message::Prepares { entries });
}

/// The primary has had an acknowledgement of this op from here.
pub(super) fn check_missing(
    context: &Context,
    from: ReplicaId,
    op: Index,
) -> Result<Next, RefusalReason> {
    let last = context.log().last();
    match op > last {
        true => Err(RefusalReason::Diverged(format!(
            "this replica has acknowledged {op} to replica {from}, and its log ends at {last}"
        ))),
        false => Ok(Next::Stay),
    }
}

/// Offers the newest snapshot to a replica whose log ends before the first op here.
pub(super) fn offer_snapshot(context: &mut Context, to: ReplicaId) {
    if let Some(newest) = context.snapshot() {
        let Snapshot { meta, checksum } = newest.clone();
        let snapshot = meta;
        context.send_durable(to, Message::SnapshotOffer { snapshot, checksum });
    }
}

/// What an offer or a snapshot did to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// Nothing, or not yet.
    Unchanged,
    /// The log covers it, and is committed up to there.
    Committed,
    /// It replaced the log.
    Installed,
}

/// Fetches the snapshot when the log does not cover it.
pub(super) fn receive_offer(
    context: &mut Context,
    from: ReplicaId,
    snapshot: Snapshot,
) -> Transfer {
    if snapshot.meta.index <= context.commit() {
        return Transfer::Unchanged;
    }
    if context.log_covers(&snapshot.meta) {
        context.commit_up_to(snapshot.meta.index);
        return Transfer::Committed;
    }
    context.fetch_snapshot(from, snapshot);
    Transfer::Unchanged
}

/// A snapshot of more than is committed here is durable.
pub(super) fn restore(context: &mut Context, snapshot: &Snapshot) -> Transfer {
    if context.log_covers(&snapshot.meta) && rule!(CoveredSnapshotNotInstalled) {
        context.commit_up_to(snapshot.meta.index);
        return Transfer::Committed;
    }
    context.install(snapshot);
    Transfer::Installed
}
