//! The parts of the report: a table and plots for each scenario.

use std::collections::BTreeSet;

use super::Section;
use super::plots::{self, Plot, Scale, Series, figure};
use crate::claims::quantile;
use crate::results::{Point, Ratio, Results, ratios};

pub(super) fn all(results: &Results) -> anyhow::Result<Vec<Section>> {
    let made = [
        throughput(results)?,
        ratio(results)?,
        cost(results)?,
        batches(results)?,
        in_process(results)?,
        latency(results)?,
        failover(results)?,
        saturation(results),
        repro(results)?,
        slow_disk(results)?,
        recovery(results)?,
        rebalance(results)?,
        share(results)?,
        objects(results),
        pushback(results),
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

fn of_durability(points: &[Point], durability: &str) -> Vec<Point> {
    let of = points.iter().filter(|point| point.durability == durability);
    of.cloned().collect()
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

fn throughput(results: &Results) -> anyhow::Result<Option<Section>> {
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
        let latency = |of: fn(&crate::results::Percentiles) -> u64| {
            figure(point.median(|run| of(&run.latency) as f64))
        };
        vec![
            point.durability.clone(),
            point.in_flight.to_string(),
            point.system.clone(),
            figure(point.per_second()),
            latency(|times| times.p50),
            latency(|times| times.p99),
            latency(|times| times.p999),
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

fn ratio(results: &Results) -> anyhow::Result<Option<Section>> {
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

fn cost(results: &Results) -> anyhow::Result<Option<Section>> {
    let with_cost = results.throughput.iter().filter_map(|point| {
        let first = point.runs.first()?.cost?;
        Some((point, first))
    });
    let each = |point: &Point, of: fn(&crate::results::Cost) -> f64| {
        point.median(|run| run.cost.as_ref().map_or(0.0, of))
    };
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
            (|cost| cost.messages) as fn(&crate::results::Cost) -> f64,
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

fn batches(results: &Results) -> anyhow::Result<Option<Section>> {
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

fn in_process(results: &Results) -> anyhow::Result<Option<Section>> {
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

fn latency(results: &Results) -> anyhow::Result<Option<Section>> {
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
        let latency = |of: fn(&crate::results::Percentiles) -> u64| {
            figure(point.median(|run| of(&run.latency) as f64))
        };
        vec![
            point.durability.clone(),
            point.parameter.to_string(),
            point.system.clone(),
            latency(|times| times.p50),
            latency(|times| times.p99),
            latency(|times| times.p999),
            latency(|times| times.max),
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

fn failover(results: &Results) -> anyhow::Result<Option<Section>> {
    let all = &results.failover;
    let millis = |gaps: &[u64], share| figure(quantile(gaps, share) as f64 / 1e3);
    let rows: Vec<_> = all
        .iter()
        .map(|one| {
            vec![
                one.system.clone(),
                one.gaps_micros.len().to_string(),
                millis(&one.gaps_micros, 0.5),
                millis(&one.gaps_micros, 0.9),
                millis(&one.gaps_micros, 0.99),
                millis(&one.gaps_micros, 1.0),
                one.skipped.to_string(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let curves: Vec<_> = all
        .iter()
        .map(|one| {
            let mut sorted = one.gaps_micros.clone();
            sorted.sort_unstable();
            let total = sorted.len() as f64;
            let values = (1..).zip(sorted);
            let values = values.map(|(at, gap)| (gap as f64 / 1e3, f64::from(at) / total));
            Series {
                name: one.system.clone(),
                values: values.collect(),
            }
        })
        .collect();
    let cdf = plots::lines(
        "failover",
        "From the kill of the leader to the next answer",
        ("milliseconds", "of all kills"),
        Scale::Share,
        &curves,
    )?;
    let replicas = all.iter().map(|one| one.winners.len()).max().unwrap_or(0);
    let categories: Vec<_> = (1..=replicas)
        .map(|distance| match distance == replicas {
            true => "the one that was killed".to_owned(),
            false => format!("{distance} further in order"),
        })
        .collect();
    let winners: Vec<_> = all
        .iter()
        .map(|one| {
            let total = one.winners.iter().sum::<u64>().max(1) as f64;
            let shares = one.winners.iter().map(|won| *won as f64 / total * 100.0);
            Series {
                name: one.system.clone(),
                values: shares.map(|share| (0.0, share)).collect(),
            }
        })
        .collect();
    let winners = plots::bars("winners", "Who leads next", "%", &categories, &winners)?;
    let head = [
        "system",
        "kills",
        "p50, ms",
        "p90, ms",
        "p99, ms",
        "max, ms",
        "terms nobody led",
    ];
    let timeout = all.first().map_or(0, |one| one.election_timeout_millis);
    let text = format!(
        "kill -9 of the leader's process while clients send one command after the other, and look for the new leader themselves; election timeout {timeout} ms, fsync."
    );
    Ok(with_plots(
        section("Failover", &text, &head, rows),
        vec![cdf, winners],
    ))
}

fn saturation(results: &Results) -> Option<Section> {
    let rows = results.saturation.iter().map(|one| {
        vec![
            one.system.clone(),
            figure(one.seconds),
            figure(one.per_second),
            one.elections.to_string(),
        ]
    });
    let text = "Both clusters at once, 2,048 commands under way at each, and a busy loop on every core beside them. A change of leader would be a false election.";
    let head = ["system", "seconds", "commands/s", "changes of term or view"];
    section("Elections under saturation", text, &head, rows.collect())
}

fn repro(results: &Results) -> anyhow::Result<Option<Section>> {
    let rows: Vec<_> = results
        .repro
        .iter()
        .map(|one| {
            vec![
                one.system.clone(),
                one.attempts.to_string(),
                one.hits.to_string(),
                format!("{} of {}", one.hits_after_first, one.firsts),
                one.sequences.to_string(),
                one.skipped.to_string(),
                figure(one.took.p50 as f64 / 1e3),
                figure(one.took.p99 as f64 / 1e3),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let categories = ["attempts for one hit".to_owned()];
    let series: Vec<_> = results
        .repro
        .iter()
        .map(|one| Series {
            name: one.system.clone(),
            values: vec![(0.0, one.attempts as f64 / one.hits.max(1) as f64)],
        })
        .collect();
    let title = "Attempts until the same three leaders come in the same order";
    let plot = plots::bars("repro", title, "", &categories, &series)?;
    let head = [
        "system",
        "attempts",
        "hits",
        "hits after the same first",
        "sequences seen",
        "skipped",
        "p50, ms",
        "p99, ms",
    ];
    let text = "Five replicas in virtual time, with messages that take 0.1 to 0.5 ms and clocks that do not tick together. The leader is killed, comes back, and the next is killed; wanted is the sequence that came first. Times are of virtual clocks.";
    Ok(with_plots(
        section("Repeating a sequence of failures", text, &head, rows),
        vec![plot],
    ))
}

fn slow_disk(results: &Results) -> anyhow::Result<Option<Section>> {
    let all = &results.slow_disk;
    let rows: Vec<_> = all
        .iter()
        .map(|one| {
            vec![
                one.durability.clone(),
                one.whose.clone(),
                one.delay_millis.to_string(),
                one.system.clone(),
                figure(one.per_second),
                figure(one.latency.p50 as f64),
                figure(one.latency.p99 as f64),
            ]
        })
        .collect();
    let mut plots = Vec::new();
    let durabilities: BTreeSet<_> = all.iter().map(|one| one.durability.clone()).collect();
    for durability in durabilities {
        let of: Vec<_> = all
            .iter()
            .filter(|one| one.durability == durability)
            .collect();
        let settings: Vec<_> = of.iter().filter(|one| one.system == "raft").collect();
        let categories: Vec<_> = settings
            .iter()
            .map(|one| match one.delay_millis {
                0 => "no slow disk".to_owned(),
                delay => format!("{}, {delay} ms slower", one.whose),
            })
            .collect();
        let series = of_both(&of, |one| &one.system, |one| one.per_second);
        let title = format!(
            "One slow disk, {}: 256 commands under way",
            in_words(&durability)
        );
        plots.push(plots::bars(
            &format!("slow-disk-{durability}"),
            &title,
            "commands/s",
            &categories,
            &series,
        )?);
    }
    let head = [
        "durability",
        "slow disk",
        "slower by, ms",
        "system",
        "commands/s",
        "p50, us",
        "p99, us",
    ];
    let text = "Every sync of one replica takes so much longer; where nothing is synced, every write. 256 commands under way.";
    Ok(with_plots(section("A slow disk", text, &head, rows), plots))
}

fn recovery(results: &Results) -> anyhow::Result<Option<Section>> {
    let all = &results.recovery;
    let how = |snapshots: bool| if snapshots { "snapshot and log" } else { "log" };
    let rows: Vec<_> = all
        .iter()
        .map(|one| {
            vec![
                figure(one.commands as f64),
                how(one.snapshots).to_owned(),
                one.system.clone(),
                one.entries.to_string(),
                figure(one.open_millis),
                figure(one.current_millis),
                figure(one.disk_bytes as f64 / 1e6),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let settings: Vec<_> = all.iter().filter(|one| one.system == "raft").collect();
    let categories: Vec<_> = settings
        .iter()
        .map(|one| {
            format!(
                "{} commands, {}",
                figure(one.commands as f64),
                how(one.snapshots)
            )
        })
        .collect();
    let series = of_both(all, |one| &one.system, |one| one.open_millis);
    let title = "From the start of a process until its log is open";
    let plot = plots::bars("recovery", title, "ms", &categories, &series)?;
    let head = [
        "commands",
        "by",
        "system",
        "entries read",
        "log open, ms",
        "up to the leader, ms",
        "disk, MB",
    ];
    let text = "A follower is killed with kill -9 and started again. By log: no snapshot was ever taken. By snapshot: one after every 16 MiB of log. By pages of a Merkle tree: not built yet.";
    Ok(with_plots(
        section("Recovery", text, &head, rows),
        vec![plot],
    ))
}

fn rebalance(results: &Results) -> anyhow::Result<Option<Section>> {
    let all = &results.rebalance;
    let rows: Vec<_> = all
        .iter()
        .map(|one| {
            vec![
                one.how.clone(),
                one.system.clone(),
                one.commands.to_string(),
                figure(one.millis),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let settings = all.iter().filter(|one| one.system == "raft");
    let categories: Vec<_> = settings.map(|one| one.how.clone()).collect();
    let series = of_both(all, |one| &one.system, |one| one.millis);
    let title = "New owners for 10,000 partitions on 1,000 nodes";
    let plot = plots::bars("rebalance", title, "ms", &categories, &series)?;
    let head = ["how", "system", "commands", "ms"];
    let text = "Half of the nodes leave or come back: 5,000 partitions move in the one command, the state machine of every replica computes where to. Commit with fsync included. A command for each partition moves all 10,000.";
    Ok(with_plots(
        section("A rebalance storm", text, &head, rows),
        vec![plot],
    ))
}

fn share(results: &Results) -> anyhow::Result<Option<Section>> {
    let all = &results.share;
    let rows: Vec<_> = all
        .iter()
        .map(|one| {
            vec![
                one.workload.clone(),
                one.system.clone(),
                one.clients.to_string(),
                figure(one.per_second),
                figure(one.commands_per_second),
                figure(one.client_micros),
                figure(one.consensus_micros),
                format!("{}%", figure(one.of_latency() * 100.0)),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let settings = all.iter().filter(|one| one.system == "raft");
    let categories: Vec<_> = settings.map(|one| one.workload.clone()).collect();
    let series = of_both(all, |one| &one.system, |one| one.of_latency() * 100.0);
    let title = "Of the latency that stock clients see, consensus is";
    let plot = plots::bars("share", title, "%", &categories, &series)?;
    let head = [
        "stock Iggy clients",
        "system",
        "clients",
        "operations/s",
        "log commands/s",
        "latency, us",
        "of it consensus, us",
        "share",
    ];
    let text = "Three whole nodes, fsync, clients of the iggy crate. Messages, in batches of 100 of 1 KB, never pass through consensus; what they need of it was decided when the topic was created.";
    Ok(with_plots(
        section(
            "What consensus takes of a client's latency",
            text,
            &head,
            rows,
        ),
        vec![plot],
    ))
}

fn objects(results: &Results) -> Option<Section> {
    let rows = results
        .objects
        .iter()
        .map(|one| vec![one.object.clone(), one.count.to_string(), figure(one.bytes)]);
    let text = "Growth of a node's process, with all that belongs to the object.";
    section(
        "Memory of the metadata",
        text,
        &["object", "created", "bytes each"],
        rows.collect(),
    )
}

fn pushback(results: &Results) -> Option<Section> {
    let mib = |bytes: u64| figure(bytes as f64 / f64::from(1 << 20));
    let rows = results.pushback.iter().map(|one| {
        vec![
            one.system.clone(),
            mib(one.bound_bytes),
            mib(one.offered_bytes),
            figure(one.refused as f64),
            mib(one.before_bytes),
            mib(one.peak_bytes),
            figure(one.back_millis),
        ]
    });
    let text = "The followers stand still, and clients send on: the leader refuses what does not fit under its bound, and goes on when the followers do.";
    let head = [
        "system",
        "bound, MiB",
        "offered, MiB",
        "refused",
        "memory before, MiB",
        "at most, MiB",
        "answers after, ms",
    ];
    section("Memory pressure", text, &head, rows.collect())
}
