//! Rules of the code that can be broken on purpose, and whether a run sees it.
//!
//! A simulator that finds nothing shows little unless it is known what it would
//! have found. Each mutant is the code without one of the rules that it names
//! (`consensus::rules`). Some are faults that the code once had.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use consensus::rules::Rule;

use crate::plan::{Backend, Plan};
use crate::world::{Failure, FailureClass, Outcome, simulate_without};

/// Where a rule is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A backend's own code.
    Backend(Backend),
    /// What both backends stand on.
    Shared,
}

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// The rule.
    pub rule: &'static Rule,
    /// Where it is kept.
    pub part: Part,
}

/// Rules of shared code that only one backend comes to often enough.
const OF_ONE_BACKEND: [(&str, Backend); 4] = [
    // The log of the other mostly has what the snapshot has.
    ("UnreadableSnapshotRefused", Backend::Vr),
    // The newest batch has the hard state: only a compaction that follows a start, and no
    // write, drops it.
    ("HardStateKept", Backend::Raft),
    // On Raft a transfer that failed mostly starts anew with a newer snapshot.
    ("ListedSnapshotRewritten", Backend::Vr),
    ("FetchedPieceRewritten", Backend::Vr),
];

/// All of them.
pub fn all() -> impl Iterator<Item = Mutant> {
    let (vr, raft) = (Part::Backend(Backend::Vr), Part::Backend(Backend::Raft));
    [
        (consensus_vr::rules::RULES, vr),
        (consensus_raft::rules::RULES, raft),
        (replica::rules::RULES, Part::Shared),
        (adapters::rules::RULES, Part::Shared),
    ]
    .into_iter()
    .flat_map(|(rules, part)| {
        rules.iter().map(move |rule| {
            let only = OF_ONE_BACKEND.iter().find(|(name, _)| *name == rule.name);
            Mutant {
                rule,
                part: only.map_or(part, |(_, backend)| Part::Backend(*backend)),
            }
        })
    })
}

impl Mutant {
    /// The mutant without the rule of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        all().find(|mutant| mutant.rule.name == name)
    }

    /// Whether it is in code that this backend runs.
    #[must_use]
    pub fn concerns(&self, backend: Backend) -> bool {
        self.part == Part::Shared || self.part == Part::Backend(backend)
    }
}

/// Runs a plan on a mutant, or on the code as it is.
///
/// # Errors
/// What went wrong.
pub fn simulate(
    plan: &Plan,
    mutant: Option<&Mutant>,
    keep_trace: bool,
) -> Result<Outcome, Box<Failure>> {
    simulate_without(plan, mutant.map(|mutant| mutant.rule), keep_trace).0
}

/// What came of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A run failed.
    Caught {
        /// How many seeds it took, this one included.
        seeds: u64,
        /// The seed.
        seed: u64,
        /// What the check reported.
        what: String,
    },
    /// No run failed.
    Survived {
        /// In how many of them the rule was broken at all.
        broken_in: u64,
    },
}

/// Runs one seed on the mutant. What a check reported, and whether the run reached the rule
/// that is left out. A run that failed otherwise does not count.
#[must_use]
pub fn run(backend: Backend, mutant: &Mutant, seed: u64) -> (Option<String>, bool) {
    let plan = Plan::new(backend, seed);
    let (result, broken) = simulate_without(&plan, Some(mutant.rule), false);
    let failure = result.err().filter(|it| it.class == FailureClass::Check);
    (failure.map(|failure| failure.what), broken)
}

/// Runs seeds from `first` on, `jobs` at a time, until one fails on the mutant, at
/// most `seeds_max`. The answer does not depend on `jobs`.
#[must_use]
pub fn hunt(backend: Backend, mutant: &Mutant, first: u64, seeds_max: u64, jobs: u64) -> Verdict {
    let next = AtomicU64::new(0);
    let broken_in = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let worker = || {
        while !done.load(Ordering::Relaxed) {
            let count = next.fetch_add(1, Ordering::Relaxed);
            if count >= seeds_max {
                return None;
            }
            let (what, broken) = run(backend, mutant, first + count);
            broken_in.fetch_add(u64::from(broken), Ordering::Relaxed);
            if let Some(what) = what {
                // Those before it are running and will be finished.
                done.store(true, Ordering::Relaxed);
                return Some((count, what));
            }
        }
        None
    };
    let found = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        let found = workers.into_iter().filter_map(|it| it.join().ok()?);
        found.min_by_key(|(count, _)| *count)
    });
    match found {
        Some((count, what)) => Verdict::Caught {
            seeds: count + 1,
            seed: first + count,
            what,
        },
        None => Verdict::Survived {
            broken_in: broken_in.into_inner(),
        },
    }
}
