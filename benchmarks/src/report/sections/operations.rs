//! What a whole cluster and its clients notice.

use super::super::plots::{self, Value};
use super::{Section, grouped, table};
use crate::figures::{count, figure, name, percent};
use crate::results::Results;

pub(super) fn rebalance(results: &Results) -> Section {
    let all = &results.rebalance;
    let rows = all.iter().map(|one| {
        vec![
            one.how.clone(),
            name(&one.system).to_owned(),
            count(one.commands),
            figure(one.millis),
        ]
    });
    let groups = grouped(all.iter().map(|one| {
        let value = Value::with_range(one.millis, one.low_millis, one.high_millis);
        (one.how.clone(), one.system.clone(), value)
    }));
    let title = "New owners for 10,000 partitions on 1,000 nodes";
    let plots = match groups.is_empty() {
        true => Vec::new(),
        false => vec![plots::dots("rebalance", title, "ms", &groups)],
    };
    let head = ["how", "system", "commands", "ms"];
    Section {
        id: "rebalance",
        title: "A rebalance storm",
        text: "Half of the nodes leave or return: 5,000 partitions move in the one command, and the state machine of every replica computes their owners. The time includes the commit with fsync. A command for each partition moves all 10,000.".into(),
        plots,
        table: table(&head, rows),
    }
}

pub(super) fn share(results: &Results) -> Section {
    let all = &results.share;
    let client = all.first().map_or("clients", |one| one.client.as_str());
    let rows = all.iter().map(|one| {
        vec![
            one.workload.clone(),
            name(&one.system).to_owned(),
            one.clients.to_string(),
            figure(one.per_second),
            figure(one.commands_per_second),
            figure(one.client_micros),
            figure(one.consensus_micros),
            percent(one.of_latency()),
        ]
    });
    let groups = grouped(all.iter().map(|one| {
        let value = Value::single(one.of_latency() * 100.0);
        (one.workload.clone(), one.system.clone(), value)
    }));
    let title = "Consensus, in % of a client's latency";
    let threshold = Some((5.0, "5%, the article's threshold"));
    let plots = match groups.is_empty() {
        true => Vec::new(),
        false => vec![plots::bars("share", title, &groups, threshold)],
    };
    let head = [
        "clients",
        "system",
        "number",
        "operations/s",
        "log commands/s",
        "latency, us",
        "consensus, us",
        "share",
    ];
    Section {
        id: "share",
        title: "Consensus in a client's latency",
        text: format!(
            "Three whole nodes, with fsync, and {client} at the leader. Messages, in batches of 100 of 1 KB, never pass through consensus; the log decides where they go when their topic is created. One run for each row."
        ),
        plots,
        table: table(&head, rows),
    }
}

pub(super) fn objects(results: &Results) -> Section {
    let rows = results
        .objects
        .iter()
        .map(|one| vec![one.object.clone(), count(one.count), figure(one.bytes)]);
    Section {
        id: "objects",
        title: "Memory of the metadata",
        text: "Growth of a node's process, with everything that belongs to the object.".into(),
        plots: Vec::new(),
        table: table(&["object", "created", "bytes each"], rows),
    }
}

pub(super) fn pushback(results: &Results) -> Section {
    let mib = |bytes: u64| figure(bytes as f64 / f64::from(1 << 20));
    let rows = results.pushback.iter().map(|one| {
        vec![
            name(&one.system).to_owned(),
            mib(one.bound_bytes),
            mib(one.offered_bytes),
            count(one.refused),
            mib(one.before_bytes),
            mib(one.peak_bytes),
            figure(one.back_millis),
        ]
    });
    let head = [
        "system",
        "bound, MiB",
        "offered, MiB",
        "refused",
        "memory before, MiB",
        "peak, MiB",
        "recovers after, ms",
    ];
    Section {
        id: "pushback",
        title: "Memory pressure",
        text: "The followers are suspended while clients keep sending: the leader refuses commands beyond its bound, and continues when the followers do.".into(),
        plots: Vec::new(),
        table: table(&head, rows),
    }
}
