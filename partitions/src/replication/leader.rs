//! A copy that leads its epoch.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use consensus::{Index, ReplicaId, rule};

use super::chain::Position;
use super::context::Context;
use super::election::Answer;
use super::message::Trust;
use super::progress::Progress;
use super::replica::{Alarm, AppendPlan, Effect, Outcome, Proposal, Refusal};
use crate::record::{Record, RecordFlags};
use crate::types::Durability;

/// How long the last answer of a follower counts as a sign that it is there.
const ANSWERS_FOR: Duration = Duration::from_millis(500);
/// How long a proposal may stay without effect before it is repeated.
const PROPOSE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How many doublings of the patience of a leader without a quorum count.
const RESIGNATIONS_MAX: u32 = 6;

pub(super) struct Leader {
    /// The epoch's first record.
    first: Index,
    peers: BTreeMap<ReplicaId, Progress>,
    /// In-sync sets that may be in force without the leader's knowledge.
    proposed: Vec<Vec<ReplicaId>>,
    proposed_at: Duration,
    waiting: VecDeque<Waiting>,
    uncommitted_bytes: usize,
    /// Where the log ended at these times, oldest first.
    ends: VecDeque<(Duration, Index)>,
    /// Since when a quorum is missing, or an own write hangs.
    helpless_since: Option<Duration>,
    resignations: u32,
}

/// A client's request whose record is not committed.
struct Waiting {
    request: u64,
    index: Index,
    first_offset: u64,
    bytes: usize,
}

impl Leader {
    /// Starts the epoch with its first record.
    pub(super) fn start(context: &mut Context, answers: &BTreeMap<ReplicaId, Answer>) -> Self {
        let before = context.chain.last();
        context.restart_catch_up();
        context.trust_from(before.index);
        let recovery = context.assignment.recovery;
        let recovery = recovery.filter(|recovery| recovery.epoch > before.epoch);
        let gap = recovery.map_or(0, |recovery| recovery.offset_gap);
        let gap = if rule!(OffsetGapAfterRecovery) {
            gap
        } else {
            0
        };
        let position = Position {
            epoch: context.assignment.epoch,
            index: before.index.next(),
        };
        context.append(vec![Record {
            position,
            first_offset: context.next_offset + gap,
            messages: 0,
            timestamp: 0,
            flags: RecordFlags::NONE,
            tag: None,
            header: Bytes::new(),
            body: Bytes::new(),
        }]);
        let mut peers = BTreeMap::new();
        for node in context.others() {
            let last = answers.get(&node).map_or(before, |answer| answer.last);
            let guess = context.chain.candidate(last.min(before));
            peers.insert(node, Progress::new(guess, context.now));
        }
        Self {
            first: position.index,
            peers,
            proposed: Vec::new(),
            proposed_at: Duration::ZERO,
            waiting: VecDeque::new(),
            uncommitted_bytes: 0,
            ends: VecDeque::new(),
            helpless_since: None,
            resignations: 0,
        }
    }

    /// A client's batch.
    pub(super) fn append(
        &mut self,
        context: &mut Context,
        request: u64,
        messages: u32,
        batch: Bytes,
    ) {
        let refused = if !self.reaches_quorum(context) {
            Some(Refusal::NoQuorum)
        } else if self.uncommitted_bytes > 0
            && self.uncommitted_bytes + batch.len() > context.settings.uncommitted_bytes_max
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
        let bytes = batch.len();
        self.uncommitted_bytes += bytes;
        self.waiting.push_back(Waiting {
            request,
            index: position.index,
            first_offset,
            bytes,
        });
        context.append(vec![Record {
            position,
            first_offset,
            messages,
            timestamp: 0,
            flags: RecordFlags::NONE,
            tag: None,
            header: Bytes::new(),
            body: batch,
        }]);
    }

    /// The next append to a follower, if there is something to send.
    pub(super) fn next_append(&mut self, context: &Context, to: ReplicaId) -> Option<AppendPlan> {
        let progress = self.peers.get_mut(&to)?;
        let end = context.chain.last().index;
        let records = progress.may_send(
            context.now,
            end,
            context.commit,
            context.settings.append_records_max,
        )?;
        let predecessor = progress.predecessor;
        let through = Index(predecessor.index.0 + records);
        let last = context.chain.at(through)?;
        progress.sent(context.now, last, context.commit);
        Some(AppendPlan {
            epoch: context.assignment.epoch,
            predecessor,
            through,
            commit: context.commit,
            end,
        })
    }

