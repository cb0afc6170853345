//! Work that gathers while earlier work runs.
//!
//! The caller that adds to an idle queue starts a task, which works until the queue is
//! empty. So at most one task of a queue runs at a time, no thread is reserved for it, and
//! what was added together is worked on together.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::error::StorageError;
use crate::files::lock;

pub(super) struct WorkQueue<T> {
    state: Mutex<State<T>>,
    idle: Notify,
}

struct State<T> {
    waiting: VecDeque<T>,
    running: bool,
    shut: Option<StorageError>,
}

impl<T> WorkQueue<T> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                running: false,
                shut: None,
            }),
            idle: Notify::new(),
        }
    }

    /// Adds an item; `true` when the caller has to start the task.
    pub(super) fn add(&self, item: T) -> Result<bool, StorageError> {
        self.add_or_return(item).map_err(|(_, error)| error)
    }

    /// The same, and returns the item that is refused.
    pub(super) fn add_or_return(&self, item: T) -> Result<bool, (T, StorageError)> {
        let mut state = lock(&self.state);
        if let Some(error) = &state.shut {
            let error = error.clone();
            return Err((item, error));
        }
        state.waiting.push_back(item);
        Ok(!std::mem::replace(&mut state.running, true))
    }

    /// Removes items from the front as long as they fit, but at least one. None
    /// when the queue is empty: the task then ends.
    pub(super) fn take(&self, mut fits: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut state = lock(&self.state);
        let count = state.waiting.iter().take_while(|item| fits(item)).count();
        let count = count.max(1).min(state.waiting.len());
        if count == 0 {
            state.running = false;
            self.idle.notify_waiters();
            // An idle queue occupies no memory.
            state.waiting = VecDeque::new();
        }
        state.waiting.drain(..count).collect()
    }

    /// Refuses further items with this error, and returns those that wait.
    pub(super) fn shut(&self, error: StorageError) -> VecDeque<T> {
        let mut state = lock(&self.state);
        state.shut = Some(error);
        std::mem::take(&mut state.waiting)
    }

    /// The task has panicked.
    pub(super) fn abandon(&self) {
        lock(&self.state).running = false;
        self.idle.notify_waiters();
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// Waits until no task runs.
    pub(super) async fn idle(&self) {
        loop {
            let stopped = self.idle.notified();
            tokio::pin!(stopped);
            stopped.as_mut().enable();
            if !lock(&self.state).running {
                return;
            }
            stopped.await;
        }
    }
}
