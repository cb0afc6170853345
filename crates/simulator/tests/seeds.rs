//! Seeds that once failed, and fresh ones.

use std::sync::atomic::{AtomicU64, Ordering};

use simulator::{Backend, Plan, simulate};

/// Found by the simulator, with what it was.
const CORPUS: &[(Backend, &[u64])] = &[
    // A replica that alone had moved to a view waited there for ever.
    (
        Backend::Vr,
        &[1834, 1911, 2673, 3626, 3867, 4306, 4313, 4790],
    ),
    // A snapshot took a replica beyond the log with which its view began.
    (Backend::Vr, &[3390, 4653]),
    // A question that arrived twice confirmed reads of a replaced leader.
    (Backend::Raft, &[5962, 12392]),
];
const FRESH: u64 = 300;

fn passes(backend: Backend, seed: u64) {
    if let Err(failure) = simulate(&Plan::new(backend, seed), false) {
        panic!(
            "{} seed {seed} after {} us: {}; cargo run --release -p simulator -- replay --backend {} --seed {seed}",
            backend.name(),
            failure.micros,
            failure.what,
            backend.name()
        );
    }
}

fn all_pass(backend: Backend) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= FRESH {
                        return;
                    }
                    // Away from those that are in the corpus.
                    passes(backend, 1_000_000 + seed);
                }
            });
        }
    });
}

#[test]
fn what_once_failed_passes() {
    for (backend, seeds) in CORPUS {
        for seed in *seeds {
            passes(*backend, *seed);
        }
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

#[test]
fn equal_seeds_give_equal_runs() {
    for backend in [Backend::Raft, Backend::Vr] {
        for seed in 0..20 {
            let hash = || simulate(&Plan::new(backend, seed), false).unwrap().hash;
            assert_eq!(hash(), hash(), "{} seed {seed}", backend.name());
        }
    }
}
