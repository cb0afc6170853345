//! What a replica counts.

use std::collections::BTreeMap;

use consensus::{ProposeError, RefusedMessage, ReplicaId};

/// Counts since the replica was built.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Commands proposed here.
    pub commands_proposed: u64,
    /// Batches proposed here with an earlier time than that of this replica's wall clock,
    /// which is far ahead of what the log shows.
    pub timestamps_limited: u64,
    /// Batches proposed here, by the number of their commands.
    pub batch_commands: SizeHistogram,
    /// Commands proposed here and committed.
    pub commands_committed: u64,
    /// Commands refused because another replica leads.
    pub not_leader: u64,
    /// Commands refused because a bound was reached.
    pub overloaded: u64,
    /// Commands whose outcome was open when leadership was lost.
    pub outcome_unknown: u64,
    /// Commands applied, including those that other replicas proposed.
    pub commands_applied: u64,
    /// Messages of peers that were refused.
    pub messages_refused: MessagesRefused,
    /// Messages to peers dropped because too many were waiting for the write-ahead log.
    pub sends_dropped: u64,
    /// Requests of this replica that its core refused.
    pub requests_refused: u64,
    /// Changes to a known leader.
    pub leader_changes: u64,
    /// Snapshots taken here.
    pub snapshots_taken: u64,
    /// Snapshots fetched from a peer and restored.
    pub snapshots_installed: u64,
}

impl Counters {
    /// Counts a command that was refused, or whose outcome is unknown.
    pub(super) fn refused(&mut self, error: ProposeError) {
        let counter = match error {
            ProposeError::NotLeader { .. } => &mut self.not_leader,
            ProposeError::OutcomeUnknown => &mut self.outcome_unknown,
            ProposeError::Overloaded | ProposeError::TooLarge { .. } => &mut self.overloaded,
        };
        *counter += 1;
    }
}

/// Pairs of peer and reason that are counted apart: more than any group has.
const REFUSED_PAIRS_MAX: usize = 1024;

/// Messages of peers that were refused, by peer and reason.
///
/// Bounded: a peer is one that the link authenticated, and there are
/// five [reasons](consensus::RefusalReason::label). Beyond 1,024 pairs of both, messages
/// of further pairs count in [`total`](Self::total) only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessagesRefused {
    by_label: BTreeMap<(ReplicaId, &'static str), u64>,
    total: u64,
}

impl MessagesRefused {
    pub(super) fn count(&mut self, message: &RefusedMessage) {
        self.total += 1;
        let key = (message.from, message.reason.label());
        if self.by_label.len() < REFUSED_PAIRS_MAX || self.by_label.contains_key(&key) {
            *self.by_label.entry(key).or_default() += 1;
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Peer, label of the reason, and count.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, &'static str, u64)> + '_ {
        let counts = self.by_label.iter();
        counts.map(|((peer, reason), count)| (*peer, *reason, *count))
    }
}

/// Buckets of a [`SizeHistogram`] with an upper bound.
const BUCKETS: usize = 16;

/// How often sizes were observed, in buckets with the upper bounds 1, 2, 4 and so on up
/// to 32,768, and one without a bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeHistogram {
    buckets: [u64; BUCKETS],
    sum: u64,
    count: u64,
}

impl SizeHistogram {
    /// Adds one observation.
    pub fn observe(&mut self, size: usize) {
        let power = usize::BITS - size.saturating_sub(1).leading_zeros();
        if let Some(bucket) = self.buckets.get_mut(power as usize) {
            *bucket += 1;
        }
        self.sum += size as u64;
        self.count += 1;
    }

    /// The upper bound of each bucket and how many observations were at most that, in
    /// ascending order; [`count`](Self::count) includes those above the last bound.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut at_most = 0;
        self.buckets.iter().enumerate().map(move |(power, count)| {
            at_most += count;
            (1 << power, at_most)
        })
    }

    /// The sum of all sizes.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use consensus::RefusalReason;

    use super::*;

    #[test]
    fn sizes_fall_into_the_bucket_of_their_power_of_two() {
        let mut sizes = SizeHistogram::default();
        for size in [1, 2, 3, 4, 5, 32_768, 32_769] {
            sizes.observe(size);
        }
        let buckets: Vec<_> = sizes.cumulative().collect();
        assert_eq!(buckets[..5], [(1, 1), (2, 2), (4, 4), (8, 5), (16, 5)]);
        assert_eq!(buckets[15], (32_768, 6));
        assert_eq!((sizes.count(), sizes.sum()), (7, 15 + 32_768 + 32_769));
    }

    #[test]
    fn refused_messages_are_counted_by_peer_and_reason_and_the_pairs_are_bounded() {
        let refused = |peer, reason| RefusedMessage {
            from: ReplicaId(peer),
            kind: "message",
            reason,
        };
        let mut counts = MessagesRefused::default();
        counts.count(&refused(2, RefusalReason::WrongGroup));
        for what in ["a", "b"] {
            counts.count(&refused(1, RefusalReason::Malformed(what.into())));
        }
        let found: Vec<_> = counts.iter().collect();
        assert_eq!(
            found,
            [
                (ReplicaId(1), "malformed", 2),
                (ReplicaId(2), "wrong_group", 1)
            ]
        );
        for peer in 0..2 * REFUSED_PAIRS_MAX as u64 {
            counts.count(&refused(peer, RefusalReason::UnknownPeer));
        }
        assert_eq!(counts.iter().count(), REFUSED_PAIRS_MAX);
        assert_eq!(counts.total(), 3 + 2 * REFUSED_PAIRS_MAX as u64);
    }
}
