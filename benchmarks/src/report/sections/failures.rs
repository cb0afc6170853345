//! What happens when a replica or a disk fails, is slow, or returns.

use std::collections::BTreeSet;

use super::super::plots::{self, Series, Value};
use super::{Section, fsync, grouped, table};
use crate::figures::{count, figure, in_words, name};
use crate::results::{Failover, Results, SlowDisk, quantile};

pub(super) fn failover(results: &Results) -> Section {
    let all = &results.failover;
    let rows = all.iter().map(|one| {
        let millis = |share| figure(quantile(&one.gaps_micros, share) as f64 / 1e3);
        vec![
            name(&one.system).to_owned(),
            count(one.gaps_micros.len() as u64),
            millis(0.5),
            millis(0.9),
            millis(0.99),
            millis(1.0),
            count(one.skipped),
        ]
    });
    let plots = match all.is_empty() {
        true => Vec::new(),
        false => vec![
            plots::cdf(
                "failover",
                "From the kill of the leader to the next success",
                "milliseconds",
                &all.iter().map(distribution).collect::<Vec<_>>(),
            ),
            plots::bars(
                "winners",
                "The next leader, in % of all kills",
                &winners(all),
                None,
            ),
        ],
    };
    let timeout = all.first().map_or(0, |one| one.election_timeout_millis);
    let head = [
        "system",
        "kills",
        "p50, ms",
        "p90, ms",
        "p99, ms",
        "max, ms",
        "terms without leader",
    ];
    Section {
        id: "failover",
        title: "Failover",
        text: format!(
            "The leader's process is killed with SIGKILL while clients send one command after the other and search for the new leader themselves. Election timeout {timeout} ms, with fsync."
        ),
        plots,
        table: table(&head, rows),
    }
}

/// The share of kills that were over after a time.
fn distribution(failover: &Failover) -> Series {
    let mut sorted = failover.gaps_micros.clone();
    sorted.sort_unstable();
    let total = sorted.len() as f64;
    let values = (1..).zip(sorted).map(|(at, gap)| {
        let share = f64::from(at) / total;
        (gap as f64 / 1e3, Value::single(share))
    });
    Series {
        system: failover.system.clone(),
        values: values.collect(),
    }
}

fn winners(all: &[Failover]) -> Vec<plots::Group> {
    let rows = all.iter().flat_map(|one| {
        let total = one.winners.iter().sum::<u64>().max(1) as f64;
        let last = one.winners.len();
        (1..).zip(&one.winners).map(move |(distance, won)| {
            let label = match distance {
                distance if distance == last => "the killed replica itself".to_owned(),
                1 => "the next in order".to_owned(),
                distance => format!("number {distance} in order"),
            };
            let value = Value::single(*won as f64 / total * 100.0);
            (label, one.system.clone(), value)
        })
    });
    grouped(rows)
}

pub(super) fn saturation(results: &Results) -> Section {
    let rows = results.saturation.iter().map(|one| {
        vec![
            name(&one.system).to_owned(),
            figure(one.seconds),
            figure(one.per_second),
            count(one.elections),
        ]
    });
    let head = ["system", "seconds", "commands/s", "changes of term or view"];
    Section {
        id: "saturation",
        title: "Elections under saturation",
        text: "Both clusters concurrently, with 2,048 commands in flight each, and a busy loop on every core. A change of term or view would be an election without a failure.".into(),
        plots: Vec::new(),
        table: table(&head, rows),
    }
}

