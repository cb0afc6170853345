//! The context of a role.

use std::collections::BTreeMap;

use consensus::{
    Effect, Entry, EntryKind, Index, Limits, Membership, ProposalId, ReplicaId, SnapshotMeta, Term,
    rule,
};

use super::clock::Clock;
use super::outbox::Outbox;
use super::progress::Progress;
use super::reads::Reads;
use super::snapshots::{Snapshot, Snapshots};
use super::views::Views;
use super::votes::Votes;
use crate::ids::{Head, View};
use crate::journal::Journal;
use crate::log::Log;
use crate::message::Message;

/// What a role may see of its replica, and do with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Context {
    pub(super) id: ReplicaId,
    pub(super) group: u128,
    pub(super) limits: Limits,
    pub(super) membership: Membership,
    pub(crate) clock: Clock,
    pub(super) views: Views,
    pub(super) journal: Journal,
    pub(super) progress: Progress,
    pub(crate) votes: Votes,
    /// The proposals of this replica that are not committed yet.
    pub(super) proposals: BTreeMap<Index, ProposalId>,
    pub(super) reads: Reads,
    pub(super) snapshots: Snapshots,
    pub(super) outbox: Outbox,
    /// The leader that the driver was last notified of.
    pub(super) leader: (Term, Option<ReplicaId>),
}

/// Identity and views.
impl Context {
    pub(crate) fn id(&self) -> ReplicaId {
        self.id
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.membership.is_voter(self.id)
    }

    /// The other members.
    pub(crate) fn others(&self) -> Vec<ReplicaId> {
        let members = self.membership.members();
        members.filter(|id| *id != self.id).collect()
    }

    /// The view that the replica is in.
    pub(crate) fn view(&self) -> View {
        self.views.current()
    }

    /// The last view whose log this is.
    pub(crate) fn log_view(&self) -> View {
        self.views.log_view()
    }

    pub(crate) fn primary_of(&self, view: View) -> ReplicaId {
        view.primary(&self.membership)
    }

    /// The primary of the current view.
    pub(crate) fn primary(&self) -> ReplicaId {
        self.primary_of(self.view())
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.primary() == self.id
    }

    /// Whether it is durable that the log is that of the view.
    pub(crate) fn has_durably_joined(&self) -> bool {
        self.journal.is_durable(self.views.joined())
    }
}

/// The log and its commit number.
impl Context {
    pub(crate) fn log(&self) -> &Log {
        self.journal.log()
    }

    /// The last op of the log that is durable here, with all before it.
    pub(crate) fn durable(&self) -> Index {
        self.journal.durable()
    }

    /// Whether the disk has made nothing durable for so long that this replica is not to
    /// lead.
    pub(crate) fn disk_stalls(&self) -> bool {
        self.journal.waits_for(self.clock.now()) >= self.clock.disk_stall_ticks()
    }

    pub(crate) fn commit(&self) -> Index {
        self.progress.commit()
    }

    /// Appends an op of the current view.
    pub(crate) fn prepare(&mut self, kind: EntryKind, body: &[u8]) -> Index {
        self.journal.prepare(self.views.current(), kind, body)
    }

    /// Replaces the log from the first of the entries on.
    ///
    /// # Panics
    /// When they do not follow from the log: the caller has checked that.
    pub(crate) fn replace(&mut self, entries: &[Entry]) {
        self.journal.replace(entries);
    }

    /// Up to here the log is committed. It waits for ops that are not here yet: the
    /// sender repeats it.
    pub(crate) fn commit_up_to(&mut self, op: Index) {
        let within = op.min(self.log().last());
        self.progress
            .advance(if rule!(CommitWithinLog) { within } else { op });
    }

    /// The log of the current view is here, once `suffix` has replaced what is there: the
    /// replica joins the view.
    pub(crate) fn join(&mut self, head: &Head, commit: Index, suffix: &[Entry]) {
        if !suffix.is_empty() {
            self.journal.replace(suffix);
        } else if self.log().last() > head.op {
            let snapshot = self.snapshots.newest().map(|newest| &newest.meta);
            self.journal.truncate_after(head.op, snapshot);
        }
        assert!(
            self.log().last() == head.op,
            "the log of a view is one log (invariant 6)"
        );
        self.journal.learn_base(head);
        self.commit_up_to(commit);
        self.journal.state_changed();
        self.views.join(self.journal.next_batch());
        self.votes.became_normal(&self.clock);
    }
}

/// Messages.
impl Context {
    /// Sends a message of the current view.
    pub(crate) fn send(&mut self, to: ReplicaId, message: Message) {
        self.outbox.queue(to, self.view(), message, false);
    }

    /// Sends a message when everything up to now is durable.
    pub(crate) fn send_durable(&mut self, to: ReplicaId, message: Message) {
        let after_batch = rule!(ViewDurableBeforeMessage);
        self.outbox.queue(to, self.view(), message, after_batch);
    }

