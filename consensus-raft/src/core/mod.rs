//! The core: inputs into raft-rs, its `Ready`s into effects.
//!
//! raft-rs is driven with asynchronous persistence. Each `Ready` is turned into
//! effects and advanced immediately; a message that must not reveal anything before
//! it is durable names the batch that has to be durable first:
//!
//! - a follower's or candidate's messages wait for *every* batch so far, because a
//!   later `Ready` without writes may acknowledge an earlier one that is not
//!   durable yet;
//! - a leader's messages are sent immediately (concurrently with its own write),
//!   except after a changed term or vote, which a single voter reaches without any
//!   other vote.
//!
//! The commit index is written together with other records, never on its own, and
//! only as far as the log is durable: it is a lower bound that a restart raises.

mod ready;
mod recover;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use consensus::rule;
use consensus::{
    Consensus, CoreConfig, Effect, Index, Input, Limits, Membership, PeerProgress, PersistId,
    ProposalId, ProposeError, ReadError, ReadToken, RecoverError, Recovered, RefusedMessage,
    ReplicaId, SnapshotMeta, Status, StepError, Term, Tick,
};
use raft::eraftpb::{Message, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};

use crate::reads::Reads;
use crate::snapshots::{Offer, Snapshots};
use crate::storage::RaftStorage;
use crate::{guard, message, timeouts, translate};
use recover::{build_storage, config_error, raft_config};

/// A read expires after this many election timeouts.
const READ_ELECTION_TIMEOUTS: u64 = 4;
/// A snapshot offer expires after this many election timeouts.
const SNAPSHOT_ELECTION_TIMEOUTS: u64 = 20;

/// One replica of one Raft group.
pub struct RaftCore {
    raw: RawNode<RaftStorage>,
    group: u128,
    seed: u64,
    limits: Limits,
    heartbeat_ticks: u64,
    election_ticks: u64,
    now: Tick,
    /// Ticks that count: fewer than have passed, after the driver was delayed.
    clock: u64,
    disk_stall_ticks: u64,
    effects: VecDeque<Effect>,
    elections_started: u64,
    leader: (Term, Option<ReplicaId>),
    last_persist: PersistId,
    /// Numbers of the `Ready`s that are not durable yet, each with the batch that
    /// it wrote.
    unpersisted: VecDeque<(u64, Option<PersistId>)>,
    /// When the oldest batch that is not durable became the oldest, in counted ticks.
    waiting_since: u64,
    /// Term and vote as last written, and the batch that wrote them.
    vote: (u64, u64),
    vote_batch: PersistId,
    /// Highest index that was returned in `Commit` or restored from a snapshot.
    delivered: u64,
    /// Unanswered proposals: their term and id, by index.
    proposals: BTreeMap<u64, (u64, ProposalId)>,
    reads: Reads,
    snapshots: Snapshots,
    /// The fetched snapshot of the offer that was stepped last.
    installing: Option<SnapshotMeta>,
}

