//! How fast, at which cost, and how far from others and from the machine.

use std::collections::BTreeSet;

use super::super::Section;
use super::super::plots::{self, Scale, figure};
use super::{durabilities, in_words, lines_of, section, with_plots};
use crate::results::{Cost, Percentiles, Point, Ratio, Results, of_durability, ratios};

/// The median of the runs, in microseconds.
fn latency_of(point: &Point, of: fn(&Percentiles) -> u64) -> String {
    figure(point.median(|run| of(&run.latency) as f64))
}

pub(super) fn throughput(results: &Results) -> anyhow::Result<Option<Section>> {
    let points = &results.throughput;
    let mut plots = Vec::new();
    for durability in durabilities(points) {
        let lines = lines_of(
            &of_durability(points, &durability),
            |point| point.in_flight as f64,
            Point::per_second,
        );
        plots.push(plots::lines(
            &format!("throughput-{durability}"),
            &format!("Commands a second, {}", in_words(&durability)),
            ("commands under way", "commands/s"),
            Scale::LogLog,
            &lines,
        )?);
    }
    let rows = points.iter().map(|point| {
        vec![
            point.durability.clone(),
            point.in_flight.to_string(),
            point.system.clone(),
            figure(point.per_second()),
            latency_of(point, |times| times.p50),
            latency_of(point, |times| times.p99),
            latency_of(point, |times| times.p999),
        ]
    });
    let head = [
        "durability",
        "under way",
        "system",
        "commands/s",
        "p50, us",
        "p99, us",
        "p99.9, us",
    ];
    let text = "Three replicas as processes over loopback TCP, and the clients, on the same cores. A command that is answered is followed by the next, so latency is that of a queue as long as what is under way. A command is one put of a value; peers do the same through clients that keep as many under way.";
    Ok(with_plots(
        section("Throughput", text, &head, rows.collect()),
        plots,
    ))
}

