//! What is claimed of Raft and VR, and what was measured.

use crate::report::plots::figure;
use crate::results::{Point, Ratio, Results, Run, of_durability, ratios};

/// Whether a claim holds on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Holds,
    DoesNotHold,
    Depends,
    NotMeasured,
}

impl Verdict {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::Depends => "depends",
            Self::NotMeasured => "not measured yet",
        }
    }
}

/// A claim and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) number: u8,
    pub(crate) claim: &'static str,
    pub(crate) figure: String,
    pub(crate) verdict: Verdict,
}

type Judged = Option<(Verdict, String)>;

/// All claims of the article, those that this program does not measure among them.
pub(crate) fn judge(results: &Results) -> Vec<Claim> {
    let claims: [(u8, &'static str, Judged); 28] = [
        (
            1,
            "ZooKeeper carries out 10 to 40 thousand writes/s, etcd 10 to 30",
            peers(results),
        ),
        (
            2,
            "VR is 10 to 100 times as fast as those: more than a million operations/s",
            million(results),
        ),
        (
            3,
            "Without fsync in both, VR has 2 to 5 times Raft's throughput",
            ratio_without_fsync(results),
        ),
        (4, "VR pays above 100,000 operations/s", above_100k(results)),
        (
            5,
            "VR's leader follows from the view alone",
            deterministic(results),
        ),
        (
            6,
            "A given sequence of three leaders takes 125 attempts with Raft, one with VR",
            repro(results),
        ),
        (7, "VR fails over faster than Raft", failover(results)),
        (8, "A network partition is the same for both", None),
        (
            9,
            "A slow disk does not slow VR that writes asynchronously",
            slow_disk(results),
        ),
        (
            10,
            "Memory pressure hurts VR more than Raft",
            pushback(results),
        ),
        (11, "Clock skew splits neither", None),
        (
            12,
            "After power loss everywhere VR has lost what was not checkpointed",
            None,
        ),
        (
            13,
            "A change of the members during a partition is better specified for Raft",
            None,
        ),
        (
            14,
            "Five corner cases of reconfiguration are open in VR",
            None,
        ),
        (
            15,
            "Merkle trees pay only for large states with local changes",
            None,
        ),
        (
            16,
            "Checkpoints bound the log and the recovery",
            recovery(results),
        ),
        (
            17,
            "The disk is an optimisation; checkpoints go through tiers",
            None,
        ),
        (18, "What a cluster costs", None),
        (19, "Leaders that know their region cost determinism", None),
        (
            20,
            "A rebalance takes thousands of coordination writes/s",
            rebalance(results),
        ),
        (21, "Coordinate less rather than faster", None),
        (
            22,
            "Consumers hang when leadership moves during a rebalance",
            None,
        ),
        (
            23,
            "Switch only where consensus is over 5% of latency",
            share(results),
        ),
        (24, "Optimised Raft reaches 70% of VR", raft_of_vr(results)),
        (25, "One consensus for everything has a blast radius", None),
        (
            26,
            "Simulators do not see performance, hardware faults, operations, upgrades",
            None,
        ),
        (
            27,
            "VR lacks sessions, monitoring, runbooks, reconfiguration, region-aware leaders",
            None,
        ),
        (28, "Raft now, VR later: migrating is rarely worth it", None),
    ];
    claims
        .into_iter()
        .map(|(number, claim, judged)| {
            let (verdict, figure) = judged.unwrap_or((Verdict::NotMeasured, String::new()));
            Claim {
                number,
                claim,
                figure,
                verdict,
            }
        })
        .collect()
}

fn holds(yes: bool) -> Verdict {
    match yes {
        true => Verdict::Holds,
        false => Verdict::DoesNotHold,
    }
}

fn best<'a>(points: &'a [Point], system: &str) -> Option<&'a Point> {
    let of = points.iter().filter(|point| point.system == system);
    of.max_by(|a, b| a.per_second().total_cmp(&b.per_second()))
}

fn peers(results: &Results) -> Judged {
    let durable = of_durability(&results.throughput, "fsync");
    let rate = |system| best(&durable, system).map(Point::per_second);
    let (etcd, zookeeper) = (rate("etcd")?, rate("zookeeper")?);
    let inside = |rate: f64, high: f64| (10_000.0..=high).contains(&rate);
    let verdict = match (inside(etcd, 30_000.0), inside(zookeeper, 40_000.0)) {
        (true, true) => Verdict::Holds,
        (false, false) => Verdict::DoesNotHold,
        _ => Verdict::Depends,
    };
    let text = format!(
        "with fsync, at best etcd {}/s, ZooKeeper {}/s, with three nodes and the clients on this machine",
        figure(etcd),
        figure(zookeeper)
    );
    Some((verdict, text))
}

