//! Seeds that once failed, fresh ones, and that a seed is a run.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use simulator::mutants::{self, Mutant};
use simulator::shrink::shrink;
use simulator::{Backend, Plan, simulate};

/// What the simulator has found: each fault is kept as a mutant, with seeds on
/// which it shows.
const CORPUS: &[(Backend, &str, &[u64])] = &[
    (Backend::Vr, "LaterViewFollowed", &[188]),
    (Backend::Raft, "ReadIndexContextUnique", &[164]),
    (Backend::Vr, "FetchedPieceRewritten", &[9]),
    (Backend::Vr, "ListedSnapshotRewritten", &[0]),
];
/// What it has found that other tests hold, on the seeds that showed it.
const PASSED_BY_NOW: &[(Backend, u64)] = &[(Backend::Vr, 1066), (Backend::Vr, 1860)];
const FRESH: u64 = 300;
/// Away from those of the corpus.
const FRESH_FROM: u64 = 1_000_000;

fn passes(backend: Backend, seed: u64) {
    if let Err(failure) = simulate(&Plan::new(backend, seed), false) {
        let name = backend.name();
        panic!(
            "{name} seed {seed} after {} us: {}; cargo run --release -p simulator -- replay --backend {name} --seed {seed}",
            failure.micros, failure.what,
        );
    }
}

fn all_pass(backend: Backend) {
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= FRESH {
                return;
            }
            passes(backend, FRESH_FROM + seed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
}

/// With the fault that it found a seed fails, without it passes.
#[test]
fn what_was_found_is_still_found_and_no_longer_there() {
    for (backend, mutant, seeds) in CORPUS {
        let mutant = Mutant::named(mutant).unwrap();
        for seed in *seeds {
            let (failure, _) = mutants::run(*backend, &mutant, *seed);
            assert!(failure.is_some(), "{} seed {seed}", mutant.rule.name);
            passes(*backend, *seed);
        }
    }
    for (backend, seed) in PASSED_BY_NOW {
        passes(*backend, *seed);
    }
}

#[test]
fn fresh_seeds_pass_on_raft() {
    all_pass(Backend::Raft);
}

#[test]
fn fresh_seeds_pass_on_vr() {
    all_pass(Backend::Vr);
}

/// Runs a seed in a process of its own and returns the last line, which has the
/// hash of all that happened.
fn replayed(backend: Backend, seed: u64) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_simulator"))
        .args(["replay", "--backend", backend.name(), "--seed"])
        .arg(seed.to_string())
        .output()
        .expect("the simulator");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().last().expect("a verdict").to_owned()
}

#[test]
fn a_seed_gives_the_same_run_in_two_processes() {
    for backend in [Backend::Raft, Backend::Vr] {
        for seed in 0..10 {
            let replay = replayed(backend, seed);
            assert_eq!(replay, replayed(backend, seed));
            let here = simulate(&Plan::new(backend, seed), false).unwrap().hash;
            assert!(replay.ends_with(&format!("{here:016x}")), "{replay}");
        }
    }
}

#[test]
fn different_seeds_give_different_runs() {
    let hash = |seed| simulate(&Plan::new(Backend::Vr, seed), false).unwrap().hash;
    assert_ne!(hash(0), hash(1));
}

/// Few faults are left, and every one of them is needed.
#[test]
fn a_seed_that_fails_is_shrunk_to_the_faults_that_it_needs() {
    let mutant = Mutant::named("ViewStartsByQuorum").unwrap();
    let fails = |plan: &Plan| mutants::simulate(plan, Some(&mutant), false).is_err();
    let plan = (0..500)
        .map(|seed| Plan::new(Backend::Vr, seed))
        .find(fails)
        .unwrap();
    let shrunk = shrink(&plan, Some(&mutant)).unwrap();
    assert!(fails(&shrunk.plan));
    assert!(shrunk.faults.len() < plan.faults());
    for left_out in &shrunk.faults {
        let rest = shrunk.faults.iter().filter(|number| *number != left_out);
        let rest: Vec<_> = rest.copied().collect();
        assert!(!fails(&shrunk.plan.clone().only(&rest)), "{left_out}");
    }
    assert!(shrink(&plan, None).is_none());
}
