//! Raft or VR: a recommendation, and the figures that it rests on.
//!
//! The criteria are the article's, applied to measured figures. VR needs a reason: a
//! speed that clients notice, or determinism that the operator requires.

use crate::figures::{count, figure, percent, range, ratio};
use crate::results::{Failover, Repro, Results, Share, Spread, quantile, ratios};

/// Consensus matters from this share of a request's latency on (claim 23).
const SHARE_MIN: f64 = 0.05;
/// And from this many commands per second on (claim 4).
const RATE_MIN: f64 = 100_000.0;
/// A larger state takes long to send to a replica that returns.
const STATE_BYTES_MAX: f64 = (1_u64 << 30) as f64;
/// VR counts as faster when it is by this factor in every round of every setting.
const RATIO_MIN: f64 = 1.2;
/// A failover counts as faster from this ratio on.
const FASTER: f64 = 0.95;

const UNKNOWN: &str = "not known";

/// What is known of a cluster, or from a benchmark.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Consensus' part of the latency of requests, from 0 to 1.
    pub(crate) share: Option<f64>,
    /// The same of messages, which do not pass through consensus.
    pub(crate) share_of_messages: Option<f64>,
    /// Commands of the replicated log per second.
    pub(crate) commands_per_second: Option<f64>,
    /// VR's throughput relative to Raft, with fsync: of medians, and of all rounds.
    pub(crate) ratio: Option<(Spread, Spread)>,
    /// Size of a snapshot.
    pub(crate) state_bytes: Option<f64>,
    /// p50 and p99 of failovers, in milliseconds: Raft's and VR's.
    pub(crate) failover: Option<([f64; 2], [f64; 2])>,
    /// Repeated sequences of leaders, and attempts: Raft's and VR's.
    pub(crate) repro: Option<([u64; 2], [u64; 2])>,
    /// Rounds of the benchmark; zero where it is none.
    pub(crate) rounds: usize,
    /// Whether the same failures must lead to the same leaders.
    pub(crate) deterministic: bool,
}

impl Known {
    /// From a benchmark, which does not know the load and the state of a cluster.
    pub(crate) fn of_results(results: &Results) -> Self {
        let share = |of_metadata: bool| {
            let all = results.share.iter();
            all.filter(|share| share.is_of_metadata() == of_metadata)
                .map(Share::of_latency)
                .reduce(f64::max)
        };
        let ratios: Vec<_> = ratios(&results.throughput, "vr", "raft")
            .into_iter()
            .filter(|(point, _)| point.durability == "fsync")
            .map(|(_, ratio)| ratio)
            .collect();
        Self {
            share: share(true),
            share_of_messages: share(false),
            ratio: Spread::covering(&ratios),
            failover: both(&results.failover, |one| &one.system, percentiles),
            repro: both(&results.repro, |one| &one.system, repeated),
            rounds: results.rounds(),
            ..Self::default()
        }
    }
}

/// A value of Raft's and of VR's.
fn both<T, V>(all: &[T], system: fn(&T) -> &str, value: fn(&T) -> Option<V>) -> Option<(V, V)> {
    let of = |name: &str| all.iter().find(|one| system(one) == name).and_then(value);
    Some((of("raft")?, of("vr")?))
}

fn percentiles(failover: &Failover) -> Option<[f64; 2]> {
    let gaps = &failover.gaps_micros;
    let millis = |share| quantile(gaps, share) as f64 / 1e3;
    (!gaps.is_empty()).then(|| [millis(0.5), millis(0.99)])
}

fn repeated(repro: &Repro) -> Option<[u64; 2]> {
    Some([repro.hits, repro.attempts])
}

/// Which backend a figure speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Vr,
    Raft,
    Unknown,
}

impl Side {
    fn vr_if(known: Option<bool>) -> Self {
        match known {
            Some(true) => Self::Vr,
            Some(false) => Self::Raft,
            None => Self::Unknown,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vr => "VR",
            Self::Raft => "Raft",
            Self::Unknown => "-",
        }
    }
}

/// One figure of a recommendation.
#[derive(Clone, Debug)]
pub(crate) struct Criterion {
    pub(crate) name: &'static str,
    pub(crate) figure: String,
    pub(crate) side: Side,
    /// What the figure means.
    pub(crate) reason: &'static str,
}

/// A recommendation.
#[derive(Clone, Debug)]
pub(crate) struct Advice {
    /// Which backend to run, and why.
    pub(crate) headline: String,
    /// What would change it, and what it does not know.
    pub(crate) remarks: Vec<String>,
    /// The figures that it rests on.
    pub(crate) figures: [Criterion; 4],
}