fn million(results: &Results) -> Judged {
    let processes = best(&results.throughput, "vr")?;
    let batch = processes.median(|run: &Run| run.cost.map_or(0.0, |cost| cost.commands_per_batch));
    let consensus = processes.per_second() / batch.max(1.0);
    let alone = best(&results.in_process, "vr").map_or(0.0, Point::per_second);
    let mut text = format!(
        "at best {} commands/s as three processes ({} under way, durability {}), which are {} log entries/s of {} commands",
        figure(processes.per_second()),
        processes.in_flight,
        processes.durability,
        figure(consensus),
        figure(batch),
    );
    let one = results
        .batches
        .iter()
        .find(|point| point.system == "vr" && point.parameter == 1);
    // The first of those that vary memory is the one that it is varied from.
    let durable = of_durability(&results.throughput, "fsync");
    let others = [
        ("with fsync", best(&durable, "vr").map(Point::per_second)),
        ("with one command in each entry", one.map(Point::per_second)),
        (
            "without network and disk",
            Some(alone).filter(|rate| *rate > 0.0),
        ),
        (
            "with 2,048 under way and freed memory kept",
            with_memory(results, "kept"),
        ),
        ("with it returned at once", with_memory(results, "returned")),
        ("with huge pages", with_memory(results, "huge-pages")),
    ];
    for (how, rate) in others {
        if let Some(rate) = rate {
            text += &format!("; {}/s {how}", figure(rate));
        }
    }
    let mut times = Vec::new();
    for peer in ["etcd", "zookeeper"] {
        let all = ratios(&results.throughput, "vr", peer);
        let medians = || all.iter().map(|(_, ratio)| ratio.median);
        if let (Some(low), Some(high)) = (medians().reduce(f64::min), medians().reduce(f64::max)) {
            text += &format!("; {} to {} times {peer}", figure(low), figure(high));
            times.extend([low, high]);
        }
    }
    let inside = times.iter().filter(|times| **times >= 10.0).count();
    let verdict = match (processes.per_second() >= 1e6, inside) {
        (true, inside) if inside == times.len() => Verdict::Holds,
        (false, 0) if alone < 1e6 => Verdict::DoesNotHold,
        _ => Verdict::Depends,
    };
    Some((verdict, text))
}

fn with_memory(results: &Results, setting: &str) -> Option<f64> {
    let mut all = results.memory_settings.iter();
    let point = all.find(|point| point.system == "vr" && point.setting == setting)?;
    Some(point.per_second())
}

fn without_fsync(results: &Results) -> Vec<(&Point, Ratio)> {
    let all = ratios(&results.throughput, "vr", "raft").into_iter();
    all.filter(|(point, _)| point.durability == "none")
        .collect()
}

fn ratio_without_fsync(results: &Results) -> Judged {
    let ratios = without_fsync(results);
    let low = ratios
        .iter()
        .map(|(_, ratio)| ratio.median)
        .reduce(f64::min)?;
    let high = ratios
        .iter()
        .map(|(_, ratio)| ratio.median)
        .reduce(f64::max)?;
    let text = format!(
        "VR has {} to {} times Raft's throughput, over {} settings: the same transport, log and batches for both",
        figure(low),
        figure(high),
        ratios.len()
    );
    let verdict = match (low >= 2.0, high >= 2.0) {
        (true, _) => Verdict::Holds,
        (false, true) => Verdict::Depends,
        (false, false) => Verdict::DoesNotHold,
    };
    Some((verdict, text))
}

