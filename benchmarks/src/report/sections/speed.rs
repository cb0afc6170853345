//! How fast: throughput, relative to others, and latency.

use super::super::plots::{self, Plot, Value};
use super::{Section, durabilities, fsync, grouped, latency_of, lines_of, rate_of, table};
use crate::figures::{count, in_words, name, ratio as ratio_figure};
use crate::results::{Results, Spread, of_durability, ratios};

pub(super) fn throughput(results: &Results) -> Section {
    let points = &results.throughput;
    let plots = durabilities(points).into_iter().map(|durability| {
        let lines = lines_of(
            &of_durability(points, &durability),
            |point| point.in_flight as f64,
            |run| run.per_second,
        );
        plots::lines(
            &format!("throughput-{durability}"),
            &format!("Commands per second, {}", in_words(&durability)),
            ("in-flight commands", "commands/s"),
            &lines,
        )
    });
    let rounds = results.rounds();
    let rows = points.iter().map(|point| {
        vec![
            fsync(&point.durability),
            count(point.in_flight as u64),
            name(&point.system).to_owned(),
            rate_of(point, rounds),
            latency_of(point, |times| times.p50),
            latency_of(point, |times| times.p99),
            latency_of(point, |times| times.p999),
        ]
    });
    let head = [
        "fsync",
        "in flight",
        "system",
        "commands/s",
        "p50, us",
        "p99, us",
        "p99.9, us",
    ];
    Section {
        id: "throughput",
        title: "Throughput",
        text: "Three replicas as processes over loopback TCP, and the clients, share the cores of this machine. The next command is sent when one has its outcome, so latency includes a queue as long as the number of in-flight commands. A command is one put of a value; peers execute the same through clients that keep as many in flight. Bands are the range of the rounds.".into(),
        plots: plots.collect(),
        table: table(&head, rows),
    }
}

pub(super) fn ratio(results: &Results) -> Section {
    let in_flight = |durability: &str| {
        let all = ratios(&results.throughput, "vr", "raft").into_iter();
        all.filter(|(point, _)| point.durability == durability)
            .map(|(point, ratio)| {
                let label = format!("{} in flight", count(point.in_flight as u64));
                (label, ratio)
            })
            .collect::<Vec<_>>()
    };
    let batches = ratios(&results.batches, "vr", "raft").into_iter();
    let batches = batches.map(|(point, ratio)| {
        let label = match point.parameter {
            1 => "1 command".into(),
            commands => format!("up to {} commands", count(commands)),
        };
        (label, ratio)
    });
    let in_process = ratios(&results.in_process, "vr", "raft").into_iter();
    let in_process = in_process.map(|(point, ratio)| {
        let label = format!("{} in flight", count(point.in_flight as u64));
        (label, ratio)
    });
    let groups: Vec<(String, Vec<(String, Spread)>)> = [
        ("With fsync", in_flight("fsync")),
        ("Without fsync", in_flight("none")),
        ("Without fsync, by batch", batches.collect()),
        ("In one process", in_process.collect()),
    ]
    .into_iter()
    .filter(|(_, rows)| !rows.is_empty())
    .map(|(heading, rows)| (heading.to_owned(), rows))
    .collect();
    let rows = groups.iter().flat_map(|(heading, rows)| {
        rows.iter().map(|(label, ratio)| {
            vec![
                heading.clone(),
                label.clone(),
                ratio_figure(ratio.median),
                ratio_figure(ratio.low),
                ratio_figure(ratio.high),
            ]
        })
    });
    let title = "VR's throughput relative to Raft";
    let sides = ("Raft faster", "VR faster");
    let plots = match groups.is_empty() {
        true => Vec::new(),
        false => vec![plots::ratios("ratio", title, sides, &groups)],
    };
    let head = ["condition", "setting", "VR / Raft", "lowest", "highest"];
    Section {
        id: "ratio",
        title: "VR relative to Raft",
        text: "The ratio of two runs that follow each other: the dot is the median of the rounds, the bar their range. A bar across 1 means that the rounds do not agree on which is faster. Processes, links, log, batches and state machine are the same; only the protocol's core differs.".into(),
        table: table(&head, rows),
        plots,
    }
}

