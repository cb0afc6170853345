//! Who runs the next round of the replica.
//!
//! At most one thread does at a time, and none waits for another: who finds the engine
//! taken leaves its message to whoever has it. That one looks again after it has let
//! go of the engine, and wakes the consensus thread when something waits; so no
//! message is left lying.

use std::sync::atomic::{AtomicIsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::Instant;

/// What takes turns.
pub(super) trait Rounds: Send {
    /// Handles what waits. The end, when this was the last round.
    fn round(&mut self) -> Option<Result<(), String>>;

    /// When a round is due though nothing happens.
    fn deadline(&self) -> Instant;
}

/// The engine while it runs, and how it ended.
struct Seat<E> {
    engine: Option<E>,
    ended: Option<Result<(), String>>,
    /// Until when the consensus thread sleeps, if nobody wakes it.
    sleeps_until: Option<Instant>,
}

/// Shared by all that may run a round.
pub(super) struct Turns<E> {
    seat: Mutex<Seat<E>>,
    /// Messages that were put in and not taken; less than zero for as long as one is
    /// taken that was not counted yet.
    waiting: AtomicIsize,
    thread: OnceLock<Thread>,
}

impl<E> Default for Turns<E> {
    fn default() -> Self {
        let seat = Seat {
            engine: None,
            ended: None,
            sleeps_until: None,
        };
        Self {
            seat: Mutex::new(seat),
            waiting: AtomicIsize::new(0),
            thread: OnceLock::new(),
        }
    }
}

impl<E: Rounds> Turns<E> {
    /// Rounds can be run from now on.
    pub(super) fn begin(&self, engine: E) {
        self.seat().engine = Some(engine);
    }

    fn seat(&self) -> MutexGuard<'_, Seat<E>> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message was put in.
    pub(super) fn put(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    /// A message was taken.
    pub(super) fn taken(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn some_wait(&self) -> bool {
        // Together with the fence in `run_here`: either this sees the message that was
        // put in, or whoever put it in sees that the engine is free.
        fence(Ordering::SeqCst);
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Runs a round, when nobody does. A message that was put in before is handled by
    /// this round, by whoever runs one now, or by the consensus thread.
    pub(super) fn run_here(&self) {
        fence(Ordering::SeqCst);
        let _panic = WakeOnPanic(self);
        let mut seat = match self.seat.try_lock() {
            Ok(seat) => seat,
            Err(TryLockError::WouldBlock) => return,
            // A round has panicked; the consensus thread finds that too.
            Err(TryLockError::Poisoned(_)) => return self.wake(),
        };
        let late = seat.round();
        drop(seat);
        if late || self.some_wait() {
            self.wake();
        }
    }

    /// Leaves what waits to the consensus thread.
    pub(super) fn wake(&self) {
        // Either the thread is known here, or it sees what was put in when it begins.
        fence(Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// The consensus thread: runs what others leave, and what is due, to the end. After
    /// it the engine is gone, also when a round has panicked: whoever waits for an
    /// answer of it waits no longer.
    pub(super) fn run(&self) -> Result<(), String> {
        let _ = self.thread.set(std::thread::current());
        let _end = End(self);
        loop {
            let Ok(mut seat) = self.seat.lock() else {
                return Err("a round has panicked".into());
            };
            seat.round();
            if let Some(ended) = seat.ended.take() {
                return ended;
            }
            let Some(deadline) = seat.engine.as_ref().map(Rounds::deadline) else {
                return Ok(());
            };
            seat.sleeps_until = Some(deadline);
            drop(seat);
            if !self.some_wait() {
                std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
            }
        }
    }
}

/// A round that panics leaves nobody to look after what waits but the consensus thread.
struct WakeOnPanic<'a, E: Rounds>(&'a Turns<E>);

impl<E: Rounds> Drop for WakeOnPanic<'_, E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.wake();
        }
    }
}

/// The end of the consensus thread, by a return or by a panic.
struct End<'a, E: Rounds>(&'a Turns<E>);

impl<E: Rounds> Drop for End<'_, E> {
    fn drop(&mut self) {
        // Let go of only when nobody else can want the seat.
        let engine = self.0.seat().engine.take();
        drop(engine);
    }
}

