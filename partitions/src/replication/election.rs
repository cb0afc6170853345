//! The named leader of a new epoch, before it leads: it completes its log from the others.

use std::collections::BTreeMap;
use std::time::Duration;

use consensus::{Index, ReplicaId, rule};

use super::chain::{Epoch, Position};
use super::context::Context;
use super::message::{Message, Trust};
use super::replica::{Alarm, Effect, Proposal};
use crate::record::Record;

/// How long a question or a fetch may stay unanswered before it is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(100);
/// How long a fetch may bring nothing before all copies are queried again.
const FETCH_PATIENCE: Duration = Duration::from_secs(1);
/// How far a copy is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) trust: Trust,
    pub(super) adopted: Epoch,
    pub(super) last: Position,
    pub(super) commit: Index,
    pub(super) next_offset: u64,
}

impl Answer {
    pub(super) fn message(self, epoch: Epoch) -> Message {
        Message::Answer {
            epoch,
            trust: self.trust,
            adopted: self.adopted,
            last: self.last,
            commit: self.commit,
            next_offset: self.next_offset,
        }
    }
}

#[derive(Default)]
pub(super) struct Election {
    answers: BTreeMap<ReplicaId, Answer>,
    fetch: Option<Fetch>,
    probed: Option<Duration>,
    proposed: Option<Duration>,
}

/// What the leader lacks, and who has it.
struct Fetch {
    from: ReplicaId,
    /// The records up to this one.
    last: Position,
    next_offset: u64,
    after: Position,
    sent: Duration,
    progress: Duration,
}

/// What happens after an input.
pub(super) enum Next {
    Stay,
    /// The log is complete: it leads. The answers say where the others are.
    Lead(BTreeMap<ReplicaId, Answer>),
}

impl Election {
    /// Asks who has not answered, and repeats what got no answer.
    pub(super) fn tick(&mut self, context: &mut Context) -> Next {
        let now = context.now;
        self.answers.insert(context.me, answer(context));
        let over = |since: Duration, patience| now.saturating_sub(since) >= patience;
        if self
            .fetch
            .as_ref()
            .is_some_and(|fetch| over(fetch.progress, FETCH_PATIENCE))
        {
            *self = Self::default();
            self.answers.insert(context.me, answer(context));
        }
        if let Some(fetch) = &mut self.fetch {
            if over(fetch.sent, REPEAT_AFTER) {
                fetch.send(context);
            }
            return Next::Stay;
        }
        if self.probed.is_none_or(|probed| over(probed, REPEAT_AFTER)) {
            self.probed = Some(now);
            let epoch = context.assignment.epoch;
            for node in context.assignment.in_sync.clone() {
                if node != context.me && !self.answers.contains_key(&node) {
                    context.send(node, Message::Query { epoch });
                }
            }
        }
        self.decide(context)
    }

    pub(super) fn answered(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        answer: Answer,
    ) -> Next {
        if !context.assignment.is_in_sync(from) {
            return Next::Stay;
        }
        self.answers.insert(from, answer);
        if self.fetch.is_some() {
            return Next::Stay;
        }
        self.decide(context)
    }

    /// A node has started again: what it stated counts no longer.
    pub(super) fn retain(&mut self, context: &Context, current: impl Fn(ReplicaId) -> bool) {
        self.answers
            .retain(|&node, _| node == context.me || current(node));
        if self
            .fetch
            .as_ref()
            .is_some_and(|fetch| !current(fetch.from))
        {
            self.fetch = None;
        }
    }

    fn decide(&mut self, context: &mut Context) -> Next {
        let assignment = &context.assignment;
        let in_sync = |node: &ReplicaId| assignment.is_in_sync(*node);
        let trusted = self.answers.iter().filter(|(node, answer)| {
            in_sync(node) && (answer.trust == Trust::Trusted || !rule!(UntrustedNotCounted))
        });
        let all = assignment
            .in_sync
            .iter()
            .all(|node| self.answers.contains_key(node));
        let target = if trusted.count() >= assignment.election_quorum() {
            self.largest_last()
        } else if assignment.is_recovery() && (all || !rule!(RecoversWithAllAnswers)) {
            self.largest_commit(context)
        } else {
            if all || !rule!(RecoversWithAllAnswers) {
                self.propose_recovery(context);
            }
            return Next::Stay;
        };
        let Some((from, last, next_offset)) = target else {
            return Next::Stay;
        };
        if from == context.me || !rule!(LeaderCompletesLog) {
            return self.lead();
        }
        let now = context.now;
        let fetch = self.fetch.insert(Fetch {
            from,
            last,
            next_offset,
            after: context.chain.candidate(last),
            sent: now,
            progress: now,
        });
        if context.chain.contains(last) {
            return self.completed(context);
        }
        fetch.send(context);
        Next::Stay
    }

