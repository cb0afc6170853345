//! The fewest faults with which a seed still fails.

use crate::mutants::Mutant;
use crate::plan::Plan;
use crate::world::{Failure, simulate_broken};

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

/// Takes faults out of a run, as long as it fails: ever smaller parts of them, as
/// delta debugging does. `None` when the run passes.
#[must_use]
pub fn shrink(plan: &Plan, mutant: Option<&Mutant>) -> Option<Shrunk> {
    let mut runs = 0;
    let mut fails = |plan: &Plan| {
        runs += 1;
        simulate_broken(plan, mutant.map(|it| it.name), false)
            .0
            .err()
    };
    let mut failure = *fails(plan)?;
    let mut faults: Vec<usize> = (0..plan.faults()).collect();
    let mut base = plan.clone();
    // Faults that did nothing can be left out only where nobody asks for them.
    if let Some(without) = fails(&plan.clone().only(&faults)) {
        failure = *without;
    } else {
        return Some(Shrunk {
            plan: base,
            faults,
            quiet: false,
            failure,
            runs,
        });
    }
    let mut quiet = false;
    if let Some(still) = fails(&base.clone().quiet().only(&faults)) {
        base = base.quiet();
        failure = *still;
        quiet = true;
    }
    if let Some(still) = fails(&base.clone().only(&[])) {
        faults.clear();
        failure = *still;
    }
    let mut parts = 2;
    while faults.len() > 1 {
        let size = faults.len().div_ceil(parts);
        let without = (0..faults.len()).step_by(size).find_map(|from| {
            let mut rest = faults.clone();
            rest.drain(from..(from + size).min(faults.len()));
            Some((fails(&base.clone().only(&rest))?, rest))
        });
        match without {
            Some((still, rest)) => {
                failure = *still;
                faults = rest;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => parts = (2 * parts).min(faults.len()),
        }
    }
    if faults.len() == 1
        && let Some(still) = fails(&base.clone().only(&[]))
    {
        failure = *still;
        faults.clear();
    }
    Some(Shrunk {
        plan: base.only(&faults),
        faults,
        quiet,
        failure,
        runs,
    })
}
