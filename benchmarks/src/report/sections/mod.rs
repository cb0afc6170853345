//! The parts of the report: a table and plots for each scenario.

mod failures;
mod operations;
mod throughput;

use std::collections::BTreeSet;

use super::Section;
use super::plots::{Plot, Series};
use crate::results::{Point, Results};

pub(super) fn all(results: &Results) -> anyhow::Result<Vec<Section>> {
    let made = [
        throughput::throughput(results)?,
        throughput::ratio(results)?,
        throughput::beside_peers(results),
        throughput::beside_limits(results),
        throughput::cost(results)?,
        throughput::batches(results)?,
        throughput::memory_settings(results),
        throughput::in_process(results)?,
        throughput::latency(results)?,
        failures::failover(results)?,
        failures::saturation(results),
        failures::repro(results)?,
        failures::slow_disk(results)?,
        failures::recovery(results)?,
        operations::rebalance(results)?,
        operations::share(results)?,
        operations::objects(results),
        operations::pushback(results),
    ];
    Ok(made.into_iter().flatten().collect())
}

fn section(title: &str, text: &str, head: &[&str], rows: Vec<Vec<String>>) -> Option<Section> {
    (!rows.is_empty()).then(|| Section {
        title: title.into(),
        text: text.into(),
        head: head.iter().map(|cell| (*cell).to_owned()).collect(),
        rows,
        plots: Vec::new(),
    })
}

fn with_plots(section: Option<Section>, plots: Vec<Plot>) -> Option<Section> {
    section.map(|section| Section { plots, ..section })
}

/// The systems among some points, ours first.
fn systems(points: &[Point]) -> Vec<String> {
    let known: BTreeSet<&str> = points.iter().map(|point| point.system.as_str()).collect();
    let order = ["raft", "vr", "openraft", "etcd", "zookeeper"];
    let ordered = order.iter().filter(|system| known.contains(*system));
    ordered.map(|system| (*system).to_owned()).collect()
}

fn durabilities(points: &[Point]) -> Vec<String> {
    let known: BTreeSet<&String> = points.iter().map(|point| &point.durability).collect();
    known.into_iter().cloned().collect()
}

/// One line for each system, over what varies.
fn lines_of(points: &[Point], x: impl Fn(&Point) -> f64, y: impl Fn(&Point) -> f64) -> Vec<Series> {
    let line = |system: String| {
        let of = points.iter().filter(|point| point.system == system);
        let mut values: Vec<_> = of.map(|point| (x(point), y(point))).collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series {
            name: system,
            values,
        }
    };
    systems(points).into_iter().map(line).collect()
}

/// What both backends have, a value for each setting.
fn of_both<T>(all: &[T], system: impl Fn(&T) -> &str, value: impl Fn(&T) -> f64) -> [Series; 2] {
    ["raft", "vr"].map(|name| {
        let of = all.iter().filter(|one| system(one) == name);
        Series {
            name: name.into(),
            values: of.map(|one| (0.0, value(one))).collect(),
        }
    })
}

fn in_words(durability: &str) -> &'static str {
    match durability {
        "fsync" => "with fsync",
        "none" => "without fsync",
        _ => "in one process",
    }
}
