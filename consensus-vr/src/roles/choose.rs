//! Which log a view starts with (VRR 4.2; PAR 3.3).
//!
//! A pure function of the `DoViewChange` messages of a quorum. Of all logs the one with
//! the largest `(log view, op)` has every op that may have been committed. An op of it
//! whose body no replica can supply is dropped only when so many replicas never prepared
//! it that no quorum can have committed it; as long as that is open, the view waits.

use std::collections::BTreeMap;

use consensus::rule;
use consensus::{Index, ReplicaId};

use crate::ids::{Checksum, Head, Header, View};
use crate::log::Log;
use crate::message::DoViewChange;

/// The logs that replicas sent into a view.
pub(crate) type Logs = BTreeMap<ReplicaId, DoViewChange>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// More logs are needed.
    Wait,
    /// The log of this replica cannot be true beside the others.
    Contradiction(ReplicaId),
    Start(Choice),
}

/// The log of the view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Choice {
    /// The replica that has all of it that is committed.
    pub(super) source: ReplicaId,
    /// Where it ends.
    pub(super) head: Head,
    /// What of it is known to be committed.
    pub(super) commit: Index,
    /// Its last ops, up to the head: their checksums, and replicas that have their bodies.
    suffix: Vec<(Checksum, ReplicaId)>,
}

impl Choice {
    /// The checksum of an op and a replica that has it, when it is in the suffix.
    fn op(&self, op: Index) -> Option<(Checksum, ReplicaId)> {
        let from_end = self.head.op.0.checked_sub(op.0)? as usize;
        let at = self.suffix.len().checked_sub(from_end + 1)?;
        self.suffix.get(at).copied()
    }

    /// A replica that has this op.
    pub(super) fn holder(&self, op: Index) -> ReplicaId {
        self.op(op).map_or(self.source, |(_, holder)| holder)
    }

    /// The last op that this log and the own one have in common, as far as the suffix
    /// tells. What is committed here is common in any case.
    pub(super) fn agreement(&self, own: &Log, commit: Index) -> Index {
        let mut op = self.head.op.min(own.last());
        while op > commit && rule!(ChosenLogFetched) {
            let checksum = self.op(op).map(|(checksum, _)| checksum);
            if checksum.is_some() && checksum == own.checksum(op) {
                return op;
            }
            op = op.prev();
        }
        op
    }
}

/// The last op that the own log and another have in common, as far as the headers tell.
/// What the other has committed is common in any case.
pub(super) fn agreement(own: &Log, other: &DoViewChange) -> Index {
    let mut op = other.head.op.min(own.last());
    while op > other.commit {
        let checksum = other.header(op).map(|header| header.checksum);
        if checksum.is_some() && checksum == own.checksum(op) {
            return op;
        }
        op = op.prev();
    }
    op
}

/// `voters` are in the group, and `quorum` of them commit and elect.
pub(super) fn choose(logs: &Logs, voters: usize, quorum: usize) -> Verdict {
    // Of equal logs that of the lowest id, so that the choice is a function.
    let best = logs.iter().rev().max_by_key(|(_, log)| {
        let latest = rule!(LatestLogViewChosen);
        let log_view = if latest { log.log_view } else { View::ZERO };
        (log_view, log.head.op)
    });
    let Some((source, best)) = best.filter(|_| logs.len() >= quorum) else {
        return Verdict::Wait;
    };
    // E3: the largest, never the sender's.
    let commit = logs.values().map(|log| log.commit).max();
    let commit = commit.unwrap_or_default();
    if commit > best.head.op {
        return Verdict::Contradiction(*source);
    }
    let mut head = best.head;
    let mut suffix = Vec::with_capacity(best.headers.len());
    for (op, header) in (best.first().0..).map(Index).zip(&best.headers) {
        if let Some(found) = find(logs, best.log_view, op, header) {
            let checksum = Some(found.0);
            head = Head { op, checksum };
            suffix.push(found);
            continue;
        }
        let nacks = logs
            .values()
            .filter(|log| nacks(log, op, header.checksum))
            .count();
        if op <= commit || nacks < voters - quorum + 1 {
            return Verdict::Wait;
        }
        head = Head {
            op: op.prev(),
            checksum: suffix.last().map(|(checksum, _)| *checksum),
        };
        break;
    }
    if head.checksum.is_none() {
        // Directly after a snapshot: every replica that has seen the op knows it.
        let mut known = logs.values().filter(|log| log.head.op == head.op);
        head.checksum = known.find_map(|log| log.head.checksum);
    }
    Verdict::Start(Choice {
        source: *source,
        head,
        commit,
        suffix,
    })
}

/// The checksum of an op of the best log, and a replica that has its body.
fn find(logs: &Logs, log_view: View, op: Index, header: &Header) -> Option<(Checksum, ReplicaId)> {
    // Logs of one view are prefixes of each other: any of them tells what the op is, also
    // where the slot of the longest is damaged.
    let mut same_view = logs.iter().filter(|(_, log)| log.log_view == log_view);
    let present = same_view.find_map(|(id, log)| {
        let own = log.header(op).filter(|own| own.present)?;
        Some((own.checksum, *id))
    });
    present.or_else(|| {
        let mut holders = logs.iter().filter(|(_, log)| has(log, op, header.checksum));
        holders.next().map(|(id, _)| (header.checksum, *id))
    })
}

