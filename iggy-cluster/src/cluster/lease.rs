//! How long a node may serve from its local state.
//!
//! A node that is cut off, or that applies slowly, does not know what others have
//! acknowledged in the meantime. So it serves from its local state only for a bounded time
//! after a confirmed read: the lease. It counts from the start of that read, when the state
//! contained everything that was acknowledged. Another node that has waited for longer than
//! the lease after a change was committed therefore knows that no node serves from a state
//! without it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the clocks of two nodes may differ in rate: an eighth of the lease.
const DRIFT_DIVISOR: u32 = 8;

pub(super) struct Lease {
    length: Duration,
    started: Instant,
    /// Microseconds from `started` to the start of the last confirmed read, plus one; zero
    /// without any.
    confirmed: AtomicU64,
}

impl Lease {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            length,
            started: Instant::now(),
            confirmed: AtomicU64::new(0),
        }
    }

    /// A read that started at this time is confirmed.
    pub(super) fn renew(&self, at: Instant) {
        let since = at.saturating_duration_since(self.started).as_micros();
        let since = u64::try_from(since).unwrap_or(u64::MAX - 1) + 1;
        self.confirmed.fetch_max(since, Ordering::Release);
    }

    pub(super) fn is_valid(&self, now: Instant) -> bool {
        let Some(confirmed) = self.confirmed.load(Ordering::Acquire).checked_sub(1) else {
            return false;
        };
        let age = now.saturating_duration_since(self.started);
        age.saturating_sub(Duration::from_micros(confirmed)) < self.length
    }

    /// Two renewals may fail before the lease ends.
    pub(super) fn renewal_interval(&self) -> Duration {
        self.length / 3
    }

    /// After this time, a lease of another node has ended, by the clock of this one.
    pub(super) fn certainly_over(&self) -> Duration {
        self.length.saturating_add(self.length / DRIFT_DIVISOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_the_start_of_the_latest_confirmed_read() {
        let second = Duration::from_secs(1);
        let lease = Lease::new(3 * second);
        let start = lease.started;
        assert!(!lease.is_valid(start), "nothing is confirmed");
        lease.renew(start + second);
        assert!(lease.is_valid(start + 3 * second));
        assert!(!lease.is_valid(start + 4 * second));
        lease.renew(start + 2 * second);
        // An earlier read may be confirmed later.
        lease.renew(start + second);
        assert!(lease.is_valid(start + 4 * second));
        assert!(!lease.is_valid(start + 5 * second));
        assert!(lease.certainly_over() > 3 * second);
    }
}
