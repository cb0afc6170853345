//! One committed history: what every replica applies, command by command.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use consensus::{ApplyContext, FrozenState, RestoreError, StateMachine};
use twox_hash::XxHash3_64;

/// Every command that any replica has applied, by its place in the log.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    commands: BTreeMap<(u64, u32), u64>,
    broken: Option<String>,
}

impl History {
    /// A state machine whose commands are noted.
    pub(crate) fn record(&self, machine: impl StateMachine + 'static) -> Box<dyn StateMachine> {
        Box::new(Recorded {
            machine,
            history: self.clone(),
        })
    }

    /// Whether all replicas have applied the same so far.
    pub(crate) fn check(&self) -> Result<(), String> {
        let shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.broken.clone().map_or(Ok(()), Err)
    }

    fn applied(&self, context: ApplyContext, command: &[u8], reply: &[u8]) {
        let mut hash = XxHash3_64::oneshot(command);
        hash ^= XxHash3_64::oneshot(reply).rotate_left(1);
        hash ^= context.timestamp_micros.rotate_left(2);
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (context.index.0, context.position);
        let known = *shared.commands.entry(place).or_insert(hash);
        if known != hash && shared.broken.is_none() {
            shared.broken = Some(format!(
                "two commands, or two replies to one, are at {}, position {}",
                place.0, place.1
            ));
        }
    }
}

struct Recorded<M> {
    machine: M,
    history: History,
}

impl<M: StateMachine> StateMachine for Recorded<M> {
    fn apply(&mut self, context: ApplyContext, command: &[u8]) -> Bytes {
        let reply = self.machine.apply(context, command);
        self.history.applied(context, command, &reply);
        reply
    }

    fn freeze(&self) -> Box<dyn FrozenState> {
        self.machine.freeze()
    }

    fn restore(&mut self, encoded: &[u8]) -> Result<(), RestoreError> {
        self.machine.restore(encoded)
    }
}
