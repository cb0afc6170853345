//! The step-persist-send-commit loop around a core, without its threads.
//!
//! A [`Replica`] takes [`Event`]s and gives [`Output`]s, like the core that it
//! holds, so that a node's threads and a simulator run it unchanged. It owns:
//! batches of commands and their answers; the messages that wait for the
//! write-ahead log; applying what is committed; when to snapshot; and bringing
//! snapshots over from a peer.
//!
//! Whoever drives it hands over all events that wait, then calls
//! [`Replica::flush`], then carries out [`Replica::poll`]'s outputs in order.

mod batching;
mod events;
mod transfer;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use consensus::rule;
use consensus::{
    ApplyContext, Batch, BatchError, Committed, Consensus, Effect, EntryKind, Index, Input, Parts,
    PersistId, ProposeError, ReadToken, ReplicaId, RestoreError, SnapshotMeta, StateMachine,
    Status, Term, Tick,
};
use thiserror::Error;

use batching::{BatchLimits, Batches, Refused};
pub use events::{Applied, Event, FileEvent, FileJob, Lane, Now, Output, Ticket};
use transfer::{Due, Fetch, PeerMessage};

/// After a snapshot could not be stored, the next attempt waits this long.
const SNAPSHOT_RETRY_TICKS: u64 = 500;
/// A peer that has asked for a piece of a snapshot within this time is being served.
const SERVING_TICKS: u64 = 200;
/// While a peer is served, the log may grow to so many times its usual size.
const SERVING_PATIENCE: u64 = 32;

/// How a replica is driven.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// This replica.
    pub id: ReplicaId,
    /// Payload of one batch in bytes; a larger command is refused.
    pub batch_bytes_max: usize,
    /// Commands in one batch; the others wait for the next.
    pub batch_commands_max: usize,
    /// Batches proposed and not committed; beyond it commands wait, and the next
    /// batch grows.
    pub pipeline_max: usize,
    /// Bytes of commands that wait; beyond it commands are refused as
    /// `Overloaded`.
    pub waiting_bytes_max: usize,
    /// A snapshot is taken after so many entries,
    pub snapshot_entries: u64,
    /// or after so many payload bytes, whichever comes first.
    pub snapshot_log_bytes: u64,
}

impl ReplicaConfig {
    /// The defaults, for this replica.
    #[must_use]
    pub fn new(id: ReplicaId) -> Self {
        Self {
            id,
            batch_bytes_max: 1 << 20,
            batch_commands_max: 8192,
            pipeline_max: 4,
            waiting_bytes_max: 64 << 20,
            snapshot_entries: 100_000,
            snapshot_log_bytes: 64 << 20,
        }
    }
}

/// Why a replica must stop.
#[derive(Debug, Error)]
pub enum ReplicaError {
    /// A committed entry is not understood.
    #[error("the committed entry {index} is not understood: {source}")]
    Entry {
        /// Its index.
        index: Index,
        /// Why.
        source: BatchError,
    },
    /// A snapshot that a peer sent, or that is stored here, is not understood.
    #[error("the snapshot at {index} is not understood: {source}")]
    Snapshot {
        /// Its index.
        index: Index,
        /// Why.
        source: RestoreError,
    },
}

/// Counts since the replica was built.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Commands proposed here.
    pub commands_proposed: u64,
    /// Batches proposed here.
    pub batches_proposed: u64,
    /// Commands proposed here and committed.
    pub commands_committed: u64,
    /// Commands turned away because another replica leads.
    pub not_leader: u64,
    /// Commands turned away at a bound.
    pub overloaded: u64,
    /// Commands whose outcome was open when leadership was lost.
    pub outcome_unknown: u64,
    /// Commands applied, whoever proposed them.
    pub commands_applied: u64,
    /// Messages of peers that were refused.
    pub messages_refused: u64,
    /// Leaders seen.
    pub leader_changes: u64,
    /// Snapshots taken here.
    pub snapshots_taken: u64,
    /// Snapshots brought over from a peer.
    pub snapshots_installed: u64,
    /// Batches by size: element `n` counts those of up to `2^n` commands.
    pub batch_sizes: [u64; 16],
}

