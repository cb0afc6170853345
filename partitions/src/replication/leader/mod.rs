//! A copy that leads its epoch: appends, their commit, and what it sends.

mod in_sync;
mod offsets;
mod quorum;
mod reads;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use consensus::{Index, ReplicaId, rule};

use self::offsets::Offsets;
use self::reads::Reads;
use super::chain::{Epoch, Position};
use super::context::Context;
use super::effect::{Alarm, AppendPlan, Effect, Outcome, Proposal, Refusal};
use super::message::{Ack, Beat, CopyState, Message};
use super::progress::{News, Progress};
use super::sessions::Known;
use super::table::TableWrite;
use crate::record::{ClientBatch, Record, Stamp, Tag};
use crate::types::Durability;

/// How many doublings of the patience of a leader without a quorum count.
const RESIGNATIONS_MAX: u32 = 6;

pub(super) struct Leader {
    /// The epoch's first record.
    first: Index,
    /// Offset of its first message.
    first_offset: u64,
    /// The other copies. They are few: nothing is found faster than by looking at each.
    peers: Vec<(ReplicaId, Progress)>,
    /// In-sync sets that may be in force without the leader's knowledge.
    proposed: Vec<Vec<ReplicaId>>,
    proposed_at: Duration,
    waiting: VecDeque<Waiting>,
    uncommitted_bytes: usize,
    /// Repetitions of requests whose records are not committed.
    repetitions: Vec<Repetition>,
    /// Offset after the last committed message.
    commit_offset: u64,
    offsets: Offsets,
    reads: Reads,
    /// Where the log ended at these times, oldest first.
    ends: VecDeque<(Duration, Index)>,
    /// Since when a quorum is missing, or an own write hangs.
    helpless_since: Option<Duration>,
    resignations: u32,
}

/// A client's batch.
pub(super) struct Request {
    pub(super) request: u64,
    pub(super) batch: ClientBatch,
    pub(super) tag: Option<Tag>,
    pub(super) now_micros: u64,
    pub(super) epoch: Epoch,
    pub(super) first_epoch: Option<Epoch>,
}

struct Repetition {
    request: u64,
    index: Index,
    first_offset: u64,
}

/// A client's request whose record is not committed.
struct Waiting {
    request: u64,
    index: Index,
    first_offset: u64,
    next_offset: u64,
    bytes: usize,
}

impl Leader {
    /// Starts the epoch with its first record.
    pub(super) fn start(context: &mut Context, answers: &BTreeMap<ReplicaId, CopyState>) -> Self {
        let before = context.chain.last();
        context.restart_catch_up();
        context.trust_from(before.index);
        let recovery = context.assignment.recovery;
        let recovery = recovery.filter(|recovery| recovery.epoch > before.epoch);
        let recovery = recovery.filter(|_| rule!(OffsetGapAfterRecovery));
        let next_offset = context.next_offset;
        let first_offset = recovery.map_or(next_offset, |it| it.first_offset(next_offset));
        let position = Position {
            epoch: context.assignment.epoch,
            index: if rule!(EpochStartsWithRecord) {
                before.index.next()
            } else {
                before.index
            },
        };
        let record = Record::epoch_start(Stamp {
            partition_id: context.settings.partition_id,
            position,
            first_offset,
            timestamp: context.last_timestamp,
            flags: context.next_flags(),
            tag: None,
        });
        if rule!(EpochStartsWithRecord) {
            context.append(vec![record]);
        }
        context.table.at.epoch = position.epoch;
        context.table.at.version += 1;
        context.write_table(TableWrite::Whole(context.table.clone()));
        let mut peers = Vec::new();
        for node in context.others() {
            let last = answers.get(&node).map_or(before, |answer| answer.last);
            let guess = context.chain.candidate(last.min(before));
            peers.push((node, Progress::new(guess, context.now)));
        }
        Self {
            first: position.index,
            first_offset,
            peers,
            proposed: Vec::new(),
            proposed_at: Duration::ZERO,
            waiting: VecDeque::new(),
            uncommitted_bytes: 0,
            repetitions: Vec::new(),
            commit_offset: 0,
            offsets: Offsets::new(context.table.at.version),
            reads: Reads::default(),
            ends: VecDeque::new(),
            helpless_since: None,
            resignations: 0,
        }
    }

