//! How far it is to what the machine allows.

use super::super::plots::{self, Value};
use super::{Section, grouped, table};
use crate::figures::{count, figure, in_words, name};
use crate::results::{Cost, Point, Results};

/// Commands in flight from which on the processors are the limit.
const LOADED: usize = 2_048;
/// The calibration is of three disks.
const REPLICAS: u8 = 3;

/// A measured value and its limit.
struct Distance<'a> {
    system: &'a str,
    setting: String,
    limit: String,
    at_best: String,
    measured: String,
    times: f64,
}

pub(super) fn limits(results: &Results) -> Section {
    let ours = |point: &&Point| ["raft", "vr"].contains(&point.system.as_str());
    let lone = results.throughput.iter().filter(ours);
    let lone = lone.filter(|point| results.replicas == REPLICAS && point.in_flight == 1);
    let loaded = results.throughput.iter().filter(ours);
    let loaded = loaded.filter(|point| point.in_flight >= LOADED);
    let all: Vec<_> = lone
        .flat_map(|point| of_latency(results, point))
        .chain(loaded.flat_map(|point| of_throughput(results, point)))
        .collect();
    let groups = grouped(all.iter().map(|one| {
        let label = format!("{}: {}", one.setting, one.limit);
        (label, one.system.to_owned(), Value::single(one.times))
    }));
    let title = "Distance to the machine's limits, as a factor";
    let plots = match groups.is_empty() {
        true => Vec::new(),
        false => vec![plots::dots("limits", title, "times", &groups)],
    };
    let rows = all.into_iter().map(|one| {
        vec![
            name(one.system).to_owned(),
            one.setting,
            one.limit,
            one.at_best,
            one.measured,
            figure(one.times),
        ]
    });
    let head = ["system", "setting", "limit", "at best", "measured", "times"];
    Section {
        id: "limits",
        title: "Relative to the machine's limits",
        text: "A factor of 1 would be the limit. A single command needs two round trips (of the network) and, with fsync, an fdatasync at a majority while all three replicas call it; a hop to a sleeping core is most of a round trip. Under load, replicas share the processors with the clients, and the cost of a command is the measured one.".into(),
        plots,
        table: table(&head, rows),
    }
}

/// One command in flight: round trips and fdatasync.
fn of_latency<'a>(results: &Results, point: &'a Point) -> Vec<Distance<'a>> {
    let calibration = &results.calibration;
    let median = point.median(|run| run.latency.p50 as f64);
    let trips = [
        ("between cores", calibration.round_trip.p50),
        ("on one core", calibration.round_trip_one_core.p50),
    ];
    let distance = |(place, trip): (&str, u64)| {
        let (sync, and) = match point.durability.as_str() {
            "fsync" => (calibration.three_fdatasyncs.p50 as f64, ", 1 fdatasync"),
            _ => (0.0, ""),
        };
        let floor = 2.0 * trip as f64 + sync;
        Distance {
            system: &point.system,
            setting: format!("1 in flight, {}", in_words(&point.durability)),
            limit: format!("2 trips {place}{and}"),
            at_best: format!("{} us", figure(floor)),
            measured: format!("{} us", figure(median)),
            times: median / floor.max(f64::MIN_POSITIVE),
        }
    };
    trips.into_iter().map(distance).collect()
}

/// Many in flight: processors, and disks.
fn of_throughput<'a>(results: &Results, point: &'a Point) -> Vec<Distance<'a>> {
    let cost = |of: fn(&Cost) -> f64| point.median(|run| run.cost.as_ref().map_or(0.0, of));
    let cpu = cost(|cost| cost.cpu_micros);
    if cpu <= 0.0 {
        return Vec::new();
    }
    let cores = results.machine.cores as f64;
    let rate = point.per_second();
    let mut limits = vec![("all processor time", cores * 1e6 / cpu)];
    // Each replica syncs every command once, together with others.
    let syncs = cost(|cost| cost.syncs) / f64::from(results.replicas.max(1));
    let sync = results.calibration.three_fdatasyncs.p50 as f64;
    if point.durability == "fsync" && syncs > 0.0 && results.replicas == REPLICAS {
        limits.push(("fdatasyncs in sequence", 1e6 / sync / syncs));
    }
    let distance = |(limit, at_best): (&str, f64)| Distance {
        system: &point.system,
        setting: format!(
            "{} in flight, {}",
            count(point.in_flight as u64),
            in_words(&point.durability)
        ),
        limit: limit.to_owned(),
        at_best: format!("{}/s", figure(at_best)),
        measured: format!("{}/s", figure(rate)),
        times: at_best / rate.max(f64::MIN_POSITIVE),
    };
    limits.into_iter().map(distance).collect()
}