/// Whether the replica can supply this prepare.
fn has(log: &DoViewChange, op: Index, checksum: Checksum) -> bool {
    log.header(op)
        .is_some_and(|own| own.present && own.checksum == checksum)
}

/// Whether the replica surely never prepared this.
fn nacks(log: &DoViewChange, op: Index, checksum: Checksum) -> bool {
    let other = |own: &Header| own.nack || (own.present && own.checksum != checksum);
    op > log.head.op || log.header(op).is_some_and(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::View;

    /// A log of a view: its ops are named by letters, the first is op 1. Upper
    /// case: the body is there. Lower case: the slot is damaged. `-`: damaged, and
    /// known to be never prepared.
    fn log(log_view: u64, commit: u64, ops: &str) -> DoViewChange {
        let headers: Vec<_> = ops
            .chars()
            .map(|op| Header {
                view: View(1),
                checksum: Checksum(op.to_ascii_uppercase() as u128),
                present: op.is_ascii_uppercase(),
                nack: op == '-',
            })
            .collect();
        DoViewChange {
            log_view: View(log_view),
            commit: Index(commit),
            head: Head {
                op: Index(headers.len() as u64),
                checksum: headers.last().map(|header| header.checksum),
            },
            headers,
        }
    }

    fn of(logs: &[DoViewChange], voters: usize) -> Verdict {
        let logs = (1..).map(ReplicaId).zip(logs.iter().cloned()).collect();
        choose(&logs, voters, voters / 2 + 1)
    }

    /// Source, head, its checksum, commit.
    fn chosen(logs: &[DoViewChange], voters: usize) -> (u64, u64, char, u64) {
        let Verdict::Start(choice) = of(logs, voters) else {
            panic!("the view does not start");
        };
        let checksum = choice.head.checksum.unwrap().0 as u32;
        let letter = char::from_u32(checksum).unwrap();
        (choice.source.0, choice.head.op.0, letter, choice.commit.0)
    }

    #[test]
    fn less_than_a_quorum_starts_nothing() {
        assert_eq!(of(&[log(1, 0, "AB")], 3), Verdict::Wait);
    }

    #[test]
    fn the_latest_log_view_wins_over_the_longest_log() {
        let logs = [log(1, 1, "ABCD"), log(2, 1, "AX")];
        assert_eq!(chosen(&logs, 3), (2, 2, 'X', 1));
    }

    #[test]
    fn of_one_log_view_the_longest_log_wins() {
        let logs = [log(2, 1, "AB"), log(2, 0, "ABC"), log(1, 0, "AXYZ")];
        assert_eq!(chosen(&logs, 5), (2, 3, 'C', 1));
    }

    /// E3: one replica knows of more commits than the one with the longest log.
    #[test]
    fn the_largest_commit_counts_of_whichever_replica() {
        let logs = [log(2, 2, "AB"), log(2, 0, "ABC")];
        assert_eq!(chosen(&logs, 3), (2, 3, 'C', 2));
    }

    #[test]
    fn a_commit_after_every_log_is_a_contradiction() {
        let mut liar = log(1, 0, "A");
        liar.commit = Index(9);
        assert_eq!(
            of(&[log(2, 0, "AB"), liar], 3),
            Verdict::Contradiction(ReplicaId(1))
        );
    }

    #[test]
    fn a_damaged_op_is_taken_from_a_replica_that_has_it() {
        let logs = [log(2, 1, "Ab"), log(1, 0, "AB")];
        assert_eq!(chosen(&logs, 3), (1, 2, 'B', 1));
        let Verdict::Start(choice) = of(&logs, 3) else {
            panic!("the view does not start");
        };
        let holder = |op| choice.op(Index(op)).map(|(_, holder)| holder.0);
        assert_eq!(
            [holder(0), holder(1), holder(2), holder(3)],
            [None, Some(1), Some(2), None]
        );
    }

    /// A committed op is never dropped, however many replicas lack it.
    #[test]
    fn a_damaged_op_that_is_committed_is_waited_for_whatever_the_nacks() {
        let logs = [log(2, 1, "Ab"), log(2, 1, "A"), log(2, 2, "A-")];
        assert_eq!(of(&logs, 3), Verdict::Wait);
    }

    /// PAR: the slot may have been acknowledged and committed.
    #[test]
    fn a_damaged_op_that_may_be_committed_is_waited_for() {
        let logs = [log(2, 1, "Ab"), log(2, 1, "A")];
        assert_eq!(of(&logs, 3), Verdict::Wait);
        // The third has it, after all.
        let logs = [log(2, 1, "Ab"), log(2, 1, "A"), log(2, 1, "AB")];
        assert_eq!(chosen(&logs, 3), (1, 2, 'B', 1));
    }

    #[test]
    fn a_damaged_op_that_cannot_be_committed_ends_the_log() {
        let logs = [log(2, 1, "AbC"), log(2, 1, "A"), log(2, 1, "A")];
        assert_eq!(chosen(&logs, 3), (1, 1, 'A', 1));
        // A replica that knows that it never prepared what its slot held counts.
        let logs = [log(2, 1, "Ab"), log(2, 1, "A-"), log(1, 1, "AX")];
        assert_eq!(chosen(&logs, 3), (1, 1, 'A', 1));
        // Another log of the same view tells what the damaged slot held.
        let logs = [log(2, 1, "Ab"), log(2, 1, "A-"), log(2, 1, "AX")];
        assert_eq!(chosen(&logs, 3), (1, 2, 'X', 1));
    }
}
