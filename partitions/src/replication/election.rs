//! The named leader of a new epoch, before it leads: it completes its log from the others.

use std::collections::BTreeMap;
use std::time::Duration;

use consensus::{Index, ReplicaId, rule};

use super::assignment::Recovery;
use super::chain::{Epoch, Position};
use super::context::Context;
use super::effect::{Alarm, Effect, Proposal};
use super::message::{CopyState, Message, Trust};
use super::sessions::Sessions;
use super::table::{OffsetTable, Start};
use crate::record::Record;

/// How long a question or a fetch may stay unanswered before it is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(100);
/// How long a fetch may bring nothing before all copies are queried again.
const FETCH_PATIENCE: Duration = Duration::from_secs(1);
#[derive(Default)]
pub(super) struct Election {
    answers: BTreeMap<ReplicaId, CopyState>,
    fetch: Option<Fetch>,
    /// The copy with the largest table, and since when that is requested.
    fetch_table: Option<(ReplicaId, Duration, Duration)>,
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
    /// The log starts elsewhere: first that start has to be fetched.
    start: bool,
    sent: Duration,
    progress: Duration,
}

/// What happens after an input.
pub(super) enum Next {
    Stay,
    /// The log is complete: it leads. The answers say where the others are.
    Lead(BTreeMap<ReplicaId, CopyState>),
}

impl Election {
    /// Asks who has not answered, and repeats what got no answer.
    pub(super) fn tick(&mut self, context: &mut Context) -> Next {
        let now = context.now;
        self.answers.insert(context.me, answer(context));
        let over = |since: Duration, patience| now.saturating_sub(since) >= patience;
        let log = self.fetch.as_ref().map(|fetch| fetch.progress);
        let table = self.fetch_table.map(|(_, since, _)| since);
        let stuck = |since: Option<Duration>| since.is_some_and(|it| over(it, FETCH_PATIENCE));
        if stuck(log) || stuck(table) {
            *self = Self::default();
            self.answers.insert(context.me, answer(context));
        }
        if let Some(fetch) = &mut self.fetch {
            if over(fetch.sent, REPEAT_AFTER) {
                fetch.send(context);
            }
            return Next::Stay;
        }
        if self.fetch_table.is_some() {
            return Next::Stay;
        }
        if self.probed.is_none_or(|probed| over(probed, REPEAT_AFTER)) {
            self.probed = Some(now);
            let epoch = context.assignment.epoch;
            let in_sync = context.assignment.in_sync.iter().copied();
            let open = in_sync.filter(|node| !self.answers.contains_key(node));
            for to in open.collect::<Vec<_>>() {
                context.send(to, Message::Query { epoch });
            }
        }
        self.decide(context)
    }

