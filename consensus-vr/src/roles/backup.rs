//! Normal operation at a backup (VRR 4.1).
//!
//! Prepares are appended only in order and only when they continue the chain. One that
//! leaves a gap is dropped, and what is missing requested. `PrepareOk` is cumulative and
//! reports what is durable here.

use consensus::rule;
use consensus::{Entry, Index, RefusalReason, ReplicaId, Role};

use super::handler::{Handler, Next};
use super::state_transfer::{self, Transfer};
use crate::context::{Context, Snapshot};
use crate::ids::View;
use crate::log;
use crate::message::{FIRST_BEAT, Message};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Backup {
    /// When the primary last sent anything; `None` where this replica was the primary, and
    /// no other will be in this view.
    last_contact: Option<u64>,
    ack_due: bool,
    /// The last beat received.
    beat: u64,
    /// The first missing op that was requested, and when.
    requested: Option<(Index, u64)>,
}

impl Backup {
    pub(crate) fn new(now: u64) -> Self {
        Self {
            last_contact: Some(now),
            ack_due: false,
            beat: 0,
            requested: None,
        }
    }

    /// Of a view that has just been joined: its log is to be acknowledged.
    pub(crate) fn joined(now: u64) -> Self {
        Self {
            ack_due: true,
            ..Self::new(now)
        }
    }

    /// The primary of the view, which no longer leads it.
    pub(crate) fn ceded() -> Self {
        Self {
            last_contact: None,
            ..Self::new(0)
        }
    }

    /// Whether the view has a primary, as far as this replica knows.
    fn follows(&self, context: &Context) -> bool {
        context.votes.own().is_none()
    }

    /// The primary leads.
    fn contact(&mut self, context: &mut Context) {
        self.last_contact = Some(context.clock.now());
        context.votes.withdraw();
    }
}

impl Handler for Backup {
    fn role(&self, context: &Context) -> Role {
        match context.is_voter() {
            false => Role::Learner,
            true if self.follows(context) => Role::Follower,
            true => Role::Candidate,
        }
    }

    fn leader(&self, context: &Context) -> Option<ReplicaId> {
        let leads = context.view() > View::ZERO && !context.is_primary() && self.follows(context);
        leads.then(|| context.primary())
    }

    fn deadline(&self, context: &Context) -> u64 {
        let resend_at = context.votes.resend_at(&context.clock);
        resend_at.unwrap_or_else(|| self.patience_ends(context))
    }

    fn receive(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        message: Message,
    ) -> Result<Next, RefusalReason> {
        match message {
            Message::Prepare { commit, entries } => self.on_prepare(context, commit, &entries)?,
            Message::Commit { commit, beat } => self.on_commit(context, commit, beat),
            Message::RequestPrepares { op } => state_transfer::send_log(context, from, op),
            Message::SnapshotOffer { snapshot, checksum } => {
                let meta = snapshot;
                state_transfer::receive_offer(context, from, Snapshot { meta, checksum });
            }
            Message::Missing { op } => return state_transfer::check_missing(context, from, op),
            // E5: the log is of this view already, and has acknowledged ops of it, perhaps
            // more than this message knows of.
            Message::StartView { .. } => {}
            // For a primary, or for a replica in a view change.
            Message::PrepareOk { .. }
            | Message::DoViewChange(_)
            | Message::RequestStartView { .. }
            | Message::ReadRequest { .. }
            | Message::Prepares { .. } => {}
            // For the core.
            Message::StartViewChange { .. } | Message::ReadReply { .. } => {}
        }
        Ok(Next::Stay)
    }

    fn seek_view(&mut self, context: &mut Context) -> Next {
        context.votes.settle(&context.clock);
        let has_led = self.last_contact.is_none() && context.has_durably_joined();
        if context.disk_stalls() && !has_led {
            // It could not make another view durable. A primary that has ceded votes, so
            // that the others elect.
            return Next::Stay;
        }
        Next::elect(context.seek_view(self.patience_ends(context), false))
    }

