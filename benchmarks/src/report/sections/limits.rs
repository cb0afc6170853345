//! How far it is to what the machine allows.

use super::{Section, table};
use crate::figures::{count, figure, in_words, name};
use crate::results::{Cost, Point, Results};

/// Commands in flight from which on the processors are the limit.
const LOADED: usize = 2_048;
/// The calibration is of three disks.
const REPLICAS: u8 = 3;

pub(super) fn limits(results: &Results) -> Section {
    let ours = |point: &&Point| ["raft", "vr"].contains(&point.system.as_str());
    let lone = results.throughput.iter().filter(ours);
    let lone = lone.filter(|point| results.replicas == REPLICAS && point.in_flight == 1);
    let loaded = results.throughput.iter().filter(ours);
    let loaded = loaded.filter(|point| point.in_flight >= LOADED);
    let rows = lone
        .flat_map(|point| of_latency(results, point))
        .chain(loaded.flat_map(|point| of_throughput(results, point)));
    let head = ["system", "setting", "limit", "at best", "measured", "times"];
    Section {
        id: "limits",
        title: "Relative to the machine's limits",
        text: "A single command needs two round trips and, with fsync, an fdatasync at a majority while all three replicas call it; a hop to a sleeping core is most of a round trip. Under load, replicas share the processors with the clients, and the cost of a command is the measured one.".into(),
        plots: Vec::new(),
        table: table(&head, rows),
    }
}

/// One command in flight: round trips and fdatasync.
fn of_latency(results: &Results, point: &Point) -> Vec<Vec<String>> {
    let calibration = &results.calibration;
    let median = point.median(|run| run.latency.p50 as f64);
    let trips = [
        ("between cores", calibration.round_trip.p50),
        ("on one core", calibration.round_trip_one_core.p50),
    ];
    let row = |(place, trip): (&str, u64)| {
        let (sync, and) = match point.durability.as_str() {
            "fsync" => (calibration.three_fdatasyncs.p50 as f64, ", one fdatasync"),
            _ => (0.0, ""),
        };
        let floor = 2.0 * trip as f64 + sync;
        vec![
            name(&point.system).to_owned(),
            format!("1 in flight, {}: p50", in_words(&point.durability)),
            format!("two round trips {place}{and}"),
            format!("{} us", figure(floor)),
            format!("{} us", figure(median)),
            figure(median / floor.max(f64::MIN_POSITIVE)),
        ]
    };
    trips.into_iter().map(row).collect()
}

/// Many in flight: processors, and disks.
fn of_throughput(results: &Results, point: &Point) -> Vec<Vec<String>> {
    let cost = |of: fn(&Cost) -> f64| point.median(|run| run.cost.as_ref().map_or(0.0, of));
    let cpu = cost(|cost| cost.cpu_micros);
    if cpu <= 0.0 {
        return Vec::new();
    }
    let cores = results.machine.cores as f64;
    let rate = point.per_second();
    let mut limits = vec![("all processor time for replicas", cores * 1e6 / cpu)];
    // Each replica syncs every command once, together with others.
    let syncs = cost(|cost| cost.syncs) / f64::from(results.replicas.max(1));
    let sync = results.calibration.three_fdatasyncs.p50 as f64;
    if point.durability == "fsync" && syncs > 0.0 && results.replicas == REPLICAS {
        limits.push(("one fdatasync of three after another", 1e6 / sync / syncs));
    }
    let row = |(limit, at_best): (&str, f64)| {
        vec![
            name(&point.system).to_owned(),
            format!(
                "{} in flight, {}",
                count(point.in_flight as u64),
                in_words(&point.durability)
            ),
            limit.to_owned(),
            format!("{}/s", figure(at_best)),
            format!("{}/s", figure(rate)),
            figure(at_best / rate.max(f64::MIN_POSITIVE)),
        ]
    };
    limits.into_iter().map(row).collect()
}
