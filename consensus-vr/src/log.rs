//! The log as a hash chain.
//!
//! Every prepare starts with the checksum of the one before it, and its own checksum
//! covers that, its view, its op, its kind and its body: equal checksums at one op mean
//! equal logs up to there. The link is stored in front of the payload, so that the
//! write-ahead log and the wire carry entries of the common format and a log can be
//! verified wherever it starts. A replica that has an op only in a snapshot may not know
//! its checksum; the prepare after it then starts with its [`name`], which every replica
//! that has the op can compute.
//!
//! ```text
//! payload of an entry: checksum or name of the entry before it, 16 | what was proposed
//! ```

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use consensus::{Entry, EntryKind, Index, LogWindow, RecoverError, Term};
use twox_hash::XxHash3_128;

use crate::ids::{Checksum, Head, Header, View};

/// The link in front of every payload.
pub(crate) const LINK_BYTES: usize = 16;

/// The checksum of the entry before this one, according to its link; `None` when it is too
/// short to have one.
pub(crate) fn parent(entry: &Entry) -> Option<Checksum> {
    let link = entry.payload.first_chunk::<LINK_BYTES>()?;
    Some(Checksum(u128::from_le_bytes(*link)))
}

/// What was proposed.
pub(crate) fn body(entry: &Entry) -> Bytes {
    entry.payload.slice(LINK_BYTES..)
}

pub(crate) fn checksum(entry: &Entry) -> Checksum {
    let mut place = [0; 17];
    place[..8].copy_from_slice(&entry.term.0.to_le_bytes());
    place[8..16].copy_from_slice(&entry.index.0.to_le_bytes());
    place[16] = entry.kind as u8;
    let mut hasher = XxHash3_128::new();
    hasher.write(&place);
    hasher.write(&entry.payload);
    Checksum(hasher.finish_128())
}

/// Stands for the checksum of an op: a view prepares one at one place.
pub(crate) fn name(op: Index, term: Term) -> Checksum {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&term.0.to_le_bytes());
    place[8..].copy_from_slice(&op.0.to_le_bytes());
    Checksum(XxHash3_128::oneshot(&place))
}

/// Whether the entry follows this one.
pub(crate) fn follows(entry: &Entry, before: &Entry) -> bool {
    let named = name(before.index, before.term);
    entry.index == before.index.next()
        && entry.term >= before.term
        && parent(entry).is_some_and(|parent| parent == checksum(before) || parent == named)
}

/// The log window with the checksum of every entry in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    window: LogWindow,
    /// Of the entry before the first, when known.
    base: Option<Checksum>,
    checksums: VecDeque<Checksum>,
}

impl Log {
    /// An empty log after this entry.
    pub(crate) fn new(index: Index, term: Term, base: Option<Checksum>) -> Self {
        Self {
            window: LogWindow::new(index, term),
            base: if index == Index::ZERO {
                Some(Checksum::default())
            } else {
                base
            },
            checksums: VecDeque::new(),
        }
    }

    /// The log that was on disk; after `base` when it is empty.
    pub(crate) fn recover(
        base: (Index, Term),
        checksum: Option<Checksum>,
        entries: &[Entry],
    ) -> Result<Self, RecoverError> {
        let Some(first) = entries.first() else {
            return Ok(Self::new(base.0, base.1, checksum));
        };
        let broken = |entry: &Entry| RecoverError::Chain { index: entry.index };
        let before = parent(first).ok_or_else(|| broken(first))?;
        let mut log = if first.index == base.0.next() {
            let known = before != name(base.0, base.1);
            Self::new(base.0, base.1, known.then_some(before))
        } else {
            // The view before a tail is not recorded; all of it is committed, and no
            // replica requests it.
            Self::new(first.index.prev(), Term(0), Some(before))
        };
        for entry in entries {
            if !log.connects(entry) {
                return Err(broken(entry));
            }
            log.push(entry);
        }
        Ok(log)
    }

    pub(crate) fn first(&self) -> Index {
        self.window.first()
    }

    pub(crate) fn last(&self) -> Index {
        self.window.last()
    }

    pub(crate) fn get(&self, op: Index) -> Option<&Entry> {
        self.window.get(op)
    }

    /// The view in which the op was prepared.
    pub(crate) fn view(&self, op: Index) -> Option<View> {
        self.get(op).map(|entry| entry.term.into())
    }

    /// The checksum at an op, of any in the log and of the one before the first.
    pub(crate) fn checksum(&self, op: Index) -> Option<Checksum> {
        if op == self.first().prev() {
            return self.base;
        }
        let at = op.0.checked_sub(self.first().0)?;
        self.checksums.get(usize::try_from(at).ok()?).copied()
    }

    pub(crate) fn head(&self) -> Head {
        Head {
            op: self.last(),
            checksum: self.checksum(self.last()),
        }
    }

    pub(crate) fn slice(&self, low: Index, payload_bytes_max: usize) -> Vec<Entry> {
        self.window
            .slice(low, self.last().next(), payload_bytes_max)
    }

    /// The headers of the log from an op on.
    pub(crate) fn headers(&self, from: Index) -> Vec<Header> {
        let from = from.max(self.first());
        let skip = (from.0 - self.first().0) as usize;
        let views = (from.0..=self.last().0).filter_map(|op| self.view(Index(op)));
        let checksums = self.checksums.iter().skip(skip);
        views
            .zip(checksums)
            .map(|(view, checksum)| Header {
                view,
                checksum: *checksum,
                present: true,
                nack: false,
            })
            .collect()
    }

