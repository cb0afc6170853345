//! Claims 5 to 7, 9 and 16: what happens when a replica or a disk fails.

use super::{Judgement, Verdict};
use crate::figures::{count, figure, name};
use crate::results::{Results, quantile};

/// VR counts as faster from this ratio to Raft on.
const FASTER: f64 = 0.95;
/// A slow disk has no impact when so much of the throughput remains.
const UNAFFECTED: f64 = 0.8;

pub(super) fn deterministic(results: &Results) -> Option<Judgement> {
    let vr = results.repro.iter().find(|repro| repro.system == "vr")?;
    let follows = vr.firsts > 0 && (vr.hits_after_first == vr.firsts || vr.skipped > 0);
    Some(Judgement {
        verdict: Verdict::holds(follows),
        figures: vec![
            format!(
                "{} of {} sequences from the same first leader were the same, {} of {} views were skipped",
                count(vr.hits_after_first),
                count(vr.firsts),
                count(vr.skipped),
                count(2 * vr.attempts)
            ),
            "a test over a million view changes checks that the view alone decides".into(),
        ],
    })
}

pub(super) fn repro(results: &Results) -> Option<Judgement> {
    let of = |system: &str| results.repro.iter().find(|repro| repro.system == system);
    let (raft, vr) = (of("raft")?, of("vr")?);
    let attempts = |hits: u64, of: u64| match hits {
        0 => format!("none of {} attempts", count(of)),
        hits if hits == of => "every attempt".into(),
        hits => format!("1 in {} attempts", figure(of as f64 / hits as f64)),
    };
    let text = format!(
        "the same three leaders in {} (Raft), in {} (VR; in {} with the same first leader; {} of {} views were skipped)",
        attempts(raft.hits, raft.attempts),
        attempts(vr.hits, vr.attempts),
        attempts(vr.hits_after_first, vr.firsts),
        count(vr.skipped),
        count(2 * vr.attempts)
    );
    let one = vr.hits == vr.attempts;
    let about_125 = raft.hits > 0 && (100..=156).contains(&(raft.attempts / raft.hits));
    Some(Judgement::new(Verdict::both(one, about_125), text))
}

pub(super) fn failover(results: &Results) -> Option<Judgement> {
    let of = |system: &str| {
        let mut all = results.failover.iter();
        let found = all.find(|failover| failover.system == system);
        found.filter(|failover| !failover.gaps_micros.is_empty())
    };
    let (raft, vr) = (of("raft")?, of("vr")?);
    let millis = |gaps: &[u64], share| quantile(gaps, share) as f64 / 1e3;
    let both = |share| {
        (
            millis(&vr.gaps_micros, share),
            millis(&raft.gaps_micros, share),
        )
    };
    let ((vr50, raft50), (vr99, raft99)) = (both(0.5), both(0.99));
    let text = format!(
        "p50 {} ms (VR) and {} ms (Raft), p99 {} and {} ms, over {} kills each, with an election timeout of {} ms",
        figure(vr50),
        figure(raft50),
        figure(vr99),
        figure(raft99),
        vr.gaps_micros.len(),
        vr.election_timeout_millis
    );
    let faster = |vr: f64, raft: f64| vr < FASTER * raft;
    let verdict = Verdict::both(faster(vr50, raft50), faster(vr99, raft99));
    Some(Judgement::new(verdict, text))
}

pub(super) fn slow_disk(results: &Results) -> Option<Judgement> {
    let rate = |durability: &str, whose: &str, delay: u64| {
        let found = results.slow_disk.iter().find(|slow| {
            slow.system == "vr"
                && slow.durability == durability
                && slow.whose == whose
                && slow.delay_millis == delay
        });
        found.map(|slow| slow.per_second)
    };
    let delays = results.slow_disk.iter().map(|slow| slow.delay_millis);
    let worst = delays.max()?;
    let base = rate("none", "none", 0)?;
    let leader = rate("none", "leader", worst)? / base;
    let follower = rate("none", "follower", worst)? / base;
    let text = format!(
        "without fsync and with a disk that is {worst} ms slower, VR keeps {}% of its throughput when it is the leader's, {}% when it is a follower's",
        figure(leader * 100.0),
        figure(follower * 100.0)
    );
    let verdict = match (leader > UNAFFECTED, follower > UNAFFECTED) {
        (true, true) => Verdict::Holds,
        (false, true) => Verdict::Depends,
        _ => Verdict::DoesNotHold,
    };
    Some(Judgement::new(verdict, text))
}

pub(super) fn recovery(results: &Results) -> Option<Judgement> {
    let of = |snapshots: bool| {
        let all = results.recovery.iter();
        all.filter(|one| one.snapshots == snapshots)
            .max_by_key(|one| one.commands)
    };
    let (log, snapshot) = (of(false)?, of(true)?);
    let text = format!(
        "{} after {} commands: open in {} ms with {} MB of disk by the log alone, in {} ms with {} MB with snapshots",
        name(&log.system),
        count(log.commands),
        figure(log.open_millis),
        figure(log.disk_bytes as f64 / 1e6),
        figure(snapshot.open_millis),
        figure(snapshot.disk_bytes as f64 / 1e6)
    );
    let bounded = snapshot.open_millis < log.open_millis && snapshot.disk_bytes < log.disk_bytes;
    Some(Judgement::new(Verdict::holds(bounded), text))
}
