//! The newest records of a copy, for those of its followers that keep up: they get them
//! without a read from the disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::partitions::Record;
use consensus::Index;

/// Bytes of one partition.
const PARTITION_BYTES_MAX: usize = 16 << 20;
/// Bytes of all partitions of a process. Beyond it each keeps its last record only.
const PROCESS_BYTES_MAX: usize = 256 << 20;

static PROCESS_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Adjacent records, the newest at the end.
#[derive(Default)]
pub(super) struct Recent {
    records: VecDeque<Record>,
    bytes: usize,
}

impl Recent {
    /// Adds records at the end of the log.
    pub(super) fn add(&mut self, records: &[Record]) {
        for record in records {
            let last = self.records.back();
            if last.is_some_and(|last| last.position.index.next() != record.position.index) {
                self.clear();
            }
            let bytes = record.bytes();
            self.bytes += bytes;
            PROCESS_BYTES.fetch_add(bytes, Ordering::Relaxed);
            self.records.push_back(record.clone());
        }
        while self.records.len() > 1
            && (self.bytes > PARTITION_BYTES_MAX
                || PROCESS_BYTES.load(Ordering::Relaxed) > PROCESS_BYTES_MAX)
        {
            self.remove_oldest();
        }
    }

    pub(super) fn clear(&mut self) {
        while !self.records.is_empty() {
            self.remove_oldest();
        }
    }

    /// The records after `after` up to `through`, as many as fit into `bytes_max`, but at
    /// least one; `None` if the first of them is not here.
    pub(super) fn range(
        &self,
        after: Index,
        through: Index,
        bytes_max: usize,
    ) -> Option<Vec<Record>> {
        if through <= after {
            return Some(Vec::new());
        }
        let first = self.records.front()?.position.index;
        let start = usize::try_from(after.next().0.checked_sub(first.0)?).ok()?;
        if start >= self.records.len() {
            return None;
        }
        let mut bytes = 0;
        let mut found = Vec::new();
        for record in self.records.range(start..) {
            bytes += record.bytes();
            if record.position.index > through || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            found.push(record.clone());
        }
        Some(found)
    }

    fn remove_oldest(&mut self) {
        if let Some(oldest) = self.records.pop_front() {
            self.bytes -= oldest.bytes();
            PROCESS_BYTES.fetch_sub(oldest.bytes(), Ordering::Relaxed);
        }
    }
}

impl Drop for Recent {
    fn drop(&mut self) {
        self.clear();
    }
}