    fn suspects(&self, context: &Context) -> bool {
        let clock = &context.clock;
        let silent = self
            .last_contact
            .is_none_or(|contact| clock.now() - contact >= clock.election_ticks());
        context.is_voter() && (context.primary_votes() || silent)
    }

    fn log_persisted(&mut self, _context: &mut Context) {
        self.ack_due = true;
    }

    fn snapshot_fetched(&mut self, context: &mut Context, snapshot: &Snapshot) -> Next {
        let installed = state_transfer::restore(context, snapshot) == Transfer::Installed;
        self.ack_due |= installed;
        Next::Stay
    }

    /// Acknowledges what is durable, once the view itself is.
    fn send_new(&mut self, context: &mut Context) {
        if !self.ack_due || self.last_contact.is_none() {
            return;
        }
        if rule!(AckAfterJoinDurable) && !context.has_durably_joined() {
            return;
        }
        self.ack_due = false;
        let (durable, received) = (context.durable(), context.log().last());
        let op = if rule!(AckOnlyDurable) {
            durable
        } else {
            received
        };
        let beat = self.beat;
        // Before the first beat, what is here has just been checked against the primary's
        // log: it was fetched to join the view, or continues a prepare.
        let knows = beat >= FIRST_BEAT;
        let checksum = context.log().checksum(op).filter(|_| knows);
        let answer = Message::PrepareOk {
            op,
            received,
            beat,
            checksum,
        };
        context.send(context.primary(), answer);
    }
}

impl Backup {
    /// When this replica votes for another view of its own accord.
    fn patience_ends(&self, context: &Context) -> u64 {
        let patience = context.clock.election_ticks() + context.stagger_ticks();
        self.last_contact.map_or(0, |contact| contact + patience)
    }

    fn on_prepare(
        &mut self,
        context: &mut Context,
        commit: Index,
        entries: &[Entry],
    ) -> Result<(), RefusalReason> {
        self.contact(context);
        let new = new_entries(context, entries)?;
        match new.first() {
            Some(first)
                if first.index > context.log().last().next() && rule!(PreparesWithoutGap) =>
            {
                self.request_missing(context);
                return Ok(());
            }
            Some(_) => context.replace(new),
            // The acknowledgement was lost.
            None => self.ack_due = true,
        }
        context.commit_up_to(commit);
        Ok(())
    }

    fn on_commit(&mut self, context: &mut Context, commit: Index, beat: u64) {
        self.contact(context);
        context.commit_up_to(commit);
        self.beat = self.beat.max(beat);
        self.ack_due = true;
    }

    fn request_missing(&mut self, context: &mut Context) {
        let op = context.log().last().next();
        let (now, interval) = (context.clock.now(), context.clock.heartbeat_ticks());
        let pending = self
            .requested
            .is_some_and(|(requested, at)| requested == op && now < at + interval);
        if !pending {
            self.requested = Some((op, now));
            context.send(context.primary(), Message::RequestPrepares { op });
        }
    }
}

/// The entries that this log does not have, checked against the chain.
fn new_entries<'a>(context: &Context, entries: &'a [Entry]) -> Result<&'a [Entry], RefusalReason> {
    let impossible = |op: Index| {
        Err(RefusalReason::Diverged(format!(
            "entry {op} of view {} differs from the one here, and a view has one log",
            context.view()
        )))
    };
    let log = context.log();
    let Some(first) = entries.first() else {
        return Ok(entries);
    };
    if first.index > log.last().next() {
        return Ok(entries);
    }
    let common = log.last().0 + 1 - first.index.0;
    let (old, new) = entries.split_at(entries.len().min(common as usize));
    // The last that both have vouches for all before it.
    if let Some(last) = old.last()
        && log
            .checksum(last.index)
            .is_some_and(|own| own != log::checksum(last))
    {
        return impossible(last.index);
    }
    if let Some(first) = new.first()
        && !log.connects(first)
    {
        return impossible(first.index);
    }
    Ok(new)
}
