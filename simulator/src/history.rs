//! One committed history: what every replica applies, command by command.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use adapters::metadata::{
    ClientOperation, Command, Group, GroupChange, MetadataMachine, MetadataReader,
};
use bytes::Bytes;
use consensus::{ApplyContext, FrozenState, RestoreError, StateMachine, UnknownCommand};
use twox_hash::XxHash3_64;

use crate::world::GROUP;

/// Every command that any replica has applied, by its place in the log.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    commands: BTreeMap<(u64, u32), u64>,
    broken: Option<String>,
}

impl History {
    /// A state machine whose commands are noted, and a reader of it.
    pub(crate) fn record(&self) -> (Box<dyn StateMachine>, MetadataReader) {
        let (machine, reader) = MetadataMachine::new(Box::new(drop));
        let recorded = Recorded {
            machine,
            reader: reader.clone(),
            history: self.clone(),
        };
        (Box::new(recorded), reader)
    }

    /// Whether all replicas have applied the same so far.
    pub(crate) fn check(&self) -> Result<(), String> {
        let shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.broken.clone().map_or(Ok(()), Err)
    }

    fn fails(&self, what: impl FnOnce() -> String) {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.broken.get_or_insert_with(what);
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

fn group(reader: &MetadataReader) -> Option<Arc<Group>> {
    let state = reader.read();
    let (_, group) = state.group(&GROUP)?;
    Some(Arc::clone(group))
}

/// A partition leaves a member that stays only when its revocation ends, or when another
/// joins and nothing that was served of it is open.
fn moves_wrongly(before: &Group, after: &Group, command: &[u8]) -> Option<String> {
    let command = Command::decode(command).ok()?;
    for (partition, holder) in before.assignments() {
        let next = after.holder(partition);
        if next == Some(holder) || after.member(holder).is_none() {
            continue;
        }
        let mut revocations = before.revocations();
        let revocation = revocations.find(|(of, ..)| *of == partition);
        let may_move = match &command {
            Command::CompleteRevocation {
                partition: of, id, ..
            } => *of == partition && revocation.is_some_and(|(.., it)| it.id == *id),
            Command::ExpireRevocations { .. } => revocation.is_some(),
            Command::Client(request) => match &request.operation {
                ClientOperation::Group(operation) => match &operation.change {
                    GroupChange::Join { busy, .. } => !busy.contains(&partition),
                    _ => false,
                },
                _ => false,
            },
            _ => false,
        };
        if !may_move || next.is_none() {
            return Some(format!(
                "partition {partition} moves from client {holder} to {next:?} without a revocation"
            ));
        }
    }
    None
}

struct Recorded {
    machine: MetadataMachine,
    reader: MetadataReader,
    history: History,
}

impl StateMachine for Recorded {
    fn apply(&mut self, context: ApplyContext, command: &[u8]) -> Result<Bytes, UnknownCommand> {
        let before = self.reader.read().now();
        let group_before = group(&self.reader);
        let reply = self.machine.apply(context, command)?;
        if let (Some(before), Some(after)) = (group_before, group(&self.reader))
            && before.generation != after.generation
            && let Some(what) = moves_wrongly(&before, &after, command)
        {
            self.history
                .fails(|| format!("{what} at {}, position {}", context.index, context.position));
        }
        self.history.applied(context, command, &reply);
        if self.reader.read().now() < before {
            self.history.fails(|| {
                format!(
                    "the time of the state goes back at {}, position {}",
                    context.index, context.position
                )
            });
        }
        Ok(reply)
    }

    fn timestamp_micros(&self) -> u64 {
        self.machine.timestamp_micros()
    }

    /// What is frozen has to come back as it was: all replicas leave out alike what
    /// the encoding leaves out.
    fn freeze(&self) -> Box<dyn FrozenState> {
        let frozen = self.machine.freeze();
        let (mut restored, reader) = MetadataMachine::new(Box::new(drop));
        let is_same = match restored.restore(&frozen.encode()) {
            Ok(()) => *reader.read() == *self.reader.read(),
            Err(_) => false,
        };
        if !is_same {
            let applied = self.reader.read().applied();
            self.history
                .fails(|| format!("a snapshot at {applied} does not give the state back"));
        }
        frozen
    }

    fn restore(&mut self, encoded: &[u8]) -> Result<(), RestoreError> {
        self.machine.restore(encoded)
    }
}
