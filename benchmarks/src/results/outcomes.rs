//! What scenarios measure once: failures, recovery, whole clusters.

use serde::{Deserialize, Serialize};

use super::points::Percentiles;

/// Kills of the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failover {
    /// `raft` or `vr`.
    pub system: String,
    /// A follower without a leader starts an election after this time.
    pub election_timeout_millis: u64,
    /// From the kill to the next command's reply, in microseconds, one for each trial.
    pub gaps_micros: Vec<u64>,
    /// How often each replica led next, counted from the killed one: the first is the
    /// next in order, the last is the killed one itself.
    pub winners: Vec<u64>,
    /// Terms or views without a leader, over all trials.
    pub skipped: u64,
}

/// Elections on a busy machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saturation {
    /// `raft` or `vr`.
    pub system: String,
    /// How long.
    pub seconds: f64,
    /// Commands per second meanwhile; zero when leadership moved.
    pub per_second: f64,
    /// By how much the term or view has risen.
    pub elections: u64,
}

/// A repeated sequence of leaders.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repro {
    /// `raft` or `vr`.
    pub system: String,
    /// Replicas.
    pub replicas: u64,
    /// How often the leader was killed twice.
    pub attempts: u64,
    /// How often the three leaders were those of the first attempt.
    pub hits: u64,
    /// The same, among the attempts with the same first leader.
    pub hits_after_first: u64,
    /// Attempts with the same first leader.
    pub firsts: u64,
    /// Different sequences that were seen.
    pub sequences: u64,
    /// Terms or views without a leader.
    pub skipped: u64,
    /// From a kill to the next leader, in microseconds of virtual time.
    pub took: Percentiles,
}

/// One slow disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlowDisk {
    /// `raft` or `vr`.
    pub system: String,
    /// When a command counts as durable.
    pub durability: String,
    /// Which disk: `none`, `leader` or `follower`.
    pub whose: String,
    /// How much longer an fdatasync takes there, in milliseconds.
    pub delay_millis: u64,
    /// Commands per second: the median of the rounds.
    pub per_second: f64,
    /// The slowest round; files of format 2 have none.
    #[serde(default)]
    pub low_per_second: Option<f64>,
    /// The fastest round; files of format 2 have none.
    #[serde(default)]
    pub high_per_second: Option<f64>,
    /// From sending a command to its reply.
    pub latency: Percentiles,
}

/// A replica that restarts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recovery {
    /// `raft` or `vr`.
    pub system: String,
    /// Commands that the cluster had executed.
    pub commands: u64,
    /// Whether snapshots were taken.
    pub snapshots: bool,
    /// Entries in its log.
    pub entries: u64,
    /// From the start of its process until its log was open, in milliseconds.
    pub open_millis: f64,
    /// Until it had caught up with the leader.
    pub current_millis: f64,
    /// Size of its data directory.
    pub disk_bytes: u64,
}

/// A storm of changes of ownership.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rebalance {
    /// `raft` or `vr`.
    pub system: String,
    /// Nodes.
    pub nodes: u64,
    /// Partitions.
    pub partitions: u64,
    /// One command for all partitions, or one for each.
    pub how: String,
    /// Commands of the replicated log.
    pub commands: u64,
    /// How long, in milliseconds: the median of the rounds.
    pub millis: f64,
    /// The fastest round; files of format 2 have none.
    #[serde(default)]
    pub low_millis: Option<f64>,
    /// The slowest round; files of format 2 have none.
    #[serde(default)]
    pub high_millis: Option<f64>,
}

/// How much of a client's latency is consensus.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Share {
    /// `raft` or `vr`.
    pub system: String,
    /// The client; files of format 2 are of the stock client.
    #[serde(default = "stock_client")]
    pub client: String,
    /// What the clients did.
    pub workload: String,
    /// Clients.
    pub clients: usize,
    /// Operations per second; each message counts.
    pub per_second: f64,
    /// Commands of the replicated log per second.
    pub commands_per_second: f64,
    /// From request to reply at the client: the mean, in microseconds.
    pub client_micros: f64,
    /// From proposal to reply, in microseconds for each request: the mean.
    pub consensus_micros: f64,
}

fn stock_client() -> String {
    "stock Iggy clients".into()
}

impl Share {
    /// Relative to the client's latency, from 0 to 1.
    #[must_use]
    pub fn of_latency(&self) -> f64 {
        self.consensus_micros / self.client_micros.max(f64::MIN_POSITIVE)
    }

    /// Whether each operation of this workload is a command of the replicated log.
    #[must_use]
    pub fn is_of_metadata(&self) -> bool {
        self.commands_per_second > 0.01 * self.per_second
    }
}

/// Memory of the metadata.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObjectMemory {
    /// The kind of object.
    pub object: String,
    /// How many were created.
    pub count: u64,
    /// Bytes of memory for each.
    pub bytes: f64,
}

/// What happens when commands arrive and none commits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pushback {
    /// `raft` or `vr`.
    pub system: String,
    /// The configured bound of uncommitted commands.
    pub bound_bytes: u64,
    /// Bytes of commands that were sent.
    pub offered_bytes: u64,
    /// Commands that were refused as overload.
    pub refused: u64,
    /// The leader's memory before.
    pub before_bytes: u64,
    /// Its largest memory meanwhile.
    pub peak_bytes: u64,
    /// From when a majority was back to the next reply, in milliseconds.
    pub back_millis: f64,
}