/// Ours, relative to the alternatives.
pub(super) fn relative_to_peers(results: &Results) -> Section {
    let mut rows = Vec::new();
    let plots = ["etcd", "zookeeper"].map(|peer| relative_to(results, peer));
    for peer in ["etcd", "zookeeper"] {
        for ours in ["raft", "vr"] {
            for (point, ratio) in ratios(&results.throughput, ours, peer) {
                let key = (point.durability.clone(), point.in_flight);
                let row = vec![
                    fsync(&point.durability),
                    count(point.in_flight as u64),
                    format!("{} / {}", name(ours), name(peer)),
                    ratio_figure(ratio.median),
                    ratio_figure(ratio.low),
                    ratio_figure(ratio.high),
                ];
                rows.push((key, row));
            }
        }
    }
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    let head = [
        "fsync",
        "in flight",
        "systems",
        "ratio",
        "lowest",
        "highest",
    ];
    Section {
        id: "peers",
        title: "Relative to etcd and ZooKeeper",
        text: "Throughput ratios of the runs of one round. The peers do more with a command, and accept one in each request. Whiskers are the range of the rounds.".into(),
        plots: plots.into_iter().flatten().collect(),
        table: table(&head, rows.into_iter().map(|(_, row)| row)),
    }
}

fn relative_to(results: &Results, peer: &str) -> Option<Plot> {
    let rows = ["raft", "vr"].into_iter().flat_map(|ours| {
        let all = ratios(&results.throughput, ours, peer).into_iter();
        let durable = all.filter(|(point, _)| point.durability == "fsync");
        durable.map(move |(point, ratio)| {
            let label = format!("{} in flight", count(point.in_flight as u64));
            (label, ours.to_owned(), Value::from(ratio))
        })
    });
    let groups = grouped(rows);
    let title = format!("Throughput relative to {}, with fsync", name(peer));
    let plot = || plots::dots(&format!("relative-to-{peer}"), &title, "times", &groups);
    (!groups.is_empty()).then(plot)
}

pub(super) fn in_process(results: &Results) -> Section {
    let points = &results.in_process;
    let lines = lines_of(points, |point| point.in_flight as f64, |run| run.per_second);
    let plot = plots::lines(
        "in-process",
        "Commands per second in one process",
        ("in-flight commands", "commands/s"),
        &lines,
    );
    let rows = points.iter().map(|point| {
        let rates = point.spread(|run| run.per_second);
        vec![
            count(point.in_flight as u64),
            name(&point.system).to_owned(),
            rates.map_or_else(String::new, |rates| count(rates.median as u64)),
            rates.map_or_else(String::new, |rates| count(rates.low as u64)),
            rates.map_or_else(String::new, |rates| count(rates.high as u64)),
        ]
    });
    let head = ["in flight", "system", "commands/s", "lowest", "highest"];
    Section {
        id: "in-process",
        title: "The protocols alone",
        text: "All replicas in one process, without network and disk, with their in-memory logs, batches and state machines. Ours run on one thread and encode every message; openraft, where it was measured, runs a task for each of its parts on all cores, and passes its messages without encoding.".into(),
        plots: vec![plot],
        table: table(&head, rows),
    }
}

pub(super) fn latency(results: &Results) -> Section {
    let points = &results.latency;
    let plots = durabilities(points).into_iter().map(|durability| {
        let lines = lines_of(
            &of_durability(points, &durability),
            |point| point.parameter as f64,
            |run| run.latency.p99 as f64,
        );
        plots::lines(
            &format!("latency-{durability}"),
            &format!("p99 of the latency, {}", in_words(&durability)),
            ("commands offered per second", "microseconds"),
            &lines,
        )
    });
    let rows = points.iter().map(|point| {
        vec![
            fsync(&point.durability),
            count(point.parameter),
            name(&point.system).to_owned(),
            latency_of(point, |times| times.p50),
            latency_of(point, |times| times.p99),
            latency_of(point, |times| times.p999),
            latency_of(point, |times| times.max),
        ]
    });
    let head = [
        "fsync",
        "offered/s",
        "system",
        "p50, us",
        "p99, us",
        "p99.9, us",
        "max, us",
    ];
    Section {
        id: "latency",
        title: "Latency",
        text: "Clients send at this rate whether outcomes arrive or not, the commands of a millisecond together, and latency counts from when a command was due: a stall counts for every command that was due in it. Bands are the range of the rounds; a wide band means that some rounds had a stall.".into(),
        plots: plots.collect(),
        table: table(&head, rows),
    }
}
