//! Rules of the code that can be broken on purpose, and whether a run sees it.
//!
//! A simulator that finds nothing shows little unless it is known what it would
//! have found. Each mutant is one place where a rule is left out
//! ([`consensus::mutants::broken`]). Some are faults that the code once had.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::plan::{Backend, Plan};
use crate::world::{Failure, Outcome, simulate_broken};

/// Where a rule is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A backend's own code.
    Backend(Backend),
    /// What both backends stand on.
    Shared,
}

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Its name, which the code asks for.
    pub name: &'static str,
    /// Where it is.
    pub part: Part,
    /// What is done instead of the right thing.
    pub what: &'static str,
}

const fn raft(name: &'static str, what: &'static str) -> Mutant {
    let part = Part::Backend(Backend::Raft);
    Mutant { name, part, what }
}

const fn vr(name: &'static str, what: &'static str) -> Mutant {
    let part = Part::Backend(Backend::Vr);
    Mutant { name, part, what }
}

const fn shared(name: &'static str, what: &'static str) -> Mutant {
    let part = Part::Shared;
    Mutant { name, part, what }
}

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    vr(
        "vr-ack-before-sync",
        "a backup acknowledges what is not durable",
    ),
    vr(
        "vr-own-ack-before-sync",
        "the primary counts itself for what is not durable",
    ),
    vr(
        "vr-reveal-before-sync",
        "a message that reveals the view leaves before it is durable",
    ),
    vr(
        "vr-ack-before-joined",
        "a backup acknowledges before it has durably joined the view",
    ),
    vr(
        "vr-forgets-view",
        "a restart goes back to the view of the log",
    ),
    vr(
        "vr-commit-without-quorum",
        "one acknowledgement less than a quorum commits",
    ),
    vr(
        "vr-begin-without-quorum",
        "a view begins with one log less than a quorum",
    ),
    vr(
        "vr-longest-log",
        "a view begins with the longest log, of whichever view it is",
    ),
    vr("vr-commit-ahead", "the commit number runs ahead of the log"),
    vr(
        "vr-primary-goes-on",
        "a primary goes on in its view after a restart",
    ),
    vr(
        "vr-read-without-quorum",
        "the primary confirms reads by itself",
    ),
    vr(
        "vr-read-of-earlier-beat",
        "a beat that left before the read confirms it",
    ),
    vr(
        "vr-reads-unanswered",
        "a read that is not confirmed in time is never answered",
    ),
    vr("vr-asks-once", "a vote for a view is not repeated"),
    vr(
        "vr-brings-once",
        "what a replica brings into a view is not sent again",
    ),
    vr(
        "vr-prepares-once",
        "prepares that were lost are not sent again",
    ),
    vr(
        "vr-proposals-outlive-view",
        "proposals stay open when their primary leaves the view",
    ),
    vr(
        "vr-alone-in-view",
        "nobody follows a replica that a quorum has moved to a view (found by the simulator)",
    ),
    vr(
        "vr-deliver-recovered",
        "a restart takes its whole log for committed",
    ),
    vr(
        "vr-old-primary-heard",
        "messages of the primary of an earlier view are taken",
    ),
    vr(
        "vr-old-acks-counted",
        "acknowledgements of an earlier view are counted",
    ),
    vr(
        "vr-old-logs-counted",
        "what was brought into an earlier view is counted",
    ),
    vr(
        "vr-headers-ignored",
        "a new primary takes its own log for the chosen one",
    ),
    vr(
        "vr-gap-appended",
        "a prepare is taken although others are missing before it",
    ),
    vr(
        "vr-commit-goes-back",
        "an older commit number replaces a newer one",
    ),
    vr(
        "vr-stale-suffix-durable",
        "a batch that was overtaken counts for what replaced it",
    ),
    vr("vr-view-not-stored", "a new view is not stored"),
    raft(
        "raft-answer-before-sync",
        "votes and acknowledgements leave before they are durable",
    ),
    raft(
        "raft-answer-after-own-write",
        "an answer waits for its own write only, not for those before it",
    ),
    raft("raft-vote-not-stored", "the vote is not stored"),
    raft(
        "raft-term-not-stored",
        "term and vote are stored only along with entries",
    ),
    raft(
        "raft-persisted-at-once",
        "raft-rs is told that a write is durable when it begins",
    ),
    raft(
        "raft-persisted-too-far",
        "one durable write stands for all that are under way",
    ),
    raft(
        "raft-question-twice",
        "a question that arrives twice has one name (found by the simulator)",
    ),
    raft(
        "raft-orphans-unanswered",
        "proposals of a lost leadership are never answered",
    ),
    raft(
        "raft-reads-unanswered",
        "a read that is not confirmed in time is never answered",
    ),
    raft(
        "raft-lease-read",
        "reads trust the leader's clock instead of a quorum",
    ),
    raft(
        "raft-vote-not-recovered",
        "a restart forgets whom it voted for",
    ),
    raft(
        "raft-read-of-earlier-life",
        "an answer to an earlier life of the replica confirms its reads",
    ),
    shared(
        "loop-send-before-sync",
        "messages do not wait for the write that they depend on",
    ),
    shared(
        "loop-read-before-applied",
        "a confirmed read is served before the state has got there",
    ),
    shared(
        "loop-answers-swapped",
        "the answers of a batch go to the wrong callers",
    ),
    shared(
        "snapshot-counts-at-once",
        "the log is cut before the snapshot is durable",
    ),
    shared(
        "snapshot-one-entry-ahead",
        "a snapshot holds one entry more than it says",
    ),
    shared(
        "snapshot-not-restored",
        "a snapshot that was brought over is not restored",
    ),
    shared(
        "snapshot-without-sync",
        "a snapshot gets its name before its bytes are durable",
    ),
    // On Raft a transfer that failed mostly begins anew with a newer snapshot.
    vr(
        "snapshot-name-trusted",
        "a snapshot counts as durable because it is listed (found by the simulator)",
    ),
    vr(
        "snapshot-page-cache-trusted",
        "a piece of a snapshot whose sync failed counts as durable (found by the simulator)",
    ),
    shared("wal-without-sync", "writes are not synced"),
    shared(
        "wal-roll-without-sync",
        "a full segment is left without a sync",
    ),
    shared(
        "wal-checksum-ignored",
        "the checksum of a frame is not looked at",
    ),
    shared(
        "wal-suffix-kept",
        "recovery keeps a suffix that was replaced",
    ),
    shared(
        "wal-page-cache-trusted",
        "what recovery has read counts as durable without being written again",
    ),
    shared(
        "wal-segment-without-sync",
        "a segment gets its name before its header is durable",
    ),
    shared(
        "wal-name-without-sync",
        "a segment is written before its name is durable",
    ),
    shared(
        "wal-drops-what-is-needed",
        "segments are given up that hold entries behind the snapshot",
    ),
    shared(
        "wal-reset-not-logged",
        "a log that begins anew is not written down as such",
    ),
    shared(
        "session-executes-again",
        "a request that is repeated is executed again",
    ),
    shared(
        "session-reply-not-kept",
        "the reply of a request is not kept",
    ),
    shared(
        "session-not-in-snapshot",
        "snapshots are taken without the sessions",
    ),
    shared(
        "session-request-not-in-snapshot",
        "snapshots hold sessions without the last request",
    ),
    shared(
        "superblock-takes-empty-disk",
        "a replica begins anew on an empty disk",
    ),
    shared(
        "superblock-without-sync",
        "the number of a start is not durable when it is used",
    ),
    shared(
        "wal-damage-taken-for-torn",
        "a damaged frame counts as torn although it was durable",
    ),
    raft(
        "wal-front-goes-first",
        "the front goes before what makes it superfluous is durable",
    ),
    shared(
        "wal-hard-state-goes-too",
        "the segment goes that holds the hard state",
    ),
    shared(
        "snapshot-field-left-out",
        "snapshots leave out a field, on all replicas alike",
    ),
    shared(
        "time-goes-back",
        "the time of the state follows the leader's clock",
    ),
    shared(
        "session-replaced-goes-on",
        "a session that was replaced is still served",
    ),
    shared(
        "session-content-ignored",
        "other content under a number in use is answered with the former reply",
    ),
    shared(
        "session-older-answered",
        "an older request is answered with the last reply",
    ),
    shared(
        "session-evicts-newest",
        "the session that was used last makes room",
    ),
    shared(
        "session-of-fenced-node",
        "a node that was fenced opens sessions",
    ),
    shared(
        "session-outlives-fence",
        "sessions stay when their node is fenced",
    ),
    raft(
        "raft-deaf-leader-stays",
        "a leader that hears nobody goes on",
    ),
    raft(
        "raft-install-not-applied",
        "raft-rs is not told that a snapshot is applied",
    ),
    vr(
        "vr-deaf-primary-stays",
        "a primary that hears nobody goes on",
    ),
];

impl Mutant {
    /// The mutant of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        MUTANTS.iter().find(|mutant| mutant.name == name)
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
    simulate_broken(plan, mutant.map(|mutant| mutant.name), keep_trace).0
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
        /// What it said.
        what: String,
    },
    /// No run failed.
    Survived {
        /// In how many of them the rule was broken at all.
        broken_in: u64,
    },
}

/// Runs one seed on the mutant. What went wrong, and whether the run came to the
/// broken rule.
#[must_use]
pub fn run(backend: Backend, mutant: &Mutant, seed: u64) -> (Option<String>, bool) {
    let plan = Plan::new(backend, seed);
    let (result, broken) = simulate_broken(&plan, Some(mutant.name), false);
    (result.err().map(|failure| failure.what), broken)
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
                // Those before it are under way and will be finished.
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
