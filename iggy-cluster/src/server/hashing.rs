//! Whose password is hashed next. Hashing is slow on purpose, so few hashes are computed
//! concurrently, and a flood of logins must not keep the others waiting.
//!
//! Each network has one hash at a time, so networks take turns. Those without failed logins
//! go before those that guess, which have a share of their own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Of so many hashes, one is for a network that guesses, if any waits.
const GUESSING_SHARE: u32 = 4;

/// The places in which hashes are computed.
pub(super) struct Places {
    inner: Mutex<Inner>,
}

struct Inner {
    free: usize,
    /// Given since the last for a network that guesses.
    since_guessing: u32,
    trusted: VecDeque<oneshot::Sender<Place>>,
    guessing: VecDeque<oneshot::Sender<Place>>,
}

/// One of the places, until it is dropped.
pub(super) struct Place {
    places: Option<Arc<Places>>,
}

impl Places {
    pub(super) fn new(count: usize) -> Arc<Self> {
        let inner = Inner {
            free: count,
            since_guessing: 0,
            trusted: VecDeque::new(),
            guessing: VecDeque::new(),
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
        })
    }

    /// Waits for a place.
    pub(super) async fn enter(self: &Arc<Self>, guesses: bool) -> Place {
        let (give, given) = oneshot::channel();
        {
            let mut inner = self.lock();
            match guesses {
                true => inner.guessing.push_back(give),
                false => inner.trusted.push_back(give),
            }
        }
        self.give();
        let Ok(place) = given.await else {
            unreachable!("a queued sender is dropped only after it was used");
        };
        place
    }

    /// Gives free places to those that wait.
    fn give(self: &Arc<Self>) {
        loop {
            let next = {
                let mut inner = self.lock();
                if inner.free == 0 {
                    return;
                }
                let Some(next) = inner.next() else {
                    return;
                };
                inner.free -= 1;
                next
            };
            let place = Place {
                places: Some(Arc::clone(self)),
            };
            // One that has stopped waiting drops it, which is not to recurse.
            if let Err(mut place) = next.send(place) {
                place.places = None;
                self.lock().free += 1;
            }
        }
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        let inner = self.lock();
        inner.trusted.len() + inner.guessing.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn next(&mut self) -> Option<oneshot::Sender<Place>> {
        self.trusted.retain(|waits| !waits.is_closed());
        self.guessing.retain(|waits| !waits.is_closed());
        let is_due = self.since_guessing + 1 >= GUESSING_SHARE || self.trusted.is_empty();
        if is_due && let Some(next) = self.guessing.pop_front() {
            self.since_guessing = 0;
            return Some(next);
        }
        self.since_guessing += 1;
        self.trusted.pop_front()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.places.take() {
            places.lock().free += 1;
            places.give();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order in which these wait for the one place, and the order in which they get it.
    async fn order(waiting: &[(&'static str, bool)]) -> Vec<&'static str> {
        let places = Places::new(1);
        let first = places.enter(false).await;
        let (served, mut order) = tokio::sync::mpsc::unbounded_channel();
        for (name, guesses) in waiting {
            let (places, served) = (Arc::clone(&places), served.clone());
            let (name, guesses) = (*name, *guesses);
            tokio::spawn(async move {
                let _place = places.enter(guesses).await;
                served.send(name).unwrap();
            });
        }
        drop(served);
        // All of them wait before the place is free.
        while places.waiting() < waiting.len() {
            tokio::task::yield_now().await;
        }
        drop(first);
        let mut names = Vec::new();
        while let Some(name) = order.recv().await {
            names.push(name);
        }
        names
    }

    #[tokio::test]
    async fn networks_that_guess_wait_for_the_others_and_have_a_share() {
        let flood = [("guess", true); 6];
        let honest = [("honest", false); 6];
        let order = order(&[&flood[..], &honest[..]].concat()).await;
        let first = order.iter().position(|name| *name == "honest");
        assert!(first.is_some_and(|first| first <= 1), "{order:?}");
        let guesses = order[..8].iter().filter(|name| **name == "guess");
        assert_eq!(guesses.count(), 2, "{order:?}");
        assert_eq!(order.len(), 12);
    }

    #[tokio::test]
    async fn one_that_stops_waiting_takes_no_place() {
        let places = Places::new(1);
        let first = places.enter(false).await;
        for guesses in [false, true] {
            let mut waits = Box::pin(places.enter(guesses));
            let waker = std::task::Waker::noop();
            let mut context = std::task::Context::from_waker(waker);
            assert!(waits.as_mut().poll(&mut context).is_pending());
            drop(waits);
        }
        drop(first);
        drop(places.enter(true).await);
        assert_eq!(places.lock().free, 1);
    }
}
