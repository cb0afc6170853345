//! What happens when something dies, is slow, or comes back.

use std::collections::BTreeSet;

use super::super::Section;
use super::super::plots::{self, Scale, Series, figure};
use super::{in_words, of_both, section, with_plots};
use crate::claims::quantile;
use crate::results::Results;

pub(super) fn failover(results: &Results) -> anyhow::Result<Option<Section>> {
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

pub(super) fn saturation(results: &Results) -> Option<Section> {
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

pub(super) fn repro(results: &Results) -> anyhow::Result<Option<Section>> {
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

pub(super) fn slow_disk(results: &Results) -> anyhow::Result<Option<Section>> {
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

pub(super) fn recovery(results: &Results) -> anyhow::Result<Option<Section>> {
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