fn share(known: &Known) -> Criterion {
    let figure = match (known.share, known.share_of_messages) {
        (None, _) => UNKNOWN.into(),
        (Some(share), None) => percent(share),
        (Some(share), Some(messages)) => format!(
            "{} (metadata), {} (messages)",
            percent(share),
            percent(messages)
        ),
    };
    Criterion {
        name: "Consensus in a client's latency",
        figure,
        side: Side::vr_if(known.share.map(|share| share > SHARE_MIN)),
        reason: "below 5%, clients notice no difference between protocols",
    }
}

fn rate(known: &Known) -> Criterion {
    let rate = known.commands_per_second;
    Criterion {
        name: "Commands per second",
        figure: rate.map_or(UNKNOWN.into(), |rate| format!("{}/s", figure(rate))),
        side: Side::vr_if(rate.map(|rate| rate > RATE_MIN)),
        reason: "below 100,000/s, both backends have capacity to spare",
    }
}

fn throughput(known: &Known) -> Criterion {
    let figure = match known.ratio {
        None => UNKNOWN.into(),
        Some((medians, rounds)) if known.rounds > 1 => format!(
            "{} (rounds {})",
            range(medians, ratio),
            range(rounds, ratio)
        ),
        Some((medians, _)) => range(medians, ratio),
    };
    let faster = known.ratio.map(|(_, rounds)| rounds.low > RATIO_MIN);
    Criterion {
        name: "VR relative to Raft, with fsync",
        figure,
        side: Side::vr_if(faster),
        reason: "throughput; VR counts as faster when every round is above 1.2",
    }
}

fn state(known: &Known) -> Criterion {
    let bytes = known.state_bytes;
    Criterion {
        name: "Size of the state",
        figure: match bytes {
            None => UNKNOWN.into(),
            Some(0.0) => "no snapshot yet".into(),
            Some(bytes) => format!("{} MB", figure(bytes / 1e6)),
        },
        side: Side::vr_if(bytes.map(|bytes| bytes < STATE_BYTES_MAX)),
        reason: "a replica that was away for long receives all of it",
    }
}

fn failover(known: &Known) -> Criterion {
    let figure = match known.failover {
        None => UNKNOWN.into(),
        Some((raft, vr)) => format!(
            "VR {} / {} ms, Raft {} / {} ms",
            figure(vr[0]),
            figure(vr[1]),
            figure(raft[0]),
            figure(raft[1])
        ),
    };
    let faster = known.failover.map(|(raft, vr)| {
        let faster = |at: usize| vr[at] < FASTER * raft[at];
        faster(0) && faster(1)
    });
    Criterion {
        name: "Failover, p50 / p99",
        figure,
        side: Side::vr_if(faster),
        reason: "how long no command succeeds after a crash of the leader",
    }
}

fn repro(known: &Known) -> Criterion {
    let figure = match known.repro {
        None => UNKNOWN.into(),
        Some((raft, vr)) => format!(
            "VR {} of {}, Raft {} of {}",
            count(vr[0]),
            count(vr[1]),
            count(raft[0]),
            count(raft[1])
        ),
    };
    Criterion {
        name: "Same leaders, same failures",
        figure,
        side: Side::vr_if(known.repro.map(|(raft, vr)| vr[0] > raft[0])),
        reason: "for debugging: VR's next primary follows from the view",
    }
}

/// Of a running cluster: its load, its state, and what is known of the backends.
pub(crate) fn of_cluster(known: &Known) -> Advice {
    advice(
        known,
        [throughput(known), share(known), rate(known), state(known)],
    )
}

/// Of a benchmark; `None` when it measured none of the figures.
pub(crate) fn of_benchmark(known: &Known) -> Option<Advice> {
    let figures = [
        throughput(known),
        share(known),
        failover(known),
        repro(known),
    ];
    let unknown = figures.iter().filter(|one| one.side == Side::Unknown);
    match unknown.count() {
        0 => Some(advice(known, figures)),
        unknown if unknown == figures.len() => None,
        _ => Some(Advice {
            headline: "No recommendation: it rests on four figures, and not all were measured."
                .into(),
            remarks: vec!["`iggy-cluster bench compare` measures all of them.".into()],
            figures,
        }),
    }
}

