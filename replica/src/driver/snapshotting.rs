//! When a replica takes a snapshot of its own state.

use consensus::{Index, Tick};

/// After a snapshot could not be stored, the next attempt waits this long.
const RETRY_TICKS: u64 = 500;
/// A peer that has requested a piece of a snapshot within this time is being served.
const SERVING_TICKS: u64 = 200;
/// While a peer is served, the log may grow to so many times its usual size: with the
/// defaults to 512 MiB, all of it in memory. Then a snapshot is taken, the log before it is
/// dropped, and the peer gets that one: a peer whose fetches keep failing must not exhaust
/// the memory of the leader.
const SERVING_PATIENCE: u64 = 8;

/// The newest snapshot, and when the next one is due.
pub(super) struct Snapshotting {
    entries_max: u64,
    log_bytes_max: u64,
    newest: Option<Index>,
    /// Bytes of log payload since the newest snapshot.
    log_bytes: u64,
    saving: bool,
    /// `log_bytes` when the snapshot that is being saved was taken.
    saving_bytes: u64,
    /// Until then the newest snapshot stays.
    serving_until: Tick,
    not_before: Tick,
}

impl Snapshotting {
    pub(super) fn new(entries_max: u64, log_bytes_max: u64, newest: Option<Index>) -> Self {
        Self {
            entries_max,
            log_bytes_max,
            newest,
            log_bytes: 0,
            saving: false,
            saving_bytes: 0,
            serving_until: Tick(0),
            not_before: Tick(0),
        }
    }

    /// The newest durable snapshot.
    pub(super) fn newest(&self) -> Option<Index> {
        self.newest
    }

    /// Bytes of log payload since the newest snapshot.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// An entry with a payload of so many bytes was applied.
    pub(super) fn grew(&mut self, payload_bytes: usize) {
        self.log_bytes += payload_bytes as u64;
    }

    /// A peer has requested a piece of the newest snapshot.
    pub(super) fn serving(&mut self, now: Tick) {
        self.serving_until = Tick(now.0 + SERVING_TICKS);
    }

    /// A peer that is being sent the newest snapshot needs it to stay until it has
    /// received it, and then the log after it. A newer one would remove both: where
    /// snapshots are taken faster than they are sent, the peer would never catch up.
    pub(super) fn is_due(&self, applied: Index, now: Tick) -> bool {
        let since = applied.0 - self.newest.unwrap_or(Index::ZERO).0;
        let patience = match now < self.serving_until {
            true => SERVING_PATIENCE,
            false => 1,
        };
        since >= self.entries_max.saturating_mul(patience)
            || (self.log_bytes >= self.log_bytes_max.saturating_mul(patience) && since > 0)
    }

    /// Whether to take a snapshot now; it is then being saved.
    pub(super) fn start(&mut self, applied: Index, now: Tick) -> bool {
        let starts = self.is_due(applied, now) && !self.saving && now >= self.not_before;
        if starts {
            self.saving = true;
            self.saving_bytes = std::mem::take(&mut self.log_bytes);
        }
        starts
    }

    /// A snapshot is durable. Whether it is the newest: one from a peer may have
    /// overtaken it.
    pub(super) fn saved(&mut self, index: Index) -> bool {
        self.saving = false;
        let is_newest = self.newest.is_none_or(|newest| newest < index);
        if is_newest {
            self.newest = Some(index);
        }
        is_newest
    }

    pub(super) fn save_failed(&mut self, now: Tick) {
        self.saving = false;
        self.log_bytes += std::mem::take(&mut self.saving_bytes);
        self.not_before = Tick(now.0 + RETRY_TICKS);
    }

    /// A fetched snapshot was restored.
    pub(super) fn installed(&mut self, index: Index) {
        self.newest = Some(index);
        (self.log_bytes, self.saving_bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica that lags catches up, however often snapshots are due.
    #[test]
    fn no_snapshot_is_taken_while_one_is_sent_unless_the_log_grows_too_long() {
        let mut snapshots = Snapshotting::new(10, 1 << 20, None);
        assert!(snapshots.is_due(Index(10), Tick(1)));
        snapshots.serving(Tick(2));
        assert!(!snapshots.is_due(Index(10), Tick(2)));
        assert!(snapshots.is_due(Index(10 * SERVING_PATIENCE), Tick(2)));
        assert!(!snapshots.is_due(Index(10), Tick(1 + SERVING_TICKS)));
        assert!(snapshots.is_due(Index(10), Tick(2 + SERVING_TICKS)));
    }

    #[test]
    fn a_peer_whose_fetches_keep_failing_delays_a_snapshot_for_a_bounded_log() {
        let (mut snapshots, mut log_bytes, mut longest) =
            (Snapshotting::new(1_000, 64, None), 0, 0);
        for index in 1..=10_000 {
            snapshots.serving(Tick(index));
            snapshots.grew(1);
            log_bytes += 1;
            longest = longest.max(log_bytes);
            if snapshots.start(Index(index), Tick(index)) {
                log_bytes = 0;
                assert!(snapshots.saved(Index(index)));
            }
        }
        assert_eq!(longest, 8 * 64);
    }

    #[test]
    fn a_snapshot_that_could_not_be_stored_is_retried_after_a_pause() {
        let mut snapshots = Snapshotting::new(10, 1 << 20, None);
        assert!(snapshots.start(Index(10), Tick(1)));
        assert!(!snapshots.start(Index(20), Tick(1)), "one is being saved");
        snapshots.save_failed(Tick(1));
        assert!(!snapshots.start(Index(20), Tick(RETRY_TICKS)));
        assert!(snapshots.start(Index(20), Tick(1 + RETRY_TICKS)));
    }

    /// On a full disk nothing is appended, so the log does not grow until there is room.
    #[test]
    fn a_snapshot_that_was_due_by_bytes_is_retried_although_the_log_does_not_grow() {
        let mut snapshots = Snapshotting::new(1_000, 64, None);
        snapshots.grew(64);
        assert!(snapshots.start(Index(1), Tick(1)));
        snapshots.grew(1);
        snapshots.save_failed(Tick(1));
        assert_eq!(snapshots.log_bytes(), 65);
        assert!(snapshots.start(Index(2), Tick(1 + RETRY_TICKS)));
        assert!(snapshots.saved(Index(2)));
        assert_eq!(snapshots.log_bytes(), 0);
    }
}
