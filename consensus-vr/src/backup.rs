//! Normal operation at a backup (VRR 4.1).
//!
//! Prepares are appended only in order and only when they continue the chain. One
//! that leaves a gap is dropped, and what is missing asked for. `PrepareOk` is
//! cumulative and says what is durable here.

use consensus::rule;
use consensus::{Entry, Index, RefusalReason};

use crate::core::{Phase, VrCore};
use crate::ids::View;
use crate::log;
use crate::message::Message;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Backup {
    /// When the primary was last heard; `None` where it is not to be waited for.
    pub(crate) heard: Option<u64>,
    pub(crate) ack_due: bool,
    /// The last beat heard.
    beat: u64,
    /// The first missing op that was asked for, and when.
    asked: Option<(Index, u64)>,
}

impl Backup {
    pub(crate) fn new(clock: u64) -> Self {
        Self {
            heard: Some(clock),
            ack_due: false,
            beat: 0,
            asked: None,
        }
    }

    /// The primary of the view, who no longer leads it.
    pub(crate) fn ceded() -> Self {
        Self {
            heard: None,
            ..Self::new(0)
        }
    }
}

impl VrCore {
    pub(crate) fn on_prepare(
        &mut self,
        view: View,
        commit: Index,
        entries: &[Entry],
    ) -> Result<(), RefusalReason> {
        if !self.hear_primary(view) {
            return Ok(());
        }
        let new = self.new_entries(entries)?;
        if let Some(first) = new.first() {
            if first.index > self.log.last().next() && rule!(PreparesWithoutGap) {
                self.ask_for_gap();
                return Ok(());
            }
            self.log.replace(new);
            self.durability.wrote(first.index);
        } else if let Phase::Backup(backup) = &mut self.phase {
            // The acknowledgement was lost.
            backup.ack_due = true;
        }
        self.commit_up_to(commit);
        Ok(())
    }

    /// The entries that this log does not have, checked against the chain.
    fn new_entries<'a>(&self, entries: &'a [Entry]) -> Result<&'a [Entry], RefusalReason> {
        let impossible = |op: Index| {
            Err(RefusalReason::Impossible(format!(
                "entry {op} differs from the one of this view that is here"
            )))
        };
        let Some(first) = entries.first() else {
            return Ok(entries);
        };
        if first.index > self.log.last().next() {
            return Ok(entries);
        }
        let held = self.log.last().0 + 1 - first.index.0;
        let (old, new) = entries.split_at(entries.len().min(held as usize));
        // The last that both have vouches for all before it.
        if let Some(last) = old.last()
            && self
                .log
                .checksum(last.index)
                .is_some_and(|own| own != log::checksum(last))
        {
            return impossible(last.index);
        }
        if let Some(first) = new.first()
            && !self.log.connects(first)
        {
            return impossible(first.index);
        }
        Ok(new)
    }

    pub(crate) fn on_commit(&mut self, view: View, commit: Index, beat: u64) {
        if !self.hear_primary(view) {
            return;
        }
        self.commit_up_to(commit);
        if let Phase::Backup(backup) = &mut self.phase {
            backup.beat = backup.beat.max(beat);
            backup.ack_due = true;
        }
    }

    /// The primary of a view speaks. Whether this replica follows it in that view;
    /// if it has missed the view's beginning, it asks for it.
    fn hear_primary(&mut self, view: View) -> bool {
        if view < self.view && rule!(EarlierPrimaryIgnored) {
            return false;
        }
        if view > self.view {
            self.follow(view);
            return false;
        }
        let clock = self.clock;
        match &mut self.phase {
            Phase::Backup(backup) => {
                backup.heard = Some(clock);
                self.suspicion.my_vote = None;
                true
            }
            Phase::ViewChange(_) => {
                self.view_has_begun();
                false
            }
            Phase::Primary(_) => false,
        }
    }

    fn ask_for_gap(&mut self) {
        let missing = self.log.last().next();
        let (clock, interval) = (self.clock, self.heartbeat_ticks);
        let Phase::Backup(backup) = &mut self.phase else {
            return;
        };
        let asked = backup
            .asked
            .is_some_and(|(op, at)| op == missing && clock < at + interval);
        if !asked {
            backup.asked = Some((missing, clock));
            let primary = self.primary_of(self.view);
            self.send(primary, Message::RequestPrepares { op: missing });
        }
    }

    /// Says what is durable, once the view itself is.
    pub(crate) fn acknowledge(&mut self) {
        let joined = self.durability.is_durable(self.joined) || !rule!(AckAfterJoinDurable);
        let received = self.log.last();
        let op = match rule!(AckOnlyDurable) {
            true => self.durability.durable(),
            false => received,
        };
        let Phase::Backup(backup) = &mut self.phase else {
            return;
        };
        if !backup.ack_due || !joined || backup.heard.is_none() {
            return;
        }
        backup.ack_due = false;
        let beat = backup.beat;
        let primary = self.primary_of(self.view);
        self.send(primary, Message::PrepareOk { op, received, beat });
    }
}