/// What a replica believes and holds.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// Its core's view.
    pub core: Status,
    /// The last entry applied to the state machine.
    pub applied: Index,
    /// The newest durable snapshot.
    pub snapshot: Option<Index>,
    /// Commands that wait for a batch.
    pub commands_waiting: usize,
    /// Batches proposed and not committed.
    pub batches_in_flight: usize,
    /// Reads that wait.
    pub reads_waiting: usize,
    /// Bytes of log payload in memory since the newest snapshot.
    pub log_bytes: u64,
    /// Counts.
    pub counters: Counters,
}

/// A core, its state machine, and everything between them and the outside.
pub struct Replica {
    config: ReplicaConfig,
    core: Box<dyn Consensus>,
    machine: Box<dyn StateMachine>,
    outputs: VecDeque<Output>,
    batches: Batches,
    durable: PersistId,
    held: VecDeque<(PersistId, ReplicaId, Parts)>,
    applied: Index,
    applied_term: Term,
    /// Confirmed reads that wait for the state machine, by the index they need.
    reads: BTreeMap<Index, Vec<Ticket>>,
    reads_asked: usize,
    snapshot: Option<Index>,
    saving: bool,
    /// Until then the newest snapshot stays.
    serving_until: Tick,
    snapshot_not_before: Tick,
    log_bytes: u64,
    fetch: Option<Fetch>,
    /// Fetched and not installed: the newest, and one that the core may be about
    /// to install.
    fetched: BTreeMap<Index, (SnapshotMeta, Bytes)>,
    counters: Counters,
    now: Now,
}

impl Replica {
    /// A replica around a core. `machine` holds the state of `snapshot`, when
    /// there is one.
    #[must_use]
    pub fn new(
        config: ReplicaConfig,
        core: Box<dyn Consensus>,
        machine: Box<dyn StateMachine>,
        snapshot: Option<&SnapshotMeta>,
    ) -> Self {
        let limits = BatchLimits {
            bytes_max: config.batch_bytes_max,
            commands_max: config.batch_commands_max,
            pipeline_max: config.pipeline_max,
            waiting_bytes_max: config.waiting_bytes_max,
        };
        Self {
            config,
            core,
            machine,
            outputs: VecDeque::new(),
            batches: Batches::new(limits),
            durable: PersistId(0),
            held: VecDeque::new(),
            applied: snapshot.map_or(Index::ZERO, |meta| meta.index),
            applied_term: snapshot.map_or(Term(0), |meta| meta.term),
            reads: BTreeMap::new(),
            reads_asked: 0,
            snapshot: snapshot.map(|meta| meta.index),
            saving: false,
            serving_until: Tick(0),
            snapshot_not_before: Tick(0),
            log_bytes: 0,
            fetch: None,
            fetched: BTreeMap::new(),
            counters: Counters::default(),
            now: Now {
                tick: Tick(0),
                wall_micros: 0,
            },
        }
    }

    /// Takes one event. Effects wait for [`flush`](Self::flush).
    pub fn handle(&mut self, now: Now, event: Event) {
        self.now = now;
        match event {
            Event::Tick => {
                self.step(Input::Tick);
                self.nudge_fetch();
            }
            Event::Submit { ticket, command } => self.submit(ticket, command),
            Event::Read(ticket) => {
                self.reads_asked += 1;
                self.step(Input::ReadIndex(ReadToken(ticket.0)));
            }
            Event::Peer { from, message } => self.receive(from, message),
            Event::Persisted(id) => {
                self.durable = self.durable.max(id);
                self.step(Input::Persisted(id));
                self.release();
            }
            Event::Unreachable(peer) => self.step(Input::Unreachable(peer)),
            Event::Transfer { ticket, to } => {
                let result = self.core.step(now.tick, Input::TransferLeadership(to));
                self.outputs
                    .push_back(Output::TransferBegun { ticket, result });
            }
            Event::File(event) => self.file_event(event),
        }
    }

    /// Proposes what waits and carries the core's effects over into outputs.
    ///
    /// # Errors
    /// When committed data is not understood: the replica must stop.
    pub fn flush(&mut self) -> Result<(), ReplicaError> {
        self.drain_core()?;
        while self.propose() {
            self.drain_core()?;
        }
        self.maybe_snapshot();
        Ok(())
    }

