//! What the tests of several subjects share.

use consensus::EntryKind;

use super::harness::{Group, id};
use crate::ids::View;
use crate::log::Log;
use crate::message::{Envelope, Message};

/// The two that are not this one.
pub(super) fn others(number: u64) -> (u64, u64) {
    (number % 3 + 1, (number + 1) % 3 + 1)
}

/// The first view after this one of which that replica is the primary.
pub(super) fn next_view_of(group: &Group, view: View, primary: u64) -> View {
    let mut next = view.next();
    while group.core(primary).context().primary_of(next) != id(primary) {
        next = next.next();
    }
    next
}

/// The log, continued as in this view.
pub(super) fn continued(log: &Log, view: View, bodies: &[&[u8]]) -> Log {
    let mut log = log.clone();
    for body in bodies {
        log.prepare(view, EntryKind::Command, body);
    }
    log
}

/// A backup of the first view votes for another.
pub(super) fn vote() -> Message {
    Message::StartViewChange { at: View::ZERO }
}

pub(super) fn is_from(number: u64) -> impl Fn(&Envelope) -> bool {
    move |envelope| envelope.from == id(number)
}
