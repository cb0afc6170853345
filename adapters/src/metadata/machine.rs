//! The metadata as a replicated state machine, and how its state is read.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use consensus::rule;
use consensus::{ApplyContext, FrozenState, ReplicaId, RestoreError, StateMachine};

use partitions::PartitionKey;

use super::apply::Apply;
use super::commands::Command;
use super::error::MetadataError;
use super::memberships::RemovedGroup;
use super::reply::Reply;
use super::snapshot;
use super::state::MetadataState;

/// Bits of a life's number that are the entry's index. Above them is the position
/// in the batch: configuration allows 2^20 commands.
const INDEX_BITS: u32 = 44;

/// What changed, for the node that holds this replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataEvent {
    /// These partitions are gone for good.
    PartitionsRemoved(Vec<PartitionKey>),
    /// A node registered.
    NodeRegistered(ReplicaId),
    /// A node was fenced.
    NodeFenced(ReplicaId),
    /// These clients have no session any more.
    SessionsClosed(Vec<u128>),
    /// A consumer group is gone.
    GroupRemoved(RemovedGroup),
    /// Partitions are to change hands in a consumer group.
    Revoking,
    /// The whole state was replaced.
    Restored,
}

/// Takes note of changes; must be quick.
pub type Observer = Box<dyn FnMut(MetadataEvent) + Send>;

/// The metadata as a replicated state machine.
pub struct MetadataMachine {
    state: Arc<RwLock<MetadataState>>,
    observer: Observer,
}

/// Reads the state that a machine applies to. Cheap to clone.
#[derive(Clone)]
pub struct MetadataReader {
    state: Arc<RwLock<MetadataState>>,
}

impl MetadataReader {
    /// The state as it is now. Applying waits while the guard is held: do not
    /// hold it across anything slow.
    pub fn read(&self) -> RwLockReadGuard<'_, MetadataState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A digest of the whole state; equal on every replica at equal positions.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let frozen = self.read().clone();
        snapshot::digest(&frozen)
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
    fn apply(&mut self, context: ApplyContext, command: &[u8]) -> Bytes {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.applied = context.index.0;
        state.life = life(context);
        let earlier = match rule!(TimeMonotonic) {
            true => state.now,
            false => 0,
        };
        state.now = earlier.max(context.timestamp_micros);
        let mut apply = Apply {
            state: &mut state,
            events: Vec::new(),
        };
        let reply = match Command::decode(command) {
            Ok(command) => apply.command(command),
            Err(_) => Reply::from(MetadataError::InvalidCommand).encode(),
        };
        let mut events = std::mem::take(&mut apply.events);
        // Of this command alone, so not part of what a snapshot holds.
        state.life = 0;
        if std::mem::take(&mut state.memberships.stirred) {
            events.push(MetadataEvent::Revoking);
        }
        drop(state);
        for event in events {
            (self.observer)(event);
        }
        reply
    }

    fn freeze(&self) -> Box<dyn FrozenState> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Box::new(Frozen(state.clone()))
    }

    fn restore(&mut self, encoded: &[u8]) -> Result<(), RestoreError> {
        let restored = snapshot::decode(encoded)?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = restored;
        (self.observer)(MetadataEvent::Restored);
        Ok(())
    }
}

/// Names what a command creates, as no other command does: all commands of a
/// batch share its entry's index.
fn life(context: ApplyContext) -> u64 {
    context.index.0 | u64::from(context.position) << INDEX_BITS
}

struct Frozen(MetadataState);

impl FrozenState for Frozen {
    fn encode(&self) -> Vec<u8> {
        snapshot::encode(&self.0)
    }
}
