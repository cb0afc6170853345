//! Notices that the disk hangs, for the log: the thread of the write-ahead log cannot.

use std::time::{Duration, Instant};

use consensus::PersistId;

/// What the disk was given last, and since when it has finished nothing.
pub(crate) struct DiskWatch {
    patience: Duration,
    last: PersistId,
    waiting_since: Option<Instant>,
    noticed: bool,
}

impl DiskWatch {
    /// A disk that hangs when it makes nothing durable for this long.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            last: PersistId(0),
            waiting_since: None,
            noticed: false,
        }
    }

    /// A batch goes to the disk.
    pub(crate) fn wrote(&mut self, now: Instant, batch: PersistId) {
        self.last = batch;
        self.waiting_since.get_or_insert(now);
    }

    /// This batch and all before it are durable. Whether the disk had hung.
    pub(crate) fn persisted(&mut self, now: Instant, batch: PersistId) -> bool {
        self.waiting_since = (batch < self.last).then_some(now);
        std::mem::take(&mut self.noticed)
    }

    /// Whether the disk hangs, and that was not noticed before.
    pub(crate) fn hangs(&mut self, now: Instant) -> bool {
        let waits = |since| now.saturating_duration_since(since) >= self.patience;
        let hangs = self.waiting_since.is_some_and(waits);
        hangs && !std::mem::replace(&mut self.noticed, hangs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_finishes_nothing_hangs_until_it_does() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = DiskWatch::new(Duration::from_secs(2));
        assert!(!watch.hangs(at(9)));
        watch.wrote(at(10), PersistId(1));
        watch.wrote(at(11), PersistId(2));
        assert!(!watch.persisted(at(11), PersistId(1)));
        assert!(!watch.hangs(at(12)));
        assert!(watch.hangs(at(13)));
        assert!(!watch.hangs(at(14)), "it is noticed once");
        assert!(watch.persisted(at(15), PersistId(2)));
        assert!(!watch.hangs(at(99)));
        watch.wrote(at(100), PersistId(3));
        assert!(!watch.hangs(at(101)));
        assert!(watch.hangs(at(102)));
    }
}
