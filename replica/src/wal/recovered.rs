//! What the log contained when it was opened.

use bytes::Bytes;
use consensus::{Entry, Index, Term};

/// What the log contained when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    /// The newest hard state.
    pub hard_state: Option<Bytes>,
    /// What the first entry follows, where a reset recorded it.
    pub reset: Option<(Index, Term)>,
    /// The entries, gap-free.
    pub entries: Vec<Entry>,
    /// A crash tore an unacknowledged write, which was dropped.
    pub torn_tail: bool,
}

impl RecoveredLog {
    /// The last index that the log knows: that of the last entry, or of the reset.
    #[must_use]
    pub fn last(&self) -> Index {
        self.end().0
    }

    /// The last index that the log knows, and its term.
    #[must_use]
    pub fn end(&self) -> (Index, Term) {
        self.entries.last().map_or_else(
            || self.reset.unwrap_or_default(),
            |entry| (entry.index, entry.term),
        )
    }
}
