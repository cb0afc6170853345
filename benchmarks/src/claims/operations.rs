//! Claims 10, 20 and 23: what a whole cluster and its clients notice.

use super::{Judgement, Verdict};
use crate::figures::{count, figure, percent};
use crate::results::{Pushback, Results, Share};

/// VR suffers more when its memory grows by this factor of Raft's growth.
const SUFFERS_MORE: f64 = 1.5;

pub(super) fn pushback(results: &Results) -> Option<Judgement> {
    let of = |system: &str| results.pushback.iter().find(|one| one.system == system);
    let (raft, vr) = (of("raft")?, of("vr")?);
    let mib = |bytes: u64| figure(bytes as f64 / f64::from(1 << 20));
    let grown = |one: &Pushback| one.peak_bytes.saturating_sub(one.before_bytes);
    let text = format!(
        "{} MiB of commands while none commits: Raft grows by {} MiB, VR by {} MiB; then both refuse, and reply {} and {} ms after a majority is back",
        mib(vr.offered_bytes),
        mib(grown(raft)),
        mib(grown(vr)),
        figure(raft.back_millis),
        figure(vr.back_millis)
    );
    let suffers_more = grown(vr) as f64 > SUFFERS_MORE * grown(raft) as f64;
    Some(Judgement::new(Verdict::holds(suffers_more), text))
}

pub(super) fn rebalance(results: &Results) -> Option<Judgement> {
    let of_vr = results.rebalance.iter().filter(|one| one.system == "vr");
    let one = of_vr.clone().find(|one| one.commands == 1)?;
    let each: Vec<f64> = of_vr
        .filter(|one| one.commands > 1)
        .map(|one| one.millis)
        .collect();
    let fastest = each.iter().copied().reduce(f64::min).unwrap_or(0.0);
    let slowest = each.iter().copied().reduce(f64::max).unwrap_or(0.0);
    let text = format!(
        "VR, {} partitions on {} nodes: {} ms in one command, {} ms with a command for each, {} ms when each waits for the one before",
        count(one.partitions),
        count(one.nodes),
        figure(one.millis),
        figure(fastest),
        figure(slowest)
    );
    Some(Judgement::new(Verdict::Depends, text))
}

pub(super) fn share(results: &Results) -> Option<Judgement> {
    if results.share.is_empty() {
        return None;
    }
    let of = |metadata: bool| {
        let all = results.share.iter();
        all.filter(|share| share.is_of_metadata() == metadata)
            .map(Share::of_latency)
            .fold(0.0, f64::max)
    };
    let text = format!(
        "consensus is {} of the latency of metadata commands, {} of that of messages",
        percent(of(true)),
        percent(of(false))
    );
    Some(Judgement::new(Verdict::Depends, text))
}
