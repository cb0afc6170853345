//! How a replica is driven.

use consensus::ReplicaId;

/// Bounds of the loop around the core.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// This replica.
    pub id: ReplicaId,
    /// Length of a tick in microseconds: the wall clock is compared with ticks. Default
    /// 10,000.
    pub tick_micros: u64,
    /// Payload of one batch in bytes; a larger command is refused as
    /// [`TooLarge`](consensus::ProposeError::TooLarge). Default 1 MiB.
    pub batch_bytes_max: usize,
    /// Commands in one batch; the others wait for the next. Default 8,192.
    pub batch_commands_max: usize,
    /// Batches proposed and not committed; with so many, commands wait, and the next
    /// batch grows. Default 4.
    pub pipeline_max: usize,
    /// Bytes of commands that wait; further commands are refused as
    /// [`Overloaded`](consensus::ProposeError::Overloaded). Default 64 MiB.
    pub waiting_bytes_max: usize,
    /// A snapshot is taken after so many entries, default 100,000,
    pub snapshot_entries: u64,
    /// or after so many payload bytes, whichever comes first. Default 64 MiB.
    pub snapshot_log_bytes: u64,
}

impl ReplicaConfig {
    /// The defaults, for this replica.
    #[must_use]
    pub fn new(id: ReplicaId) -> Self {
        Self {
            id,
            tick_micros: 10_000,
            batch_bytes_max: 1 << 20,
            batch_commands_max: 8192,
            pipeline_max: 4,
            waiting_bytes_max: 64 << 20,
            snapshot_entries: 100_000,
            snapshot_log_bytes: 64 << 20,
        }
    }
}
