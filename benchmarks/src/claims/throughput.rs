//! Claims 1 to 4 and 24: throughput, relative to what.

use super::{Judgement, Verdict};
use crate::figures::{figure, in_words, name, range, ratio};
use crate::results::{Point, Results, Run, Spread, of_durability, ratios};

/// Above it, the article advises VR.
const MANY_PER_SECOND: f64 = 1e5;
const MILLION: f64 = 1e6;

fn best<'a>(points: &'a [Point], system: &str) -> Option<&'a Point> {
    let of = points.iter().filter(|point| point.system == system);
    of.max_by(|a, b| a.per_second().total_cmp(&b.per_second()))
}

pub(super) fn peers(results: &Results) -> Option<Judgement> {
    let durable = of_durability(&results.throughput, "fsync");
    let rate = |system| best(&durable, system).map(Point::per_second);
    let (etcd, zookeeper) = (rate("etcd")?, rate("zookeeper")?);
    let inside = |rate: f64, high: f64| (10_000.0..=high).contains(&rate);
    let verdict = Verdict::both(inside(etcd, 30_000.0), inside(zookeeper, 40_000.0));
    let text = format!(
        "at most {}/s (etcd) and {}/s (ZooKeeper) with fsync, three nodes and the clients on this machine",
        figure(etcd),
        figure(zookeeper)
    );
    Some(Judgement::new(verdict, text))
}

pub(super) fn million(results: &Results) -> Option<Judgement> {
    let processes = best(&results.throughput, "vr")?;
    let batch = processes.median(|run: &Run| run.cost.map_or(0.0, |cost| cost.commands_per_batch));
    let consensus = processes.per_second() / batch.max(1.0);
    let alone = best(&results.in_process, "vr").map_or(0.0, Point::per_second);
    let mut figures = vec![format!(
        "at most {} commands/s in three processes ({} in flight, {}): {} log entries/s of {} commands",
        figure(processes.per_second()),
        figure(processes.in_flight as f64),
        in_words(&processes.durability),
        figure(consensus),
        figure(batch),
    )];
    let mut factors = Vec::new();
    for peer in ["etcd", "zookeeper"] {
        let medians = ratios(&results.throughput, "vr", peer);
        let medians = medians.iter().map(|(_, ratio)| ratio.median);
        if let Some(medians) = Spread::of(medians) {
            figures.push(format!(
                "{} times the throughput of {}",
                range(medians, figure),
                name(peer)
            ));
            factors.extend([medians.low, medians.high]);
        }
    }
    let others = variations(results, alone).into_iter();
    let others = others.filter_map(|(how, rate)| Some(format!("{}/s {how}", figure(rate?))));
    let others: Vec<_> = others.collect();
    if !others.is_empty() {
        figures.push(format!(
            "with one condition changed at a time: {}",
            others.join(", ")
        ));
    }
    let inside = factors.iter().filter(|factor| **factor >= 10.0).count();
    let verdict = match (processes.per_second() >= MILLION, inside) {
        (true, inside) if inside == factors.len() => Verdict::Holds,
        (false, 0) if alone < MILLION => Verdict::DoesNotHold,
        _ => Verdict::Depends,
    };
    Some(Judgement { verdict, figures })
}

/// VR's throughput when one condition at a time is changed.
fn variations(results: &Results, alone: f64) -> [(&'static str, Option<f64>); 6] {
    let single = results
        .batches
        .iter()
        .find(|point| point.system == "vr" && point.parameter == 1);
    let durable = of_durability(&results.throughput, "fsync");
    let with_memory = |setting: &str| {
        let mut all = results.memory_settings.iter();
        let point = all.find(|point| point.system == "vr" && point.setting == setting)?;
        Some(point.per_second())
    };
    // The first of those that vary memory is the reference of the other two.
    [
        ("with fsync", best(&durable, "vr").map(Point::per_second)),
        (
            "with one command in each entry",
            single.map(Point::per_second),
        ),
        (
            "without network and disk",
            Some(alone).filter(|rate| *rate > 0.0),
        ),
        (
            "with 2,048 in flight and freed memory kept",
            with_memory("kept"),
        ),
        (
            "with freed memory returned immediately",
            with_memory("returned"),
        ),
        ("with huge pages", with_memory("huge-pages")),
    ]
}

fn without_fsync(results: &Results) -> Vec<(&Point, Spread)> {
    let all = ratios(&results.throughput, "vr", "raft").into_iter();
    all.filter(|(point, _)| point.durability == "none")
        .collect()
}

pub(super) fn ratio_without_fsync(results: &Results) -> Option<Judgement> {
    let ratios = without_fsync(results);
    let medians = Spread::of(ratios.iter().map(|(_, ratio)| ratio.median))?;
    let text = format!(
        "VR's throughput relative to Raft: {}, in {} settings, on the same transport, log and batches",
        range(medians, ratio),
        ratios.len()
    );
    let verdict = Verdict::both(medians.low >= 2.0, medians.high >= 2.0);
    Some(Judgement::new(verdict, text))
}

pub(super) fn above_100k(results: &Results) -> Option<Judgement> {
    let durable = of_durability(&results.throughput, "fsync");
    if durable.is_empty() {
        return None;
    }
    let above: Vec<_> = durable
        .into_iter()
        .filter(|point| point.per_second() > MANY_PER_SECOND)
        .collect();
    let first = |system: &str| {
        let of = above.iter().filter(|point| point.system == system);
        match of.min_by_key(|point| point.in_flight) {
            Some(point) => format!(
                "{} with {} in flight or more (p99 {} ms)",
                name(system),
                figure(point.in_flight as f64),
                figure(point.median(|run| run.latency.p99 as f64) / 1e3)
            ),
            None => format!("{} in no setting", name(system)),
        }
    };
    let mut figures = vec![format!(
        "over 100,000 commands/s with fsync: {}, {}",
        first("raft"),
        first("vr")
    )];
    let both: Vec<_> = ratios(&above, "vr", "raft")
        .into_iter()
        .map(|(_, ratio)| ratio)
        .collect();
    let verdict = match Spread::covering(&both) {
        Some((medians, rounds)) => {
            figures.insert(
                0,
                format!(
                    "above 100,000 commands/s, VR's throughput relative to Raft is {} (rounds {})",
                    range(medians, ratio),
                    range(rounds, ratio)
                ),
            );
            match (rounds.low > 1.0, rounds.high < 1.0) {
                (true, _) => Verdict::Holds,
                (_, true) => Verdict::DoesNotHold,
                _ => Verdict::Depends,
            }
        }
        None => Verdict::DoesNotHold,
    };
    Some(Judgement { verdict, figures })
}

pub(super) fn raft_of_vr(results: &Results) -> Option<Judgement> {
    let ratios = without_fsync(results);
    let (point, ratio) = ratios.iter().find(|(point, _)| point.in_flight >= 2_048)?;
    let share = 1.0 / ratio.median.max(f64::MIN_POSITIVE);
    let rounds = Spread {
        median: share,
        low: 100.0 / ratio.high,
        high: 100.0 / ratio.low,
    };
    let text = format!(
        "Raft has {}% of VR's throughput with {} in flight and without fsync (rounds {}%)",
        figure(share * 100.0),
        figure(point.in_flight as f64),
        range(rounds, figure)
    );
    Some(Judgement::new(Verdict::holds(share >= 0.7), text))
}