    fn peer(&self, node: ReplicaId) -> Option<&Progress> {
        let mut peers = self.peers.iter();
        let (_, progress) = peers.find(|(peer, _)| *peer == node)?;
        Some(progress)
    }

    fn peer_mut(&mut self, node: ReplicaId) -> Option<&mut Progress> {
        let mut peers = self.peers.iter_mut();
        let (_, progress) = peers.find(|(peer, _)| *peer == node)?;
        Some(progress)
    }

    pub(super) fn append(&mut self, context: &mut Context, new: Request) {
        let Request { request, batch, .. } = new;
        if new.epoch != context.assignment.epoch && rule!(NamedEpochOnly) {
            let outcome = Outcome::Refused(Refusal::NotLeader);
            return context.emit(Effect::Reply { request, outcome });
        }
        let tag = new.tag.filter(|tag| tag.client != 0);
        if let Some(tag) = tag {
            match context.sessions.known(tag, new.first_epoch) {
                Known::New => {}
                Known::Stored {
                    index,
                    first_offset,
                } => return self.repeated(context, request, index, first_offset),
                Known::Older => {
                    let outcome = Outcome::Refused(Refusal::OlderRequest);
                    return context.emit(Effect::Reply { request, outcome });
                }
                Known::Forgotten => {
                    let outcome = Outcome::Unknown;
                    return context.emit(Effect::Reply { request, outcome });
                }
            }
        }
        let bytes = batch.bytes();
        let refused = if !self.reaches_quorum(context) {
            Some(Refusal::NoQuorum)
        } else if self.uncommitted_bytes > 0
            && self.uncommitted_bytes + bytes > context.settings.uncommitted_bytes_max
        {
            Some(Refusal::TooMuchUncommitted)
        } else {
            None
        };
        if let Some(refusal) = refused {
            let outcome = Outcome::Refused(refusal);
            context.emit(Effect::Reply { request, outcome });
            return;
        }
        let position = Position {
            epoch: context.assignment.epoch,
            index: context.chain.last().index.next(),
        };
        let first_offset = context.next_offset;
        self.uncommitted_bytes += bytes;
        self.waiting.push_back(Waiting {
            request,
            index: position.index,
            first_offset,
            next_offset: first_offset + u64::from(batch.messages()),
            bytes,
        });
        let stamp = Stamp {
            partition_id: context.settings.partition_id,
            position,
            first_offset,
            timestamp: context.last_timestamp.max(new.now_micros),
            flags: context.next_flags(),
            tag,
        };
        context.append(vec![Record::stamp(batch, stamp)]);
    }

    /// The next append to a follower, if there is something to send.
    pub(super) fn next_append(&mut self, context: &Context, to: ReplicaId) -> Option<AppendPlan> {
        let news = self.news(context);
        let progress = self.peer_mut(to)?;
        let Some(room) = progress.room(&news, &context.settings) else {
            progress.exhausted();
            return None;
        };
        let predecessor = progress.predecessor;
        Some(AppendPlan {
            epoch: context.assignment.epoch,
            predecessor,
            through: Index(predecessor.index.0 + room.records),
            bytes_max: room.bytes_max,
            beat: Beat {
                sent_micros: micros(context.now),
                commit: news.commit,
                table_commit: news.table_commit,
                end: news.end,
            },
        })
    }

    fn news(&self, context: &Context) -> News {
        News {
            now: context.now,
            end: context.chain.last().index,
            commit: context.commit,
            table_commit: self.offsets.commit,
            beat_since: self.reads.since(),
            beat_every: self.reads.beat_every(context),
        }
    }

    /// A request whose record is in the log already.
    fn repeated(&mut self, context: &mut Context, request: u64, index: Index, first_offset: u64) {
        if index > context.commit && rule!(RepetitionWaits) {
            self.repetitions.push(Repetition {
                request,
                index,
                first_offset,
            });
            return;
        }
        let outcome = Outcome::Appended { first_offset };
        context.emit(Effect::Reply { request, outcome });
    }

