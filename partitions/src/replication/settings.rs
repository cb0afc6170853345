//! Times and bounds of a copy, and what it has when its node starts.

use std::time::Duration;

use consensus::Index;

use super::chain::{Chain, Epoch};
use super::message::Trust;
use super::sessions::Sessions;
use super::table::OffsetTable;

/// Times and bounds of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The partition's id, which its batches are stamped with.
    pub partition_id: u32,
    /// A copy that is so far behind leaves the in-sync set: it lacks what its leader had
    /// then.
    pub replica_lag_max: Duration,
    /// A copy that has been less far behind than this, for as long as this, may enter it.
    pub steady: Duration,
    /// A leader without a quorum, or whose write hangs, resigns after this time; after
    /// each resignation that changed nothing, after twice as long.
    pub failover_timeout: Duration,
    /// How often a log is fsynced whose acknowledgements do not promise it.
    pub sync_interval: Duration,
    /// How often a follower that needs nothing gets an empty append.
    pub idle_beat: Duration,
    /// Bytes of batches that are not committed; further ones are refused.
    pub uncommitted_bytes_max: usize,
    /// Offsets between the last message on the disk and the last one that is acknowledged.
    /// As many are left out after a recovery, so it must not be lowered for a partition.
    pub unsynced_messages_max: u64,
    /// Bytes of records that are not on the disk; with more, the log is fsynced before the
    /// interval is over.
    pub unsynced_bytes_max: usize,
    /// Records of one append.
    pub append_records_max: u64,
    /// Bytes of the records of one append, which has at least one.
    pub append_bytes_max: usize,
    /// Records that a follower has not written and that are sent to it.
    pub in_flight_records_max: u64,
    /// Bytes of records that a follower has not written and that are sent to it; one record
    /// may exceed it.
    pub in_flight_bytes_max: usize,
    /// A segment is sealed by the record with which it has grown to this many bytes: the
    /// next record starts a new one, on every copy.
    pub segment_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            partition_id: 0,
            replica_lag_max: Duration::from_secs(3),
            steady: Duration::from_secs(1),
            failover_timeout: Duration::from_secs(1),
            sync_interval: Duration::from_secs(1),
            idle_beat: Duration::from_secs(5),
            uncommitted_bytes_max: 16 << 20,
            unsynced_messages_max: 1 << 22,
            unsynced_bytes_max: 64 << 20,
            append_records_max: 64,
            append_bytes_max: 1 << 20,
            in_flight_records_max: 1024,
            in_flight_bytes_max: 8 << 20,
            segment_bytes_max: 1 << 30,
        }
    }
}

/// What a copy has when its node starts.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The log.
    pub chain: Chain,
    /// Offset of its first message; of the next one when there is none.
    pub first_offset: u64,
    /// Offset of the message after its last record.
    pub next_offset: u64,
    /// Time of its last record, in microseconds since the Unix epoch.
    pub last_timestamp: u64,
    /// Bytes of the records in its last segment.
    pub segment_bytes: u64,
    /// Up to here it is on the disk.
    pub synced: Index,
    /// Offset of the message after that record.
    pub synced_offset: u64,
    /// Up to here records are known to be committed.
    pub commit: Index,
    /// The latest epoch that was adopted.
    pub adopted: Epoch,
    /// What the log may have lost.
    pub trust: Trust,
    /// The table of offsets.
    pub table: OffsetTable,
    /// What the table may have lost.
    pub table_trust: Trust,
    /// The state that was kept with the last segment, after all records of that segment:
    /// [`Sessions::decode`], then [`Sessions::apply`].
    pub sessions: Sessions,
}