impl RaftCore {
    /// Builds a replica from its configuration and from what its disk has.
    ///
    /// # Errors
    /// When the configuration contradicts itself, or the log on disk is not whole.
    pub fn new(config: &CoreConfig, recovered: Recovered) -> Result<Self, RecoverError> {
        config.check()?;
        let recovered = recovered.checked()?;
        let (storage, applied) = build_storage(config, recovered)?;
        let vote = {
            let state = raft::Storage::initial_state(&storage).map_err(config_error)?;
            (state.hard_state.term, state.hard_state.vote)
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw =
            RawNode::new(&raft_config(config, applied), storage, &logger).map_err(config_error)?;
        Ok(Self {
            leader: (Term(raw.raft.term), None),
            raw,
            group: config.group,
            seed: config.seed,
            limits: config.limits.clone(),
            heartbeat_ticks: config.heartbeat_ticks,
            election_ticks: config.election_ticks,
            now: Tick(0),
            clock: 0,
            disk_stall_ticks: config.disk_stall_ticks(),
            effects: VecDeque::new(),
            elections_started: 0,
            last_persist: PersistId(0),
            unpersisted: VecDeque::new(),
            waiting_since: 0,
            vote,
            vote_batch: PersistId(0),
            delivered: applied,
            proposals: BTreeMap::new(),
            reads: Reads::new(config.seed),
            snapshots: Snapshots::default(),
            installing: None,
        })
    }

    fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    fn membership(&self) -> &Membership {
        &self.raw.store().membership
    }

    fn leader_hint(&self) -> Option<ReplicaId> {
        translate::replica(self.raw.raft.leader_id)
    }
}

/// Inputs.
impl RaftCore {
    /// Advances Raft's clock, by at most one heartbeat interval: a driver that was
    /// delayed may have heartbeats of the leader pending, and a burst of ticks
    /// before them would start a needless election.
    fn advance_clock(&mut self, now: Tick) {
        let elapsed = now.0.saturating_sub(self.now.0);
        self.now = self.now.max(now);
        for _ in 0..elapsed.min(self.heartbeat_ticks) {
            self.clock += 1;
            if self.is_leader() {
                self.raw.tick();
                self.cede_if_disk_stalls();
                continue;
            }
            if self.disk_stalls() {
                continue;
            }
            let raft = &mut self.raw.raft;
            let timeout = timeouts::election_ticks(
                self.seed,
                raft.id,
                raft.term,
                self.elections_started,
                self.election_ticks as usize,
            );
            raft.set_randomized_election_timeout(timeout);
            if self.raw.tick() {
                self.elections_started += 1;
            }
        }
        if rule!(ReadIndexTimesOut) {
            self.reject_expired_reads();
        }
        for peer in self.snapshots.expired(self.now) {
            let progress = self.raw.raft.prs().get(peer.0);
            let waits = progress.is_some_and(|p| p.state == ProgressState::Snapshot);
            if waits && rule!(SnapshotOfferExpires) {
                self.raw.report_snapshot(peer.0, SnapshotStatus::Failure);
            }
        }
    }

    /// Whether the disk has made nothing durable for so long that this replica is not to
    /// lead. Its election timer stands still then.
    fn disk_stalls(&self) -> bool {
        let waits = self.unpersisted.iter().any(|(_, batch)| batch.is_some());
        waits && self.clock - self.waiting_since >= self.disk_stall_ticks
    }

    /// A leader without a disk can deliver nothing, and so answers nothing, while its
    /// heartbeats keep the others from electing. It steps down as one without a quorum.
    fn cede_if_disk_stalls(&mut self) {
        let has_others = self.membership().quorum() > 1;
        if self.disk_stalls() && has_others && rule!(LeaderStepsDownWithoutDisk) {
            let raft = &mut self.raw.raft;
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
        }
    }

    fn reject_expired_reads(&mut self) {
        for token in self.reads.expire(self.now) {
            self.effects.push_back(Effect::ReadRejected {
                token,
                error: ReadError::Unconfirmed,
            });
        }
    }

    fn propose(&mut self, proposal: ProposalId, payload: Bytes) {
        if let Err(error) = self.try_propose(proposal, payload) {
            self.effects
                .push_back(Effect::ProposalRejected { proposal, error });
        }
    }

    fn try_propose(&mut self, proposal: ProposalId, payload: Bytes) -> Result<(), ProposeError> {
        if payload.len() > self.limits.entry_bytes_max {
            return Err(ProposeError::TooLarge {
                bytes: payload.len(),
                max: self.limits.entry_bytes_max,
            });
        }
        // raft-rs would forward it to the leader, past the session layer.
        if !self.is_leader() {
            return Err(ProposeError::NotLeader {
                leader: self.leader_hint(),
            });
        }
        let raft = &mut self.raw.raft;
        let mut message = Message {
            from: raft.id,
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![translate::command(payload)].into());
        // Dropped when too much is uncommitted or leadership is being transferred:
        // no effect in either case.
        raft.step(message).map_err(|_| ProposeError::Overloaded)?;
        self.proposals
            .insert(raft.raft_log.last_index(), (raft.term, proposal));
        Ok(())
    }

