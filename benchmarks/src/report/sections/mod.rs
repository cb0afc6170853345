//! The parts of the report: a table and plots for each scenario.

mod cost;
mod failures;
mod limits;
mod operations;
mod speed;

use std::collections::BTreeSet;

use super::plots::{Group, Plot, Row, Series, Value};
use crate::figures::figure;
use crate::results::{Percentiles, Point, Results, Run};

/// A part of the report.
pub(super) struct Section {
    /// Names it in links.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What a reader must know, in a few sentences.
    pub(super) text: String,
    pub(super) plots: Vec<Plot>,
    pub(super) table: Table,
}

/// Columns and rows.
pub(super) struct Table {
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// The parts of which something was measured.
pub(super) fn all(results: &Results) -> Vec<Section> {
    let sections = [
        speed::throughput(results),
        speed::ratio(results),
        speed::relative_to_peers(results),
        limits::limits(results),
        cost::cost(results),
        cost::batches(results),
        cost::memory_settings(results),
        speed::in_process(results),
        speed::latency(results),
        failures::failover(results),
        failures::saturation(results),
        failures::repro(results),
        failures::slow_disk(results),
        failures::recovery(results),
        operations::rebalance(results),
        operations::share(results),
        operations::objects(results),
        operations::pushback(results),
    ];
    let measured = sections.into_iter();
    measured
        .filter(|section| !section.table.rows.is_empty())
        .collect()
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    Table {
        head: head.iter().map(|cell| (*cell).to_owned()).collect(),
        rows: rows.into_iter().collect(),
    }
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

/// A column of its own would repeat the word.
fn fsync(durability: &str) -> String {
    match durability {
        "fsync" => "yes".into(),
        _ => "no".into(),
    }
}

/// One line for each system, over what varies, with the ranges of the rounds.
fn lines_of(points: &[Point], x: impl Fn(&Point) -> f64, y: fn(&Run) -> f64) -> Vec<Series> {
    let line = |system: String| {
        let of = points.iter().filter(|point| point.system == system);
        let mut values: Vec<_> = of
            .filter_map(|point| Some((x(point), Value::from(point.spread(y)?))))
            .collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { system, values }
    };
    systems(points).into_iter().map(line).collect()
}

/// Rows of consecutive values with the same label under one heading; Raft before VR.
fn grouped(rows: impl IntoIterator<Item = (String, String, Value)>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (label, system, value) in rows {
        let row = Row { system, value };
        match groups.iter_mut().find(|group| group.label == label) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group {
                label,
                rows: vec![row],
            }),
        }
    }
    for group in &mut groups {
        group.rows.sort_by(|a, b| a.system.cmp(&b.system));
    }
    groups
}

/// The median of the runs, in microseconds.
fn latency_of(point: &Point, of: fn(&Percentiles) -> u64) -> String {
    figure(point.median(|run| of(&run.latency) as f64))
}

/// The median rate, and how many runs it is of where some are missing.
fn rate_of(point: &Point, rounds: usize) -> String {
    let rate = figure(point.per_second());
    match point.runs.len() {
        runs if runs < rounds => format!("{rate} ({runs} of {rounds} runs)"),
        _ => rate,
    }
}
