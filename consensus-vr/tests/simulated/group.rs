//! Replicas without a network between them: what several tests share.

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::conformance::Durable;
use consensus::{
    Consensus, CoreConfig, Effect, Entry, Index, Input, Limits, Membership, PersistBatch,
    PersistId, ReplicaId, StepError, Term, Tick,
};
use consensus_vr::VrCore;

pub(crate) const HEARTBEAT_TICKS: u64 = 3;
pub(crate) const ELECTION_TICKS: u64 = 10;

/// A message in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Packet {
    pub(crate) from: ReplicaId,
    pub(crate) to: ReplicaId,
    pub(crate) message: Bytes,
}

impl Packet {
    /// The view of its envelope.
    pub(crate) fn view(&self) -> Term {
        let view = self
            .message
            .get(34..42)
            .and_then(|view| view.try_into().ok());
        Term(view.map_or(0, u64::from_le_bytes))
    }

    pub(crate) fn to_index(&self) -> usize {
        (self.to.0 - 1) as usize
    }
}

/// A replica with its disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    id: ReplicaId,
    voters: u64,
    pub(crate) core: VrCore,
    pub(crate) disk: Durable,
    unsynced: Vec<PersistBatch>,
    durable: PersistId,
    /// Messages that wait for a batch.
    blocked: Vec<(PersistId, Packet)>,
    now: u64,
    incarnation: u64,
    /// Whether batches become durable as soon as they leave.
    pub(crate) sync_immediately: bool,
    /// What was committed since this was last taken.
    pub(crate) committed: Vec<Entry>,
    /// What left since this was last taken.
    pub(crate) sent: Vec<Packet>,
}

pub(crate) fn config(id: ReplicaId, voters: u64, incarnation: u64) -> CoreConfig {
    CoreConfig {
        id,
        group: 7,
        membership: Membership::new(1, (1..=voters).map(ReplicaId), [])
            .expect("a small group is a membership"),
        heartbeat_ticks: HEARTBEAT_TICKS,
        election_ticks: ELECTION_TICKS,
        seed: id.0 * 1000 + incarnation,
        limits: Limits {
            log_tail_entries: 10,
            ..Limits::default()
        },
    }
}

impl Node {
    pub(crate) fn new(id: ReplicaId, voters: u64) -> Self {
        let disk = Durable::default();
        let core = VrCore::new(&config(id, voters, 1), disk.recovered())
            .expect("a new disk is recovered from");
        Self {
            id,
            voters,
            core,
            disk,
            unsynced: Vec::new(),
            durable: PersistId(0),
            blocked: Vec::new(),
            now: 0,
            incarnation: 1,
            sync_immediately: true,
            committed: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// It loses its memory, and what was not durable.
    pub(crate) fn restart(&mut self) {
        self.incarnation += 1;
        let config = config(self.id, self.voters, self.incarnation);
        self.core =
            VrCore::new(&config, self.disk.recovered()).expect("a new disk is recovered from");
        self.unsynced.clear();
        self.blocked.clear();
        self.durable = PersistId(0);
        self.now = 0;
        self.drain();
    }

    pub(crate) fn input(&mut self, input: Input) -> Result<(), StepError> {
        let result = self.core.step(Tick(self.now), input);
        self.drain();
        result
    }

    pub(crate) fn receive(&mut self, packet: Packet) -> Result<(), StepError> {
        let Packet { from, message, .. } = packet;
        self.input(Input::Receive { from, message })
    }

    /// The oldest view in which it may find itself: that of its disk.
    pub(crate) fn oldest_view(&self) -> Term {
        let state = self.disk.hard_state.as_ref();
        let view = state.and_then(|state| state.get(9..17)?.try_into().ok());
        Term(view.map_or(0, u64::from_le_bytes))
    }

    /// Time passes by a heartbeat interval.
    pub(crate) fn beat(&mut self) {
        self.now += HEARTBEAT_TICKS;
        let _ = self.input(Input::Tick);
    }

    pub(crate) fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// The oldest batch becomes durable.
    pub(crate) fn sync(&mut self) {
        if self.unsynced.is_empty() {
            return;
        }
        let batch = self.unsynced.remove(0);
        self.disk.write(&batch);
        self.durable = batch.id;
        let (ready, blocked) = std::mem::take(&mut self.blocked)
            .into_iter()
            .partition(|(after, _)| *after <= self.durable);
        self.blocked = blocked;
        let ready: Vec<(PersistId, Packet)> = ready;
        self.sent
            .extend(ready.into_iter().map(|(_, packet)| packet));
        let _ = self.input(Input::Persisted(batch.id));
    }

    fn drain(&mut self) {
        while let Some(effect) = self.core.poll() {
            match effect {
                Effect::Persist(batch) => {
                    self.unsynced.push(batch);
                    if self.sync_immediately {
                        self.sync();
                    }
                }
                Effect::Send { to, message, after } => {
                    let packet = Packet {
                        from: self.id,
                        to,
                        message: message.to_bytes(),
                    };
                    match after.filter(|after| *after > self.durable) {
                        Some(after) => self.blocked.push((after, packet)),
                        None => self.sent.push(packet),
                    }
                }
                Effect::Commit(entries) => {
                    self.committed
                        .extend(entries.into_iter().map(|committed| committed.entry));
                }
                Effect::Compact(through) => self.disk.compact(through),
                _ => {}
            }
        }
    }
}

/// What any replica ever committed, and where.
pub(crate) type History = BTreeMap<Index, Entry>;

/// Adds to the history what the nodes have committed. Whether it agrees.
pub(crate) fn record(history: &mut History, node: &mut Node) -> bool {
    std::mem::take(&mut node.committed)
        .into_iter()
        .all(|entry| {
            let known = history.entry(entry.index).or_insert_with(|| entry.clone());
            *known == entry
        })
}