    fn receive(&mut self, from: ReplicaId, bytes: Bytes) -> Result<(), StepError> {
        let refused = |kind| move |reason| RefusedMessage { from, kind, reason };
        let decoded = message::decode(self.group, bytes).map_err(refused("message"))?;
        let kind = message::name(&decoded.message);
        guard::check(&self.raw.raft, self.membership(), from, &decoded.message)
            .map_err(refused(kind))?;
        if let Some(offered) = &decoded.snapshot {
            guard::offer(self.membership(), offered).map_err(refused(kind))?;
        }
        if decoded.message.get_msg_type() == MessageType::MsgTimeoutNow && self.disk_stalls() {
            // It could not store a vote for itself.
            return Ok(());
        }
        if decoded.message.get_msg_type() == MessageType::MsgReadIndex {
            return self.receive_read_index(decoded.message);
        }
        let stepped = match decoded.snapshot {
            Some(meta) => self.receive_offer(decoded.message, meta),
            None => self.step_raft(decoded.message),
        };
        stepped.map_err(|error| match error {
            StepError::Request(why) => RefusedMessage::impossible(from, kind, why).into(),
            refused => refused,
        })
    }

    /// A peer's read-index request. Only a leader responds: the peer repeats the
    /// request when it knows another. raft-rs drops it before the first commit of the
    /// term: nothing may then be pending for it, as no response would ever remove that.
    fn receive_read_index(&mut self, mut request: Message) -> Result<(), StepError> {
        if !self.is_leader() || !self.raw.raft.commit_to_current_term() {
            return Ok(());
        }
        if rule!(ReadIndexContextUnique)
            && let Some(entry) = request.mut_entries().first_mut()
        {
            let Some(context) = self.reads.accept_request(entry.data.clone()) else {
                return Ok(());
            };
            entry.data = context;
        }
        self.step_raft(request)
    }

    fn receive_offer(&mut self, offer: Message, meta: SnapshotMeta) -> Result<(), StepError> {
        let raft = &self.raw.raft;
        let outdated = offer.term < raft.term
            || meta.index.0 <= raft.raft_log.committed
            || raft.raft_log.match_term(meta.index.0, meta.term.0);
        if outdated {
            return self.step_raft(offer);
        }
        let from = ReplicaId(offer.from);
        match self.snapshots.receive(&offer, &meta) {
            Offer::Wait => Ok(()),
            Offer::Fetch => {
                self.effects.push_back(Effect::FetchSnapshot {
                    from,
                    snapshot: meta,
                });
                Ok(())
            }
            Offer::Step(fetched) => self.step_offer(offer, fetched),
        }
    }

    fn snapshot_fetched(&mut self, meta: SnapshotMeta) -> Result<(), StepError> {
        let term = self.raw.raft.term;
        match self.snapshots.fetched(meta.clone(), term) {
            Some(offer) => self.step_offer(offer, meta),
            None => Ok(()),
        }
    }

    fn step_offer(&mut self, mut offer: Message, fetched: SnapshotMeta) -> Result<(), StepError> {
        offer.set_snapshot(translate::to_raft_snapshot(&fetched));
        self.installing = Some(fetched);
        self.step_raft(offer)
    }

    fn step_raft(&mut self, message: Message) -> Result<(), StepError> {
        self.raw
            .step(message)
            .map_err(|error| StepError::Request(error.to_string()))
    }

    fn read_index(&mut self, token: ReadToken) {
        if self.reads.len() >= self.limits.pending_reads_max {
            self.effects.push_back(Effect::ReadRejected {
                token,
                error: ReadError::Overloaded,
            });
            return;
        }
        let deadline = Tick(self.now.0 + READ_ELECTION_TIMEOUTS * self.election_ticks);
        self.reads.push(token, deadline);
    }

    fn transfer_leadership(&mut self, to: ReplicaId) -> Result<(), StepError> {
        if !self.is_leader() {
            return Err(StepError::Request(
                "only the leader can transfer leadership".into(),
            ));
        }
        if !self.membership().is_voter(to) {
            return Err(StepError::Request(format!("replica {to} is not a voter")));
        }
        self.raw.transfer_leader(to.0);
        Ok(())
    }