fn above_100k(results: &Results) -> Judged {
    let durable = of_durability(&results.throughput, "fsync");
    if durable.is_empty() {
        return None;
    }
    let above: Vec<_> = durable
        .into_iter()
        .filter(|point| point.per_second() > 1e5)
        .collect();
    let say = |system: &str| {
        let of = above.iter().filter(|point| point.system == system);
        match of.min_by_key(|point| point.in_flight) {
            Some(point) => format!(
                "{system} with {} under way (p99 {} ms)",
                point.in_flight,
                figure(point.median(|run| run.latency.p99 as f64) / 1e3)
            ),
            None => format!("{system} not reached"),
        }
    };
    let mut text = format!("over 100,000/s with fsync: {}; {}", say("raft"), say("vr"));
    let both = ratios(&above, "vr", "raft");
    let low = both.iter().map(|(_, ratio)| ratio.low).reduce(f64::min);
    let high = both.iter().map(|(_, ratio)| ratio.high).reduce(f64::max);
    let verdict = match (low, high) {
        (Some(low), Some(high)) => {
            text += &format!(
                "; there VR has {} to {} times Raft's throughput",
                figure(low),
                figure(high)
            );
            match (low > 1.0, high < 1.0) {
                (true, _) => Verdict::Holds,
                (_, true) => Verdict::DoesNotHold,
                _ => Verdict::Depends,
            }
        }
        _ => Verdict::DoesNotHold,
    };
    Some((verdict, text))
}

fn deterministic(results: &Results) -> Judged {
    let vr = results.repro.iter().find(|repro| repro.system == "vr")?;
    let text = format!(
        "{} of {} sequences from the same first leader were the same, {} of {} views were skipped; that the view alone decides is what the test of a million view changes holds",
        vr.hits_after_first,
        vr.firsts,
        vr.skipped,
        2 * vr.attempts
    );
    let follows = vr.firsts > 0 && (vr.hits_after_first == vr.firsts || vr.skipped > 0);
    Some((holds(follows), text))
}

fn repro(results: &Results) -> Judged {
    let of = |system: &str| results.repro.iter().find(|repro| repro.system == system);
    let (raft, vr) = (of("raft")?, of("vr")?);
    let attempts = |hits: u64, of: u64| match hits {
        0 => format!("none in {of}"),
        hits => format!("one in {}", figure(of as f64 / hits as f64)),
    };
    let text = format!(
        "Raft: {}; VR: {} ({} with the same first leader), {} of {} views were skipped",
        attempts(raft.hits, raft.attempts),
        attempts(vr.hits, vr.attempts),
        attempts(vr.hits_after_first, vr.firsts),
        vr.skipped,
        2 * vr.attempts
    );
    let one = vr.hits == vr.attempts;
    let about_125 = raft.hits > 0 && (100..=156).contains(&(raft.attempts / raft.hits));
    let verdict = match (one, about_125) {
        (true, true) => Verdict::Holds,
        (false, false) => Verdict::DoesNotHold,
        _ => Verdict::Depends,
    };
    Some((verdict, text))
}

/// The value below which a share of them lies.
pub(crate) fn quantile(values: &[u64], share: f64) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(0)
}

fn failover(results: &Results) -> Judged {
    let of = |system: &str| {
        let found = results
            .failover
            .iter()
            .find(|failover| failover.system == system);
        found.filter(|failover| !failover.gaps_micros.is_empty())
    };
    let (raft, vr) = (of("raft")?, of("vr")?);
    let millis = |gaps: &[u64], share| quantile(gaps, share) as f64 / 1e3;
    let (raft50, vr50) = (millis(&raft.gaps_micros, 0.5), millis(&vr.gaps_micros, 0.5));
    let (raft99, vr99) = (
        millis(&raft.gaps_micros, 0.99),
        millis(&vr.gaps_micros, 0.99),
    );
    let text = format!(
        "median {} ms (Raft) and {} ms (VR), 99th percentile of {} kills {} and {} ms, at a timeout of {} ms",
        figure(raft50),
        figure(vr50),
        vr.gaps_micros.len(),
        figure(raft99),
        figure(vr99),
        vr.election_timeout_millis
    );
    let faster = |vr: f64, raft: f64| vr < 0.95 * raft;
    let verdict = match (faster(vr50, raft50), faster(vr99, raft99)) {
        (true, true) => Verdict::Holds,
        (false, false) => Verdict::DoesNotHold,
        _ => Verdict::Depends,
    };
    Some((verdict, text))
}

fn slow_disk(results: &Results) -> Judged {
    let rate = |durability: &str, whose: &str, delay: u64| {
        let found = results.slow_disk.iter().find(|slow| {
            slow.system == "vr"
                && slow.durability == durability
                && slow.whose == whose
                && slow.delay_millis == delay
        });
        found.map(|slow| slow.per_second)
    };
    let worst = results
        .slow_disk
        .iter()
        .map(|slow| slow.delay_millis)
        .max()?;
    let base = rate("none", "none", 0)?;
    let leader = rate("none", "leader", worst)? / base;
    let follower = rate("none", "follower", worst)? / base;
    let text = format!(
        "with {worst} ms more at the leader VR keeps {}% of its throughput, at a follower {}%, without fsync",
        figure(leader * 100.0),
        figure(follower * 100.0)
    );
    let verdict = match (leader > 0.8, follower > 0.8) {
        (true, true) => Verdict::Holds,
        (false, true) => Verdict::Depends,
        _ => Verdict::DoesNotHold,
    };
    Some((verdict, text))
}

