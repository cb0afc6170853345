//! Settings that are measured in rounds: what throughput and latency consist of.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::statistics::{Spread, median};

/// A distribution, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many values.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
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
    /// When a command counts as durable: `fsync`, `none`, or `in process`.
    pub durability: String,
    /// In-flight commands; 0 where a rate is given.
    pub in_flight: usize,
    /// A further setting: commands of a batch at most, or commands offered per second.
    pub parameter: u64,
    /// A further setting that is not a number.
    pub setting: String,
    /// The runs, in the order of the rounds.
    pub runs: Vec<Run>,
}

impl Point {
    /// The median of the runs' rates.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.median(|run| run.per_second)
    }

    /// The median of a value of the runs.
    #[must_use]
    pub fn median(&self, value: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(value))
    }

    /// The spread of a value of the runs.
    #[must_use]
    pub fn spread(&self, value: impl Fn(&Run) -> f64) -> Option<Spread> {
        Spread::of(self.runs.iter().map(value))
    }

    fn has_the_setting_of(&self, other: &Self) -> bool {
        self.durability == other.durability
            && self.in_flight == other.in_flight
            && self.parameter == other.parameter
            && self.setting == other.setting
    }
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// In which round; runs of one round follow each other.
    pub round: usize,
    /// Commands per second.
    pub per_second: f64,
    /// From sending a command, or from when it was due, to its reply.
    pub latency: Percentiles,
    /// What a command cost, where it was counted.
    pub cost: Option<Cost>,
}

/// What one command cost, summed over all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Commands of a log entry.
    pub commands_per_batch: f64,
    /// Messages between replicas.
    pub messages: f64,
    /// Their bytes.
    pub message_bytes: f64,
    /// Calls of fdatasync.
    pub syncs: f64,
    /// Bytes written to disks.
    pub written_bytes: f64,
    /// Processor time, in microseconds.
    pub cpu_micros: f64,
}

/// The points of this durability.
#[must_use]
pub fn of_durability(points: &[Point], durability: &str) -> Vec<Point> {
    let of = points.iter().filter(|point| point.durability == durability);
    of.cloned().collect()
}

/// The throughput of `above` relative to `below`, for every setting at which both were
/// measured.
#[must_use]
pub fn ratios<'a>(points: &'a [Point], above: &str, below: &str) -> Vec<(&'a Point, Spread)> {
    let of = |system: &str| {
        let system = system.to_owned();
        points.iter().filter(move |point| point.system == system)
    };
    of(above)
        .filter_map(|point| {
            let other = of(below).find(|other| other.has_the_setting_of(point))?;
            // A system that failed in a round has no run of it.
            let pairs = point.runs.iter().filter_map(|run| {
                let same_round = other.runs.iter().find(|other| other.round == run.round)?;
                Some((run.per_second, same_round.per_second))
            });
            Spread::of_ratios(pairs).map(|ratio| (point, ratio))
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
        let expected = Spread {
            median: 2.0,
            low: 1.0,
            high: 3.0,
        };
        assert_eq!(ratios[0].1, expected);
    }
}