    fn snapshot_taken(&mut self, meta: SnapshotMeta) -> Result<(), StepError> {
        if meta.index.0 > self.delivered {
            return Err(StepError::Request(format!(
                "snapshot at {}, but only {} is applied",
                meta.index, self.delivered
            )));
        }
        let limits = &self.limits;
        let storage = self.raw.mut_store();
        if storage
            .snapshot
            .as_ref()
            .is_some_and(|newest| newest.index >= meta.index)
        {
            return Ok(());
        }
        let through = storage.window.compactable(
            meta.index,
            limits.log_tail_entries,
            limits.log_tail_bytes_max,
        );
        storage.snapshot = Some(meta);
        storage.window.compact_through(through);
        self.effects.push_back(Effect::Compact(through));
        Ok(())
    }

    /// Acknowledges the `Ready`s of all batches up to `id`, and those without a
    /// write that follow them.
    fn persisted(&mut self, id: PersistId) {
        let mut number = None;
        while let Some((ready, batch)) = self.unpersisted.front() {
            let durable = batch.is_none_or(|batch| batch <= id);
            if !durable && rule!(PersistedInOrder) {
                break;
            }
            number = Some(*ready);
            self.unpersisted.pop_front();
            self.waiting_since = self.clock;
        }
        if let Some(number) = number {
            self.raw.on_persist_ready(number);
            self.advance_applied();
        }
    }

    fn advance_applied(&mut self) {
        let log = &self.raw.raft.raft_log;
        let applied = self.delivered.min(log.committed).min(log.persisted);
        if applied > log.applied() {
            self.raw.advance_apply_to(applied);
        }
    }
}

impl Consensus for RaftCore {
    fn step(&mut self, now: Tick, input: Input) -> Result<(), StepError> {
        self.advance_clock(now);
        match input {
            Input::Tick => Ok(()),
            Input::Propose { proposal, payload } => {
                self.propose(proposal, payload);
                Ok(())
            }
            Input::Receive { from, message } => self.receive(from, message),
            Input::Persisted(id) => {
                self.persisted(id);
                Ok(())
            }
            Input::ReadIndex(token) => {
                self.read_index(token);
                Ok(())
            }
            Input::TransferLeadership(to) => self.transfer_leadership(to),
            Input::Unreachable(peer) => {
                self.raw.report_unreachable(peer.0);
                Ok(())
            }
            Input::SnapshotTaken(meta) => self.snapshot_taken(meta),
            Input::SnapshotFetched(meta) => self.snapshot_fetched(meta),
            Input::SnapshotFetchFailed(_) => {
                self.snapshots.fetch_failed();
                Ok(())
            }
        }
    }

    fn poll(&mut self) -> Option<Effect> {
        if self.effects.is_empty() {
            self.collect();
        }
        self.effects.pop_front()
    }

    fn next_deadline(&self) -> Option<Tick> {
        let raft = &self.raw.raft;
        let ticks = if self.is_leader() {
            self.heartbeat_ticks
                .saturating_sub(raft.heartbeat_elapsed() as u64)
        } else {
            raft.randomized_election_timeout()
                .saturating_sub(raft.election_elapsed) as u64
        };
        Some(Tick(self.now.0 + ticks.clamp(1, self.heartbeat_ticks)))
    }

    fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let window = &self.raw.store().window;
        let mut peers: Vec<_> = raft
            .prs()
            .iter()
            .filter(|(id, _)| self.is_leader() && **id != raft.id)
            .map(|(id, progress)| PeerProgress {
                id: ReplicaId(*id),
                matched: Index(progress.matched),
                state: translate::peer_state(progress.state),
                active: progress.recent_active,
            })
            .collect();
        peers.sort_by_key(|peer| peer.id);
        Status {
            role: translate::role(raft.state, self.membership().is_voter(ReplicaId(raft.id))),
            term: Term(raft.term),
            leader: self.leader_hint(),
            commit: Index(raft.raft_log.committed),
            first: window.first(),
            last: Index(raft.raft_log.last_index()),
            membership: self.membership().clone(),
            elections_started: self.elections_started,
            peers,
        }
    }

    fn detail(&self) -> Vec<(&'static str, String)> {
        let raft = &self.raw.raft;
        vec![
            ("raft_state", format!("{:?}", raft.state)),
            ("raft_vote", translate::vote(raft.vote)),
            ("raft_persisted", raft.raft_log.persisted.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests;
