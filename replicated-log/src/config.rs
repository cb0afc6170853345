//! The configuration of a replica: its identity, the other replicas, and its settings.

use std::path::PathBuf;
use std::time::Duration;

use consensus::{DISK_STALL_ELECTION_TIMEOUTS, Limits, Membership, MembershipError, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::peers::Peers;
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
    /// The name in configuration files, status and metrics, in lower case.
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
    /// The name of the cluster. Peers of another cluster are refused, and the data
    /// directory records the name.
    pub cluster: String,
    /// This replica.
    pub me: ReplicaId,
    /// Where this replica listens for the others, as `host:port`.
    pub listen: String,
    /// Every replica, this one included.
    pub peers: Peers,
    /// The replicas that vote, and those that only receive the log.
    pub membership: Membership,
    /// The data directory.
    pub data: PathBuf,
    /// Backend, timeouts and bounds.
    pub settings: ConsensusSettings,
}

impl LogConfig {
    /// Replica `me` of a cluster with these replicas and the default settings. It listens
    /// on the address that the others dial. The replicas with the lowest ids vote, at most
    /// [`Membership::VOTERS_MAX`]; the others are learners.
    ///
    /// # Errors
    /// When there is no replica at all.
    pub fn new(
        cluster: impl Into<String>,
        me: ReplicaId,
        peers: Peers,
        data: impl Into<PathBuf>,
    ) -> Result<Self, MembershipError> {
        let voters = peers.replicas().take(Membership::VOTERS_MAX);
        let learners = peers.replicas().skip(Membership::VOTERS_MAX);
        Ok(Self {
            cluster: cluster.into(),
            me,
            listen: peers.address(me).unwrap_or_default().to_owned(),
            membership: Membership::new(1, voters, learners)?,
            peers,
            data: data.into(),
            settings: ConsensusSettings::default(),
        })
    }

    /// Distinguishes the log of this cluster from that of any other; derived from the name.
    #[must_use]
    pub fn group_id(&self) -> u128 {
        let name = self.cluster.as_bytes();
        let hash = |seed| twox_hash::XxHash3_64::oneshot_with_seed(seed, name);
        (u128::from(hash(1)) << 64) | u128::from(hash(2))
    }
}

/// Backend, timeouts and bounds of a replicated log, in a form that a configuration file
/// can hold. They are the same on all replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsensusSettings {
    /// The protocol. It cannot be changed on an existing data directory.
    pub backend: Backend,
    /// The resolution of all timeouts below.
    pub tick_interval: HumanDuration,
    /// How often a leader sends heartbeats when it has nothing else to send.
    pub heartbeat_interval: HumanDuration,
    /// A replica that receives nothing from its leader for this long, up to twice this
    /// long, starts an election.
    pub election_timeout: HumanDuration,
    /// Commands in one batch at most; more wait for the next.
    pub batch_commands_max: usize,
    /// Bytes in one batch at most; a larger command is refused.
    pub batch_size_max: HumanSize,
    /// In-flight batches at most. Commands wait beyond it, and the next batch grows.
    pub pipeline_max: usize,
    /// Bytes of commands that wait or are in flight; more are refused.
    pub uncommitted_size_max: HumanSize,
    /// A snapshot is taken after so many log entries,
    pub snapshot_entries: u64,
    /// or after so many bytes of log.
    pub snapshot_log_size: HumanSize,
    /// Entries before a snapshot that are kept for replicas that lag a little.
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
    /// The length of a tick, the unit in which the core counts time.
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

    /// For how long the disk may make nothing durable before this replica does not lead.
    #[must_use]
    pub fn disk_stall(&self) -> Duration {
        let timeouts = u32::try_from(DISK_STALL_ELECTION_TIMEOUTS).unwrap_or(u32::MAX);
        self.election_timeout.duration().saturating_mul(timeouts)
    }

    /// The bounds of the core that follow from these settings.
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
