//! What was measured, as it is written to `results.json`.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cluster::Spent;

/// Rises when a field changes its meaning.
pub(crate) const FORMAT: u32 = 2;

/// A whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// The format of this file.
    pub format: u32,
    /// The program's version.
    pub program: String,
    /// When it began, in seconds since the Unix epoch.
    pub begun_unix_seconds: u64,
    /// How long it took.
    pub seconds: f64,
    /// How it was called.
    pub command: String,
    /// Replicas of each cluster.
    pub replicas: u8,
    /// Where it ran.
    pub machine: Machine,
    /// What the machine can do at best.
    pub calibration: Calibration,
    /// Commands a second, by commands under way.
    pub throughput: Vec<Point>,
    /// The same at 2,048 under way, by commands in a batch.
    pub batches: Vec<Point>,
    /// The same at 2,048 under way, by what becomes of memory that is freed.
    pub memory_settings: Vec<Point>,
    /// The protocols alone.
    pub in_process: Vec<Point>,
    /// Latency at a given rate.
    pub latency: Vec<Point>,
    /// Kills of the leader.
    pub failover: Vec<Failover>,
    /// Elections on a machine that is busy.
    pub saturation: Vec<Saturation>,
    /// Sequences of leaders, repeated.
    pub repro: Vec<Repro>,
    /// One disk that is slow.
    pub slow_disk: Vec<SlowDisk>,
    /// A replica that comes back.
    pub recovery: Vec<Recovery>,
    /// A storm of changes of ownership.
    pub rebalance: Vec<Rebalance>,
    /// What consensus takes of a client's latency.
    pub share: Vec<Share>,
    /// Memory of the metadata.
    pub objects: Vec<ObjectMemory>,
    /// What happens when commands come and nothing commits.
    pub pushback: Vec<Pushback>,
    /// Peers and scenarios that were asked for and could not be measured.
    pub missing: Vec<Missing>,
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

/// What the machine can do at best, measured right before.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Calibration {
    /// A write of 4 KiB and its fdatasync, in a file that has its size.
    pub fdatasync: Percentiles,
    /// The same in three files at once.
    pub three_fdatasyncs: Percentiles,
    /// A byte there and back over loopback TCP, between two cores.
    pub round_trip: Percentiles,
    /// The same with both ends on one core.
    pub round_trip_one_core: Percentiles,
}

/// A distribution, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many values.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// 99 of 100 are below.
    pub p99: u64,
    /// 999 of 1,000 are below.
    pub p999: u64,
    /// The largest.
    pub max: u64,
}

impl From<&Histogram<u64>> for Percentiles {
    fn from(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

/// One setting of one system, measured several times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// `raft`, `vr`, or a peer.
    pub system: String,
    /// When a command counts as durable.
    pub durability: String,
    /// Commands under way; 0 where a rate is given.
    pub in_flight: usize,
    /// What else was set: commands of a batch at most, or commands a second offered.
    pub parameter: u64,
    /// What else was set and is not a number.
    pub setting: String,
    /// The runs, in the order of the rounds.
    pub runs: Vec<Run>,
}

impl Point {
    /// The median of the runs' rates.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        median(self.runs.iter().map(|run| run.per_second))
    }

    /// The median of the runs' values.
    #[must_use]
    pub fn median(&self, value: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(value))
    }

    fn is_beside(&self, other: &Self) -> bool {
        self.durability == other.durability
            && self.in_flight == other.in_flight
            && self.parameter == other.parameter
            && self.setting == other.setting
    }
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// In which round; runs of one round are neighbours.
    pub round: usize,
    /// Commands a second.
    pub per_second: f64,
    /// From a command's sending, or when it was due, to its answer.
    pub latency: Percentiles,
    /// What a command cost, where that can be told.
    pub cost: Option<Cost>,
}

/// What one command cost, over all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Commands of a log entry.
    pub commands_per_batch: f64,
    /// Messages between replicas.
    pub messages: f64,
    /// Their bytes.
    pub message_bytes: f64,
    /// Syncs.
    pub syncs: f64,
    /// Bytes written to disks.
    pub written_bytes: f64,
    /// Processor time, in microseconds.
    pub cpu_micros: f64,
}

impl From<Spent> for Cost {
    fn from(spent: Spent) -> Self {
        let each = |amount: f64| amount / spent.commands.max(1) as f64;
        Self {
            commands_per_batch: spent.commands as f64 / spent.batches.max(1) as f64,
            messages: each(spent.messages as f64),
            message_bytes: each(spent.message_bytes as f64),
            syncs: each(spent.syncs as f64),
            written_bytes: each(spent.written_bytes as f64),
            cpu_micros: each(spent.cpu.as_secs_f64() * 1e6),
        }
    }
}

/// Kills of the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failover {
    /// Who.
    pub system: String,
    /// A follower seeks a new leader after so long.
    pub election_timeout_millis: u64,
    /// From the kill to the next command's answer, in microseconds, one for each
    /// trial.
    pub gaps_micros: Vec<u64>,
    /// How often each replica led next, counted from the one that was killed: the
    /// first is the next in order.
    pub winners: Vec<u64>,
    /// Terms or views that nobody led, over all trials.
    pub skipped: u64,
}

/// Elections on a machine that is busy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saturation {
    /// Who.
    pub system: String,
    /// How long.
    pub seconds: f64,
    /// Commands a second meanwhile; zero when the leader did not stay.
    pub per_second: f64,
    /// By how much the term or view has risen.
    pub elections: u64,
}