    /// Whether the entry follows the one before it in this log.
    pub(crate) fn connects(&self, entry: &Entry) -> bool {
        let before = entry.index.prev();
        let connected = before >= self.first().prev() && before <= self.last();
        let view = self.window.term(before);
        let in_order = view.is_none_or(|view| entry.term >= view);
        let named = view.map(|view| name(before, view));
        // After a snapshot whose last prepare was never seen, anything that a primary sends
        // follows: what it covers is committed.
        connected
            && in_order
            && parent(entry).is_some_and(|parent| {
                self.checksum(before)
                    .is_none_or(|own| own == parent || named == Some(parent))
            })
    }

    /// The checksum before the first op, when it was unknown.
    pub(crate) fn learn_base(&mut self, head: &Head) {
        if head.op == self.last() && self.checksums.is_empty() && self.base.is_none() {
            self.base = head.checksum;
        }
    }

    /// Appends what this primary prepares.
    pub(crate) fn prepare(&mut self, view: View, kind: EntryKind, body: &[u8]) -> Index {
        let last = self.last();
        let parent = self
            .checksum(last)
            .unwrap_or_else(|| name(last, self.window.last_term()));
        let mut payload = BytesMut::with_capacity(LINK_BYTES + body.len());
        payload.put_u128_le(parent.0);
        payload.put_slice(body);
        let entry = Entry {
            term: view.term(),
            index: self.last().next(),
            kind,
            payload: payload.freeze(),
        };
        self.push(&entry);
        entry.index
    }

    /// Replaces the log from the first of the entries on.
    ///
    /// # Panics
    /// When they do not follow from the log: the caller has checked that.
    pub(crate) fn replace(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else {
            return;
        };
        self.truncate_from(first.index);
        for entry in entries {
            assert!(
                self.connects(entry),
                "entry {} breaks the chain",
                entry.index
            );
            self.push(entry);
        }
    }

    pub(crate) fn truncate_from(&mut self, op: Index) {
        self.window.truncate_from(op);
        let count = (self.window.last().0 + 1 - self.window.first().0) as usize;
        self.checksums.truncate(count);
    }

    pub(crate) fn compactable(&self, snapshot: Index, entries: u64, bytes_max: usize) -> Index {
        self.window.compactable(snapshot, entries, bytes_max)
    }

    pub(crate) fn compact_through(&mut self, through: Index) {
        if let Some(checksum) = self.checksum(through.min(self.last())) {
            self.base = Some(checksum);
        }
        self.window.compact_through(through);
        let count = (self.window.last().0 + 1 - self.window.first().0) as usize;
        self.checksums.drain(..self.checksums.len() - count);
    }

    fn push(&mut self, entry: &Entry) {
        if self.checksums.is_empty() && self.base.is_none() {
            let named = name(self.last(), self.window.last_term());
            self.base = parent(entry).filter(|parent| *parent != named);
        }
        self.window.append(std::slice::from_ref(entry));
        self.checksums.push_back(checksum(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Log {
        let mut log = Log::new(Index::ZERO, Term(0), None);
        for (view, body) in [(1, "a"), (1, "b"), (2, "c"), (2, "d")] {
            log.prepare(View(view), EntryKind::Command, body.as_bytes());
        }
        log
    }

    fn entries(log: &Log) -> Vec<Entry> {
        log.slice(log.first(), usize::MAX)
    }

    #[test]
    fn a_log_that_is_read_back_has_the_same_checksums() {
        let log = log();
        let again = Log::recover((Index::ZERO, Term(0)), None, &entries(&log)).unwrap();
        assert_eq!(again.head(), log.head());
        let tail = Log::recover((Index::ZERO, Term(0)), None, &entries(&log)[2..]).unwrap();
        assert_eq!(tail.head(), log.head());
        assert_eq!(tail.checksum(Index(2)), log.checksum(Index(2)));
        assert_eq!(tail.checksum(Index(1)), None);
    }

    #[test]
    fn a_changed_entry_breaks_the_chain_after_it() {
        let mut changed = entries(&log());
        changed[1].term = Term(2);
        assert_eq!(
            Log::recover((Index::ZERO, Term(0)), None, &changed).unwrap_err(),
            RecoverError::Chain { index: Index(3) }
        );
        let mut short = entries(&log());
        short[0].payload = Bytes::from_static(b"short");
        assert!(Log::recover((Index::ZERO, Term(0)), None, &short).is_err());
    }

    #[test]
    fn compaction_keeps_the_checksum_before_the_first() {
        let mut log = log();
        let at_three = log.checksum(Index(3));
        log.compact_through(Index(3));
        assert_eq!(log.checksum(Index(3)), at_three);
        assert_eq!((log.first(), log.last()), (Index(4), Index(4)));
        assert_eq!(log.headers(Index(1)).len(), 1);
        log.compact_through(Index(9));
        assert_eq!(log.last(), Index(4));
        assert!(log.head().checksum.is_some());
    }

    #[test]
    fn equal_ops_in_different_logs_have_different_checksums() {
        let mut other = log();
        other.truncate_from(Index(3));
        other.prepare(View(3), EntryKind::Command, b"c");
        assert_ne!(other.checksum(Index(3)), log().checksum(Index(3)));
        assert_eq!(other.checksum(Index(2)), log().checksum(Index(2)));
        assert!(!other.connects(log().get(Index(4)).unwrap()));
    }
}