    /// Proposes all batches that there is room for, so that the core makes one write
    /// and one message to a peer of them. Whether there were any.
    fn propose(&mut self) -> bool {
        let mut any = false;
        while let Some((proposal, payload, commands)) = self.batches.next(self.now.wall_micros) {
            any = true;
            self.counters.batches_proposed += 1;
            self.counters.commands_proposed += commands as u64;
            let bucket = usize::BITS - commands.saturating_sub(1).leading_zeros();
            self.counters.batch_sizes[(bucket as usize).min(15)] += 1;
            self.step(Input::Propose { proposal, payload });
        }
        any
    }

    /// The next thing to do, or `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Event::Tick`] is due at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        self.core.next_deadline()
    }

    /// What the replica believes and holds.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            core: self.core.status(),
            applied: self.applied,
            snapshot: self.snapshot,
            commands_waiting: self.batches.waiting(),
            batches_in_flight: self.batches.in_flight(),
            reads_waiting: self.reads_asked,
            log_bytes: self.log_bytes,
            counters: self.counters,
        }
    }

    fn step(&mut self, input: Input) {
        if self.core.step(self.now.tick, input).is_err() {
            self.counters.messages_refused += 1;
        }
    }

    fn submit(&mut self, ticket: Ticket, command: Bytes) {
        let Err(refused) = self.batches.push(ticket, command) else {
            return;
        };
        let error = match refused {
            Refused::Overloaded => {
                self.counters.overloaded += 1;
                ProposeError::Overloaded
            }
            Refused::TooLarge { bytes, max } => ProposeError::TooLarge { bytes, max },
        };
        self.reply(ticket, Err(error));
    }

    fn reply(&mut self, ticket: Ticket, result: Result<Applied, ProposeError>) {
        self.outputs.push_back(Output::Replied { ticket, result });
    }

    fn drain_core(&mut self) -> Result<(), ReplicaError> {
        while let Some(effect) = self.core.poll() {
            self.effect(effect)?;
        }
        Ok(())
    }

    fn effect(&mut self, effect: Effect) -> Result<(), ReplicaError> {
        match effect {
            Effect::Persist(batch) => self.outputs.push_back(Output::Write(batch)),
            Effect::Send { to, message, after } => {
                let message = PeerMessage::Consensus(message).encode();
                let after = after.unwrap_or_default();
                if after <= self.durable || !rule!(SendAfterSync) {
                    self.send(to, Lane::Consensus, message);
                } else {
                    self.held.push_back((after, to, message));
                }
            }
            Effect::Commit(entries) => {
                for committed in entries {
                    self.apply(committed)?;
                }
                self.finish_reads();
            }
            Effect::ReadReady { token, index } => {
                self.reads.entry(index).or_default().push(Ticket(token.0));
                self.finish_reads();
            }
            Effect::ReadRejected { token, error } => {
                self.reads_asked -= 1;
                self.outputs.push_back(Output::ReadDone {
                    ticket: Ticket(token.0),
                    result: Err(error),
                });
            }
            Effect::ProposalRejected { proposal, error } => {
                for ticket in self.batches.take(proposal) {
                    self.count(error);
                    self.reply(ticket, Err(error));
                }
            }
            Effect::LeaderChanged { term, leader } => {
                self.counters.leader_changes += u64::from(leader.is_some());
                self.outputs
                    .push_back(Output::LeaderChanged { term, leader });
                self.turn_away_waiting(leader);
            }
            Effect::FetchSnapshot { from, snapshot } => {
                self.fetch = Some(Fetch::new(from, snapshot.clone(), self.now.tick));
                self.outputs
                    .push_back(Output::File(FileJob::Resume(snapshot)));
            }
            Effect::InstallSnapshot(meta) => self.install(&meta)?,
            Effect::Compact(through) => self.outputs.push_back(Output::Compact(through)),
        }
        Ok(())
    }

    /// Commands that nobody proposed yet go back to their callers, who know
    /// better where to send them now.
    fn turn_away_waiting(&mut self, leader: Option<ReplicaId>) {
        if leader == Some(self.config.id) {
            return;
        }
        for ticket in self.batches.take_waiting() {
            let error = ProposeError::NotLeader { leader };
            self.count(error);
            self.reply(ticket, Err(error));
        }
    }

    fn count(&mut self, error: ProposeError) {
        let counter = match error {
            ProposeError::NotLeader { .. } => &mut self.counters.not_leader,
            ProposeError::OutcomeUnknown => &mut self.counters.outcome_unknown,
            _ => &mut self.counters.overloaded,
        };
        *counter += 1;
    }

    fn apply(&mut self, committed: Committed) -> Result<(), ReplicaError> {
        let Committed { entry, proposal } = committed;
        assert_eq!(
            entry.index,
            self.applied.next(),
            "entries are applied in order, each once"
        );
        self.log_bytes += entry.payload.len() as u64;
        let tickets = proposal.map(|id| self.batches.take(id)).unwrap_or_default();
        if entry.kind == EntryKind::Command {
            let index = entry.index;
            let batch = Batch::decode(entry.payload)
                .map_err(|source| ReplicaError::Entry { index, source })?;
            self.counters.commands_applied += batch.len() as u64;
            self.counters.commands_committed += tickets.len() as u64;
            let mut tickets = tickets;
            if !rule!(RepliesInOrder) {
                tickets.reverse();
            }
            let mut tickets = tickets.into_iter();
            for (position, command) in (0..).zip(batch.commands()) {
                let context = ApplyContext {
                    index,
                    position,
                    timestamp_micros: batch.timestamp_micros,
                };
                let reply = self.machine.apply(context, command);
                if let Some(ticket) = tickets.next() {
                    self.reply(ticket, Ok(Applied { index, reply }));
                }
            }
        }
        self.applied = entry.index;
        self.applied_term = entry.term;
        Ok(())
    }

    fn finish_reads(&mut self) {
        while let Some(first) = self.reads.first_entry()
            && (*first.key() <= self.applied || !rule!(ReadAfterApplied))
        {
            let tickets = first.remove();
            self.reads_asked -= tickets.len();
            for ticket in tickets {
                self.outputs.push_back(Output::ReadDone {
                    ticket,
                    result: Ok(self.applied),
                });
            }
        }
    }

    fn release(&mut self) {
        // Batches become durable in order, so what waits longest is in front.
        while let Some((after, ..)) = self.held.front()
            && *after <= self.durable
        {
            if let Some((_, to, message)) = self.held.pop_front() {
                self.send(to, Lane::Consensus, message);
            }
        }
    }

    fn send(&mut self, to: ReplicaId, lane: Lane, message: Parts) {
        self.outputs.push_back(Output::Send { to, lane, message });
    }
}

