//! The part of the log that is in memory.
//!
//! Contains every entry that has not been compacted, and the term of the entry
//! before the first: what a backend needs to check that logs match. Bounded by
//! the snapshot policy of the driver.

use std::collections::VecDeque;

use crate::{Entry, Index, Term};

/// A gap-free run of entries, and what precedes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogWindow {
    base: (Index, Term),
    entries: VecDeque<Entry>,
    payload_bytes: usize,
}

impl LogWindow {
    /// An empty window after the entry `(index, term)`; `(0, 0)` for a new log.
    #[must_use]
    pub fn new(index: Index, term: Term) -> Self {
        Self {
            base: (index, term),
            entries: VecDeque::new(),
            payload_bytes: 0,
        }
    }

    /// The first index in the window; where the window is empty, the next one.
    #[must_use]
    pub fn first(&self) -> Index {
        self.base.0.next()
    }

    /// The last index, which is the one before the first when the window is
    /// empty.
    #[must_use]
    pub fn last(&self) -> Index {
        Index(self.base.0.0 + self.entries.len() as u64)
    }

    /// The term of the last index.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.entries.back().map_or(self.base.1, |entry| entry.term)
    }

    /// Payload bytes in the window.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// The term at an index: of any entry in the window and of the one before it;
    /// `None` elsewhere.
    #[must_use]
    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        self.get(index).map(|entry| entry.term)
    }

    /// The entry at an index.
    #[must_use]
    pub fn get(&self, index: Index) -> Option<&Entry> {
        let at = index.0.checked_sub(self.first().0)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// Entries from `low` up to but without `high`, as many as fit into
    /// `payload_bytes_max`, at least one. Empty when `low` is not in the window.
    #[must_use]
    pub fn slice(&self, low: Index, high: Index, payload_bytes_max: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let mut out = Vec::new();
        let mut at = low;
        while at < high
            && let Some(entry) = self.get(at)
        {
            bytes += entry.payload.len();
            if !out.is_empty() && bytes > payload_bytes_max {
                break;
            }
            out.push(entry.clone());
            at = at.next();
        }
        out
    }

    /// Appends entries; they replace the log from the first of their indexes on.
    ///
    /// # Panics
    /// When the first does not connect to the window, or they have a gap: a
    /// backend that does this has lost its log.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else {
            return;
        };
        assert!(
            first.index >= self.first() && first.index <= self.last().next(),
            "append at {} does not connect to the log {}..={}",
            first.index,
            self.first(),
            self.last(),
        );
        self.truncate_from(first.index);
        for entry in entries {
            assert_eq!(
                entry.index,
                self.last().next(),
                "appended entries have a gap"
            );
            assert!(entry.term >= self.last_term(), "terms go back in the log");
            self.payload_bytes += entry.payload.len();
            self.entries.push_back(entry.clone());
        }
    }

    /// Drops entries from `from` on.
    pub fn truncate_from(&mut self, from: Index) {
        while self.last() >= from
            && let Some(entry) = self.entries.pop_back()
        {
            self.payload_bytes -= entry.payload.len();
        }
    }

    /// The index through which a snapshot at `snapshot` lets the log be
    /// compacted, when at most so many entries and payload bytes before it are to
    /// stay for replicas that lag.
    #[must_use]
    pub fn compactable(&self, snapshot: Index, tail_entries: u64, tail_bytes_max: usize) -> Index {
        let mut through = snapshot;
        let (mut kept, mut bytes) = (0, 0);
        while let Some(entry) = self.get(through) {
            bytes += entry.payload.len();
            if kept == tail_entries || bytes > tail_bytes_max {
                return through;
            }
            kept += 1;
            through = through.prev();
        }
        through.min(self.base.0)
    }

    /// Drops entries up to and including `through`, or up to the last.
    pub fn compact_through(&mut self, through: Index) {
        while self.base.0 < through
            && let Some(entry) = self.entries.pop_front()
        {
            self.payload_bytes -= entry.payload.len();
            self.base = (entry.index, entry.term);
        }
    }

    /// Drops everything; the log continues after `(index, term)`.
    pub fn reset(&mut self, index: Index, term: Term) {
        *self = Self::new(index, term);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::EntryKind;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            term: Term(term),
            index: Index(index),
            kind: EntryKind::Command,
            payload: Bytes::from(vec![0; 10]),
        }
    }

    fn window() -> LogWindow {
        let mut window = LogWindow::new(Index(4), Term(1));
        window.append(&[entry(5, 1), entry(6, 2), entry(7, 2)]);
        window
    }

    #[test]
    fn the_term_before_the_first_entry_is_known() {
        let window = window();
        assert_eq!(window.term(Index(3)), None);
        assert_eq!(window.term(Index(4)), Some(Term(1)));
        assert_eq!(window.term(Index(7)), Some(Term(2)));
        assert_eq!(window.term(Index(8)), None);
    }

    #[test]
    fn an_append_replaces_the_conflicting_suffix() {
        let mut window = window();
        window.append(&[entry(6, 3)]);
        assert_eq!(window.last(), Index(6));
        assert_eq!(window.term(Index(6)), Some(Term(3)));
        assert_eq!(window.payload_bytes(), 20);
    }

    #[test]
    fn compaction_keeps_the_last_compacted_term() {
        let mut window = window();
        window.compact_through(Index(6));
        assert_eq!(window.first(), Index(7));
        assert_eq!(window.term(Index(6)), Some(Term(2)));
        window.compact_through(Index(99));
        assert_eq!((window.first(), window.last()), (Index(8), Index(7)));
        assert_eq!(window.payload_bytes(), 0);
    }

    #[test]
    fn a_tail_before_the_snapshot_is_bounded_by_entries_and_bytes() {
        let window = window();
        assert_eq!(window.compactable(Index(7), 0, 99), Index(7));
        assert_eq!(window.compactable(Index(7), 2, 99), Index(5));
        assert_eq!(window.compactable(Index(7), 2, 10), Index(6));
        assert_eq!(window.compactable(Index(7), 99, 99), Index(4));
    }

    #[test]
    fn a_slice_holds_at_least_one_entry_and_respects_the_bound() {
        let window = window();
        let indexes = |low, high, max| {
            window
                .slice(Index(low), Index(high), max)
                .iter()
                .map(|entry| entry.index.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(indexes(5, 8, 20), [5, 6]);
        assert_eq!(indexes(5, 8, 1), [5]);
        assert_eq!(indexes(6, 7, 99), [6]);
        assert_eq!(indexes(4, 8, 99), [0; 0]);
    }

    #[test]
    #[should_panic(expected = "does not connect")]
    fn a_gap_is_a_lost_log() {
        window().append(&[entry(9, 2)]);
    }
}
