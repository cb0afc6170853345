//! Getting the log of a view before joining it.
//!
//! The primary of a new view fetches what the chosen log has and its own has not;
//! a backup fetches what the `StartView` announces. Neither cuts its log first
//! (E2): what is known to be committed replaces what stands there as it comes;
//! what is not is gathered in memory and put in place in one batch together with
//! the log view that it makes true. Until then the replica brings its old log into
//! view changes, under its old log view.
//!
//! Gathered entries are bounded by what a primary lets be uncommitted.

use std::collections::BTreeMap;

use consensus::{Entry, EntryKind, Index, RefusalReason, ReplicaId};

use crate::backup::Backup;
use crate::core::{Phase, VrCore};
use crate::ids::{Head, View};
use crate::log::{self, LINK_BYTES};
use crate::message::{DoViewChange, Message};
use crate::primary::Primary;
use crate::view_change::ViewChange;

/// The log with which the view begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) head: Head,
    pub(crate) commit: Index,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CatchUp {
    target: Target,
    /// The next op that is missing: all before it is that of the target.
    next: Index,
    /// Uncommitted entries up to `next`, to be put in place together.
    gathered: Vec<Entry>,
}

impl CatchUp {
    pub(crate) fn new(target: Target, next: Index) -> Self {
        Self {
            target,
            next,
            gathered: Vec::new(),
        }
    }

    /// All up to here is committed, and there by other means: what was gathered
    /// may not continue it.
    pub(crate) fn skip_to(&mut self, op: Index) {
        self.next = op.next();
        self.gathered.clear();
        if self.target.head.op < op {
            // The view has gone on since it began.
            let checksum = None;
            self.target = Target {
                head: Head { op, checksum },
                commit: op,
            };
        }
    }
}

impl ViewChange {
    /// Who is asked for the next op that is missing.
    fn source(&self, primary: ReplicaId) -> Option<ReplicaId> {
        let op = self.catch_up.as_ref()?.next;
        Some(match &self.choice {
            Some(choice) => choice.op(op).map_or(choice.source, |(_, holder)| holder),
            None => primary,
        })
    }
}

impl VrCore {
    pub(crate) fn on_start_view(
        &mut self,
        view: View,
        commit: Index,
        head: Head,
        entries: Vec<Entry>,
    ) -> Result<(), RefusalReason> {
        if view > self.view {
            self.follow(view);
        }
        // E5: whose log is of this view already has acknowledged ops of it, perhaps
        // more than this message knows of.
        if view < self.view || self.log_view == view {
            return Ok(());
        }
        if commit > head.op || head.op < self.commit {
            return Err(RefusalReason::Impossible(format!(
                "a view of {} ops, {commit} of them committed; {} are committed here",
                head.op, self.commit
            )));
        }
        let clock = self.clock;
        let own_commit = self.commit;
        let connects = entries
            .first()
            .filter(|first| self.log.connects(first))
            .map(|first| first.index);
        let Phase::ViewChange(change) = &mut self.phase else {
            return Ok(());
        };
        change.since = clock;
        if change.catch_up.is_none() {
            // Where the sender says that the logs agree, or where they must.
            let next = connects.unwrap_or_default().max(own_commit.next());
            let target = Target { head, commit };
            change.catch_up = Some(CatchUp::new(target, next));
        }
        self.gather(entries)?;
        self.catch_up()
    }

    pub(crate) fn on_prepares(
        &mut self,
        from: ReplicaId,
        view: View,
        entries: Vec<Entry>,
    ) -> Result<(), RefusalReason> {
        if view != self.view {
            return Ok(());
        }
        let clock = self.clock;
        let primary = self.primary_of(view);
        let Phase::ViewChange(change) = &mut self.phase else {
            return Ok(());
        };
        if change.source(primary) != Some(from) {
            return Ok(());
        }
        if from == primary {
            change.since = clock;
        }
        self.gather(entries)?;
        self.catch_up()
    }

    /// Takes what continues the log of the view.
    fn gather(&mut self, entries: Vec<Entry>) -> Result<(), RefusalReason> {
        for entry in entries {
            let Phase::ViewChange(change) = &mut self.phase else {
                return Ok(());
            };
            let Some(catch_up) = &mut change.catch_up else {
                return Ok(());
            };
            if entry.index < catch_up.next || entry.index > catch_up.target.head.op {
                continue;
            }
            if entry.index > catch_up.next {
                return Ok(());
            }
            let connects = match catch_up.gathered.last() {
                Some(before) => log::follows(&entry, before),
                None => self.log.connects(&entry),
            };
            if !connects {
                // The logs part before what this replica took for common.
                change.catch_up = None;
                return Err(RefusalReason::Impossible(format!(
                    "entry {} does not continue the log of view {}",
                    entry.index, self.view
                )));
            }
            catch_up.next = entry.index.next();
            let here = catch_up.gathered.is_empty()
                && self.log.checksum(entry.index) == Some(log::checksum(&entry));
            if here {
                continue;
            }
            if entry.index > catch_up.target.commit {
                catch_up.gathered.push(entry);
                continue;
            }
            // Whatever stood there differs from a committed op: nobody needs it.
            self.durability.wrote(entry.index);
            self.log.replace(std::slice::from_ref(&entry));
        }
        Ok(())
    }