impl<E: Rounds> Seat<E> {
    /// A round, when the engine runs. Whether the consensus thread must be woken: the
    /// engine has ended, or something is due before the thread would look.
    fn round(&mut self) -> bool {
        let Some(engine) = &mut self.engine else {
            return false;
        };
        if let Some(ended) = engine.round() {
            self.ended = Some(ended);
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

    /// Adds up what it is given, and ends with a zero.
    struct Sum {
        numbers: mpsc::Receiver<u64>,
        turns: Arc<Turns<Self>>,
        sum: Arc<AtomicU64>,
        deadline: Instant,
        /// How many numbers a round takes.
        most: usize,
    }

    impl Rounds for Sum {
        fn round(&mut self) -> Option<Result<(), String>> {
            for _ in 0..self.most {
                let Ok(number) = self.numbers.try_recv() else {
                    break;
                };
                self.turns.taken();
                if number == 0 {
                    return Some(Err("the end".into()));
                }
                assert_ne!(number, POISON, "a panic that a test wants");
                self.sum.fetch_add(number, Ordering::SeqCst);
            }
            None
        }

        fn deadline(&self) -> Instant {
            self.deadline
        }
    }

    struct Bench {
        turns: Arc<Turns<Sum>>,
        numbers: mpsc::Sender<u64>,
        sum: Arc<AtomicU64>,
        thread: std::thread::JoinHandle<Result<(), String>>,
    }

    fn start(most: usize) -> Bench {
        let turns: Arc<Turns<Sum>> = Arc::default();
        let (sender, numbers) = mpsc::channel();
        let sum = Arc::<AtomicU64>::default();
        turns.begin(Sum {
            numbers,
            turns: Arc::clone(&turns),
            sum: Arc::clone(&sum),
            deadline: Instant::now() + FAR,
            most,
        });
        let runs = Arc::clone(&turns);
        Bench {
            thread: std::thread::spawn(move || runs.run()),
            turns,
            numbers: sender,
            sum,
        }
    }

    /// Nothing is ever due: a message that nobody sees would stay for ever, and the
    /// test with it.
    #[test]
    fn no_message_is_left_lying() {
        const SENDERS: u64 = 8;
        const EACH: u64 = 20_000;
        for most in [1, 3, 4_096] {
            let bench = start(most);
            std::thread::scope(|scope| {
                for sender in 0..SENDERS {
                    let (turns, numbers) = (&bench.turns, bench.numbers.clone());
                    scope.spawn(move || {
                        for number in 1..=EACH {
                            numbers.send(number).expect("the engine runs");
                            turns.put();
                            match (number + sender) % 7 {
                                0 => turns.wake(),
                                _ => turns.run_here(),
                            }
                        }
                    });
                }
            });
            while bench.sum.load(Ordering::SeqCst) < SENDERS * EACH * (EACH + 1) / 2 {
                std::thread::yield_now();
            }
            bench.numbers.send(0).expect("the engine runs");
            bench.turns.put();
            bench.turns.run_here();
            let ended = bench.thread.join().expect("it does not panic");
            assert_eq!(ended, Err("the end".into()));
            // Whoever comes later finds nobody.
            assert!(bench.numbers.send(1).is_err());
            bench.turns.run_here();
        }
    }

    /// A round that another thread runs may find that something is due earlier than
    /// the consensus thread thinks.
    #[test]
    fn an_earlier_deadline_wakes_the_sleeper() {
        let bench = start(1);
        // Until the thread sleeps.
        while bench.turns.seat().sleeps_until.is_none() {
            std::thread::yield_now();
        }
        let late = {
            let mut seat = bench.turns.seat();
            if let Some(engine) = &mut seat.engine {
                engine.deadline = Instant::now();
            }
            seat.round()
        };
        assert!(late);
        let mut seat = bench.turns.seat();
        if let Some(engine) = &mut seat.engine {
            engine.deadline = Instant::now() + 2 * FAR;
        }
        assert!(!seat.round());
        drop(seat);
        bench.numbers.send(0).expect("the engine runs");
        bench.turns.put();
        bench.turns.wake();
        assert!(bench.thread.join().expect("it does not panic").is_err());
    }

    /// Whoever waits for an answer finds that its sender is gone.
    #[test]
    fn a_panic_in_a_round_ends_the_engine_whoever_ran_it() {
        for by_the_thread in [false, true] {
            let bench = start(1);
            bench.numbers.send(POISON).expect("the engine runs");
            bench.turns.put();
            if by_the_thread {
                bench.turns.wake();
                assert!(bench.thread.join().is_err());
            } else {
                let turns = Arc::clone(&bench.turns);
                // The consensus thread may be quicker.
                let _ = std::thread::spawn(move || turns.run_here()).join();
                let ended = bench.thread.join();
                assert!(ended.is_err() || ended.is_ok_and(|result| result.is_err()));
            }
            assert!(bench.numbers.send(1).is_err());
            bench.turns.put();
            bench.turns.run_here();
        }
    }
}