    /// The caller has sent the records of a plan up to `last`.
    pub(super) fn sent(
        &mut self,
        context: &Context,
        to: ReplicaId,
        plan: &AppendPlan,
        last: Index,
        bytes: usize,
    ) {
        let Some(last) = context.chain.at(last) else {
            return;
        };
        let now = context.now;
        let progress = self.peer_mut(to);
        if let Some(progress) = progress.filter(|known| known.predecessor == plan.predecessor) {
            progress.sent(now, last, &plan.beat, bytes);
        }
    }

    pub(super) fn mismatched(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        probed: Position,
        have: Position,
    ) {
        let Some(progress) = self.peer_mut(from) else {
            return;
        };
        progress.answered(context.now);
        if !context.chain.contains(probed) {
            return;
        }
        let next = context.chain.candidate(have);
        progress.probe(next);
        if next < probed || context.chain.contains(have) {
            return;
        }
        // It ends before this log starts, or starts after all that both may have in common.
        let start = context.log_start();
        progress.probe(start.base);
        progress.started(context.now);
        let message = Message::Start {
            epoch: context.assignment.epoch,
            start,
            sessions: context.sessions.as_of(context.commit),
        };
        context.send(from, message);
    }

    pub(super) fn acknowledged(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        registration: u64,
        ack: Ack,
    ) {
        let has = value(context, ack.written, ack.synced);
        let reached = self.ends.iter().rev().find(|(_, end)| *end <= has);
        let reached = reached.map(|&(at, _)| at);
        let Some(progress) = self.peer_mut(from) else {
            return;
        };
        if progress.registration != Some(registration) {
            let guess = progress.predecessor;
            progress.starts_again(guess, registration);
        }
        if progress.has_gone_back() {
            return;
        }
        if ack.written < progress.written
            || ack.synced < progress.synced
            || ack.table < progress.table
        {
            progress.went_back();
            context.emit(Effect::Alarm(Alarm::WentBack { node: from }));
            return;
        }
        let Some(matched) = context.chain.at(ack.matched) else {
            if ack.matched < context.chain.base().index {
                // What it needs next was removed meanwhile.
                progress.probe(context.chain.base());
                progress.answered(context.now);
            }
            return;
        };
        progress.matched(matched);
        progress.wrote(ack.written);
        progress.synced = ack.synced;
        progress.trusted = ack.trusted;
        progress.table = ack.table;
        progress.confirmed_micros = progress.confirmed_micros.max(Some(ack.beat_micros));
        progress.answered(context.now);
        if let Some(at) = reached {
            progress.caught_up = progress.caught_up.max(at);
        }
        if has >= context.chain.last().index {
            progress.caught_up = context.now;
        }
    }

    /// The connection to a follower is a new one.
    pub(super) fn reconnected(&mut self, context: &Context, peer: ReplicaId) {
        if let Some(progress) = self.peer_mut(peer) {
            progress.probe(known_of(context, progress));
            progress.table_sent = progress.table;
        }
    }

    /// The front of the log was removed: who needs it has to start elsewhere.
    pub(super) fn trimmed(&mut self, context: &Context) {
        let base = context.chain.base();
        for (_, progress) in &mut self.peers {
            if progress.predecessor.index < base.index {
                progress.probe(base);
            }
        }
    }

