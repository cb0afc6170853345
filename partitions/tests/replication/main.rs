//! Copies of a partition under random faults: processes and machines that stop, disks that
//! hang or are lost, links that are cut, metadata that lags.

mod checks;
mod client;
mod clients;
mod faults;
mod io;
mod log;
mod metadata;
mod random;
mod rules;
mod scenarios;
mod world;

use consensus::rules::{Rule, break_rule};
use partitions::rules::RULES;
use scenarios::SCENARIOS;
use world::{Counts, Violation, World};

const SEEDS: u64 = 400;
const SEEDS_OF_MUTANTS: u64 = 500;
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
        if left % 500 == 499 && world.is_lost() {
            world.force();
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
    for seed in seeds().chain(FOUND) {
        match run(seed) {
            Ok(counts) => {
                all.committed += counts.committed;
                all.epochs += counts.epochs;
                all.sets += counts.sets;
                all.recoveries += counts.recoveries;
                all.unknown += counts.unknown;
                all.resets += counts.resets;
                all.trims += counts.trims;
                all.offsets += counts.offsets;
                all.reads += counts.reads;
                all.repetitions += counts.repetitions;
                all.forced += counts.forced;
                all.failed += counts.failed;
            }
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    assert!(all.committed > 10_000 && all.epochs > 1_000, "{all:?}");
    println!("{all:?}");
    assert!(
        all.resets > 10 && all.trims > 100 && all.offsets > 1_000 && all.reads > 1_000,
        "{all:?}"
    );
    assert!(
        all.repetitions > 100 && all.forced > 5 && all.failed > 20,
        "{all:?}"
    );
    assert!(
        all.sets > 100 && all.recoveries > 10 && all.unknown > 100,
        "{all:?}"
    );
}

/// `REPLICATION_SEEDS=1000..100000` runs these instead of the usual ones.
fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("REPLICATION_SEEDS").ok();
    let range = given.as_deref().and_then(|given| given.split_once(".."));
    let range = range.and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.unwrap_or(0..SEEDS)
}

/// Seeds that have found something that the usual ones do not show.
const FOUND: [u64; 4] = [995, 1_857, 3_280, 50_406];

#[test]
fn rare_situations_are_handled() {
    for scenario in SCENARIOS {
        assert_eq!(scenario(), Ok(()));
    }
}

#[test]
fn every_rule_is_missed_when_it_is_left_out() {
    let only = std::env::var("REPLICATION_RULE").ok();
    let mut missed = Vec::new();
    for rule in RULES.iter().chain(rules::RULES) {
        if only.as_deref().is_some_and(|only| only != rule.name) {
            continue;
        }
        let caught = caught_by(rule);
        println!("{}: {}", rule.name, caught.as_deref().unwrap_or("missed"));
        if caught.is_none() {
            missed.push(rule.name);
        }
    }
    assert_eq!(missed, Vec::<&str>::new());
}

/// What shows that the rule is left out, and how.
fn caught_by(rule: &Rule) -> Option<String> {
    break_rule(Some(rule));
    let scenarios = SCENARIOS.iter().filter_map(|scenario| scenario().err());
    let scenario = scenarios
        .map(|violation| format!("scenario: {violation}"))
        .next();
    let caught = scenario.or_else(|| {
        let violations = (0..SEEDS_OF_MUTANTS).filter_map(|seed| Some((seed, run(seed).err()?)));
        violations
            .map(|(seed, violation)| format!("seed {seed}: {violation}"))
            .next()
    });
    break_rule(None);
    caught
}
