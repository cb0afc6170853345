//! The fewest faults with which a seed still fails.

use crate::mutants::Mutant;
use crate::plan::Plan;
use crate::world::{Failure, simulate_without};

/// A run with few faults that fails.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The run.
    pub plan: Plan,
    /// The numbers of its faults, as [`Plan::only`] takes them.
    pub faults: Vec<usize>,
    /// Whether it fails on a network without loss, duplicates and reordering, with
    /// clocks that run right.
    pub quiet: bool,
    /// How it fails.
    pub failure: Failure,
    /// Runs that it took to find it.
    pub runs: u64,
}

/// In so many ways is chance tried with fewer faults: what is left out changes the
/// moments of all that is behind it.
const VARIATIONS: u64 = 8;

/// Takes faults out of a run, as long as it fails: ever smaller parts of them, as
/// delta debugging does. `None` when the run passes.
#[must_use]
pub fn shrink(plan: &Plan, mutant: Option<&Mutant>) -> Option<Shrunk> {
    let mut search = Search { mutant, runs: 0 };
    let failure = search.run(plan)?;
    let all: Vec<usize> = (0..plan.faults()).collect();
    let mut found = Found {
        plan: plan.clone(),
        faults: all.clone(),
        failure,
    };
    let mut base = plan.clone();
    let quiet = search.fails(&base.clone().quiet(), &all);
    let quiet = quiet.map(|it| found = it).is_some();
    if quiet {
        base = base.quiet();
    }
    let mut parts = 2;
    while !found.faults.is_empty() {
        let size = found.faults.len().div_ceil(parts);
        let smaller = (0..found.faults.len()).step_by(size).find_map(|from| {
            let mut rest = found.faults.clone();
            rest.drain(from..(from + size).min(found.faults.len()));
            search.fails(&base, &rest)
        });
        match smaller {
            Some(smaller) => {
                found = smaller;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => parts = (2 * parts).min(found.faults.len()),
        }
    }
    Some(Shrunk {
        plan: found.plan,
        faults: found.faults,
        quiet,
        failure: found.failure,
        runs: search.runs,
    })
}

struct Found {
    plan: Plan,
    faults: Vec<usize>,
    failure: Failure,
}

struct Search<'a> {
    mutant: Option<&'a Mutant>,
    runs: u64,
}

impl Search<'_> {
    fn run(&mut self, plan: &Plan) -> Option<Failure> {
        self.runs += 1;
        let (result, _) = simulate_without(plan, self.mutant.map(|it| it.rule), false);
        result.err().map(|failure| *failure)
    }

    /// Whether it fails with these faults only, whatever else happens.
    fn fails(&mut self, base: &Plan, faults: &[usize]) -> Option<Found> {
        (0..VARIATIONS).find_map(|variation| {
            let plan = base.clone().only(faults).varied(variation);
            let failure = self.run(&plan)?;
            let faults = faults.to_vec();
            Some(Found {
                plan,
                faults,
                failure,
            })
        })
    }
}
