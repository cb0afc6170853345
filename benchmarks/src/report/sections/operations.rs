//! What a whole cluster and its clients feel.

use super::super::Section;
use super::super::plots::{self, figure};
use super::{of_both, section, with_plots};
use crate::results::Results;

pub(super) fn rebalance(results: &Results) -> anyhow::Result<Option<Section>> {
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

pub(super) fn share(results: &Results) -> anyhow::Result<Option<Section>> {
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

pub(super) fn objects(results: &Results) -> Option<Section> {
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

pub(super) fn pushback(results: &Results) -> Option<Section> {
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
