//! The table of mutants is true.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use simulator::Backend;
use simulator::mutants;

/// Every mutant is caught within so many seeds.
const SEEDS_MAX: u64 = 2_000;
const DOCUMENT: &str = include_str!("../../docs/design/mutants.md");

/// The rows of the table: mutant and backend, and the seeds that it took.
fn table() -> BTreeMap<(String, String), u64> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let (name, backend, seeds) = (cells.next()?, cells.next()?, cells.next()?);
        let name = name.strip_prefix('`')?.split('`').next()?;
        Some(((name.to_owned(), backend.to_owned()), seeds.parse().ok()?))
    })
    .collect()
}

/// Names of rules that the code asks for.
fn collect_rules(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_rules(&path, names);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names_in_text = text.split("rule!(").skip(1);
            names.extend(names_in_text.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
        }
    }
}

#[test]
fn every_rule_that_can_be_broken_is_a_mutant_and_the_other_way_round() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut named = BTreeSet::new();
    for name in ["adapters", "consensus-raft", "consensus-vr", "replica"] {
        collect_rules(&crates.join(name).join("src"), &mut named);
    }
    let listed: BTreeSet<_> = mutants::all()
        .map(|mutant| mutant.rule.name.to_owned())
        .collect();
    assert_eq!(named, listed);
}

/// The last of the seeds that a mutant took is the one that fails: that is run
/// again, so the whole list takes one run each.
#[test]
fn every_mutant_is_in_the_table_and_caught_by_the_seed_that_it_names() {
    let mut table = table();
    let mut wrong = Vec::new();
    for mutant in mutants::all() {
        for backend in [Backend::Raft, Backend::Vr] {
            if !mutant.concerns(backend) {
                continue;
            }
            let key = (mutant.rule.name.to_owned(), backend.name().to_owned());
            match table.remove(&key) {
                Some(seeds) if (1..=SEEDS_MAX).contains(&seeds) => {
                    if mutants::run(backend, &mutant, seeds - 1).0.is_none() {
                        wrong.push(format!("{key:?} survives seed {}", seeds - 1));
                    }
                }
                Some(seeds) => wrong.push(format!("{key:?} takes {seeds} seeds")),
                None => wrong.push(format!("{key:?} is not in docs/design/mutants.md")),
            }
        }
    }
    wrong.extend(table.keys().map(|key| format!("{key:?} is no mutant")));
    assert!(
        wrong.is_empty(),
        "{wrong:#?}\n`cargo run --release -p simulator -- mutants --write docs/design/mutants.md` writes the table"
    );
}
