//! How long a node may serve from its local state.
//!
//! A node that is cut off, or that applies slowly, does not know what others have
//! acknowledged in the meantime. So it serves from its local state only for a bounded time
//! after a confirmed read: the lease. It counts from the start of that read, when the state
//! contained everything that was acknowledged. Another node that has waited for longer than
//! the lease after a change was committed therefore knows that no node serves from a state
//! without it. Its clock counts while the machine is suspended: the other nodes have not
//! waited for that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What the clocks of two nodes may differ in rate: an eighth of the lease.
const DRIFT_DIVISOR: u32 = 8;

/// A moment by a clock that does not stop while the machine is suspended, as that of
/// `std::time::Instant` does on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LeaseTime {
    since_boot: Duration,
}

impl LeaseTime {
    pub(super) fn now() -> Self {
        #[cfg(target_os = "linux")]
        let clock = ClockId::Boottime;
        // Elsewhere this one does not stop.
        #[cfg(not(target_os = "linux"))]
        let clock = ClockId::Monotonic;
        let now = clock_gettime(clock);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
        Self {
            since_boot: Duration::new(seconds, nanos),
        }
    }
}

pub(super) struct Lease {
    length: Duration,
    started: LeaseTime,
    /// Microseconds from `started` to the start of the last confirmed read, plus one; zero
    /// without any.
    confirmed: AtomicU64,
}

impl Lease {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            length,
            started: LeaseTime::now(),
            confirmed: AtomicU64::new(0),
        }
    }

    /// A read that started at this time is confirmed.
    pub(super) fn renew(&self, at: LeaseTime) {
        let since = u64::try_from(self.age(at).as_micros()).unwrap_or(u64::MAX - 1) + 1;
        self.confirmed.fetch_max(since, Ordering::Release);
    }

    pub(super) fn is_valid(&self, now: LeaseTime) -> bool {
        let Some(confirmed) = self.confirmed.load(Ordering::Acquire).checked_sub(1) else {
            return false;
        };
        self.age(now)
            .saturating_sub(Duration::from_micros(confirmed))
            < self.length
    }

    fn age(&self, now: LeaseTime) -> Duration {
        now.since_boot.saturating_sub(self.started.since_boot)
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
        let after = |seconds| LeaseTime {
            since_boot: lease.started.since_boot + seconds * second,
        };
        assert!(!lease.is_valid(after(0)), "nothing is confirmed");
        lease.renew(after(1));
        assert!(lease.is_valid(after(3)));
        assert!(!lease.is_valid(after(4)));
        lease.renew(after(2));
        // An earlier read may be confirmed later.
        lease.renew(after(1));
        assert!(lease.is_valid(after(4)));
        assert!(!lease.is_valid(after(5)));
        assert!(lease.certainly_over() > 3 * second);
    }

    /// The kernel counts its uptime by the clock that does not stop.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_clock_of_a_lease_counts_while_the_machine_is_suspended() {
        let uptime = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            let seconds = text.split(' ').next().unwrap().parse().unwrap();
            Duration::from_secs_f64(seconds)
        };
        let hundredth = Duration::from_millis(10);
        let (before, now, after) = (uptime(), LeaseTime::now().since_boot, uptime());
        assert!(before <= now + hundredth && now <= after + hundredth);
    }
}
