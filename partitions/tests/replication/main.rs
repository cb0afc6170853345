//! Copies of a partition under random faults: processes and machines that stop, disks that
//! hang or are lost, links that are cut, metadata that lags.

mod checks;
mod metadata;
mod random;
mod scenarios;
mod world;

use consensus::rules::{Rule, break_rule};
use partitions::rules::RULES;
use scenarios::SCENARIOS;
use world::{Counts, Violation, World};

const SEEDS: u64 = 400;
const SEEDS_OF_MUTANTS: u64 = 1_000;
const STEPS: usize = 2_000;
const STEPS_TO_CONVERGE: usize = 20_000;

fn run(seed: u64) -> Result<Counts, Violation> {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step()?;
    }
    world.heal();
    let mut left = STEPS_TO_CONVERGE;
    while let Some(why) = world.not_converged() {
        if world.is_lost() {
            return Ok(world.counts);
        }
        if left == 0 {
            return Err(format!("after all faults: {why}"));
        }
        left -= 1;
        world.step()?;
    }
    Ok(world.counts)
}

#[test]
fn nothing_acknowledged_is_lost_and_the_copies_converge() {
    let mut all = Counts::default();
    for seed in 0..SEEDS {
        match run(seed) {
            Ok(counts) => {
                all.committed += counts.committed;
                all.epochs += counts.epochs;
                all.sets += counts.sets;
                all.recoveries += counts.recoveries;
                all.unknown += counts.unknown;
            }
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    assert!(all.committed > 10_000 && all.epochs > 1_000, "{all:?}");
    assert!(
        all.sets > 100 && all.recoveries > 10 && all.unknown > 100,
        "{all:?}"
    );
}

#[test]
fn rare_situations_are_handled() {
    for scenario in SCENARIOS {
        assert_eq!(scenario(), Ok(()));
    }
}

#[test]
fn every_rule_is_missed_when_it_is_left_out() {
    let missed: Vec<&str> = RULES
        .iter()
        .filter(|rule| !is_caught(rule))
        .map(|rule| rule.name)
        .collect();
    assert_eq!(missed, Vec::<&str>::new());
}

fn is_caught(rule: &Rule) -> bool {
    break_rule(Some(rule));
    let by_scenario = SCENARIOS.iter().any(|scenario| scenario().is_err());
    let caught = by_scenario || (0..SEEDS_OF_MUTANTS).any(|seed| run(seed).is_err());
    break_rule(None);
    caught
}
