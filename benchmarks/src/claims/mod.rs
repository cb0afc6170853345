//! What an article claims of Raft and VR, and what was measured.
//!
//! Each claim that a scenario measures has a function that judges it; the others are
//! listed as not measured.

pub(crate) mod article;
mod failures;
mod operations;
mod throughput;

use crate::results::Results;
use article::{CLAIMS, Cited};

/// Whether a claim holds on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Holds,
    DoesNotHold,
    Depends,
}

impl Verdict {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::Depends => "depends",
        }
    }

    fn holds(yes: bool) -> Self {
        match yes {
            true => Self::Holds,
            false => Self::DoesNotHold,
        }
    }

    /// Of a claim with two parts.
    fn both(first: bool, second: bool) -> Self {
        match (first, second) {
            (true, true) => Self::Holds,
            (false, false) => Self::DoesNotHold,
            _ => Self::Depends,
        }
    }
}

/// What was measured of a claim.
#[derive(Clone, Debug)]
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict,
    /// The figures that it rests on, the decisive one first.
    pub(crate) figures: Vec<String>,
}

impl Judgement {
    fn new(verdict: Verdict, figure: String) -> Self {
        Self {
            verdict,
            figures: vec![figure],
        }
    }
}

/// A claim, and the judgement where it was measured.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) cited: Cited,
    pub(crate) judgement: Option<Judgement>,
}

/// All claims of the article, in the order of their numbers.
pub(crate) fn judge(results: &Results) -> Vec<Claim> {
    let judged = |cited: Cited| Claim {
        cited,
        judgement: judge_of(cited.number).and_then(|judge| judge(results)),
    };
    CLAIMS.into_iter().map(judged).collect()
}

/// The function that judges a claim; `None` when no scenario measures it.
fn judge_of(number: u8) -> Option<fn(&Results) -> Option<Judgement>> {
    match number {
        1 => Some(throughput::peers),
        2 => Some(throughput::million),
        3 => Some(throughput::ratio_without_fsync),
        4 => Some(throughput::above_100k),
        5 => Some(failures::deterministic),
        6 => Some(failures::repro),
        7 => Some(failures::failover),
        9 => Some(failures::slow_disk),
        10 => Some(operations::pushback),
        16 => Some(failures::recovery),
        20 => Some(operations::rebalance),
        23 => Some(operations::share),
        24 => Some(throughput::raft_of_vr),
        _ => None,
    }
}

/// The numbers of the claims that a scenario measures.
#[cfg(test)]
pub(crate) fn measured() -> impl Iterator<Item = u8> {
    let numbers = CLAIMS.into_iter().map(|claim| claim.number);
    numbers.filter(|number| judge_of(*number).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_judged_that_was_not_measured() {
        let claims = judge(&Results::default());
        assert_eq!(claims.len(), 28);
        assert!(claims.iter().all(|claim| claim.judgement.is_none()));
    }
}