    pub(super) fn mismatched(
        &mut self,
        context: &Context,
        from: ReplicaId,
        probed: Position,
        have: Position,
    ) {
        let Some(progress) = self.peers.get_mut(&from) else {
            return;
        };
        progress.answered_at = Some(context.now);
        if context.chain.contains(probed) {
            progress.probe(context.chain.candidate(have));
        }
    }

    pub(super) fn acknowledged(
        &mut self,
        context: &mut Context,
        from: ReplicaId,
        registration: u64,
        ack: Ack,
    ) {
        let Some(progress) = self.peers.get_mut(&from) else {
            return;
        };
        if progress.registration != Some(registration) {
            let guess = progress.predecessor;
            *progress = Progress::new(guess, progress.caught_up);
            progress.registration = Some(registration);
        }
        if ack.written < progress.written || ack.synced < progress.synced {
            context.emit(Effect::Alarm(Alarm::WentBack { node: from }));
            progress.trusted = false;
            progress.answered_at = None;
            return;
        }
        let Some(matched) = context.chain.at(ack.matched) else {
            return;
        };
        progress.matched(matched);
        progress.matched = ack.matched;
        progress.written = ack.written;
        progress.synced = ack.synced;
        progress.trusted = ack.trusted;
        progress.answered_at = Some(context.now);
        let has = value(context, ack.written, ack.synced);
        let reached = self.ends.iter().rev().find(|(_, end)| *end <= has);
        if let Some(&(at, _)) = reached {
            progress.caught_up = progress.caught_up.max(at);
        }
        if has >= context.chain.last().index {
            progress.caught_up = context.now;
        }
    }

    /// The connection to a follower is a new one.
    pub(super) fn reconnected(&mut self, context: &Context, peer: ReplicaId) {
        if let Some(progress) = self.peers.get_mut(&peer) {
            let matched = context.chain.at(progress.matched);
            progress.probe(matched.unwrap_or(progress.predecessor));
        }
    }

    /// Commits what enough copies have, and answers.
    pub(super) fn advance(&mut self, context: &mut Context) {
        context.sync_if_due();
        let end = context.chain.last().index;
        context.trust_if_caught_up(end);
        let commit = self.committed(context);
        let own_epoch = commit >= self.first || !rule!(CommitsOwnEpochOnly);
        if own_epoch && commit > context.commit {
            context.commit = commit;
            context.emit(Effect::Committed { through: commit });
        }
        while let Some(waiting) = self.waiting.front() {
            if waiting.index > context.commit {
                break;
            }
            self.uncommitted_bytes -= waiting.bytes;
            let outcome = Outcome::Appended {
                first_offset: waiting.first_offset,
            };
            let request = waiting.request;
            context.emit(Effect::Reply { request, outcome });
            self.waiting.pop_front();
        }
    }

    fn committed(&self, context: &mut Context) -> Index {
        let own = context.acknowledged(context.chain.last().index);
        let current = context.assignment.in_sync.as_slice();
        let mut commit = self.quorum_has(context, own, current);
        if rule!(CommitsOnOpenSets) {
            for set in &self.proposed {
                commit = commit.min(self.quorum_has(context, own, set));
            }
        }
        commit
    }

    /// The largest index that a commit quorum of the set has.
    fn quorum_has(&self, context: &Context, own: (Index, Index), set: &[ReplicaId]) -> Index {
        let counts = |trusted: bool| trusted || !rule!(UntrustedNotCounted);
        let mut has: Vec<Index> = set
            .iter()
            .map(|node| {
                if *node == context.me {
                    let trusted = counts(context.trust == Trust::Trusted);
                    return if trusted {
                        value(context, own.0, own.1)
                    } else {
                        Index(0)
                    };
                }
                match self.peers.get(node) {
                    Some(peer) if counts(peer.trusted) => value(context, peer.written, peer.synced),
                    _ => Index(0),
                }
            })
            .collect();
        has.sort_unstable_by(|a, b| b.cmp(a));
        let quorum = context.assignment.commit_quorum(set.len());
        has.get(quorum - 1).copied().unwrap_or(Index(0))
    }

    /// Whether enough copies have answered lately.
    fn reaches_quorum(&self, context: &Context) -> bool {
        let reaches = |set: &[ReplicaId]| {
            let answered_at = set.iter().filter(|node| {
                **node == context.me
                    || self
                        .peers
                        .get(node)
                        .is_some_and(|peer| is_reachable(peer, context.now))
            });
            answered_at.count() >= context.assignment.commit_quorum(set.len())
        };
        reaches(&context.assignment.in_sync) && self.proposed.iter().all(|set| reaches(set))
    }

