//! Log lines at a bounded rate.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// At most one line per key in this time.
const INTERVAL: Duration = Duration::from_secs(10);
/// Keys that are limited apart. They are made of members of the cluster and of kinds and
/// reasons, which are few, so this bound is not reached; beyond it nothing is logged.
const KEYS_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug)]
struct Line {
    logged_at: Instant,
    suppressed: u64,
}

/// What was logged last.
#[derive(Debug)]
pub(crate) struct LogLimit<K>(BTreeMap<K, Line>);

impl<K> Default for LogLimit<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> LogLimit<K> {
    /// The lines of this key that were not logged since the last that was, when this one
    /// is to be logged.
    pub(crate) fn due(&mut self, now: Instant, key: K) -> Option<u64> {
        let first = Line {
            logged_at: now,
            suppressed: 0,
        };
        let is_full = self.0.len() >= KEYS_MAX;
        match self.0.get_mut(&key) {
            Some(line) if now.saturating_duration_since(line.logged_at) < INTERVAL => {
                line.suppressed += 1;
                None
            }
            Some(line) => Some(std::mem::replace(line, first).suppressed),
            None if is_full => None,
            None => {
                self.0.insert(key, first);
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_logged_once_per_interval_with_the_number_suppressed() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        assert_eq!(limit.due(start, 1), Some(0));
        assert_eq!(limit.due(start, 1), None);
        assert_eq!(limit.due(start, 2), Some(0));
        let just_before = start + INTERVAL - Duration::from_millis(1);
        assert_eq!(limit.due(just_before, 1), None);
        let later = start + INTERVAL;
        assert_eq!(limit.due(later, 1), Some(2));
        assert_eq!(limit.due(later, 1), None);
        assert_eq!(limit.due(later + INTERVAL, 1), Some(1));
    }

    #[test]
    fn the_keys_are_bounded() {
        let mut limit = LogLimit::default();
        let now = Instant::now();
        for key in 0..2 * KEYS_MAX {
            limit.due(now, key);
        }
        assert_eq!(limit.0.len(), KEYS_MAX);
    }
}