/// Snapshots.
impl Replica {
    fn receive(&mut self, from: ReplicaId, message: Bytes) {
        match PeerMessage::decode(message) {
            Some(PeerMessage::Consensus(message)) => {
                let message = message.to_bytes();
                self.step(Input::Receive { from, message });
            }
            Some(PeerMessage::Request { index, offset }) => {
                self.serving_until = Tick(self.now.tick.0 + SERVING_TICKS);
                self.outputs.push_back(Output::File(FileJob::Read {
                    to: from,
                    index,
                    offset,
                }));
            }
            Some(PeerMessage::Chunk {
                index,
                offset,
                total,
                bytes,
            }) => self.receive_chunk(from, index, offset, total, bytes),
            Some(PeerMessage::Gone(index)) => {
                if self
                    .fetch
                    .as_ref()
                    .is_some_and(|fetch| fetch.from == from && fetch.meta.index == index)
                {
                    self.fetch_failed();
                }
            }
            None => self.counters.messages_refused += 1,
        }
    }

    fn receive_chunk(
        &mut self,
        from: ReplicaId,
        index: Index,
        offset: u64,
        total: u64,
        bytes: Bytes,
    ) {
        // An empty piece would make no progress, for ever.
        if let Some(fetch) = &mut self.fetch
            && fetch.expects(from, index, offset)
            && !bytes.is_empty()
        {
            fetch.storing = true;
            self.outputs.push_back(Output::File(FileJob::Receive {
                meta: fetch.meta.clone(),
                offset,
                total,
                bytes,
            }));
        }
    }

    fn file_event(&mut self, event: FileEvent) {
        match event {
            FileEvent::Saved(result) => {
                self.saving = false;
                let Ok(meta) = result else {
                    self.snapshot_not_before = Tick(self.now.tick.0 + SNAPSHOT_RETRY_TICKS);
                    return;
                };
                self.counters.snapshots_taken += 1;
                // One from a peer may have overtaken it.
                if self.snapshot.is_none_or(|newest| newest < meta.index) {
                    self.snapshot = Some(meta.index);
                    self.step(Input::SnapshotTaken(meta));
                }
            }
            FileEvent::Chunk {
                to,
                index,
                offset,
                total,
                bytes,
            } => {
                let message = PeerMessage::Chunk {
                    index,
                    offset,
                    total,
                    bytes,
                };
                self.send(to, Lane::Bulk, message.encode());
            }
            FileEvent::NoChunk { to, index } => {
                self.send(to, Lane::Bulk, PeerMessage::Gone(index).encode());
            }
            FileEvent::Received { meta, next, state } => self.received(meta, next, state),
            FileEvent::ReceiveFailed { meta, .. } => {
                if self.fetch.as_ref().is_some_and(|fetch| fetch.meta == meta) {
                    self.fetch_failed();
                }
            }
        }
    }