    pub(super) fn answered(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        answer: CopyState,
    ) -> Next {
        if !context.assignment.is_in_sync(from) {
            return Next::Stay;
        }
        self.answers.insert(from, answer);
        if self.fetch.is_some() || self.fetch_table.is_some() {
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
        if self.fetch_table.is_some_and(|(from, ..)| !current(from)) {
            self.fetch_table = None;
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
        } else if recovers(context) && (all || !rule!(RecoversWithAllAnswers)) {
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
        if is_forced(context) && !cut_to_known_commit(context) {
            return Next::Stay;
        }
        if from == context.me || !rule!(LeaderCompletesLog) {
            return self.complete_table(context);
        }
        let now = context.now;
        let fetch = self.fetch.insert(Fetch {
            from,
            last,
            next_offset,
            after: context.chain.candidate(last),
            start: false,
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
        let by_last = |answer: &CopyState| {
            let epoch = if !rule!(LargestLastWins) {
                Epoch(0)
            } else if !rule!(LastNotAdopted) {
                answer.last.epoch.max(answer.adopted)
            } else {
                answer.last.epoch
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
        if self.proposed.is_some_and(recent) || recovers(context) {
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
        let latest = |answer: &CopyState| {
            let epoch = if rule!(RecoversByAdopted) {
                answer.adopted
            } else {
                answer.last.epoch
            };
            (epoch, answer.last.index)
        };
        let Some((&leader, _)) = kept.max_by_key(|(_, answer)| latest(answer)) else {
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

    /// The other log starts after the end of this one.
    pub(super) fn start(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        start: Start,
        sessions: Sessions,
    ) {
        let Some(fetch) = self.fetch.as_mut() else {
            return;
        };
        let expected = fetch.from == from && fetch.start && start.base <= fetch.last;
        if expected && context.reset(start, sessions) {
            fetch.start = false;
            fetch.after = start.base;
            fetch.progress = context.now;
            fetch.send(context);
        }
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
            let next = context.chain.candidate(have);
            fetch.start = next >= probed && !context.chain.contains(have);
            fetch.after = next;
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
        self.fetch = None;
        self.complete_table(context)
    }

    /// The largest of the tables that enough trusted copies have is the one of the new
    /// epoch. Where too few are trusted, all in-sync copies have to answer: nothing better
    /// exists.
    fn complete_table(&mut self, context: &mut Context) -> Next {
        let assignment = &context.assignment;
        let answer = |node: &ReplicaId| self.answers.get(node);
        let trusts = |state: &CopyState| {
            state.table_trust == Trust::Trusted || !rule!(UntrustedTableNotCounted)
        };
        let trusted = assignment.in_sync.iter().filter_map(answer);
        let trusted = trusted.filter(|state| trusts(state)).count();
        let all = assignment.in_sync.iter().all(|node| answer(node).is_some());
        if trusted < assignment.election_quorum() && !all {
            return Next::Stay;
        }
        let largest = self.answers.iter().max_by_key(|(_, state)| state.table);
        let own = context.table.at;
        match largest {
            Some((&from, state)) if state.table > own && rule!(TableGathered) => {
                self.fetch_table = Some((from, context.now, context.now));
                let epoch = context.assignment.epoch;
                context.send(from, Message::FetchTable { epoch });
                Next::Stay
            }
            _ => Next::Lead(std::mem::take(&mut self.answers)),
        }
    }

    /// A table that was requested.
    pub(super) fn table(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        table: OffsetTable,
    ) -> Next {
        let expected = self.fetch_table.is_some_and(|(node, ..)| node == from);
        if !expected || table.at <= context.table.at {
            return Next::Stay;
        }
        self.fetch_table = None;
        context.table = table;
        self.decide(context)
    }
}

impl Fetch {
    fn send(&mut self, context: &mut Context) {
        self.sent = context.now;
        let epoch = context.assignment.epoch;
        let after = self.after;
        let message = if self.start {
            Message::FetchStart { epoch }
        } else {
            Message::Fetch { epoch, after }
        };
        context.send(self.from, message);
    }
}

/// Whether the epoch starts although too few copies are trusted.
fn recovers(context: &Context) -> bool {
    context.assignment.is_recovery() || is_forced(context)
}

/// Whether an operator has named this copy to start from, and nothing has started since. The
/// epoch may be a later one: the process may have started again meanwhile.
fn is_forced(context: &Context) -> bool {
    let assignment = &context.assignment;
    let last = context.chain.last().epoch;
    let pending = |recovery: Recovery| recovery.is_forced() && recovery.epoch > last;
    assignment.in_sync == [context.me] && assignment.recovery.is_some_and(pending)
}

/// In a recovery that an operator has forced: the records of a copy that was not in the last
/// epoch may not be those whose offsets others have seen. Those that are known to be
/// committed are.
fn cut_to_known_commit(context: &mut Context) -> bool {
    let forced = context.assignment.recovery.map_or(0, |it| it.epoch.0);
    let was_in_last = context.adopted.0 + 1 >= forced;
    let end = context.commit.max(context.chain.base().index);
    if was_in_last || end >= context.chain.last().index || !rule!(ForcedIsCut) {
        return true;
    }
    // Whatever offset follows there, the epoch starts far after it.
    context.truncate(end)
}

/// How far the own copy is.
pub(super) fn answer(context: &Context) -> CopyState {
    CopyState {
        trust: context.trust,
        adopted: context.adopted,
        last: context.chain.last(),
        commit: context.commit,
        next_offset: context.next_offset,
        table_trust: context.table_trust,
        table: context.table.at,
    }
}
