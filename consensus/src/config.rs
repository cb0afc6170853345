//! What a core is built from: its configuration, and what its disk remembers.

use bytes::Bytes;
use thiserror::Error;

use crate::{Entry, Index, Membership, ReplicaId, SnapshotMeta, Term};

/// How a core is set up. Times are in ticks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CoreConfig {
    /// This replica.
    pub id: ReplicaId,
    /// Distinguishes groups; messages of another group are refused.
    pub group: u128,
    /// The membership at the start of the log. A snapshot's membership overrides it.
    pub membership: Membership,
    /// A leader sends a heartbeat this often.
    pub heartbeat_ticks: u64,
    /// A follower that receives nothing from a leader for this long (up to twice
    /// this long, where a backend randomizes its timeouts) starts an election. At least twice
    /// `heartbeat_ticks`.
    pub election_ticks: u64,
    /// Seed of every random number of the backend, and of the nonces that tell
    /// replies to this incarnation from replies to an earlier one: it must differ
    /// between incarnations of one replica.
    pub seed: u64,
    /// Bounds.
    pub limits: Limits,
}

/// A replica whose oldest batch does not become durable for so many election timeouts
/// counts its disk as stalled.
pub const DISK_STALL_ELECTION_TIMEOUTS: u64 = 10;

impl CoreConfig {
    /// How long a batch may be the oldest that is not durable before the disk counts as
    /// stalled, in ticks.
    #[must_use]
    pub fn disk_stall_ticks(&self) -> u64 {
        DISK_STALL_ELECTION_TIMEOUTS.saturating_mul(self.election_ticks)
    }

    /// Whether a core can be built from it.
    ///
    /// # Errors
    /// [`RecoverError::Config`] when it contradicts itself.
    pub fn check(&self) -> Result<(), RecoverError> {
        let refuse = |what: String| Err(RecoverError::Config(what));
        if !self.membership.contains(self.id) {
            return refuse(format!("replica {} is not a member", self.id));
        }
        if self.heartbeat_ticks == 0 || self.election_ticks < 2 * self.heartbeat_ticks {
            return refuse(format!(
                "an election timeout of {} ticks is less than twice the heartbeat interval of {}",
                self.election_ticks, self.heartbeat_ticks
            ));
        }
        Ok(())
    }
}

/// Bounds of a core, and what happens at each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Payload of one entry; a larger proposal is rejected as `TooLarge`.
    pub entry_bytes_max: usize,
    /// Entry payload in one message to a peer; more travels in several.
    pub message_bytes_max: usize,
    /// Append messages that may be unacknowledged per peer; then the sender waits.
    pub inflight_messages_max: usize,
    /// Proposed and not yet committed payload; beyond it proposals are rejected
    /// as `Overloaded`.
    pub uncommitted_bytes_max: usize,
    /// Reads that wait for confirmation; beyond it reads are rejected as
    /// `Overloaded`.
    pub pending_reads_max: usize,
    /// Entries kept before a snapshot, so that a replica that lags a little
    /// catches up without it.
    pub log_tail_entries: u64,
    /// Payload of those entries; the older ones go first.
    pub log_tail_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entry_bytes_max: 1 << 20,
            message_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            uncommitted_bytes_max: 64 << 20,
            pending_reads_max: 65_536,
            log_tail_entries: 10_000,
            log_tail_bytes_max: 64 << 20,
        }
    }
}

/// What survived on this replica's disk.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The backend's newest durable hard state, as it wrote it; `None` on a new
    /// disk.
    pub hard_state: Option<Bytes>,
    /// The newest durable snapshot, already restored into the state machine.
    pub snapshot: Option<SnapshotMeta>,
    /// The durable log, gap-free. It may start before the snapshot (the tail for
    /// replicas that lag) and may end before it.
    pub entries: Vec<Entry>,
}

/// What an operator can do about a log that is not whole: the same as in the runbook.
const ADVICE: &str = "only the data directory as it was when the node stopped can be used: an older backup or another node's directory has lost acknowledged data as well; see \"A node's disk is gone\" in the operations guide";

/// Why a core cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecoverError {
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(String),
    /// The hard state does not decode.
    #[error(
        "the hard state in the write-ahead log does not decode ({0}); it was written by another backend or version, or the disk is corrupt"
    )]
    HardState(String),
    /// The entries of the log do not belong together.
    #[error(
        "the recovered log is not one log: entry {index} does not follow from the one before; it was written by another backend or version, or the disk is corrupt; {advice}", advice = ADVICE
    )]
    Chain {
        /// The first entry that does not.
        index: Index,
    },
    /// The log has a hole or does not connect to the snapshot.
    #[error(
        "the recovered log does not connect: expected index {expected}, found {found}; {advice}", advice = ADVICE
    )]
    Gap {
        /// The index that was due.
        expected: Index,
        /// The index in its place.
        found: Index,
    },
    /// The log is shorter than the commit index in the hard state.
    #[error(
        "the hard state has commit index {commit} but the log ends at {last}: acknowledged data is missing from this disk; {advice}", advice = ADVICE
    )]
    LostLog {
        /// The durable commit index.
        commit: Index,
        /// The last index of log and snapshot.
        last: Index,
    },
}