pub(super) fn repro(results: &Results) -> Section {
    let all = &results.repro;
    let rows = all.iter().map(|one| {
        vec![
            name(&one.system).to_owned(),
            count(one.attempts),
            count(one.hits),
            format!("{} of {}", count(one.hits_after_first), count(one.firsts)),
            count(one.sequences),
            count(one.skipped),
            figure(one.took.p50 as f64 / 1e3),
            figure(one.took.p99 as f64 / 1e3),
        ]
    });
    let groups = grouped(all.iter().map(|one| {
        let label = match one.hits {
            0 => "attempts, none of them a repetition",
            _ => "attempts for one repetition",
        };
        let attempts = one.attempts as f64 / one.hits.max(1) as f64;
        let value = Value::single(attempts);
        (label.to_owned(), one.system.clone(), value)
    }));
    let title = "Attempts until the same three leaders follow";
    let plots = match groups.is_empty() {
        true => Vec::new(),
        false => vec![plots::dots("repro", title, "attempts", &groups)],
    };
    let head = [
        "system",
        "attempts",
        "repeated",
        "with the same first leader",
        "sequences seen",
        "skipped",
        "p50, ms",
        "p99, ms",
    ];
    Section {
        id: "repro",
        title: "Repeating a sequence of failures",
        text: "Five replicas in virtual time, with message delays of 0.1 to 0.5 ms and clocks that are not in phase. The leader is killed and restarts, then the next one is killed; an attempt is a repetition when its three leaders are those of the first attempt. Times are of virtual clocks.".into(),
        plots,
        table: table(&head, rows),
    }
}

pub(super) fn slow_disk(results: &Results) -> Section {
    let all = &results.slow_disk;
    let rows = all.iter().map(|one| {
        vec![
            fsync(&one.durability),
            one.whose.clone(),
            one.delay_millis.to_string(),
            name(&one.system).to_owned(),
            figure(one.per_second),
            figure(one.latency.p50 as f64),
            figure(one.latency.p99 as f64),
        ]
    });
    let durabilities: BTreeSet<&str> = all.iter().map(|one| one.durability.as_str()).collect();
    let plots = durabilities.into_iter().map(|durability| {
        let of = all.iter().filter(|one| one.durability == durability);
        let groups = grouped(of.map(|one| {
            let range = (one.low_per_second, one.high_per_second);
            let value = Value::with_range(one.per_second, range.0, range.1);
            (setting(one), one.system.clone(), value)
        }));
        plots::dots(
            &format!("slow-disk-{durability}"),
            &format!(
                "One slow disk, {}: commands per second",
                in_words(durability)
            ),
            "commands/s",
            &groups,
        )
    });
    let head = [
        "fsync",
        "slow disk",
        "delay, ms",
        "system",
        "commands/s",
        "p50, us",
        "p99, us",
    ];
    Section {
        id: "slow-disk",
        title: "A slow disk",
        text: "Every fdatasync of one replica takes this much longer; without fsync, every write. 256 commands in flight. The axis is logarithmic: each step to the left is a tenth.".into(),
        plots: plots.collect(),
        table: table(&head, rows),
    }
}

fn setting(slow: &SlowDisk) -> String {
    match slow.delay_millis {
        0 => "no slow disk".into(),
        delay => format!("the {}'s disk, {delay} ms slower", slow.whose),
    }
}

pub(super) fn recovery(results: &Results) -> Section {
    let all = &results.recovery;
    let from = |snapshots: bool| if snapshots { "snapshot and log" } else { "log" };
    let rows = all.iter().map(|one| {
        vec![
            count(one.commands),
            from(one.snapshots).to_owned(),
            name(&one.system).to_owned(),
            count(one.entries),
            figure(one.open_millis),
            figure(one.current_millis),
            figure(one.disk_bytes as f64 / 1e6),
        ]
    });
    let groups = grouped(all.iter().map(|one| {
        let label = format!("{} commands, {}", count(one.commands), from(one.snapshots));
        (label, one.system.clone(), Value::single(one.open_millis))
    }));
    let title = "From the start of a process until its log is open";
    let plots = match groups.is_empty() {
        true => Vec::new(),
        false => vec![plots::dots("recovery", title, "ms", &groups)],
    };
    let head = [
        "commands",
        "from",
        "system",
        "entries read",
        "log open, ms",
        "caught up, ms",
        "disk, MB",
    ];
    Section {
        id: "recovery",
        title: "Recovery",
        text: "A follower is killed with SIGKILL and restarts. From the log: no snapshot was ever taken. From snapshot and log: a snapshot after every 16 MiB of log. One run for each row, so there is no spread. Transfer by pages of a Merkle tree is not implemented.".into(),
        plots,
        table: table(&head, rows),
    }
}