    /// What depends on the time: repetitions, the in-sync set, resignation.
    pub(super) fn tick(&mut self, context: &mut Context) {
        let now = context.now;
        for (&node, progress) in &mut self.peers {
            if progress.is_stuck(now) {
                let matched = context.chain.at(progress.matched);
                progress.probe(matched.unwrap_or_default());
            }
            let end = context.chain.last().index;
            if progress
                .may_send(
                    now,
                    end,
                    context.commit,
                    context.settings.append_records_max,
                )
                .is_some()
            {
                context.emit(Effect::Ready { to: node });
            }
        }
        let steady = context.settings.steady;
        for progress in self.peers.values_mut() {
            let close =
                is_reachable(progress, now) && now.saturating_sub(progress.caught_up) < steady;
            match progress.steady_since {
                None if close => progress.steady_since = Some(now),
                Some(_) if !close => progress.steady_since = None,
                _ => {}
            }
        }
        self.ends.push_back((now, context.chain.last().index));
        let keep = context.settings.replica_lag_max;
        while self.ends.len() > 2 && now.saturating_sub(self.ends[1].0) > keep {
            self.ends.pop_front();
        }
        self.propose_set(context);
        self.resign_if_helpless(context);
    }

    /// The set that should be in force.
    fn target(&self, context: &Context) -> Vec<ReplicaId> {
        let now = context.now;
        let assignment = &context.assignment;
        let steady = context.settings.steady;
        let mut target: Vec<ReplicaId> = assignment
            .replicas
            .iter()
            .copied()
            .filter(|node| {
                if *node == context.me {
                    return true;
                }
                let Some(peer) = self.peers.get(node) else {
                    return false;
                };
                if assignment.is_in_sync(*node) {
                    let lag = now.saturating_sub(peer.caught_up);
                    assignment.is_live(*node) && lag < context.settings.replica_lag_max
                } else {
                    let since = peer.steady_since.map(|since| now.saturating_sub(since));
                    let is_steady = since.is_some_and(|since| since >= steady);
                    assignment.is_live(*node) && peer.trusted && is_steady
                }
            })
            .collect();
        target.sort_unstable();
        target
    }

    fn propose_set(&mut self, context: &mut Context) {
        let now = context.now;
        if !self.proposed.is_empty() {
            // What was proposed may take effect at any time: it is repeated, not replaced.
            if now.saturating_sub(self.proposed_at) < PROPOSE_AGAIN_AFTER {
                return;
            }
        } else {
            let target = self.target(context);
            if target == context.assignment.in_sync {
                return;
            }
            if rule!(SetNotBelowMin) && target.len() < context.assignment.min_in_sync {
                return;
            }
            let own = context.acknowledged(context.chain.last().index);
            let proven = self.quorum_has(context, own, &target);
            let may_be_committed = context.commit.max(Index(self.first.0 - 1));
            if rule!(SetProvenBeforeProposal) && proven < may_be_committed {
                return;
            }
            self.proposed.push(target);
        }
        self.proposed_at = now;
        for in_sync in self.proposed.clone() {
            context.emit(Effect::Propose(Proposal::AlterInSync {
                epoch: context.assignment.epoch,
                version: context.assignment.version,
                in_sync,
            }));
        }
    }

    /// The assignment has changed within the epoch: what was proposed on the former version
    /// has taken effect, or never will.
    pub(super) fn reassigned(&mut self, context: &Context) {
        self.proposed.clear();
        for node in context.others() {
            let guess = context.chain.last();
            self.peers
                .entry(node)
                .or_insert_with(|| Progress::new(guess, context.now));
        }
        let others = context.others();
        self.peers.retain(|node, _| others.contains(node));
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
        for waiting in self.waiting {
            context.emit(Effect::Reply {
                request: waiting.request,
                outcome: Outcome::Unknown,
            });
        }
    }
}

/// The contents of [`Message::Ack`](super::message::Message::Ack).
#[derive(Clone, Copy)]
pub(super) struct Ack {
    pub(super) matched: Index,
    pub(super) written: Index,
    pub(super) synced: Index,
    pub(super) trusted: bool,
}

fn is_reachable(progress: &Progress, now: Duration) -> bool {
    let within = |answered_at| now.saturating_sub(answered_at) < ANSWERS_FOR;
    progress.answered_at.is_some_and(within)
}

/// The number that the promised durability counts.
fn value(context: &Context, written: Index, synced: Index) -> Index {
    match context.assignment.durability {
        Durability::Written => written,
        Durability::Synced => synced,
    }
}
