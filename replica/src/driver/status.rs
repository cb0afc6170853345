//! The state of a replica, for people and metrics.

use consensus::{Index, RefusedMessage, Status};

use super::counters::Counters;

/// The state of a replica.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// The state of its core.
    pub core: Status,
    /// The last entry applied to the state machine.
    pub applied: Index,
    /// The newest durable snapshot.
    pub snapshot: Option<Index>,
    /// Commands that wait for a batch.
    pub commands_waiting: usize,
    /// Batches proposed and not committed.
    pub batches_in_flight: usize,
    /// Reads without a result.
    pub reads_waiting: usize,
    /// Bytes of log payload applied since the newest snapshot.
    pub log_bytes: u64,
    /// The newest message of its leader that it refused, within the last 500 ticks: what
    /// the leader orders does not follow from what this replica has, or the leader runs
    /// another version. It does not follow the log.
    pub refuses_leader: Option<RefusedMessage>,
    /// Further figures of the core in the words of its backend.
    pub detail: Vec<(&'static str, String)>,
    /// Counts since the replica was built.
    pub counters: Counters,
}