    /// Joins the view when nothing is missing, or asks for what is.
    pub(crate) fn catch_up(&mut self) -> Result<(), RefusalReason> {
        let Phase::ViewChange(change) = &mut self.phase else {
            return Ok(());
        };
        let Some(catch_up) = &change.catch_up else {
            return Ok(());
        };
        let (next, target) = (catch_up.next, catch_up.target);
        // Everything before `next` is of the view's log, and so committed where
        // that is. What is only gathered is not in this log yet.
        let in_log = Index(next.prev().0 - catch_up.gathered.len() as u64);
        self.commit_up_to(target.commit.min(in_log));
        if next <= target.head.op {
            self.ask_for_next();
            return Ok(());
        }
        self.join()
    }

    /// Asks whoever has it for the next op that is missing.
    pub(crate) fn ask_for_next(&mut self) {
        let Phase::ViewChange(change) = &self.phase else {
            return;
        };
        let source = change.source(self.primary_of(self.view));
        let op = change.catch_up.as_ref().map(|catch_up| catch_up.next);
        if let (Some(source), Some(op)) = (source, op)
            && source != self.id
        {
            self.send_durable(source, Message::RequestPrepares { op });
        }
    }

    /// The log of the view is here: from now on it is this replica's.
    fn join(&mut self) -> Result<(), RefusalReason> {
        let Phase::ViewChange(change) = &mut self.phase else {
            return Ok(());
        };
        let Some(CatchUp {
            target, gathered, ..
        }) = change.catch_up.take()
        else {
            return Ok(());
        };
        let own = match gathered.last() {
            Some(last) => Some(log::checksum(last)),
            None => self.log.checksum(target.head.op),
        };
        let same = target.head.checksum.is_none() || own.is_none() || target.head.checksum == own;
        if !same || target.head.op < self.commit {
            return Err(RefusalReason::Impossible(format!(
                "the log of view {} is not the one that was announced",
                self.view
            )));
        }
        let brought = std::mem::take(&mut change.brought);
        if let Some(first) = gathered.first() {
            self.durability.wrote(first.index);
            self.log.replace(&gathered);
        } else if self.log.last() > target.head.op {
            let end = target.head.op;
            self.log.truncate_from(end.next());
            // On disk too nothing may stand behind it.
            match &self.snapshot {
                Some((meta, _)) if self.log.get(end).is_none() => {
                    assert_eq!(meta.index, end, "a log begins behind a snapshot");
                    self.durability.reset(end, meta.term);
                }
                _ => self.durability.wrote(end),
            }
        }
        assert!(
            self.log.last() == target.head.op,
            "the log of a view is one log (invariant 6)"
        );
        self.log.learn_base(&target.head);
        self.commit_up_to(target.commit);
        self.log_view = self.view;
        self.durability.state_changed();
        self.joined = self.durability.next_batch();
        self.suspicion.became_normal(self.clock);
        if self.is_primary_of(self.view) {
            self.begin_view(&brought);
        } else {
            let mut backup = Backup::new(self.clock);
            backup.ack_due = true;
            self.phase = Phase::Backup(backup);
        }
        Ok(())
    }

    /// The view begins: its first op is a no-op, which is committed only when the
    /// view lives, and everything inherited with it.
    fn begin_view(&mut self, brought: &BTreeMap<ReplicaId, DoViewChange>) {
        let first_op = self.log.prepare(self.view, EntryKind::Noop, &[]);
        self.durability.wrote(first_op);
        let uncommitted: usize = (self.commit.0 + 1..=first_op.0)
            .filter_map(|op| self.log.get(Index(op)))
            .map(|entry| entry.payload.len() - LINK_BYTES)
            .sum();
        let others = self.others();
        self.phase = Phase::Primary(Primary::new(
            others.iter().copied(),
            self.clock,
            first_op,
            uncommitted,
        ));
        for id in others {
            let agreed = brought
                .get(&id)
                .map_or(self.commit, |theirs| self.agreement(theirs));
            self.send_start_view(id, agreed);
        }
    }
}
