//! Work that gathers while earlier work is under way.
//!
//! Whoever adds to a lane that stands still has to see to it that someone takes
//! from it; that one goes on until nothing waits. So at most one works at a time,
//! no one waits for a thread of its own, and what came in together goes together.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::StorageError;
use super::files::lock;

pub(super) struct Lane<T> {
    state: Mutex<State<T>>,
    stopped: Notify,
}

struct State<T> {
    waiting: VecDeque<T>,
    running: bool,
    shut: Option<StorageError>,
}

impl<T> Lane<T> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                running: false,
                shut: None,
            }),
            stopped: Notify::new(),
        }
    }

    /// Adds to the lane; `true` when the caller has to start the work.
    pub(super) fn add(&self, item: T) -> Result<bool, StorageError> {
        let mut state = lock(&self.state);
        if let Some(error) = &state.shut {
            return Err(error.clone());
        }
        state.waiting.push_back(item);
        Ok(!std::mem::replace(&mut state.running, true))
    }

    /// What waits, from the front as long as `fits`, but at least one. Nothing
    /// when nothing waits: the work has then ended.
    pub(super) fn take(&self, mut fits: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut state = lock(&self.state);
        let count = state.waiting.iter().take_while(|item| fits(item)).count();
        let count = count.max(1).min(state.waiting.len());
        if count == 0 {
            state.running = false;
            self.stopped.notify_waiters();
            // An idle lane holds no memory.
            state.waiting = VecDeque::new();
        }
        state.waiting.drain(..count).collect()
    }

    /// Lets nothing in any more, and gives back what waits.
    pub(super) fn shut(&self, error: StorageError) -> VecDeque<T> {
        let mut state = lock(&self.state);
        state.shut = Some(error);
        std::mem::take(&mut state.waiting)
    }

    /// The one who worked is gone.
    pub(super) fn abandon(&self) {
        lock(&self.state).running = false;
        self.stopped.notify_waiters();
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// Until nobody works on what was added.
    pub(super) async fn idle(&self) {
        loop {
            let stopped = self.stopped.notified();
            tokio::pin!(stopped);
            stopped.as_mut().enable();
            if !lock(&self.state).running {
                return;
            }
            stopped.await;
        }
    }
}