    fn received(&mut self, meta: SnapshotMeta, next: u64, state: Option<Bytes>) {
        let now = self.now.tick;
        let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.meta == meta) else {
            return;
        };
        if let Some(state) = state {
            self.fetch = None;
            self.fetched.insert(meta.index, (meta.clone(), state));
            self.step(Input::SnapshotFetched(meta));
            return;
        }
        fetch.advanced(next, now);
        let from = fetch.from;
        self.ask(from, meta.index, next);
    }

    fn ask(&mut self, from: ReplicaId, index: Index, offset: u64) {
        let request = PeerMessage::Request { index, offset };
        self.send(from, Lane::Bulk, request.encode());
    }

    fn nudge_fetch(&mut self) {
        let Some(fetch) = &mut self.fetch else {
            return;
        };
        match fetch.due(self.now.tick) {
            Due::Nothing => {}
            Due::Ask { offset } => {
                let (from, index) = (fetch.from, fetch.meta.index);
                self.ask(from, index, offset);
            }
            Due::GiveUp => self.fetch_failed(),
        }
    }

    fn fetch_failed(&mut self) {
        if let Some(fetch) = self.fetch.take() {
            self.step(Input::SnapshotFetchFailed(fetch.meta));
        }
    }

    fn install(&mut self, meta: &SnapshotMeta) -> Result<(), ReplicaError> {
        let (fetched, state) = self
            .fetched
            .remove(&meta.index)
            .expect("a core installs only what it was told is fetched");
        assert_eq!(fetched, *meta, "another snapshot was fetched");
        assert!(meta.index > self.applied, "a snapshot takes the state back");
        if rule!(FetchedSnapshotRestored) {
            self.machine
                .restore(&state)
                .map_err(|source| ReplicaError::Snapshot {
                    index: meta.index,
                    source,
                })?;
        }
        self.applied = meta.index;
        self.applied_term = meta.term;
        self.snapshot = Some(meta.index);
        self.log_bytes = 0;
        self.counters.snapshots_installed += 1;
        // A replica that is left behind again and again takes no snapshots itself.
        self.outputs.push_back(Output::Compact(meta.index));
        self.finish_reads();
        Ok(())
    }

    /// A peer that is being sent the newest snapshot needs it to stay until it has
    /// it, and then the log behind it. A newer one would take both away: where
    /// snapshots come faster than they travel, the peer would never arrive.
    fn snapshot_is_due(&self) -> bool {
        let since = self.applied.0 - self.snapshot.unwrap_or(Index::ZERO).0;
        let patience = match self.now.tick < self.serving_until {
            true => SERVING_PATIENCE,
            false => 1,
        };
        since >= self.config.snapshot_entries.saturating_mul(patience)
            || (self.log_bytes >= self.config.snapshot_log_bytes.saturating_mul(patience)
                && since > 0)
    }

    fn maybe_snapshot(&mut self) {
        let applied = self.applied;
        self.fetched.retain(|index, _| *index > applied);
        while self.fetched.len() > 1 {
            self.fetched.pop_first();
        }
        if !self.snapshot_is_due() || self.saving || self.now.tick < self.snapshot_not_before {
            return;
        }
        self.saving = true;
        self.log_bytes = 0;
        let meta = SnapshotMeta {
            index: match rule!(SnapshotIndexExact) {
                true => self.applied,
                false => self.applied.prev(),
            },
            term: self.applied_term,
            membership: self.core.status().membership,
        };
        if !rule!(SnapshotTakenWhenDurable) {
            self.step(Input::SnapshotTaken(meta.clone()));
        }
        let state = self.machine.freeze();
        self.outputs
            .push_back(Output::File(FileJob::Save { meta, state }));
    }
}

#[cfg(test)]
mod tests;
