//! The time that a leader writes into its batches.
//!
//! The state machine knows no clock but these timestamps, and never lets its time go back:
//! one that is far ahead stays until all clocks have come there. So a leader whose wall
//! clock is ahead of what the log shows may not take the log there in one step.

use consensus::{Tick, rule};

/// The log's time gains at most so much on real time, or twice that where entries follow
/// each other closely.
const GAIN: u64 = 60;
/// The first timestamp of a process may be so far after the newest in the log: for as long
/// as all replicas may have been down. After a longer time the log's time catches up at
/// the rate above.
const FIRST_STEP_MICROS: u64 = 24 * 60 * 60 * 1_000_000;

/// Bounds the timestamps of this replica's batches by those that it has seen.
pub(super) struct Stamps {
    tick_micros: u64,
    /// The newest timestamp in the log; 0 when there is none.
    newest: u64,
    /// A timestamp, and when it was seen first. Of those of this replica, the first of a
    /// tick: else a clock that is ahead would gain with each batch. Of others, the newest.
    seen: (u64, Tick),
    /// Until the first batch of this process.
    first: bool,
}

impl Stamps {
    /// `newest` is the newest timestamp that is applied; 0 when there is none.
    pub(super) fn new(tick_micros: u64, newest: u64) -> Self {
        Self {
            tick_micros,
            newest,
            seen: (newest, Tick(0)),
            first: true,
        }
    }

    /// A batch with this timestamp is in the log, or a snapshot of what is applied until
    /// then is restored.
    pub(super) fn see(&mut self, micros: u64, now: Tick) {
        if micros <= self.newest {
            return;
        }
        self.newest = micros;
        self.seen = (micros, now);
    }

    /// The timestamp of a batch that is proposed now.
    pub(super) fn next(&mut self, wall_micros: u64, now: Tick) -> u64 {
        let micros = match self.newest {
            // There is nothing to compare the clock with.
            0 => wall_micros,
            _ if !rule!(TimeStepBounded) => wall_micros,
            _ => wall_micros.min(self.latest(now)),
        };
        self.first = false;
        if micros > self.newest {
            self.newest = micros;
            if now > self.seen.1 {
                self.seen = (micros, now);
            }
        }
        micros
    }

    fn latest(&self, now: Tick) -> u64 {
        let (micros, at) = self.seen;
        let elapsed = (now.0.saturating_sub(at.0) + 1).saturating_mul(self.tick_micros);
        let gain = elapsed.saturating_mul(GAIN);
        let step = if self.first { FIRST_STEP_MICROS } else { 0 };
        micros.saturating_add(gain).saturating_add(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 10_000;
    const SECOND: u64 = 1_000_000;
    const DAY: u64 = 24 * 60 * 60 * SECOND;
    const NOW: u64 = 20_000 * DAY;

    #[test]
    fn the_first_timestamp_of_a_log_is_the_clock() {
        let mut stamps = Stamps::new(TICK, 0);
        assert_eq!(stamps.next(NOW, Tick(5)), NOW);
    }

    #[test]
    fn a_clock_that_agrees_with_the_log_is_written_to_the_microsecond() {
        let mut stamps = Stamps::new(TICK, NOW);
        for micros in 1..100_000 {
            let wall = NOW + micros;
            assert_eq!(stamps.next(wall, Tick(micros / TICK)), wall);
        }
        // After an idle hour too.
        let wall = NOW + 3_600 * SECOND;
        assert_eq!(stamps.next(wall, Tick(360_000)), wall);
    }

    /// Ten years ahead for a minute: the log's time gains two hours at most, however many
    /// batches there are, and follows the clock once that is correct.
    #[test]
    fn a_clock_that_is_far_ahead_moves_the_log_a_bounded_step_per_real_time() {
        let mut stamps = Stamps::new(TICK, NOW);
        assert_eq!(stamps.next(NOW + 1, Tick(1)), NOW + 1);
        let wrong = NOW + 3_650 * DAY;
        let mut last = 0;
        for batch in 0..60_000 {
            let stamp = stamps.next(wrong, Tick(2 + batch / 10));
            assert!(stamp >= last);
            last = stamp;
        }
        assert!(
            last > NOW + 3_600 * SECOND,
            "it follows, in case it is right"
        );
        assert!(last <= NOW + 2 * 3_660 * SECOND);
        let correct = NOW + 60 * SECOND;
        assert_eq!(stamps.next(correct, Tick(6_002)), correct);
    }

    /// The first timestamp after a cold start.
    #[test]
    fn replicas_that_were_all_down_for_a_day_are_at_the_right_time_with_the_first_batch() {
        let mut stamps = Stamps::new(TICK, NOW);
        assert_eq!(stamps.next(NOW + DAY, Tick(20)), NOW + DAY);
        // A clock that is wrong by years takes the log a day ahead, and no further.
        let mut stamps = Stamps::new(TICK, NOW);
        let first = stamps.next(NOW + 3_650 * DAY, Tick(20));
        assert!((NOW + DAY..NOW + DAY + 60 * SECOND).contains(&first));
        let second = stamps.next(NOW + 3_650 * DAY, Tick(21));
        assert!(second < first + 3 * SECOND);
    }

    /// A replica that lagged applies hours of the log in one tick. When it leads then, time
    /// does not stand still until the rate above has made up for these hours.
    #[test]
    fn the_newest_of_what_arrives_in_one_tick_counts() {
        let mut stamps = Stamps::new(TICK, NOW);
        assert_eq!(stamps.next(NOW + 1, Tick(1)), NOW + 1);
        for hour in 1..=48 {
            stamps.see(NOW + hour * 3_600 * SECOND, Tick(100));
        }
        let wall = NOW + 2 * DAY + 1;
        assert_eq!(stamps.next(wall, Tick(100)), wall);
        assert_eq!(stamps.next(wall + TICK, Tick(101)), wall + TICK);
    }

    #[test]
    fn a_new_leader_is_bound_by_what_the_former_one_wrote() {
        let mut stamps = Stamps::new(TICK, 0);
        stamps.see(NOW, Tick(100));
        stamps.see(NOW + SECOND, Tick(200));
        assert_eq!(stamps.next(NOW + 2 * SECOND, Tick(300)), NOW + 2 * SECOND);
        let stamp = stamps.next(NOW + DAY, Tick(301));
        assert!(stamp < NOW + 5 * SECOND);
    }
}
