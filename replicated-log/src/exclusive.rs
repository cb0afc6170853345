//! Runs the rounds of the replica, one at a time, on the thread that has work for it.
//!
//! This is a combining lock (flat combining: Hendler, Incze, Shavit, Tzafrir, SPAA 2010)
//! in which no thread waits. A thread that has posted a message runs a round itself if no
//! other thread does. If one does, the message is left to that thread, which looks for
//! messages again after it has released the lock, and wakes the consensus thread if there
//! are any. So no message is left unhandled.

use std::sync::atomic::{AtomicIsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::Instant;

use crate::error::{FatalError, LogThread};

/// Something that handles messages in rounds.
pub(crate) trait Rounds: Send {
    /// Handles the messages that were posted. Returns the result of the replica if this
    /// was the last round.
    fn round(&mut self) -> Option<Result<(), FatalError>>;

    /// When a round is due although no message is posted.
    fn deadline(&self) -> Instant;
}

impl<E: Rounds + ?Sized> Rounds for Box<E> {
    fn round(&mut self) -> Option<Result<(), FatalError>> {
        (**self).round()
    }

    fn deadline(&self) -> Instant {
        (**self).deadline()
    }
}

/// What the lock protects: the engine while it runs, and its result afterwards.
struct Exclusive<E> {
    engine: Option<E>,
    result: Option<Result<(), FatalError>>,
    /// When the consensus thread wakes up if no other thread wakes it.
    sleeps_until: Option<Instant>,
}

/// Shared by all threads that may run a round.
pub(crate) struct ExclusiveRunner<E> {
    exclusive: Mutex<Exclusive<E>>,
    /// Messages posted and not yet taken. Below zero for the moment between the taking of
    /// a message and the counting of its posting.
    pending: AtomicIsize,
    /// The consensus thread.
    thread: OnceLock<Thread>,
}

impl<E> Default for ExclusiveRunner<E> {
    fn default() -> Self {
        let exclusive = Exclusive {
            engine: None,
            result: None,
            sleeps_until: None,
        };
        Self {
            exclusive: Mutex::new(exclusive),
            pending: AtomicIsize::new(0),
            thread: OnceLock::new(),
        }
    }
}

impl<E: Rounds> ExclusiveRunner<E> {
    /// Allows rounds of this engine from now on.
    pub(crate) fn install(&self, engine: E) {
        self.lock().engine = Some(engine);
    }

    fn lock(&self) -> MutexGuard<'_, Exclusive<E>> {
        self.exclusive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message that was posted.
    pub(crate) fn posted(&self) {
        self.pending.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts a message that the engine has taken.
    pub(crate) fn taken(&self) {
        self.pending.fetch_sub(1, Ordering::SeqCst);
    }

    fn has_pending(&self) -> bool {
        // Together with the fence in `run_here`: either this load sees the message that
        // was posted, or the thread that posted it finds the lock free.
        fence(Ordering::SeqCst);
        self.pending.load(Ordering::SeqCst) > 0
    }

    /// Runs a round, unless another thread runs one. A message posted before is handled
    /// by this round, by the thread that runs one now, or by the consensus thread.
    pub(crate) fn run_here(&self) {
        fence(Ordering::SeqCst);
        let _panic = WakeOnPanic(self);
        let mut exclusive = match self.exclusive.try_lock() {
            Ok(exclusive) => exclusive,
            Err(TryLockError::WouldBlock) => return,
            // A round has panicked; the consensus thread finds that too.
            Err(TryLockError::Poisoned(_)) => return self.wake(),
        };
        let wake = exclusive.round();
        drop(exclusive);
        if wake || self.has_pending() {
            self.wake();
        }
    }

    /// Leaves the messages that were posted to the consensus thread.
    pub(crate) fn wake(&self) {
        // Either the thread is known here, or it sees what was posted when it starts.
        fence(Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// The consensus thread: runs the rounds that other threads leave to it, and those
    /// that are due, until the last one. Afterwards the engine is dropped, also after a
    /// panic in a round, so that callers that wait for its replies stop waiting.
    pub(crate) fn run_to_end(&self) -> Result<(), FatalError> {
        let _ = self.thread.set(std::thread::current());
        let _end = DropEngine(self);
        loop {
            let Ok(mut exclusive) = self.exclusive.lock() else {
                return Err(FatalError::panic(LogThread::Consensus));
            };
            exclusive.round();
            if let Some(result) = exclusive.result.take() {
                return result;
            }
            let Some(deadline) = exclusive.engine.as_ref().map(Rounds::deadline) else {
                return Ok(());
            };
            exclusive.sleeps_until = Some(deadline);
            drop(exclusive);
            if !self.has_pending() {
                std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
            }
        }
    }
}

/// After a panic in a round, only the consensus thread can handle the messages that are
/// pending.
struct WakeOnPanic<'a, E: Rounds>(&'a ExclusiveRunner<E>);

impl<E: Rounds> Drop for WakeOnPanic<'_, E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.wake();
        }
    }
}

/// Drops the engine when the consensus thread ends, by a return or by a panic.
struct DropEngine<'a, E: Rounds>(&'a ExclusiveRunner<E>);

impl<E: Rounds> Drop for DropEngine<'_, E> {
    fn drop(&mut self) {
        // Dropped after the lock is released: its drop may post messages.
        let engine = self.0.lock().engine.take();
        drop(engine);
    }
}