    /// The copy that has everything that may be committed.
    fn largest_last(&self) -> Option<(ReplicaId, Position, u64)> {
        let by_last = |answer: &Answer| {
            let epoch = if rule!(LargestLastWins) {
                answer.last.epoch
            } else {
                Epoch(0)
            };
            (epoch, answer.last.index)
        };
        let largest = self
            .answers
            .iter()
            .max_by_key(|(_, answer)| by_last(answer))?;
        let (&node, answer) = largest;
        Some((node, answer.last, answer.next_offset))
    }

    /// In a recovery: the leader's own log, extended by what another one knows to be
    /// committed.
    fn largest_commit(&self, context: &Context) -> Option<(ReplicaId, Position, u64)> {
        let own = context.chain.last();
        let best = self
            .answers
            .iter()
            .max_by_key(|(_, answer)| answer.commit)?;
        let (&node, answer) = best;
        if answer.commit <= own.index {
            return Some((context.me, own, context.next_offset));
        }
        Some((node, answer.last, answer.next_offset))
    }

    /// Not enough copies are trusted, and no other can be queried: the copy that was in the
    /// latest epoch leads, if the storage of enough copies is the one that acknowledged.
    fn propose_recovery(&mut self, context: &mut Context) {
        let now = context.now;
        let recent = |at: Duration| now.saturating_sub(at) < FETCH_PATIENCE;
        if self.proposed.is_some_and(recent) || context.assignment.is_recovery() {
            return;
        }
        let kept = self
            .answers
            .iter()
            .filter(|(_, answer)| answer.trust != Trust::Lost);
        if kept.clone().count() < context.assignment.election_quorum() {
            if self.proposed.is_none() {
                context.emit(Effect::Alarm(Alarm::NotEnoughTrusted));
            }
            self.proposed = Some(now);
            return;
        }
        let Some((&leader, _)) = kept.max_by_key(|(_, answer)| (answer.adopted, answer.last.index))
        else {
            return;
        };
        self.proposed = Some(now);
        let members = &context.assignment.members;
        let Some(registration) = members.get(&leader).map(|member| member.registration) else {
            return;
        };
        context.emit(Effect::Propose(Proposal::Recover {
            epoch: context.assignment.epoch,
            leader,
            registration,
            offset_gap: context.settings.unsynced_messages_max,
        }));
    }

    pub(super) fn fetched(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        predecessor: Position,
        records: Vec<Record>,
    ) -> Next {
        let now = context.now;
        let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.from == from) else {
            return Next::Stay;
        };
        // Nothing where something was promised: it is requested again later, and in the end
        // the others are.
        let stale = predecessor != fetch.after || records.is_empty();
        if stale || !context.chain.contains(predecessor) {
            return Next::Stay;
        }
        let Some(index) = context.reconcile(predecessor, records, Index(0)) else {
            return Next::Stay;
        };
        fetch.progress = now;
        if let Some(at) = context.chain.at(index) {
            fetch.after = at;
        }
        if context.chain.contains(fetch.last) {
            return self.completed(context);
        }
        fetch.send(context);
        Next::Stay
    }

    /// The other log does not contain what was requested.
    pub(super) fn mismatched(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        probed: Position,
        have: Position,
    ) {
        let fetch = self.fetch.as_mut();
        if let Some(fetch) = fetch.filter(|fetch| fetch.from == from && fetch.after == probed) {
            fetch.after = context.chain.candidate(have);
            fetch.send(context);
        }
    }

    /// The log has what was fetched: what is longer is from a former epoch.
    fn completed(&mut self, context: &mut Context) -> Next {
        let Some(fetch) = &self.fetch else {
            return Next::Stay;
        };
        let end = fetch.last.index;
        if context.chain.last().index > end && !context.truncate(end) {
            return Next::Stay;
        }
        context.next_offset = fetch.next_offset;
        self.lead()
    }

    fn lead(&mut self) -> Next {
        Next::Lead(std::mem::take(&mut self.answers))
    }
}

impl Fetch {
    fn send(&mut self, context: &mut Context) {
        self.sent = context.now;
        let epoch = context.assignment.epoch;
        let after = self.after;
        context.send(self.from, Message::Fetch { epoch, after });
    }
}

/// How far the own copy is.
pub(super) fn answer(context: &Context) -> Answer {
    Answer {
        trust: context.trust,
        adopted: context.adopted,
        last: context.chain.last(),
        commit: context.commit,
        next_offset: context.next_offset,
    }
}
