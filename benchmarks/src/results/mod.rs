//! What was measured, as it is written to `results.json`.

mod file;
mod outcomes;
mod points;
mod statistics;

use serde::{Deserialize, Serialize};

pub(crate) use file::{read, write};
pub use outcomes::{
    Failover, ObjectMemory, Pushback, Rebalance, Recovery, Repro, Saturation, Share, SlowDisk,
};
pub use points::{Cost, Percentiles, Point, Run, of_durability, ratios};
pub use statistics::{Spread, median, quantile};

/// Increases when a field changes its name or its meaning.
pub(crate) const FORMAT: u32 = 3;

/// A whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// The format of this file.
    pub format: u32,
    /// The program's version.
    pub program: String,
    /// When it started, in seconds since the Unix epoch.
    pub started_unix_seconds: u64,
    /// How long it took.
    pub seconds: f64,
    /// The command line, without the path of the program.
    pub command: String,
    /// Replicas of each cluster.
    pub replicas: u8,
    /// Where it ran.
    pub machine: Machine,
    /// What the machine can do at best.
    pub calibration: Calibration,
    /// Commands per second, by in-flight commands.
    pub throughput: Vec<Point>,
    /// The same with 2,048 in flight, by commands of a batch.
    pub batches: Vec<Point>,
    /// The same with 2,048 in flight, by what happens to freed memory.
    pub memory_settings: Vec<Point>,
    /// The protocols alone, in one process.
    pub in_process: Vec<Point>,
    /// Latency at a given rate.
    pub latency: Vec<Point>,
    /// Kills of the leader.
    pub failover: Vec<Failover>,
    /// Elections on a busy machine.
    pub saturation: Vec<Saturation>,
    /// Repeated sequences of leaders.
    pub repro: Vec<Repro>,
    /// One slow disk.
    pub slow_disk: Vec<SlowDisk>,
    /// A replica that restarts.
    pub recovery: Vec<Recovery>,
    /// A storm of changes of ownership.
    pub rebalance: Vec<Rebalance>,
    /// How much of a client's latency is consensus.
    pub share: Vec<Share>,
    /// Memory of the metadata.
    pub objects: Vec<ObjectMemory>,
    /// What happens when commands arrive and none commits.
    pub pushback: Vec<Pushback>,
    /// Peers and scenarios that were requested and could not be measured.
    pub missing: Vec<Missing>,
}

impl Results {
    /// Rounds of the throughput measurements; a spread needs at least two.
    #[must_use]
    pub fn rounds(&self) -> usize {
        let runs = self.throughput.iter().map(|point| point.runs.len());
        runs.max().unwrap_or(0)
    }
}

/// Where it ran.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that the program may use.
    pub cores: usize,
    /// Main memory.
    pub memory_bytes: u64,
    /// The kernel's version.
    pub kernel: String,
    /// The file system that data was written to.
    pub file_system: String,
}

/// What the machine can do at best, measured right before the scenarios.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Calibration {
    /// A write of 4 KiB and its fdatasync, in a preallocated file.
    pub fdatasync: Percentiles,
    /// The same in three files concurrently.
    pub three_fdatasyncs: Percentiles,
    /// A byte there and back over loopback TCP, between two cores.
    pub round_trip: Percentiles,
    /// The same with both ends on one core.
    pub round_trip_one_core: Percentiles,
}

/// A peer or a scenario that could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which.
    pub what: String,
    /// Why, and where possible what to do about it.
    pub why: String,
}