pub(super) fn ratio(results: &Results) -> anyhow::Result<Option<Section>> {
    let mut all: Vec<(String, Ratio)> = Vec::new();
    for (point, ratio) in ratios(&results.throughput, "vr", "raft") {
        let label = format!(
            "{} under way, {}",
            point.in_flight,
            in_words(&point.durability)
        );
        all.push((label, ratio));
    }
    for (point, ratio) in ratios(&results.batches, "vr", "raft") {
        all.push((format!("batches of up to {}", point.parameter), ratio));
    }
    for (point, ratio) in ratios(&results.in_process, "vr", "raft") {
        all.push((
            format!("{} under way, in one process", point.in_flight),
            ratio,
        ));
    }
    let rows = all.iter().map(|(label, ratio)| {
        vec![
            label.clone(),
            figure(ratio.median),
            figure(ratio.low),
            figure(ratio.high),
        ]
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let plot = plots::ratios("ratio", "VR's throughput in times of Raft's", &all)?;
    let head = ["setting", "VR / Raft", "lowest", "highest"];
    let text = "Of neighbouring runs: one run of Raft, one of VR, and again. Processes, links, log, batches and state machine are the same; only the protocol's core differs. Above 1, VR is faster.";
    Ok(with_plots(
        section("VR and Raft", text, &head, rows),
        vec![plot],
    ))
}

/// Ours in times of what people would pick instead.
pub(super) fn beside_peers(results: &Results) -> Option<Section> {
    let mut rows = Vec::new();
    for peer in ["etcd", "zookeeper"] {
        for ours in ["raft", "vr"] {
            for (point, ratio) in ratios(&results.throughput, ours, peer) {
                rows.push(vec![
                    point.durability.clone(),
                    point.in_flight.to_string(),
                    format!("{ours} / {peer}"),
                    figure(ratio.median),
                    figure(ratio.low),
                    figure(ratio.high),
                ]);
            }
        }
    }
    rows.sort_by_key(|row| (row[0].clone(), row[1].parse::<usize>().ok()));
    let head = [
        "durability",
        "under way",
        "systems",
        "throughput, times",
        "lowest",
        "highest",
    ];
    let text = "Of the runs of one round, which are neighbours. The peers do more with a command, and take one in each request.";
    section("Beside the peers", text, &head, rows)
}

/// A point beside what the machine allows.
pub(super) fn beside_limits(results: &Results) -> Option<Section> {
    let calibration = &results.calibration;
    let sync = calibration.three_fdatasyncs.p50 as f64;
    let trips = [
        ("between two cores", calibration.round_trip.p50),
        ("on one core", calibration.round_trip_one_core.p50),
    ];
    let mut rows = Vec::new();
    // So many disks were calibrated.
    let of_three = results.replicas == 3;
    let lone = results.throughput.iter().filter(|point| {
        of_three && point.in_flight == 1 && ["raft", "vr"].contains(&point.system.as_str())
    });
    for point in lone {
        let median = point.median(|run| run.latency.p50 as f64);
        for (where_to, trip) in trips {
            let (syncs, name) = match point.durability.as_str() {
                "fsync" => (sync, " and a sync of three"),
                _ => (0.0, ""),
            };
            let floor = 2.0 * trip as f64 + syncs;
            rows.push(vec![
                point.system.clone(),
                format!("one under way, {}: p50", in_words(&point.durability)),
                format!("two round trips {where_to}{name}"),
                format!("{} us", figure(floor)),
                format!("{} us", figure(median)),
                figure(median / floor.max(f64::MIN_POSITIVE)),
            ]);
        }
    }
    let cores = results.machine.cores as f64;
    let loaded = results
        .throughput
        .iter()
        .filter(|point| point.in_flight >= 2_048);
    for point in loaded {
        let cost = |of: fn(&Cost) -> f64| point.median(|run| run.cost.as_ref().map_or(0.0, of));
        let cpu = cost(|cost| cost.cpu_micros);
        if cpu <= 0.0 {
            continue;
        }
        let rate = point.per_second();
        let mut limits = vec![("all processor time for replicas", cores * 1e6 / cpu)];
        // Each replica syncs every command once, those of a sync together.
        let replicas_syncs = cost(|cost| cost.syncs) / f64::from(results.replicas.max(1));
        if point.durability == "fsync" && replicas_syncs > 0.0 {
            limits.push((
                "one sync of three after the other",
                1e6 / sync / replicas_syncs,
            ));
        }
        for (name, limit) in limits {
            rows.push(vec![
                point.system.clone(),
                format!(
                    "{} under way, {}",
                    point.in_flight,
                    in_words(&point.durability)
                ),
                name.into(),
                format!("{}/s", figure(limit)),
                format!("{}/s", figure(rate)),
                figure(limit / rate.max(f64::MIN_POSITIVE)),
            ]);
        }
    }
    let head = ["system", "setting", "limit", "at best", "measured", "times"];
    let text = "How far it is to what the machine allows. A command alone needs two round trips and, with fsync, a sync at a majority while all three sync; a hop to a core that sleeps takes most of a round trip. Under load, replicas share the processors with the clients, and what a command costs is what was measured.";
    section("Beside the machine's limits", text, &head, rows)
}

pub(super) fn cost(results: &Results) -> anyhow::Result<Option<Section>> {
    let with_cost = results.throughput.iter().filter_map(|point| {
        let first = point.runs.first()?.cost?;
        Some((point, first))
    });
    let each =
        |point: &Point, of: fn(&Cost) -> f64| point.median(|run| run.cost.as_ref().map_or(0.0, of));
    let rows: Vec<_> = with_cost
        .clone()
        .map(|(point, _)| {
            vec![
                point.durability.clone(),
                point.in_flight.to_string(),
                point.system.clone(),
                figure(each(point, |cost| cost.commands_per_batch)),
                figure(each(point, |cost| cost.messages)),
                figure(each(point, |cost| cost.message_bytes)),
                figure(each(point, |cost| cost.syncs)),
                figure(each(point, |cost| cost.written_bytes)),
                figure(each(point, |cost| cost.cpu_micros)),
            ]
        })
        .collect();
    let mut plots = Vec::new();
    let durable = of_durability(&results.throughput, "fsync");
    let settings: BTreeSet<usize> = durable.iter().map(|point| point.in_flight).collect();
    let categories: Vec<_> = settings.iter().map(|n| format!("{n} under way")).collect();
    for (name, title, unit, of) in [
        (
            "cost-messages",
            "Messages between replicas for one command",
            "",
            (|cost| cost.messages) as fn(&Cost) -> f64,
        ),
        (
            "cost-syncs",
            "Syncs for one command, over all replicas",
            "",
            |cost| cost.syncs,
        ),
        (
            "cost-cpu",
            "Processor time for one command, over all replicas",
            "us",
            |cost| cost.cpu_micros,
        ),
    ] {
        if categories.is_empty() {
            continue;
        }
        let series = lines_of(
            &durable,
            |point| point.in_flight as f64,
            |point| each(point, of),
        );
        let ours = series
            .into_iter()
            .filter(|series| ["raft", "vr"].contains(&series.name.as_str()));
        plots.push(plots::bars(
            name,
            title,
            unit,
            &categories,
            &ours.collect::<Vec<_>>(),
        )?);
    }
    let head = [
        "durability",
        "under way",
        "system",
        "commands/entry",
        "messages",
        "message bytes",
        "syncs",
        "written bytes",
        "CPU, us",
    ];
    let text = "For each command, over all replicas. Messages, bytes and syncs do not depend on how fast the machine is.";
    Ok(with_plots(
        section("What a command costs", text, &head, rows),
        plots,
    ))
}

pub(super) fn batches(results: &Results) -> anyhow::Result<Option<Section>> {
    let points = &results.batches;
    let rows = points.iter().map(|point| {
        let batch = point.median(|run| run.cost.map_or(0.0, |cost| cost.commands_per_batch));
        vec![
            point.parameter.to_string(),
            point.system.clone(),
            figure(point.per_second()),
            figure(point.per_second() / batch.max(1.0)),
            figure(batch),
        ]
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let lines = lines_of(points, |point| point.parameter as f64, Point::per_second);
    let plot = plots::lines(
        "batches",
        "Commands a second, by the commands of a log entry",
        ("commands in an entry at most", "commands/s"),
        Scale::LogLog,
        &lines,
    )?;
    let head = [
        "entry at most",
        "system",
        "commands/s",
        "entries/s",
        "commands/entry",
    ];
    let text = "2,048 under way, without fsync. Entries a second are operations of consensus, commands a second logical operations: published figures of a million a second count the latter.";
    Ok(with_plots(
        section("Batches", text, &head, rows),
        vec![plot],
    ))
}

pub(super) fn memory_settings(results: &Results) -> Option<Section> {
    let points = &results.memory_settings;
    let rows = points.iter().map(|point| {
        let spread = Ratio::of(point.runs.iter().map(|run| (run.per_second, 1.0)));
        let cpu = point.median(|run| run.cost.map_or(0.0, |cost| cost.cpu_micros));
        vec![
            point.setting.clone(),
            point.system.clone(),
            figure(point.per_second()),
            spread.map_or(String::new(), |spread| figure(spread.low)),
            spread.map_or(String::new(), |spread| figure(spread.high)),
            figure(cpu),
        ]
    });
    let head = [
        "freed memory",
        "system",
        "commands/s",
        "lowest",
        "highest",
        "CPU, us",
    ];
    let text = "2,048 under way, without fsync. Kept: the allocator keeps what was freed for a second, as a node's does. Returned: it goes back to the system at once. Huge pages: kept, and in pages of 2 MiB where the kernel has them.";
    section("Allocation", text, &head, rows.collect())
}

pub(super) fn in_process(results: &Results) -> anyhow::Result<Option<Section>> {
    let points = &results.in_process;
    let rows: Vec<_> = points
        .iter()
        .map(|point| {
            vec![
                point.in_flight.to_string(),
                point.system.clone(),
                figure(point.per_second()),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let lines = lines_of(points, |point| point.in_flight as f64, Point::per_second);
    let plot = plots::lines(
        "in-process",
        "Commands a second, in one process without network and disk",
        ("commands under way", "commands/s"),
        Scale::LogLog,
        &lines,
    )?;
    let head = ["under way", "system", "commands/s"];
    let text = "All replicas with their logs' windows, batches and state machines. Ours run on one thread and encode every message; openraft, where it was measured, has a task for each of its parts on all cores, and hands its messages over as they are.";
    Ok(with_plots(
        section("The protocols alone", text, &head, rows),
        vec![plot],
    ))
}

pub(super) fn latency(results: &Results) -> anyhow::Result<Option<Section>> {
    let points = &results.latency;
    let mut plots = Vec::new();
    for durability in durabilities(points) {
        let of = of_durability(points, &durability);
        let lines = lines_of(
            &of,
            |point| point.parameter as f64,
            |point| point.median(|run| run.latency.p99 as f64),
        );
        plots.push(plots::lines(
            &format!("latency-{durability}"),
            &format!("99th percentile of latency, {}", in_words(&durability)),
            ("commands a second offered", "microseconds"),
            Scale::LogLog,
            &lines,
        )?);
    }
    let rows = points.iter().map(|point| {
        vec![
            point.durability.clone(),
            point.parameter.to_string(),
            point.system.clone(),
            latency_of(point, |times| times.p50),
            latency_of(point, |times| times.p99),
            latency_of(point, |times| times.p999),
            latency_of(point, |times| times.max),
        ]
    });
    let head = [
        "durability",
        "offered/s",
        "system",
        "p50, us",
        "p99, us",
        "p99.9, us",
        "max, us",
    ];
    let text = "Clients send at this rate whatever becomes of it, what is due in a millisecond together, and latency counts from when a command was due: a stall is counted for everybody who met it.";
    Ok(with_plots(
        section("Latency", text, &head, rows.collect()),
        plots,
    ))
}
