//! Replicas of a small group, without a network between them.

use consensus::testing::{HEARTBEAT_TICKS, History, Packet, Replica, config};
use consensus::{Effect, Entry, Input, Limits, ReplicaId, StepError, Term, Tick};
use consensus_vr::VrCore;

/// The view of a message.
pub(crate) fn view(packet: &Packet) -> Term {
    let view = packet.message.get(34..42);
    let view = view.and_then(|view| view.try_into().ok());
    Term(view.map_or(0, u64::from_le_bytes))
}

/// Where the receiver of a message is in a list of all nodes.
pub(crate) fn receiver(packet: &Packet) -> usize {
    (packet.to.0 - 1) as usize
}

/// A replica, its clock, and what it has committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) replica: Replica<VrCore>,
    now: u64,
    /// Committed since this was last drained.
    committed: Vec<Entry>,
}

impl Node {
    pub(crate) fn new(id: ReplicaId, voters: u64) -> Self {
        let limits = Limits {
            log_tail_entries: 10,
            ..Limits::default()
        };
        let mut node = Self {
            replica: Replica::new(config(id, voters, 0, limits)),
            now: 0,
            committed: Vec::new(),
        };
        node.replica.start(VrCore::new);
        node
    }

    pub(crate) fn core(&self) -> &VrCore {
        self.replica.core()
    }

    /// Loses its memory, and what is not durable.
    pub(crate) fn restart(&mut self) {
        self.replica.crash();
        self.replica.start(VrCore::new);
        self.now = 0;
        self.drain();
    }

    pub(crate) fn input(&mut self, input: Input) -> Result<(), StepError> {
        let result = self.replica.step(Tick(self.now), input);
        self.drain();
        result
    }

    pub(crate) fn receive(&mut self, packet: Packet) -> Result<(), StepError> {
        let Packet { from, message, .. } = packet;
        self.input(Input::Receive { from, message })
    }

    /// The oldest view that a restart may return to: that of the disk.
    pub(crate) fn oldest_view(&self) -> Term {
        let state = self.replica.disk.hard_state.as_ref();
        let view = state.and_then(|state| state.get(9..17)?.try_into().ok());
        Term(view.map_or(0, u64::from_le_bytes))
    }

    /// Time passes by a heartbeat interval.
    pub(crate) fn beat(&mut self) {
        self.now += HEARTBEAT_TICKS;
        let _ = self.input(Input::Tick);
    }

    /// The oldest batch becomes durable.
    pub(crate) fn sync(&mut self) {
        if self.replica.fsync() {
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(effect) = self.replica.poll() {
            if let Effect::Commit(entries) = effect {
                let entries = entries.into_iter().map(|committed| committed.entry);
                self.committed.extend(entries);
            }
        }
    }

    /// Adds what was committed here to the history. Whether it agrees.
    pub(crate) fn record(&mut self, history: &mut History) -> bool {
        let mut committed = self.committed.drain(..);
        committed.all(|entry| history.commit(&entry))
    }
}