fn pushback(results: &Results) -> Judged {
    let of = |system: &str| results.pushback.iter().find(|one| one.system == system);
    let (raft, vr) = (of("raft")?, of("vr")?);
    let mib = |bytes: u64| figure(bytes as f64 / f64::from(1 << 20));
    let grown = |one: &crate::results::Pushback| one.peak_bytes.saturating_sub(one.before_bytes);
    let text = format!(
        "{} MiB offered while nothing commits: Raft grows by {} MiB, VR by {} MiB, then both refuse, and answer {} and {} ms after a majority is back",
        mib(vr.offered_bytes),
        mib(grown(raft)),
        mib(grown(vr)),
        figure(raft.back_millis),
        figure(vr.back_millis)
    );
    let hurts_more = grown(vr) as f64 > 1.5 * grown(raft) as f64;
    Some((holds(hurts_more), text))
}

fn recovery(results: &Results) -> Judged {
    let of = |snapshots: bool| {
        let found = results
            .recovery
            .iter()
            .filter(|one| one.snapshots == snapshots);
        found.max_by_key(|one| one.commands)
    };
    let (log, snapshot) = (of(false)?, of(true)?);
    let text = format!(
        "{} after {} commands: {} ms and {} MB of disk by the log alone, {} ms and {} MB with snapshots",
        log.system,
        figure(log.commands as f64),
        figure(log.open_millis),
        figure(log.disk_bytes as f64 / 1e6),
        figure(snapshot.open_millis),
        figure(snapshot.disk_bytes as f64 / 1e6)
    );
    let bounded = snapshot.open_millis < log.open_millis && snapshot.disk_bytes < log.disk_bytes;
    Some((holds(bounded), text))
}

fn rebalance(results: &Results) -> Judged {
    let of_vr = results.rebalance.iter().filter(|one| one.system == "vr");
    let one = of_vr.clone().find(|one| one.commands == 1)?;
    let each: Vec<f64> = of_vr
        .filter(|one| one.commands > 1)
        .map(|one| one.millis)
        .collect();
    let fastest = each.iter().copied().reduce(f64::min).unwrap_or(0.0);
    let slowest = each.iter().copied().reduce(f64::max).unwrap_or(0.0);
    let text = format!(
        "VR, {} partitions on {} nodes: {} ms in one command, {} ms with one for each, {} ms when each is waited for",
        figure(one.partitions as f64),
        figure(one.nodes as f64),
        figure(one.millis),
        figure(fastest),
        figure(slowest)
    );
    Some((Verdict::Depends, text))
}

fn share(results: &Results) -> Judged {
    if results.share.is_empty() {
        return None;
    }
    let of = |metadata: bool| {
        let all = results.share.iter();
        all.filter(|share| share.workload.contains("streams") == metadata)
            .map(crate::results::Share::of_latency)
            .fold(0.0, f64::max)
    };
    let text = format!(
        "consensus is {}% of the latency of metadata commands, {}% of that of messages",
        figure(of(true) * 100.0),
        figure(of(false) * 100.0)
    );
    Some((Verdict::Depends, text))
}

fn raft_of_vr(results: &Results) -> Judged {
    let ratios = without_fsync(results);
    let (point, ratio) = ratios.iter().find(|(point, _)| point.in_flight >= 2_048)?;
    let share = 1.0 / ratio.median.max(f64::MIN_POSITIVE);
    let text = format!(
        "Raft has {}% of VR's throughput with {} under way and no fsync ({} to {}%)",
        figure(share * 100.0),
        point.in_flight,
        figure(100.0 / ratio.high),
        figure(100.0 / ratio.low)
    );
    Some((holds(share >= 0.7), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_judged_that_was_not_measured() {
        let claims = judge(&Results::default());
        assert_eq!(claims.len(), 28);
        assert!(
            claims
                .iter()
                .all(|claim| claim.verdict == Verdict::NotMeasured)
        );
    }

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!(quantile(&values, 0.5), 100);
        assert_eq!(quantile(&values, 0.99), 198);
        assert_eq!(quantile(&values, 1.0), 200);
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