impl<E: Rounds> Exclusive<E> {
    /// Runs a round if the engine is installed. Returns whether the consensus thread must
    /// be woken: the engine has ended, or a round is due before the thread wakes up.
    fn round(&mut self) -> bool {
        let Some(engine) = &mut self.engine else {
            return false;
        };
        if let Some(result) = engine.round() {
            self.result = Some(result);
            // The threads that it feeds end with it.
            self.engine = None;
            return true;
        }
        let deadline = engine.deadline();
        self.sleeps_until.is_some_and(|until| deadline < until)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use super::*;

    const FAR: Duration = Duration::from_secs(3_600);
    /// The number at which a round panics.
    const POISON: u64 = u64::MAX;

    /// Adds up the numbers that are posted, and ends with a zero.
    struct Sum {
        numbers: mpsc::Receiver<u64>,
        runner: Arc<ExclusiveRunner<Self>>,
        sum: Arc<AtomicU64>,
        deadline: Instant,
        /// How many numbers a round handles at most.
        round_max: usize,
    }

    impl Rounds for Sum {
        fn round(&mut self) -> Option<Result<(), FatalError>> {
            for _ in 0..self.round_max {
                let Ok(number) = self.numbers.try_recv() else {
                    break;
                };
                self.runner.taken();
                if number == 0 {
                    return Some(Err(FatalError::panic(LogThread::Wal)));
                }
                assert_ne!(number, POISON, "a panic on purpose");
                self.sum.fetch_add(number, Ordering::SeqCst);
            }
            None
        }

        fn deadline(&self) -> Instant {
            self.deadline
        }
    }

    struct Fixture {
        runner: Arc<ExclusiveRunner<Sum>>,
        numbers: mpsc::Sender<u64>,
        sum: Arc<AtomicU64>,
        thread: std::thread::JoinHandle<Result<(), FatalError>>,
    }

    fn start(round_max: usize) -> Fixture {
        let runner: Arc<ExclusiveRunner<Sum>> = Arc::default();
        let (sender, numbers) = mpsc::channel();
        let sum = Arc::<AtomicU64>::default();
        runner.install(Sum {
            numbers,
            runner: Arc::clone(&runner),
            sum: Arc::clone(&sum),
            deadline: Instant::now() + FAR,
            round_max,
        });
        let runs = Arc::clone(&runner);
        Fixture {
            thread: std::thread::spawn(move || runs.run_to_end()),
            runner,
            numbers: sender,
            sum,
        }
    }

    /// No round is ever due: the test would hang with a message that is left unhandled.
    #[test]
    fn no_message_is_left_unhandled() {
        const SENDERS: u64 = 8;
        const EACH: u64 = 20_000;
        for round_max in [1, 3, 4_096] {
            let fixture = start(round_max);
            std::thread::scope(|scope| {
                for sender in 0..SENDERS {
                    let (runner, numbers) = (&fixture.runner, fixture.numbers.clone());
                    scope.spawn(move || {
                        for number in 1..=EACH {
                            numbers.send(number).expect("the engine runs");
                            runner.posted();
                            match (number + sender) % 7 {
                                0 => runner.wake(),
                                _ => runner.run_here(),
                            }
                        }
                    });
                }
            });
            while fixture.sum.load(Ordering::SeqCst) < SENDERS * EACH * (EACH + 1) / 2 {
                std::thread::yield_now();
            }
            fixture.numbers.send(0).expect("the engine runs");
            fixture.runner.posted();
            fixture.runner.run_here();
            let ended = fixture.thread.join().expect("it does not panic");
            assert_eq!(ended.unwrap_err().thread, LogThread::Wal);
            // The engine is gone.
            assert!(fixture.numbers.send(1).is_err());
            fixture.runner.run_here();
        }
    }

    /// After a round on another thread, the next may be due before the consensus thread
    /// wakes up.
    #[test]
    fn an_earlier_deadline_wakes_the_sleeper() {
        let fixture = start(1);
        // Until the thread sleeps.
        while fixture.runner.lock().sleeps_until.is_none() {
            std::thread::yield_now();
        }
        let wake = {
            let mut exclusive = fixture.runner.lock();
            if let Some(engine) = &mut exclusive.engine {
                engine.deadline = Instant::now();
            }
            exclusive.round()
        };
        assert!(wake);
        let mut exclusive = fixture.runner.lock();
        if let Some(engine) = &mut exclusive.engine {
            engine.deadline = Instant::now() + 2 * FAR;
        }
        assert!(!exclusive.round());
        drop(exclusive);
        fixture.numbers.send(0).expect("the engine runs");
        fixture.runner.posted();
        fixture.runner.wake();
        assert!(fixture.thread.join().expect("it does not panic").is_err());
    }

    /// A caller that waits for a reply finds that its sender is gone.
    #[test]
    fn a_panic_in_a_round_ends_the_engine_whichever_thread_ran_it() {
        for on_consensus_thread in [false, true] {
            let fixture = start(1);
            fixture.numbers.send(POISON).expect("the engine runs");
            fixture.runner.posted();
            if on_consensus_thread {
                fixture.runner.wake();
                assert!(fixture.thread.join().is_err());
            } else {
                let runner = Arc::clone(&fixture.runner);
                // The consensus thread may run the round first.
                let _ = std::thread::spawn(move || runner.run_here()).join();
                let ended = fixture.thread.join();
                assert!(ended.is_err() || ended.is_ok_and(|result| result.is_err()));
            }
            assert!(fixture.numbers.send(1).is_err());
            fixture.runner.posted();
            fixture.runner.run_here();
        }
    }
}