impl Recovered {
    /// Checks that the log is gap-free, that its terms do not go back, and that it
    /// connects to the snapshot, and drops what the snapshot replaces: a log that ends
    /// before the snapshot, or that had another entry at the snapshot's index, is void.
    /// The driver must then [reset](Self::log_is_void) the log on disk too, before a
    /// core appends after the snapshot.
    ///
    /// # Errors
    /// [`RecoverError::Gap`] when entries are missing, and [`RecoverError::Chain`] when
    /// an entry cannot follow the one before it.
    pub fn checked(mut self) -> Result<Self, RecoverError> {
        for pair in self.entries.windows(2) {
            if pair[1].index != pair[0].index.next() {
                return Err(RecoverError::Gap {
                    expected: pair[0].index.next(),
                    found: pair[1].index,
                });
            }
            if pair[1].term < pair[0].term {
                let index = pair[1].index;
                return Err(RecoverError::Chain { index });
            }
        }
        let base = self.snapshot.as_ref().map_or(Index::ZERO, |s| s.index);
        let Some(first) = self.entries.first().map(|entry| entry.index) else {
            return Ok(self);
        };
        if first > base.next() {
            return Err(RecoverError::Gap {
                expected: base.next(),
                found: first,
            });
        }
        if let Some(snapshot) = &self.snapshot
            && !self.continues(first, snapshot)
        {
            self.entries.clear();
        }
        Ok(self)
    }

    /// Whether the log, which starts at `first`, has the snapshot's last entry or was
    /// appended after it. Where that entry is no longer in the log, an earlier term
    /// after it shows that the log had another one: version 0.1 could drop the front of
    /// a log before it wrote that a snapshot replaces all of it.
    fn continues(&self, first: Index, snapshot: &SnapshotMeta) -> bool {
        match snapshot.index.0.checked_sub(first.0) {
            Some(at) => {
                let entry = self.entries.get(at as usize);
                entry.is_some_and(|entry| entry.term == snapshot.term)
            }
            None => self.entries[0].term >= snapshot.term,
        }
    }

    /// Whether the log on disk, which ends with an entry of this index and term,
    /// must be reset to start after the snapshot. A log that ends at the snapshot's
    /// index with another entry is void as well, as is whatever is appended to it.
    /// Meaningful after [`checked`](Self::checked).
    #[must_use]
    pub fn log_is_void(&self, (index, term): (Index, Term)) -> bool {
        let ends_there = |snapshot: &SnapshotMeta| (snapshot.index, snapshot.term) == (index, term);
        let snapshot = self.snapshot.as_ref();
        self.entries.is_empty() && snapshot.is_some_and(|snapshot| !ends_there(snapshot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EntryKind;

    fn recovered(snapshot: Option<(u64, u64)>, entries: &[(u64, u64)]) -> Recovered {
        let entry = |(index, term): &(u64, u64)| Entry {
            term: Term(*term),
            index: Index(*index),
            kind: EntryKind::Command,
            payload: Bytes::new(),
        };
        Recovered {
            hard_state: None,
            snapshot: snapshot.map(|(index, term)| SnapshotMeta {
                index: Index(index),
                term: Term(term),
                membership: Membership::new(1, [ReplicaId(1)], []).unwrap(),
            }),
            entries: entries.iter().map(entry).collect(),
        }
    }

    #[test]
    fn terms_that_go_back_are_an_error() {
        let log = recovered(None, &[(1, 1), (2, 3), (3, 2)]).checked();
        let index = Index(3);
        assert_eq!(log.unwrap_err(), RecoverError::Chain { index });
    }

    #[test]
    fn a_log_that_had_another_entry_at_the_snapshot_is_void() {
        let kept = |entries: &[(u64, u64)]| {
            let log = recovered(Some((3, 2)), entries).checked().unwrap();
            let end = log.entries.last().map_or((0, 0), |e| (e.index.0, e.term.0));
            let is_void = log.log_is_void((Index(end.0), Term(end.1)));
            (log.entries.len(), is_void)
        };
        assert_eq!(kept(&[(2, 1), (3, 2), (4, 2)]), (3, false));
        assert_eq!(kept(&[(2, 1), (3, 1), (4, 1)]), (0, true));
        // What was at the snapshot's index is compacted.
        assert_eq!(kept(&[(4, 2), (5, 3)]), (2, false));
        assert_eq!(kept(&[(4, 1), (5, 1)]), (0, true));
    }
}
