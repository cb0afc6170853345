//! The metadata as a replicated state machine, and how its state is read.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use ::partitions::GENERATION_INDEX_BITS;
use bytes::Bytes;
use consensus::rule;
use consensus::{ApplyContext, FrozenState, RestoreError, StateMachine, UnknownCommand};

use super::apply::Apply;
use super::commands::Command;
use super::events::{MetadataEvent, Observer};
use super::snapshot;
use super::state::MetadataState;

/// The metadata as a replicated state machine.
pub struct MetadataMachine {
    state: Arc<RwLock<MetadataState>>,
    observer: Observer,
}

/// Reads the state of a machine. Cheap to clone.
#[derive(Clone)]
pub struct MetadataReader {
    state: Arc<RwLock<MetadataState>>,
}

impl MetadataReader {
    /// The state at one position of the log, for as long as the guard exists: a request
    /// that looks at more than one thing reads all of them through one guard. No command
    /// is applied meanwhile, so drop it before anything slow.
    pub fn read(&self) -> RwLockReadGuard<'_, MetadataState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A digest of the whole state; equal on every replica at equal positions.
    #[must_use]
    pub fn digest(&self) -> u128 {
        snapshot::digest(&self.read())
    }
}

impl MetadataMachine {
    /// An empty machine, and a reader of it.
    #[must_use]
    pub fn new(observer: Observer) -> (Self, MetadataReader) {
        let state = Arc::default();
        let reader = MetadataReader {
            state: Arc::clone(&state),
        };
        (Self { state, observer }, reader)
    }
}

impl StateMachine for MetadataMachine {
    fn apply(&mut self, context: ApplyContext, command: &[u8]) -> Result<Bytes, UnknownCommand> {
        let command =
            Command::decode(command).map_err(|error| UnknownCommand(error.to_string()))?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.applied = context.index.0;
        state.command_id = command_id(context);
        let earlier = if rule!(TimeMonotonic) { state.now } else { 0 };
        state.now = earlier.max(context.timestamp_micros);
        let mut apply = Apply {
            state: &mut state,
            events: Vec::new(),
        };
        let reply = apply.command(command);
        let mut events = std::mem::take(&mut apply.events);
        // Only meaningful while a command is applied, so not part of a snapshot.
        state.command_id = 0;
        if std::mem::take(&mut state.memberships.revoking_changed) {
            events.push(MetadataEvent::Revoking);
        }
        // Before readers see the state.
        for event in events {
            (self.observer)(event);
        }
        Ok(reply)
    }

    fn timestamp_micros(&self) -> u64 {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.now
    }

    fn freeze(&self) -> Box<dyn FrozenState> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Box::new(Frozen(state.clone()))
    }

    fn restore(&mut self, encoded: &[u8]) -> Result<(), RestoreError> {
        let restored = snapshot::decode(encoded)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = restored;
        (self.observer)(MetadataEvent::Restored);
        Ok(())
    }
}

/// Identifies a command, as no other: all commands of a batch share the index of their
/// entry. In the 20 bits above the index is its position in the entry: the configuration
/// allows 2^20 commands in one. It is the generation of partitions that it creates.
fn command_id(context: ApplyContext) -> u64 {
    context.index.0 | u64::from(context.position) << GENERATION_INDEX_BITS
}

struct Frozen(MetadataState);

impl FrozenState for Frozen {
    fn encode(&self) -> Vec<u8> {
        snapshot::encode(&self.0)
    }
}
