//! What a command costs, and what the cost depends on.

use super::super::plots::{self, Plot, Value};
use super::{Section, fsync, grouped, lines_of, table};
use crate::figures::{count, figure, name};
use crate::results::{Cost, Point, Results, Run, of_durability};

fn each(run: &Run, of: fn(&Cost) -> f64) -> f64 {
    run.cost.as_ref().map_or(0.0, of)
}

fn has_cost(point: &&Point) -> bool {
    point.runs.iter().any(|run| run.cost.is_some())
}

pub(super) fn cost(results: &Results) -> Section {
    let rows = results.throughput.iter().filter(has_cost).map(|point| {
        let median = |of: fn(&Cost) -> f64| figure(point.median(|run| each(run, of)));
        vec![
            fsync(&point.durability),
            count(point.in_flight as u64),
            name(&point.system).to_owned(),
            median(|cost| cost.commands_per_batch),
            median(|cost| cost.messages),
            median(|cost| cost.message_bytes),
            median(|cost| cost.syncs),
            median(|cost| cost.written_bytes),
            median(|cost| cost.cpu_micros),
        ]
    });
    let durable = of_durability(&results.throughput, "fsync");
    let plot = |name: &str, title: &str, unit: &str, of: fn(&Cost) -> f64| {
        let rows = durable.iter().filter(has_cost).filter_map(|point| {
            let label = format!("{} in flight", count(point.in_flight as u64));
            let value = point.spread(|run| each(run, of))?;
            Some((label, point.system.clone(), Value::from(value)))
        });
        let groups = grouped(rows);
        (!groups.is_empty()).then(|| plots::dots(name, title, unit, &groups))
    };
    let plots: [Option<Plot>; 3] = [
        plot(
            "cost-messages",
            "Messages between replicas per command, with fsync",
            "messages",
            |cost| cost.messages,
        ),
        plot(
            "cost-syncs",
            "Calls of fdatasync per command, over all replicas",
            "fdatasyncs",
            |cost| cost.syncs,
        ),
        plot(
            "cost-cpu",
            "Processor time per command, over all replicas",
            "us",
            |cost| cost.cpu_micros,
        ),
    ];
    let head = [
        "fsync",
        "in flight",
        "system",
        "commands/entry",
        "messages",
        "message bytes",
        "fsyncs",
        "written bytes",
        "CPU, us",
    ];
    Section {
        id: "cost",
        title: "The cost of a command",
        text: "For each command, over all replicas. Messages, bytes and calls of fdatasync do not depend on the speed of the machine.".into(),
        plots: plots.into_iter().flatten().collect(),
        table: table(&head, rows),
    }
}

pub(super) fn batches(results: &Results) -> Section {
    let points = &results.batches;
    let rows = points.iter().map(|point| {
        let batch = point.median(|run| each(run, |cost| cost.commands_per_batch));
        vec![
            count(point.parameter),
            name(&point.system).to_owned(),
            figure(point.per_second()),
            figure(point.per_second() / batch.max(1.0)),
            figure(batch),
        ]
    });
    let lines = lines_of(points, |point| point.parameter as f64, |run| run.per_second);
    let plot = plots::lines(
        "batches",
        "Commands per second, by commands of a log entry",
        ("commands of an entry, at most", "commands/s"),
        &lines,
    );
    let head = [
        "entry at most",
        "system",
        "commands/s",
        "entries/s",
        "commands/entry",
    ];
    Section {
        id: "batches",
        title: "Batches",
        text: "With 2,048 commands in flight, without fsync. Entries are operations of consensus, commands are logical operations: published figures of a million per second count the latter.".into(),
        plots: vec![plot],
        table: table(&head, rows),
    }
}

pub(super) fn memory_settings(results: &Results) -> Section {
    let rows = results.memory_settings.iter().filter_map(|point| {
        let rates = point.spread(|run| run.per_second)?;
        let cpu = point.median(|run| each(run, |cost| cost.cpu_micros));
        Some(vec![
            point.setting.clone(),
            name(&point.system).to_owned(),
            figure(rates.median),
            figure(rates.low),
            figure(rates.high),
            figure(cpu),
        ])
    });
    let head = [
        "freed memory",
        "system",
        "commands/s",
        "lowest",
        "highest",
        "CPU, us",
    ];
    Section {
        id: "allocation",
        title: "Memory allocation",
        text: "With 2,048 commands in flight, without fsync. Kept: the allocator keeps freed memory for a second, as in a node. Returned: it is returned to the system immediately. Huge pages: kept, and in pages of 2 MiB where the kernel has them.".into(),
        plots: Vec::new(),
        table: table(&head, rows),
    }
}
