//! A limit in bytes per second, shared by lanes to several peers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What was not used in this time may be used later, so that late timers do not lower the rate.
const BURST: Duration = Duration::from_millis(50);

/// Bytes per second that may be written, by all lanes that share it.
#[derive(Debug, Default)]
pub(super) struct RateLimit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Zero without a limit.
    bytes_per_second: u64,
    /// When what was written so far fits the rate.
    free_at: Option<Instant>,
}

impl RateLimit {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the rate; zero is no limit.
    pub(super) fn set(&self, bytes_per_second: u64) {
        *self.state() = State {
            bytes_per_second,
            free_at: None,
        };
    }

    /// Until when nothing may be written, or `None`.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.state().free_at.filter(|at| *at > now)
    }

    /// Counts what was written.
    pub(super) fn spend(&self, now: Instant, bytes: usize) {
        let mut state = self.state();
        if state.bytes_per_second == 0 {
            return;
        }
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = state.free_at.map_or(earliest, |at| at.max(earliest));
        let seconds = bytes as f64 / state.bytes_per_second as f64;
        state.free_at = Some(from + Duration::from_secs_f64(seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that are written within a time, in pieces, by timers that are late.
    fn written(limit: &RateLimit, time: Duration, piece: usize, late: Duration) -> usize {
        let start = Instant::now();
        let (mut now, mut bytes) = (start, 0);
        while now < start + time {
            match limit.until(now) {
                Some(until) => now = until + late,
                None => {
                    limit.spend(now, piece);
                    bytes += piece;
                }
            }
        }
        bytes
    }

    #[test]
    fn the_rate_is_kept_whatever_the_pieces_and_timers() {
        let rate = 10 << 20;
        for piece in [1 << 10, 256 << 10, 1 << 20] {
            for late in [0, 1, 20] {
                let limit = RateLimit::default();
                limit.set(rate);
                let late = Duration::from_millis(late);
                let written = written(&limit, Duration::from_secs(10), piece, late) as f64;
                let expected = 10.0 * rate as f64;
                assert!(
                    (0.95..1.03).contains(&(written / expected)),
                    "{piece} {late:?}: {written}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_used_is_not_kept_and_a_new_rate_starts_anew() {
        let limit = RateLimit::default();
        let now = Instant::now();
        limit.spend(now, 1 << 30);
        assert_eq!(limit.until(now), None);
        limit.set(1_000);
        limit.spend(now, 1_000);
        let later = now + Duration::from_secs(3_600);
        assert_eq!(limit.until(later), None);
        limit.spend(later, 1_000);
        assert!(
            limit
                .until(later)
                .is_some_and(|until| until >= later + Duration::from_millis(950))
        );
        limit.set(0);
        assert_eq!(limit.until(later), None);
    }
}
