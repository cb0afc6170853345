//! How far the log is committed, and how far the driver has it.

use consensus::{Index, rule};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    /// Invariant 3: never goes back, and `commit` is not beyond the end of the log.
    commit: Index,
    /// Invariant 4: what is delivered is committed and durable here.
    delivered: Index,
}

impl Progress {
    pub(super) fn recovered(commit: Index, delivered: Index) -> Self {
        Self { commit, delivered }
    }

    /// E3: the commit number never goes back.
    pub(super) fn advance(&mut self, commit: Index) {
        if !rule!(CommitMonotonic) || commit > self.commit {
            self.commit = commit;
        }
    }

    /// The next op to deliver, when it is not after `durable`.
    pub(super) fn deliver_next(&mut self, durable: Index) -> Option<Index> {
        let op = self.delivered.next();
        if op > self.commit.min(durable) {
            return None;
        }
        self.delivered = op;
        Some(op)
    }

    /// A snapshot has the effects of all ops up to this one.
    pub(super) fn restart_at(&mut self, op: Index) {
        self.commit = op;
        self.delivered = op;
    }

    pub(super) fn commit(&self) -> Index {
        self.commit
    }

    pub(super) fn delivered(&self) -> Index {
        self.delivered
    }
}
