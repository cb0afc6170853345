//! The replica: passes events to its parts and to the core, and effects of the core to
//! its parts.

use bytes::Bytes;
use consensus::rule;
use consensus::{
    Committed, Consensus, Effect, Input, PersistBatch, ProposeError, RefusalReason, RefusedMessage,
    ReplicaId, SnapshotMeta, StateMachine, StepError, Tick,
};

use super::applying::AppliedState;
use super::config::ReplicaConfig;
use super::counters::Counters;
use super::error::ReplicaError;
use super::events::{Applied, Channel, Event, Now, Output, Outputs, Ticket};
use super::fetching::{Chunk, Fetching};
use super::file_jobs::{FileEvent, FileJob};
use super::peer_message::PeerMessage;
use super::proposals::Proposals;
use super::reads::Reads;
use super::refused_leader::RefusedLeader;
use super::sends::Sends;
use super::snapshotting::Snapshotting;
use super::stamps::Stamps;
use super::status::ReplicaStatus;

/// A core, its state machine, and everything between them and the outside.
pub struct Replica {
    id: ReplicaId,
    core: Box<dyn Consensus>,
    now: Now,
    outputs: Outputs,
    proposals: Proposals,
    stamps: Stamps,
    sends: Sends,
    reads: Reads,
    state: AppliedState,
    snapshots: Snapshotting,
    fetching: Fetching,
    refused_leader: RefusedLeader,
    counters: Counters,
    /// What shows that the log here is not that of the cluster.
    diverged: Option<RefusedMessage>,
}

impl Replica {
    /// A replica around a core. `machine` holds the state of `snapshot`, when
    /// there is one.
    #[must_use]
    pub fn new(
        config: &ReplicaConfig,
        core: Box<dyn Consensus>,
        machine: Box<dyn StateMachine>,
        snapshot: Option<&SnapshotMeta>,
    ) -> Self {
        let snapshots = Snapshotting::new(
            config.snapshot_entries,
            config.snapshot_log_bytes,
            snapshot.map(|meta| meta.index),
        );
        let state = AppliedState::new(machine, snapshot);
        Self {
            id: config.id,
            stamps: Stamps::new(config.tick_micros, state.timestamp_micros()),
            core,
            now: Now {
                tick: Tick(0),
                wall_micros: 0,
            },
            outputs: Outputs::new(),
            proposals: Proposals::new(config),
            sends: Sends::default(),
            reads: Reads::default(),
            state,
            snapshots,
            fetching: Fetching::default(),
            refused_leader: RefusedLeader::default(),
            counters: Counters::default(),
            diverged: None,
        }
    }

    /// Handles one event. Effects of the core wait for [`flush`](Self::flush).
    pub fn handle(&mut self, now: Now, event: Event) {
        self.now = now;
        match event {
            Event::Tick => {
                self.step(Input::Tick);
                let failed = self.fetching.tick(now.tick, &mut self.outputs);
                self.step_if(failed);
            }
            Event::Propose { ticket, command } => {
                if let Err(error) = self.proposals.push(ticket, command) {
                    self.refuse_command(ticket, error);
                }
            }
            Event::ReadIndex(ticket) => {
                let token = self.reads.add(ticket);
                self.step(Input::ReadIndex(token));
            }
            Event::Receive { from, message } => self.receive(from, message),
            Event::Persisted(id) => {
                self.sends.persisted(id);
                self.step(Input::Persisted(id));
                self.sends.release(&mut self.outputs);
            }
            Event::Unreachable(peer) => self.step(Input::Unreachable(peer)),
            Event::TransferLeadership { ticket, to } => {
                let result = self.core.step(now.tick, Input::TransferLeadership(to));
                self.outputs
                    .push_back(Output::TransferResult { ticket, result });
            }
            Event::File(event) => self.file_event(event),
        }
    }

    /// Proposes the commands that wait, and turns the core's effects into outputs.
    ///
    /// # Errors
    /// When committed data does not decode, or the log here is not that of the cluster: the
    /// replica must stop.
    pub fn flush(&mut self) -> Result<(), ReplicaError> {
        if let Some(diverged) = self.diverged.take() {
            return Err(ReplicaError::Diverged(diverged));
        }
        self.drain_core()?;
        while self.propose() {
            self.drain_core()?;
        }
        self.take_snapshot_when_due();
        Ok(())
    }

