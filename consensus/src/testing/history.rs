//! What a group has committed, for all time.

use std::collections::BTreeMap;

use crate::{Entry, Index, ReplicaId, Term};

/// One entry per index, and one leader per term.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    entries: BTreeMap<Index, Entry>,
    leaders: BTreeMap<Term, ReplicaId>,
}

impl History {
    /// Adds a committed entry. Whether no other entry was committed at its index.
    pub fn commit(&mut self, entry: &Entry) -> bool {
        let known = self.entries.entry(entry.index);
        *known.or_insert_with(|| entry.clone()) == *entry
    }

    /// Adds the leader of a term. Whether no other replica led it.
    pub fn lead(&mut self, term: Term, leader: ReplicaId) -> bool {
        *self.leaders.entry(term).or_insert(leader) == leader
    }

    /// The last committed entry.
    #[must_use]
    pub fn last(&self) -> Option<&Entry> {
        self.entries.values().next_back()
    }

    /// The committed entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Drops the entries before `index`.
    pub fn compact_before(&mut self, index: Index) {
        self.entries = self.entries.split_off(&index);
    }
}