    /// Commits what enough copies have, answers, and sends.
    pub(super) fn advance(&mut self, context: &mut Context) {
        context.sync_if_due();
        let end = context.chain.last().index;
        context.trust_if_caught_up(end);
        if context.commit < end {
            let commit = self.committed(context);
            let own_epoch = commit >= self.first || !rule!(CommitsOwnEpochOnly);
            if own_epoch && commit > context.commit {
                if context.commit < self.first {
                    self.commit_offset = self.first_offset;
                }
                context.set_commit(commit);
                context.emit(Effect::Committed { through: commit });
            }
        }
        while let Some(waiting) = self.waiting.front() {
            if waiting.index > context.commit {
                break;
            }
            self.uncommitted_bytes -= waiting.bytes;
            self.commit_offset = waiting.next_offset;
            let outcome = Outcome::Appended {
                first_offset: waiting.first_offset,
            };
            let request = waiting.request;
            context.emit(Effect::Reply { request, outcome });
            self.waiting.pop_front();
        }
        let commit = context.commit;
        for done in self.repetitions.extract_if(.., |it| it.index <= commit) {
            let (request, first_offset) = (done.request, done.first_offset);
            let outcome = Outcome::Appended { first_offset };
            context.emit(Effect::Reply { request, outcome });
        }
        self.advance_offsets(context);
        self.answer_reads(context);
        self.announce(context);
    }

    /// Lets the caller know for which followers there is something to send.
    fn announce(&mut self, context: &mut Context) {
        let news = self.news(context);
        for (node, progress) in &mut self.peers {
            if progress.becomes_ready(&news, &context.settings) {
                context.emit(Effect::Ready { to: *node });
            }
        }
    }

    /// What depends on the time: repetitions, the in-sync set, resignation.
    pub(super) fn tick(&mut self, context: &mut Context) {
        let now = context.now;
        let end = context.chain.last().index;
        let steady = context.settings.steady;
        for (_, progress) in &mut self.peers {
            if progress.is_stuck(now) {
                progress.probe(known_of(context, progress));
            }
            let reachable = progress.is_reachable(now);
            if reachable && value(context, progress.written, progress.synced) >= end {
                progress.caught_up = now;
            }
            let close = reachable && now.saturating_sub(progress.caught_up) < steady;
            match progress.steady_since {
                None if close => progress.steady_since = Some(now),
                Some(_) if !close => progress.steady_since = None,
                _ => {}
            }
        }
        self.ends.push_back((now, end));
        let keep = context.settings.replica_lag_max;
        while self.ends.len() > 2 && now.saturating_sub(self.ends[1].0) > keep {
            self.ends.pop_front();
        }
        self.propose_set(context);
        self.refuse_old_reads(context);
        self.resign_if_helpless(context);
    }

    fn resign_if_helpless(&mut self, context: &mut Context) {
        let now = context.now;
        if self.reaches_quorum(context) && context.write_in_time() {
            self.helpless_since = None;
            return;
        }
        let since = *self.helpless_since.get_or_insert(now);
        let factor = 1 << self.resignations.min(RESIGNATIONS_MAX);
        if now.saturating_sub(since) < context.settings.failover_timeout * factor {
            return;
        }
        self.helpless_since = Some(now);
        self.resignations += 1;
        if let Some(to) = context.assignment.next_leader(context.me) {
            let epoch = context.assignment.epoch;
            context.emit(Effect::Propose(Proposal::Move { epoch, to }));
        }
    }

    /// It leads no longer: whether what was not committed takes effect is unknown.
    pub(super) fn resign(self, context: &mut Context) {
        let appends = self.waiting.iter().map(|waiting| waiting.request);
        let repetitions = self.repetitions.iter().map(|it| it.request);
        let unknown = appends.chain(repetitions).chain(self.offsets.requests());
        for request in unknown {
            let outcome = Outcome::Unknown;
            context.emit(Effect::Reply { request, outcome });
        }
        for request in self.reads.requests() {
            let outcome = Outcome::Refused(Refusal::NotLeader);
            context.emit(Effect::Reply { request, outcome });
        }
    }
}

/// The last record that a follower is known to have, or what was to be tried.
fn known_of(context: &Context, progress: &Progress) -> Position {
    let chain = &context.chain;
    let matched = chain.at(progress.matched).filter(|it| it.index > Index(0));
    let guess = || Some(progress.predecessor).filter(|guess| chain.contains(*guess));
    matched.or_else(guess).unwrap_or(chain.base())
}

fn micros(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}

/// The number that the promised durability counts.
fn value(context: &Context, written: Index, synced: Index) -> Index {
    match context.assignment.durability {
        Durability::Written => written,
        Durability::Synced => synced,
    }
}
