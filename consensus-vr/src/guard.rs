//! Whether a peer's message can be true.
//!
//! A peer may be broken, of another version, or not what it claims to be: such a
//! message is refused before the protocol sees it.

use consensus::{Entry, Membership, RefusalReason, ReplicaId};

use crate::ids::View;
use crate::log;
use crate::message::{Envelope, Message, NUMBER_MAX};

/// Views grow by one in an election timeout at most; no replica was away for longer.
const VIEWS_AHEAD_MAX: u64 = 1 << 32;

pub(crate) fn check(
    id: ReplicaId,
    view: View,
    membership: &Membership,
    from: ReplicaId,
    envelope: &Envelope,
) -> Result<(), RefusalReason> {
    if envelope.from != from || from == id || !membership.contains(from) {
        return Err(RefusalReason::UnknownPeer);
    }
    if envelope.to != id {
        return impossible(format!("addressed to replica {}", envelope.to));
    }
    let message = &envelope.message;
    if envelope.view == View::ZERO {
        return impossible(format!("{} in view 0", message.name()));
    }
    if envelope.view.0 > view.0 + VIEWS_AHEAD_MAX {
        return impossible(format!("view {} from view {view}", envelope.view));
    }
    sender(id, membership, envelope)?;
    match message {
        Message::Prepare { entries, .. }
        | Message::StartView { entries, .. }
        | Message::Prepares { entries } => chained(envelope.view, entries),
        Message::DoViewChange(log) => {
            let views = log.headers.iter().map(|header| header.view);
            let last = views.clone().next_back().unwrap_or_default();
            // Committed ops of a later view than its own may be in a log, also of this
            // one after a restart.
            if log.log_view >= envelope.view
                || last > envelope.view
                || !views.is_sorted()
                || log.commit > log.head.op
            {
                return impossible("a log from the future".into());
            }
            Ok(())
        }
        Message::StartViewChange { at } if *at >= envelope.view => {
            impossible(format!("a vote for view {} in view {at}", envelope.view))
        }
        Message::SnapshotOffer { snapshot, .. }
            if snapshot.index.0 > NUMBER_MAX || snapshot.term > envelope.view.term() =>
        {
            impossible(format!("a snapshot at {}", snapshot.index))
        }
        // The members of a group do not change.
        Message::SnapshotOffer { snapshot, .. } if snapshot.membership != *membership => {
            impossible(format!("a snapshot at {} of other members", snapshot.index))
        }
        Message::PrepareOk { op, received, .. } if op > received => {
            impossible(format!("{op} is durable and {received} received"))
        }
        _ => Ok(()),
    }
}

/// Whether the sender has the role that the message implies.
fn sender(
    id: ReplicaId,
    membership: &Membership,
    envelope: &Envelope,
) -> Result<(), RefusalReason> {
    let primary = envelope.view.primary(membership);
    let message = &envelope.message;
    let by_primary = matches!(
        message,
        Message::Prepare { .. }
            | Message::Commit { .. }
            | Message::StartView { .. }
            | Message::ReadReply { .. }
            | Message::Missing { .. }
    );
    if by_primary && envelope.from != primary {
        return impossible(format!(
            "{} of replica {} in view {}, which replica {primary} leads",
            message.name(),
            envelope.from,
            envelope.view
        ));
    }
    let to_primary = matches!(
        message,
        Message::PrepareOk { .. }
            | Message::DoViewChange(_)
            | Message::RequestStartView { .. }
            | Message::ReadRequest { .. }
    );
    if to_primary && id != primary {
        return impossible(format!(
            "{} for replica {primary}, which leads view {}",
            message.name(),
            envelope.view
        ));
    }
    let by_voter = matches!(
        message,
        Message::StartViewChange { .. } | Message::DoViewChange(_)
    );
    if by_voter && !membership.is_voter(envelope.from) {
        return impossible(format!("{} from a learner", message.name()));
    }
    Ok(())
}

/// Whether the entries are a piece of one log of this view.
fn chained(view: View, entries: &[Entry]) -> Result<(), RefusalReason> {
    let mut before: Option<&Entry> = None;
    for entry in entries {
        let in_log = (1..=NUMBER_MAX).contains(&entry.index.0) && log::parent(entry).is_some();
        let in_view = entry.term.0 > 0 && entry.term <= view.term();
        if !in_log || !in_view || before.is_some_and(|before| !log::follows(entry, before)) {
            return impossible(format!(
                "entry {} of view {} follows nothing",
                entry.index, entry.term
            ));
        }
        before = Some(entry);
    }
    Ok(())
}

fn impossible(what: String) -> Result<(), RefusalReason> {
    Err(RefusalReason::Impossible(what))
}