    /// Sends a message that reveals that the replica has joined the view: not before that
    /// is durable.
    pub(crate) fn send_joined(&mut self, to: ReplicaId, message: Message) {
        let after_batch = !self.has_durably_joined();
        self.outbox.queue(to, self.view(), message, after_batch);
    }
}

/// Votes for another view. All return the view that a quorum now votes for.
impl Context {
    pub(crate) fn elected(&self) -> Option<View> {
        let quorum = self.membership.quorum();
        self.votes.elected(&self.clock, self.view(), quorum)
    }

    pub(crate) fn vote(&mut self, view: View) -> Option<View> {
        self.votes.cast(view, &self.clock);
        let after_batch = !self.journal.is_durable(self.views.entered());
        for other in self.others() {
            if self.membership.is_voter(other) {
                let at = self.view();
                let message = Message::StartViewChange { at };
                self.outbox.queue(other, view, message, after_batch);
            }
        }
        self.elected()
    }

    /// E6.
    pub(crate) fn repeat_vote(&mut self) -> Option<View> {
        let view = self.votes.due(&self.clock)?;
        self.vote(view)
    }

    /// Repeats the vote, or votes of its own accord when the time has come.
    pub(crate) fn seek_view(&mut self, patience_ends: u64, in_view_change: bool) -> Option<View> {
        if !self.is_voter() {
            return None;
        }
        if self.votes.own().is_some() {
            return self.repeat_vote();
        }
        if self.clock.now() < patience_ends {
            return None;
        }
        self.votes.timed_out(in_view_change);
        let voted = self.votes.latest(&self.clock, self.view());
        self.vote(voted.unwrap_or_default().max(self.view().next()))
    }

    /// E4: a replica that suspects the primary too adopts the view that others vote for.
    pub(crate) fn join_vote(&mut self, suspects: bool) -> Option<View> {
        let view = self.votes.latest(&self.clock, self.view())?;
        let earlier = self.votes.own().is_none_or(|own| own < view);
        if earlier && suspects {
            return self.vote(view);
        }
        None
    }

    /// Whether the primary itself votes for another view.
    pub(crate) fn primary_votes(&self) -> bool {
        self.votes.is_by(self.primary(), &self.clock, self.view())
    }

    /// How much longer than the next primary this replica waits before it votes, so that
    /// they do not compete.
    pub(crate) fn stagger_ticks(&self) -> u64 {
        let voters = self.membership.voters();
        let count = voters.len() as u64;
        let own = voters.iter().position(|id| *id == self.id).unwrap_or(0) as u64;
        let distance = (own + count - self.view().next().0 % count) % count;
        distance * self.clock.heartbeat_ticks()
    }
}

/// Reads.
impl Context {
    /// A round for all reads that wait, when there are any.
    pub(crate) fn start_read_round(&mut self) -> Option<u64> {
        self.reads.start_round(&self.clock)
    }

    /// Asks the primary to confirm a round.
    pub(crate) fn request_read(&mut self, primary: ReplicaId, round: u64) {
        let nonce = self.reads.nonce();
        self.send_joined(primary, Message::ReadRequest { nonce, round });
    }

    /// The reads of the round see everything up to `index`.
    pub(crate) fn reads_confirmed(&mut self, round: u64, index: Index) {
        for token in self.reads.confirm(round) {
            self.outbox.push(Effect::ReadReady { token, index });
        }
    }
}

/// Snapshots.
impl Context {
    /// The newest snapshot that is durable here.
    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshots.newest()
    }

    /// Whether the log has the snapshot's last op, and so all that it covers.
    pub(crate) fn log_covers(&self, snapshot: &SnapshotMeta) -> bool {
        let view = self.log().view(snapshot.index);
        let other = rule!(SnapshotTermCompared);
        view.is_some_and(|view| view.term() == snapshot.term || !other)
    }

    pub(crate) fn fetch_snapshot(&mut self, from: ReplicaId, snapshot: Snapshot) {
        let meta = snapshot.meta.clone();
        if self.snapshots.start_fetch(snapshot) {
            // The checksum must be on disk when a crash follows the fetch.
            self.journal.state_changed();
            self.outbox.push(Effect::FetchSnapshot {
                from,
                snapshot: meta,
            });
        }
    }

    /// The snapshot, which is durable here, replaces the log.
    pub(crate) fn install(&mut self, snapshot: &Snapshot) {
        let Snapshot { meta, checksum } = snapshot;
        self.journal.restart_after(meta, *checksum);
        self.membership = meta.membership.clone();
        self.snapshots.set_newest(snapshot.clone());
        self.progress.restart_at(meta.index);
        self.outbox.push(Effect::InstallSnapshot(meta.clone()));
    }
}

/// Proposals.
impl Context {
    /// Appends what was proposed here.
    pub(crate) fn prepare_proposal(&mut self, proposal: ProposalId, payload: &[u8]) {
        let op = self.prepare(EntryKind::Command, payload);
        self.proposals.insert(op, proposal);
    }
}
