//! Log lines at a bounded rate.

use std::time::{Duration, Instant};

/// At most one line in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets one event per ten seconds be logged, with the number of those that were not.
#[derive(Debug, Default)]
pub struct Throttle {
    logged_at: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    /// Counts an event. When it is to be logged: how many were not since the last that was.
    pub fn due(&mut self, now: Instant) -> Option<u64> {
        let recent = |at: Instant| now.saturating_duration_since(at) < INTERVAL;
        if self.logged_at.is_some_and(recent) {
            self.suppressed += 1;
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_per_interval_is_due_with_the_number_suppressed() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.due(start), Some(0));
        assert_eq!(throttle.due(start), None);
        assert_eq!(throttle.due(start + INTERVAL / 2), None);
        assert_eq!(throttle.due(start + INTERVAL), Some(2));
        assert_eq!(throttle.due(start + 2 * INTERVAL), Some(0));
    }
}
