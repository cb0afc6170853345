//! Getting the log of a view before joining it.
//!
//! The primary of a new view fetches what the chosen log has and its own has not; a
//! backup fetches what the `StartView` announces. Neither truncates its log first (E2):
//! what is known to be committed replaces what is there as it arrives; what is not is
//! kept in memory, and replaces the end of the log in one batch with the log view that it
//! makes true. Until then the replica votes with its old log, under its old log view.
//!
//! The entries in memory are bounded by what a primary lets be uncommitted.

use consensus::{Entry, Index, RefusalReason, ReplicaId};

use super::choose::Choice;
use crate::context::Context;
use crate::ids::Head;
use crate::log;
use crate::message::Message;

/// The log with which the view starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) head: Head,
    pub(super) commit: Index,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CatchUp {
    target: Target,
    /// The next op that is missing: all before it is that of the target.
    next: Index,
    /// Uncommitted entries up to `next`, which replace the end of the log together.
    suffix: Vec<Entry>,
    /// At the primary: which log it chose. A backup fetches that of the primary.
    choice: Option<Choice>,
}

impl CatchUp {
    /// To the log of the primary, which agrees with this one before `next`.
    pub(super) fn to_primary(target: Target, next: Index) -> Self {
        Self {
            target,
            next,
            suffix: Vec::new(),
            choice: None,
        }
    }

    /// To the chosen log.
    pub(super) fn to_choice(choice: Choice, context: &Context) -> Self {
        let target = Target {
            head: choice.head,
            commit: choice.commit,
        };
        let agreed = choice.agreement(context.log(), context.commit());
        Self {
            choice: Some(choice),
            ..Self::to_primary(target, agreed.next())
        }
    }

    /// The replica from which the next op that is missing is fetched.
    pub(super) fn source(&self, context: &Context) -> ReplicaId {
        match &self.choice {
            Some(choice) => choice.holder(self.next),
            None => context.primary(),
        }
    }

    pub(super) fn request_next(&self, context: &mut Context) {
        let source = self.source(context);
        if source != context.id() {
            let op = self.next;
            context.send_durable(source, Message::RequestPrepares { op });
        }
    }

    /// All up to here is committed, and here by other means: the suffix may not continue
    /// it.
    pub(super) fn skip_to(&mut self, op: Index) {
        self.next = op.next();
        self.suffix.clear();
        if self.target.head.op < op {
            // The view has continued since it started.
            let checksum = None;
            self.target = Target {
                head: Head { op, checksum },
                commit: op,
            };
        }
    }

    /// Accepts the entries that continue the log of the view.
    ///
    /// # Errors
    /// When one does not: the logs differ before the op from which they were thought to
    /// agree.
    pub(super) fn receive(
        &mut self,
        context: &mut Context,
        entries: Vec<Entry>,
    ) -> Result<(), RefusalReason> {
        for entry in entries {
            if entry.index < self.next || entry.index > self.target.head.op {
                continue;
            }
            if entry.index > self.next {
                return Ok(());
            }
            let connects = match self.suffix.last() {
                Some(before) => log::follows(&entry, before),
                None => context.log().connects(&entry),
            };
            let committed = self.suffix.is_empty() && entry.index.prev() <= context.commit();
            if !connects && committed && self.choice.is_none() {
                return Err(RefusalReason::Diverged(format!(
                    "entry {} of view {}, of which replica {} is the primary, does not continue what is committed here up to {}",
                    entry.index,
                    context.view(),
                    context.primary(),
                    context.commit()
                )));
            }
            if !connects {
                return Err(RefusalReason::Impossible(format!(
                    "entry {} does not continue the log of view {}",
                    entry.index,
                    context.view()
                )));
            }
            self.next = entry.index.next();
            let here = self.suffix.is_empty()
                && context.log().checksum(entry.index) == Some(log::checksum(&entry));
            if here {
                continue;
            }
            if entry.index > self.target.commit {
                self.suffix.push(entry);
                continue;
            }
            // What was there differs from a committed op: no replica needs it.
            context.replace(std::slice::from_ref(&entry));
        }
        Ok(())
    }

    /// Whether nothing is missing; requests what is.
    pub(super) fn advance(&mut self, context: &mut Context) -> bool {
        // Everything before `next` is of the view's log, and so committed where that is.
        // The suffix is not in this log yet.
        let in_log = Index(self.next.prev().0 - self.suffix.len() as u64);
        context.commit_up_to(self.target.commit.min(in_log));
        let complete = self.next > self.target.head.op;
        if !complete {
            self.request_next(context);
        }
        complete
    }

    /// The log of the view is here: it becomes that of the replica.
    ///
    /// # Errors
    /// When it is not the one that was announced.
    pub(super) fn finish(self, context: &mut Context) -> Result<(), RefusalReason> {
        let head = self.target.head;
        let own = match self.suffix.last() {
            Some(last) => Some(log::checksum(last)),
            None => context.log().checksum(head.op),
        };
        let same = head.checksum.is_none() || own.is_none() || head.checksum == own;
        if !same || head.op < context.commit() {
            return Err(RefusalReason::Impossible(format!(
                "the log of view {} is not the one that was announced",
                context.view()
            )));
        }
        context.join(&head, self.target.commit, &self.suffix);
        Ok(())
    }
}
