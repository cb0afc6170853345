//! How often the same sequence of three leaders follows from the same kills.

use std::collections::BTreeSet;

use super::{BACKENDS, Bench, Scenario};
use crate::in_process::{Lab, LabSettings};
use crate::load::{histogram, record};
use crate::results::{Repro, Results};

/// As in the article: five nodes, three leaders.
const REPLICAS: u64 = 5;
const ATTEMPTS: u64 = 2_000;
const ATTEMPTS_QUICK: u64 = 100;

pub(super) fn steps() -> usize {
    BACKENDS.len()
}

pub(super) fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    let attempts = if bench.options.quick {
        ATTEMPTS_QUICK
    } else {
        ATTEMPTS
    };
    for backend in BACKENDS {
        bench.report(Scenario::Repro, backend.name());
        let mut took = histogram();
        let mut repro = Repro {
            system: backend.name().into(),
            replicas: REPLICAS,
            attempts,
            hits: 0,
            hits_after_first: 0,
            firsts: 0,
            sequences: 0,
            skipped: 0,
            took: (&took).into(),
        };
        let mut first_sequence = None;
        let mut seen = BTreeSet::new();
        for seed in 0..attempts {
            let settings = LabSettings {
                backend,
                replicas: REPLICAS,
                seed: seed.wrapping_mul(0x2545_f491_4f6c_dd1d),
            };
            let mut lab = Lab::new(settings)?;
            let mut leaders = vec![lab.elected()?];
            for _ in 0..2 {
                let next = lab.kill_leader()?;
                record(
                    &mut took,
                    std::time::Duration::from_micros(next.took_micros),
                );
                repro.skipped += next.skipped;
                leaders.push(next.leader);
                lab.settle()?;
            }
            let target = first_sequence.get_or_insert_with(|| leaders.clone());
            if seed > 0 {
                repro.hits += u64::from(leaders == *target);
                let first = leaders[0] == target[0];
                repro.firsts += u64::from(first);
                repro.hits_after_first += u64::from(first && leaders == *target);
            }
            seen.insert(leaders);
        }
        repro.attempts -= 1;
        repro.sequences = seen.len() as u64;
        repro.took = (&took).into();
        results.repro.push(repro);
        bench.step();
    }
    Ok(())
}