/// A sequence of leaders, repeated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repro {
    /// Who.
    pub system: String,
    /// Replicas.
    pub replicas: u64,
    /// How often the leader was killed twice.
    pub attempts: u64,
    /// How often the three leaders were the wanted ones.
    pub hits: u64,
    /// How often, of those where the first was the wanted one.
    pub hits_after_first: u64,
    /// How often the first was the wanted one.
    pub firsts: u64,
    /// Different sequences that were seen.
    pub sequences: u64,
    /// Terms or views that nobody led.
    pub skipped: u64,
    /// From a kill to the next leader, in microseconds of virtual time.
    pub took: Percentiles,
}

/// One disk that is slow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlowDisk {
    /// Who.
    pub system: String,
    /// When a command counts as durable.
    pub durability: String,
    /// Whose disk: `none`, `leader` or `follower`.
    pub whose: String,
    /// How much longer a sync takes there, in milliseconds.
    pub delay_millis: u64,
    /// Commands a second.
    pub per_second: f64,
    /// From sending to answer.
    pub latency: Percentiles,
}

/// A replica that comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recovery {
    /// Who.
    pub system: String,
    /// Commands that the cluster had carried out.
    pub commands: u64,
    /// Whether snapshots were taken.
    pub snapshots: bool,
    /// Entries that its log held.
    pub entries: u64,
    /// From the start of its process until its log was open, in milliseconds.
    pub open_millis: f64,
    /// Until it had applied what the leader had.
    pub current_millis: f64,
    /// What its directory held.
    pub disk_bytes: u64,
}

/// A storm of changes of ownership.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rebalance {
    /// Who.
    pub system: String,
    /// Nodes.
    pub nodes: u64,
    /// Partitions.
    pub partitions: u64,
    /// How it was asked for.
    pub how: String,
    /// Commands that it took.
    pub commands: u64,
    /// How long, in milliseconds: the median of the rounds.
    pub millis: f64,
}

/// What consensus takes of a client's latency.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Share {
    /// Who.
    pub system: String,
    /// What the clients did.
    pub workload: String,
    /// Stock clients.
    pub clients: usize,
    /// Operations a second, messages counted each.
    pub per_second: f64,
    /// Commands of the replicated log a second.
    pub commands_per_second: f64,
    /// From request to answer, as a client saw it: the mean, in microseconds.
    pub client_micros: f64,
    /// From proposal to reply, in microseconds for each request: the mean.
    pub consensus_micros: f64,
}

impl Share {
    /// Of the client's latency, from 0 to 1.
    #[must_use]
    pub fn of_latency(&self) -> f64 {
        self.consensus_micros / self.client_micros.max(f64::MIN_POSITIVE)
    }
}

/// Memory of the metadata.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObjectMemory {
    /// What.
    pub object: String,
    /// How many were there.
    pub count: u64,
    /// Bytes of memory for each.
    pub bytes: f64,
}

/// What happens when commands come and nothing commits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pushback {
    /// Who.
    pub system: String,
    /// The configured bound of what may wait.
    pub bound_bytes: u64,
    /// What was offered.
    pub offered_bytes: u64,
    /// Of the commands, how many were refused as too many.
    pub refused: u64,
    /// The leader's memory before.
    pub before_bytes: u64,
    /// Its largest memory meanwhile.
    pub peak_bytes: u64,
    /// From when a majority was back to the next answer, in milliseconds.
    pub back_millis: f64,
}

/// A peer or a scenario that could not be measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Missing {
    /// Which.
    pub peer: String,
    /// What to do about it.
    pub why: String,
}

/// The median; zero of nothing.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (odd, middle) if odd % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// A ratio of two systems over the rounds of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The median of the rounds.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Ratio {
    /// Of each round's values.
    #[must_use]
    pub fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let ratios: Vec<f64> = pairs
            .into_iter()
            .filter(|(_, below)| *below > 0.0)
            .map(|(above, below)| above / below)
            .collect();
        let low = ratios.iter().copied().min_by(f64::total_cmp)?;
        let high = ratios.iter().copied().max_by(f64::total_cmp)?;
        Some(Self {
            median: median(ratios),
            low,
            high,
        })
    }
}

/// The points of this durability.
#[must_use]
pub fn of_durability(points: &[Point], durability: &str) -> Vec<Point> {
    let of = points.iter().filter(|point| point.durability == durability);
    of.cloned().collect()
}

/// A ratio of `above` to `below` for every setting at which both were measured.
#[must_use]
pub fn ratios<'a>(points: &'a [Point], above: &str, below: &str) -> Vec<(&'a Point, Ratio)> {
    let of = |system: &str| {
        let system = system.to_owned();
        points.iter().filter(move |point| point.system == system)
    };
    of(above)
        .filter_map(|point| {
            let other = of(below).find(|other| other.is_beside(point))?;
            // Who failed in a round has no run of it.
            let pairs = point.runs.iter().filter_map(|run| {
                let beside = other.runs.iter().find(|other| other.round == run.round)?;
                Some((run.per_second, beside.per_second))
            });
            Ratio::of(pairs).map(|ratio| (point, ratio))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_rounds_not_of_medians() {
        let point = |system: &str, rates: &[(usize, f64)]| Point {
            system: system.into(),
            durability: "none".into(),
            in_flight: 1,
            parameter: 0,
            setting: String::new(),
            runs: rates
                .iter()
                .map(|(round, rate)| Run {
                    round: *round,
                    per_second: *rate,
                    ..Run::default()
                })
                .collect(),
        };
        let points = [
            point("vr", &[(0, 10.0), (1, 40.0), (2, 7.0), (3, 90.0)]),
            point("raft", &[(0, 10.0), (1, 20.0), (3, 30.0)]),
        ];
        let ratios = ratios(&points, "vr", "raft");
        let expected = Ratio {
            median: 2.0,
            low: 1.0,
            high: 3.0,
        };
        assert_eq!(ratios[0].1, expected);
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert_eq!(median([]).to_bits(), 0.0_f64.to_bits());
    }
}
