//! The disk operations of a copy, in their order. While the disk is full they are delayed, and
//! tried again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ::partitions::replication::{Event, Start, Ticket};
use ::partitions::{Operation, StorageError};
use replicated_log::links::Credit;
use tokio::sync::oneshot;

use super::copy::{Copy, State};

/// How long operations are delayed that found the disk full.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An operation that is not done.
pub(super) struct Pending {
    number: u64,
    operation: Operation,
    /// What its copy waits for.
    ticket: Option<Ticket>,
    /// Released when the operation is done.
    _credit: Option<Credit>,
}

/// Operations that the storage does one after the other.
#[derive(Default)]
pub(super) struct Queue {
    last: u64,
    /// Given to the storage.
    submitted: VecDeque<Pending>,
    /// Those that found the disk full, and what follows them.
    delayed: VecDeque<Pending>,
    /// When they are tried again.
    retry_at: Option<Duration>,
}

/// Which queue of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Log,
    Table,
}

impl Queue {
    fn delay(&mut self, pending: Pending) {
        let number = pending.number;
        let at = self.delayed.partition_point(|it| it.number < number);
        self.delayed.insert(at, pending);
    }
}

impl Of {
    fn operation(operation: &Operation) -> Self {
        match operation {
            Operation::Table(_) => Self::Table,
            _ => Self::Log,
        }
    }

    fn queue(self, state: &mut State) -> &mut Queue {
        match self {
            Self::Log => &mut state.log,
            Self::Table => &mut state.table,
        }
    }
}

impl Copy {
    pub(super) fn submit(
        self: &Arc<Self>,
        state: &mut State,
        operation: Operation,
        ticket: Option<Ticket>,
        credit: Option<Credit>,
    ) {
        let of = Of::operation(&operation);
        let queue = of.queue(state);
        queue.last += 1;
        let pending = Pending {
            number: queue.last,
            operation,
            ticket,
            _credit: credit,
        };
        if queue.delayed.is_empty() {
            self.give(of, queue, pending);
        } else {
            queue.delayed.push_back(pending);
        }
    }

    fn give(self: &Arc<Self>, of: Of, queue: &mut Queue, pending: Pending) {
        let operation = pending.operation.clone();
        let number = pending.number;
        queue.submitted.push_back(pending);
        let copy = Arc::clone(self);
        let done = move |result: Result<(), StorageError>| copy.operated(of, number, &result);
        self.stored.submit(operation, Box::new(done));
    }

    fn operated(self: &Arc<Self>, of: Of, number: u64, result: &Result<(), StorageError>) {
        self.step(|copy, state| {
            let now = copy.node.now();
            let queue = of.queue(state);
            let at = queue.submitted.iter().position(|it| it.number == number)?;
            let pending = queue.submitted.remove(at)?;
            let delayed = queue.delayed.front().is_some_and(|it| it.number < number);
            let event = match result {
                // A sync does not cover what is still to be written.
                Ok(()) if delayed => {
                    queue.delay(pending);
                    None
                }
                Ok(()) => pending.ticket.map(|ticket| Event::Done { ticket }),
                // It had no effect, nor had those behind it.
                Err(StorageError::Full { .. } | StorageError::NotNext { .. }) => {
                    queue.delay(pending);
                    None
                }
                Err(_) => pending.ticket.map(|ticket| Event::Failed { ticket }),
            };
            if queue.submitted.is_empty() && !queue.delayed.is_empty() {
                queue.retry_at.get_or_insert(now + RETRY_AFTER);
            }
            event
        });
    }

    /// Tries delayed operations again.
    pub(super) fn retry_delayed(self: &Arc<Self>, state: &mut State) {
        let now = self.node.now();
        for of in [Of::Log, Of::Table] {
            let queue = of.queue(state);
            if queue.retry_at.is_some_and(|at| at <= now) {
                queue.retry_at = None;
                for pending in std::mem::take(&mut queue.delayed) {
                    self.give(of, queue, pending);
                }
            }
        }
    }

    /// Seals the last segment if it is full, so that it may be removed without another record
    /// after it.
    pub(crate) async fn seal_full(self: &Arc<Self>) -> Result<(), StorageError> {
        let (sender, sealed) = oneshot::channel();
        {
            let state = self.state();
            let sessions = state.replica.after_full_segment();
            let Some(sessions) = sessions.filter(|_| state.log.delayed.is_empty()) else {
                return Ok(());
            };
            let start = Operation::StartSegment { sessions };
            self.stored.submit(start, Box::new(drop));
            let done = move |result| drop(sender.send(result));
            self.stored.submit(Operation::Seal, Box::new(done));
        }
        sealed.await.unwrap_or(Err(StorageError::Closed))
    }

    /// Removes old segments. If that fails, the next removal tries again.
    pub(super) fn trim(self: &Arc<Self>, start: Start) {
        let copy = Arc::clone(self);
        let done = move |result: Result<(), StorageError>| {
            if result.is_ok() {
                let start = copy.stored.start();
                copy.step(|_, state| {
                    state.refused = true;
                    Some(Event::Trimmed { start })
                });
            }
        };
        self.stored
            .submit(Operation::Trim { start }, Box::new(done));
    }
}
