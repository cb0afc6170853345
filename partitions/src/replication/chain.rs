//! Which epochs the records of a log are from.

use std::fmt;

use consensus::Index;

/// Leadership of a partition: rises with every change of its leader, or of its leader's
/// registration. Zero precedes the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a record. Positions are ordered by epoch, then by index: of two logs, the
/// one with the larger last position has everything that may be committed in the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Whose leader stamped it.
    pub epoch: Epoch,
    /// Which record of the partition it is, counted from one, without gaps.
    pub index: Index,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.index)
    }
}

/// The epochs of a log's records, as the first position of each: an epoch's records are
/// adjacent, and epochs rise with the index. Two logs that have one position in common are
/// equal up to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The last record that was removed from the front.
    base: Position,
    /// The first record of each epoch after it.
    starts: Vec<Position>,
    end: Index,
}

impl Chain {
    /// A log whose records up to `base` have been removed; [`Position::default`] for none.
    #[must_use]
    pub fn new(base: Position) -> Self {
        Self {
            base,
            starts: Vec::new(),
            end: base.index,
        }
    }

    /// The log after `base`, up to `end`, with these first records of epochs, in order;
    /// those that are not after `base` are left out.
    #[must_use]
    pub fn of(base: Position, starts: impl IntoIterator<Item = Position>, end: Index) -> Self {
        let starts = starts.into_iter();
        Self {
            base,
            starts: starts.filter(|start| start.index > base.index).collect(),
            end,
        }
    }

    /// The last record, or the last removed one.
    #[must_use]
    pub fn last(&self) -> Position {
        Position {
            epoch: self.starts.last().unwrap_or(&self.base).epoch,
            index: self.end,
        }
    }

    /// The last record that was removed from the front.
    #[must_use]
    pub fn base(&self) -> Position {
        self.base
    }

    /// The record at this index. `None` after the end and before the base.
    #[must_use]
    pub fn at(&self, index: Index) -> Option<Position> {
        if index > self.end || index < self.base.index {
            return None;
        }
        let of_epoch = self.starts.partition_point(|start| start.index <= index);
        let epoch = match of_epoch {
            0 => self.base.epoch,
            n => self.starts[n - 1].epoch,
        };
        Some(Position { epoch, index })
    }

    /// Whether the log has this record, or had it before its front was removed.
    #[must_use]
    pub fn contains(&self, position: Position) -> bool {
        self.at(position.index) == Some(position)
    }

    /// Whether this position may be appended: the next index, in an epoch that does not go
    /// back.
    #[must_use]
    pub fn accepts(&self, position: Position) -> bool {
        position.index == self.end.next() && position.epoch >= self.last().epoch
    }

    /// Appends a record that [`accepts`](Self::accepts) allows.
    ///
    /// # Panics
    /// If it does not.
    pub fn push(&mut self, position: Position) {
        assert!(
            self.accepts(position),
            "a record that does not follow the log's end"
        );
        if position.epoch > self.last().epoch {
            self.starts.push(position);
        }
        self.end = position.index;
    }

    /// Removes all records after this index.
    ///
    /// # Panics
    /// If the index is before the base.
    pub fn truncate(&mut self, end: Index) {
        assert!(
            end >= self.base.index,
            "a cut before the log's first record"
        );
        self.end = self.end.min(end);
        while self.starts.last().is_some_and(|start| start.index > end) {
            self.starts.pop();
        }
    }

    /// Removes records up to this index from the front, but never the last one.
    pub fn remove_front(&mut self, through: Index) {
        let Some(base) = self.at(through.min(self.end)) else {
            return;
        };
        self.starts.retain(|start| start.index > base.index);
        self.base = base;
    }

    /// The largest record at or below `bound` in both dimensions: the next candidate for a
    /// common position when the other log does not contain the one that was proposed. The
    /// base when there is none.
    #[must_use]
    pub fn candidate(&self, bound: Position) -> Position {
        let of_epoch = self
            .starts
            .partition_point(|start| start.epoch <= bound.epoch && start.index <= bound.index);
        let (epoch, last) = match of_epoch {
            0 if self.base.epoch > bound.epoch => return self.base,
            0 => (self.base.epoch, self.end),
            n => (self.starts[n - 1].epoch, self.end),
        };
        // The record before the next epoch's first is the epoch's last.
        let next = self.starts.get(of_epoch).map(|start| start.index.0 - 1);
        let last = next.map_or(last, |next| Index(next).min(self.end));
        let index = last.min(bound.index).max(self.base.index);
        Position { epoch, index }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, index: u64) -> Position {
        Position {
            epoch: Epoch(epoch),
            index: Index(index),
        }
    }

    fn chain(positions: &[(u64, u64)]) -> Chain {
        let mut chain = Chain::new(Position::default());
        for &(epoch, index) in positions {
            chain.push(at(epoch, index));
        }
        chain
    }

    #[test]
    fn a_position_is_found_by_its_index_in_its_epoch_only() {
        let chain = chain(&[(1, 1), (1, 2), (4, 3), (4, 4)]);
        assert!(chain.contains(at(1, 2)) && chain.contains(at(4, 3)));
        assert!(!chain.contains(at(4, 2)) && !chain.contains(at(1, 3)));
        assert!(!chain.contains(at(4, 5)));
        assert!(chain.contains(Position::default()));
    }

    #[test]
    fn a_cut_removes_the_epochs_after_it() {
        let mut chain = chain(&[(1, 1), (2, 2), (5, 3)]);
        chain.truncate(Index(2));
        assert_eq!(chain.last(), at(2, 2));
        chain.push(at(3, 3));
        assert!(!chain.contains(at(5, 3)) && chain.contains(at(3, 3)));
    }

    #[test]
    fn two_logs_find_their_largest_common_position_by_candidates() {
        let a = chain(&[(1, 1), (1, 2), (2, 3), (2, 4), (2, 5), (7, 6)]);
        let b = chain(&[(1, 1), (1, 2), (2, 3), (4, 4), (4, 5), (4, 6), (6, 7)]);
        let mut probed = a.last();
        let mut rounds = 0;
        while !b.contains(probed) {
            probed = a.candidate(b.candidate(probed));
            rounds += 1;
            assert!(rounds < 10);
        }
        assert_eq!(probed, at(2, 3));
    }

    #[test]
    fn a_removed_front_keeps_the_position_before_the_first_record() {
        let mut chain = chain(&[(1, 1), (1, 2), (3, 3), (3, 4)]);
        chain.remove_front(Index(3));
        assert_eq!(chain.base(), at(3, 3));
        assert!(chain.contains(at(3, 3)) && chain.contains(at(3, 4)));
        assert_eq!(chain.at(Index(2)), None);
        assert_eq!(chain.candidate(at(2, 9)), at(3, 3));
    }
}
