//! What a replica of the log is told: itself, the others, and its settings.

use std::path::PathBuf;
use std::time::Duration;

use consensus::{Limits, Membership, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::units::{HumanDuration, HumanSize};

/// The consensus backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// tikv's raft-rs
    #[default]
    Raft,
    /// Viewstamped Replication
    Vr,
}

impl Backend {
    /// Its name in configuration, status and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Vr => "vr",
        }
    }
}

/// One replica of a group, and how it reaches the others.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// The cluster's name; peers of another name are refused, and the data directory
    /// remembers it.
    pub cluster: String,
    /// This replica.
    pub me: ReplicaId,
    /// Where this replica listens for the others, as `host:port`.
    pub listen: String,
    /// Every replica, this one included, with the address that the others dial.
    pub peers: Vec<PeerAddress>,
    /// Who votes.
    pub membership: Membership,
    /// The data directory, as errors name it.
    pub data: PathBuf,
    /// Backend, timeouts and bounds.
    pub settings: ConsensusSettings,
}

/// Where a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The replica.
    pub replica: ReplicaId,
    /// Its `host:port` for other replicas.
    pub address: String,
}

impl LogConfig {
    /// Distinguishes this cluster's log from that of any other.
    #[must_use]
    pub fn group_id(&self) -> u128 {
        let name = self.cluster.as_bytes();
        let hash = |seed| twox_hash::XxHash3_64::oneshot_with_seed(seed, name);
        (u128::from(hash(1)) << 64) | u128::from(hash(2))
    }
}

/// Backend, timeouts and bounds of a replicated log; `[cluster.consensus]` of a node's
/// configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsensusSettings {
    /// Who orders the metadata.
    pub backend: Backend,
    /// The resolution of all timeouts below.
    pub tick_interval: HumanDuration,
    /// A leader says that it lives this often.
    pub heartbeat_interval: HumanDuration,
    /// A node that hears nothing for this long, up to twice this long, seeks a
    /// new leader.
    pub election_timeout: HumanDuration,
    /// Commands of one batch; more wait for the next.
    pub batch_commands_max: usize,
    /// Bytes of one batch; a larger command is refused.
    pub batch_size_max: HumanSize,
    /// Batches under way at once; more wait, and grow.
    pub pipeline_max: usize,
    /// Bytes of commands that wait or are under way; more are refused.
    pub uncommitted_size_max: HumanSize,
    /// A snapshot is taken after so many log entries,
    pub snapshot_entries: u64,
    /// or after so many bytes of log.
    pub snapshot_log_size: HumanSize,
    /// Entries kept in front of a snapshot for nodes that are a little behind.
    pub log_tail_entries: u64,
    /// Bytes of those entries.
    pub log_tail_size_max: HumanSize,
    /// Size of a file of the write-ahead log.
    pub wal_segment_size: HumanSize,
}

impl Default for ConsensusSettings {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            tick_interval: HumanDuration::from_millis(10),
            heartbeat_interval: HumanDuration::from_millis(50),
            election_timeout: HumanDuration::from_millis(200),
            batch_commands_max: 8192,
            batch_size_max: HumanSize::from_mib(1),
            pipeline_max: 4,
            uncommitted_size_max: HumanSize::from_mib(64),
            snapshot_entries: 100_000,
            snapshot_log_size: HumanSize::from_mib(64),
            log_tail_entries: 10_000,
            log_tail_size_max: HumanSize::from_mib(64),
            wal_segment_size: HumanSize::from_mib(32),
        }
    }
}

impl ConsensusSettings {
    /// The tick.
    #[must_use]
    pub fn tick(&self) -> Duration {
        self.tick_interval.duration()
    }

    fn ticks(&self, duration: HumanDuration) -> u64 {
        let tick = self.tick().as_micros().max(1);
        u64::try_from(duration.duration().as_micros() / tick).unwrap_or(u64::MAX)
    }

    /// The heartbeat interval in ticks.
    #[must_use]
    pub fn heartbeat_ticks(&self) -> u64 {
        self.ticks(self.heartbeat_interval)
    }

    /// The election timeout in ticks.
    #[must_use]
    pub fn election_ticks(&self) -> u64 {
        self.ticks(self.election_timeout)
    }

    /// The bounds of the core.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            entry_bytes_max: self.batch_size_max.bytes() as usize,
            message_bytes_max: self.batch_size_max.bytes() as usize,
            uncommitted_bytes_max: self.uncommitted_size_max.bytes() as usize,
            log_tail_entries: self.log_tail_entries,
            log_tail_bytes_max: self.log_tail_size_max.bytes() as usize,
            ..Limits::default()
        }
    }
}

/// `host:port`, with brackets where the host is an IPv6 address.
#[must_use]
pub fn join_host_port(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}