    /// The next output, or `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Event::Tick`] is due at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        self.core.next_deadline()
    }

    /// The state of the replica.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            detail: self.core.detail(),
            counters: self.counters.clone(),
            ..self.brief_status()
        }
    }

    /// The state of the replica without what takes time to collect: `detail` and `counters`
    /// are empty.
    #[must_use]
    pub fn brief_status(&self) -> ReplicaStatus {
        let core = self.core.status();
        ReplicaStatus {
            refuses_leader: self.refused_leader.newest(core.leader, self.now.tick),
            core,
            applied: self.state.index(),
            snapshot: self.snapshots.newest(),
            commands_waiting: self.proposals.waiting(),
            batches_in_flight: self.proposals.in_flight(),
            reads_waiting: self.reads.pending(),
            log_bytes: self.snapshots.log_bytes(),
            detail: Vec::new(),
            counters: Counters::default(),
        }
    }

    fn step(&mut self, input: Input) {
        if let Err(error) = self.core.step(self.now.tick, input) {
            self.refused(error);
        }
    }

    fn step_if(&mut self, input: Option<Input>) {
        if let Some(input) = input {
            self.step(input);
        }
    }

    fn refused(&mut self, error: StepError) {
        match &error {
            StepError::Message(message) => {
                self.counters.messages_refused.count(message);
                let leader = self.core.status().leader;
                self.refused_leader.refused(message, leader, self.now.tick);
                if matches!(message.reason, RefusalReason::Diverged(_)) {
                    self.diverged = Some(message.clone());
                }
            }
            StepError::Request(_) => self.counters.requests_refused += 1,
        }
        self.outputs.push_back(Output::Refused(error));
    }

    /// Proposes all batches that there is room for, so that the core makes one write
    /// and one message to a peer of them. Whether there were any.
    fn propose(&mut self) -> bool {
        let mut any = false;
        let Now { tick, wall_micros } = self.now;
        while let Some(batch) = self.proposals.next(|| {
            let micros = self.stamps.next(wall_micros, tick);
            self.counters.timestamps_limited += u64::from(micros < wall_micros);
            micros
        }) {
            any = true;
            self.counters.commands_proposed += batch.commands as u64;
            self.counters.batch_commands.observe(batch.commands);
            self.step(Input::Propose {
                proposal: batch.id,
                payload: batch.payload,
            });
        }
        any
    }

    fn drain_core(&mut self) -> Result<(), ReplicaError> {
        while let Some(effect) = self.core.poll() {
            self.effect(effect)?;
        }
        Ok(())
    }

    fn effect(&mut self, effect: Effect) -> Result<(), ReplicaError> {
        match effect {
            Effect::Persist(batch) => self.persist(batch),
            Effect::Send { to, message, after } => {
                let message = PeerMessage::Consensus(message).encode();
                let after = after.unwrap_or_default();
                let fits = self.sends.send(to, message, after, &mut self.outputs);
                self.counters.sends_dropped += u64::from(!fits);
            }
            Effect::Commit(entries) => {
                for committed in entries {
                    self.apply(committed)?;
                }
                self.serve_reads();
            }
            Effect::ReadReady { token, index } => {
                self.reads.confirm(token, index);
                self.serve_reads();
            }
            Effect::ReadRejected { token, error } => {
                self.reads.reject(token, error, &mut self.outputs);
            }
            Effect::ProposalRejected { proposal, error } => {
                for ticket in self.proposals.take(proposal) {
                    self.refuse_command(ticket, error);
                }
            }
            Effect::LeaderChanged { term, leader } => {
                self.counters.leader_changes += u64::from(leader.is_some());
                self.outputs
                    .push_back(Output::LeaderChanged { term, leader });
                self.refuse_waiting(leader);
            }
            Effect::FetchSnapshot { from, snapshot } => {
                self.fetching
                    .start(from, snapshot, self.now.tick, &mut self.outputs);
            }
            Effect::InstallSnapshot(meta) => self.install(&meta)?,
            Effect::Compact(through) => self.outputs.push_back(Output::Compact(through)),
        }
        Ok(())
    }

    /// A batch that resets the log to a snapshot makes what is before it superfluous: a
    /// replica that lags again and again takes no snapshots itself. Only this batch does:
    /// a log whose front is dropped without it is neither the old log nor the new one.
    fn persist(&mut self, batch: PersistBatch) {
        let reset_to = batch.reset_to;
        self.outputs.push_back(Output::Persist(batch));
        if let Some((index, _)) = reset_to {
            self.outputs.push_back(Output::Compact(index));
        }
    }

    /// Commands that have not been proposed yet return to their callers, which know
    /// better where to send them now.
    fn refuse_waiting(&mut self, leader: Option<ReplicaId>) {
        if leader == Some(self.id) {
            return;
        }
        for ticket in self.proposals.take_waiting() {
            self.refuse_command(ticket, ProposeError::NotLeader { leader });
        }
    }

    fn refuse_command(&mut self, ticket: Ticket, error: ProposeError) {
        self.counters.refused(error);
        let result: Result<Applied, _> = Err(error);
        self.outputs
            .push_back(Output::ProposeResult { ticket, result });
    }

    fn apply(&mut self, committed: Committed) -> Result<(), ReplicaError> {
        let Committed { entry, proposal } = committed;
        self.snapshots.grew(entry.payload.len());
        let tickets = proposal.map(|id| self.proposals.take(id));
        self.state.apply(
            entry,
            tickets.unwrap_or_default(),
            &mut self.counters,
            &mut self.outputs,
        )?;
        self.stamps
            .see(self.state.timestamp_micros(), self.now.tick);
        Ok(())
    }

    fn serve_reads(&mut self) {
        self.reads.serve(self.state.index(), &mut self.outputs);
    }

    fn receive(&mut self, from: ReplicaId, message: Bytes) {
        match PeerMessage::decode(message) {
            Some(PeerMessage::Consensus(message)) => {
                let message = message.to_bytes();
                self.step(Input::Receive { from, message });
            }
            Some(PeerMessage::Request { index, offset }) => {
                self.snapshots.serving(self.now.tick);
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
            }) => {
                let chunk = Chunk {
                    from,
                    index,
                    offset,
                    total,
                    bytes,
                };
                self.fetching.chunk(chunk, &mut self.outputs);
            }
            Some(PeerMessage::Gone(index)) => {
                let failed = self.fetching.gone(from, index);
                self.step_if(failed);
            }
            None => {
                let reason = RefusalReason::Malformed("not a message between replicas".into());
                let kind = "message";
                self.refused(RefusedMessage { from, kind, reason }.into());
            }
        }
    }

    fn file_event(&mut self, event: FileEvent) {
        match event {
            FileEvent::Saved(Ok((meta, _))) => {
                self.counters.snapshots_taken += 1;
                if self.snapshots.saved(meta.index) {
                    self.step(Input::SnapshotTaken(meta));
                }
            }
            FileEvent::Saved(Err(_)) => self.snapshots.save_failed(self.now.tick),
            FileEvent::Chunk {
                to,
                index,
                offset,
                total,
                bytes,
            } => self.send_bulk(
                to,
                PeerMessage::Chunk {
                    index,
                    offset,
                    total,
                    bytes,
                },
            ),
            FileEvent::NoChunk { to, index } => self.send_bulk(to, PeerMessage::Gone(index)),
            FileEvent::Received { meta, next, state } => {
                let (now, outputs) = (self.now.tick, &mut self.outputs);
                let fetched = self.fetching.received(meta, next, state, now, outputs);
                self.step_if(fetched);
            }
            FileEvent::ReceiveFailed { meta, .. } => {
                let failed = self.fetching.receive_failed(&meta);
                self.step_if(failed);
            }
        }
    }

    fn send_bulk(&mut self, to: ReplicaId, message: PeerMessage) {
        self.outputs.push_back(Output::Send {
            to,
            channel: Channel::Bulk,
            message: message.encode(),
        });
    }

    fn install(&mut self, meta: &SnapshotMeta) -> Result<(), ReplicaError> {
        let state = self.fetching.take(meta);
        self.state.restore(meta, &state)?;
        self.stamps
            .see(self.state.timestamp_micros(), self.now.tick);
        self.snapshots.installed(meta.index);
        self.counters.snapshots_installed += 1;
        self.serve_reads();
        Ok(())
    }

    fn take_snapshot_when_due(&mut self) {
        let applied = self.state.index();
        self.fetching.prune(applied);
        if !self.snapshots.start(applied, self.now.tick) {
            return;
        }
        let meta = SnapshotMeta {
            index: match rule!(SnapshotIndexExact) {
                true => applied,
                false => applied.prev(),
            },
            term: self.state.term(),
            membership: self.core.status().membership,
        };
        if !rule!(SnapshotTakenWhenDurable) {
            self.step(Input::SnapshotTaken(meta.clone()));
        }
        let state = self.state.freeze();
        self.outputs
            .push_back(Output::File(FileJob::Save { meta, state }));
    }
}

#[cfg(test)]
mod tests;