fn advice(known: &Known, figures: [Criterion; 4]) -> Advice {
    let faster = throughput(known).side == Side::Vr;
    let noticed = share(known).side == Side::Vr;
    let busy = rate(known).side;
    let small = state(known).side != Side::Raft;
    let speed = faster && noticed && small;
    let headline = match (speed && busy == Side::Vr, known.deterministic) {
        (true, _) => {
            "Run VR: consensus is a part of your latency that counts, and VR is faster here.".into()
        }
        (false, true) => "Run VR for its determinism; its speed is no reason here.".into(),
        (false, false) => format!("Run Raft: {}.", why_not(known)),
    };
    let mut remarks = Vec::new();
    if speed && busy == Side::Unknown {
        remarks.push("Run VR if your cluster executes over 100,000 commands/s.".into());
    }
    if !headline.starts_with("Run VR") {
        let needed = if known.rounds > 0 {
            "the first two"
        } else {
            "all four"
        };
        remarks.push(format!(
            "Speed is a reason for VR when {needed} figures are for VR."
        ));
        if failover(known).side == Side::Vr {
            remarks.push("Consider VR where its shorter failover matters.".into());
        }
        remarks.push(
            "Choose VR where the same failures must lead to the same leaders (advise --deterministic)."
                .into(),
        );
    }
    if known.ratio.is_none() {
        remarks.push("`iggy-cluster bench compare` measures VR relative to Raft.".into());
    }
    if known.rounds == 1 {
        remarks
            .push("One round: it shows that everything runs, not which backend is faster.".into());
    }
    Advice {
        headline,
        remarks,
        figures,
    }
}

/// Why speed is no reason for VR.
fn why_not(known: &Known) -> String {
    let mut reasons = Vec::new();
    match throughput(known).side {
        Side::Raft => reasons.push(slower(known)),
        Side::Unknown => reasons.push("nothing shows that VR is faster here"),
        Side::Vr => {}
    }
    if share(known).side == Side::Raft {
        reasons.push("clients would not notice it");
    }
    if rate(known).side == Side::Raft {
        reasons.push("the load is far below what both execute");
    }
    if state(known).side == Side::Raft {
        reasons.push("the state is large");
    }
    if reasons.is_empty() {
        reasons.push(match share(known).side {
            Side::Unknown => "the share of consensus in your latency is not known",
            _ => "the load of your cluster is not known",
        });
    }
    reasons.truncate(2);
    reasons.join(", and ")
}

/// How VR's throughput falls short.
fn slower(known: &Known) -> &'static str {
    match known.ratio {
        Some((_, rounds)) if rounds.high < 1.0 => "VR is slower here",
        Some((_, rounds)) if rounds.low > 1.0 => "VR is hardly faster here",
        _ => "VR is faster in some rounds and slower in others",
    }
}

/// The choice that no figure decides.
pub(crate) fn determinism(known: &Known) -> Criterion {
    Criterion {
        name: "The same failures must lead to the same leaders",
        figure: if known.deterministic {
            "yes"
        } else {
            "not required"
        }
        .into(),
        side: Side::vr_if(Some(known.deterministic)),
        reason: "VR's next primary follows from the view, Raft's from a race (--deterministic)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio_of(low: f64) -> Option<(Spread, Spread)> {
        let spread = Spread {
            median: low,
            low,
            high: low,
        };
        Some((spread, spread))
    }

    fn all_for_vr() -> Known {
        Known {
            share: Some(0.4),
            commands_per_second: Some(150_000.0),
            ratio: ratio_of(1.5),
            state_bytes: Some(1e6),
            ..Known::default()
        }
    }

    #[test]
    fn each_missing_reason_speaks_for_raft() {
        let headline = |known: &Known| of_cluster(known).headline;
        assert!(headline(&all_for_vr()).starts_with("Run VR: consensus"));
        for known in [
            Known {
                share: Some(0.01),
                ..all_for_vr()
            },
            Known {
                share: None,
                ..all_for_vr()
            },
            Known {
                commands_per_second: Some(500.0),
                ..all_for_vr()
            },
            Known {
                ratio: ratio_of(1.01),
                ..all_for_vr()
            },
            Known {
                ratio: None,
                ..all_for_vr()
            },
            Known {
                state_bytes: Some(1e12),
                ..all_for_vr()
            },
        ] {
            assert!(headline(&known).starts_with("Run Raft"), "{known:?}");
            let deterministic = Known {
                deterministic: true,
                ..known
            };
            assert!(headline(&deterministic).starts_with("Run VR for its determinism"));
        }
    }

    #[test]
    fn a_benchmark_does_not_know_the_load() {
        let known = Known {
            commands_per_second: None,
            state_bytes: None,
            rounds: 1,
            ..all_for_vr()
        };
        let partial = of_benchmark(&known).expect("figures").headline;
        assert!(partial.starts_with("No recommendation"), "{partial}");
        let known = Known {
            failover: Some(([250.0, 500.0], [200.0, 210.0])),
            repro: Some(([3, 100], [100, 100])),
            ..known
        };
        let advice = of_benchmark(&known).expect("figures");
        assert!(advice.headline.starts_with("Run Raft"), "{advice:?}");
        let remarks = advice.remarks.join(" ");
        assert!(remarks.contains("over 100,000 commands/s"), "{remarks}");
        assert!(remarks.contains("One round"), "{remarks}");
        assert!(of_benchmark(&Known::default()).is_none());
    }
}
