//! The state machine, and the entries that are applied to it.

use consensus::rule;
use consensus::{
    ApplyContext, Batch, Entry, EntryKind, FrozenState, Index, SnapshotMeta, StateMachine, Term,
};

use super::counters::Counters;
use super::error::ReplicaError;
use super::events::{Applied, Output, Outputs, Ticket};

/// The state machine, and how far it is.
pub(super) struct AppliedState {
    machine: Box<dyn StateMachine>,
    index: Index,
    term: Term,
    timestamp_micros: u64,
}

impl AppliedState {
    /// `machine` holds the state of `snapshot`, when there is one.
    pub(super) fn new(machine: Box<dyn StateMachine>, snapshot: Option<&SnapshotMeta>) -> Self {
        Self {
            timestamp_micros: machine.timestamp_micros(),
            machine,
            index: snapshot.map_or(Index::ZERO, |meta| meta.index),
            term: snapshot.map_or(Term(0), |meta| meta.term),
        }
    }

    /// The last entry applied.
    pub(super) fn index(&self) -> Index {
        self.index
    }

    /// Its term.
    pub(super) fn term(&self) -> Term {
        self.term
    }

    /// The newest timestamp that is applied, or the timestamp of the last entry.
    pub(super) fn timestamp_micros(&self) -> u64 {
        self.timestamp_micros
    }

    pub(super) fn freeze(&self) -> Box<dyn FrozenState> {
        self.machine.freeze()
    }

    /// Applies the next entry. `tickets` are those of its commands, in order, when the
    /// entry was proposed here.
    pub(super) fn apply(
        &mut self,
        entry: Entry,
        mut tickets: Vec<Ticket>,
        counters: &mut Counters,
        outputs: &mut Outputs,
    ) -> Result<(), ReplicaError> {
        assert_eq!(
            entry.index,
            self.index.next(),
            "entries are applied in order, each once"
        );
        if entry.kind == EntryKind::Command {
            let index = entry.index;
            let batch = Batch::decode(entry.payload)
                .map_err(|source| ReplicaError::Entry { index, source })?;
            self.timestamp_micros = batch.timestamp_micros;
            counters.commands_applied += batch.len() as u64;
            counters.commands_committed += tickets.len() as u64;
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
                let reply = reply.map_err(|source| ReplicaError::Command { index, source })?;
                if let Some(ticket) = tickets.next() {
                    let result = Ok(Applied { index, reply });
                    outputs.push_back(Output::ProposeResult { ticket, result });
                }
            }
        }
        self.index = entry.index;
        self.term = entry.term;
        Ok(())
    }

    /// Restores a snapshot that is ahead of what is applied.
    pub(super) fn restore(
        &mut self,
        meta: &SnapshotMeta,
        state: &[u8],
    ) -> Result<(), ReplicaError> {
        assert!(meta.index > self.index, "a snapshot takes the state back");
        if rule!(FetchedSnapshotRestored) {
            self.machine
                .restore(state)
                .map_err(|source| ReplicaError::Snapshot {
                    index: meta.index,
                    source,
                })?;
        }
        self.index = meta.index;
        self.term = meta.term;
        self.timestamp_micros = self.machine.timestamp_micros();
        Ok(())
    }
}
