//! What a seed draws before anything happens.

use consensus::Limits;

use crate::fault::{Fault, Planned};
use crate::random::Random;

/// A protocol under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// raft-rs.
    Raft,
    /// Viewstamped Replication.
    Vr,
}

impl Backend {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Vr => "vr",
        }
    }
}

/// The parameters of one run. Times are in virtual microseconds.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The protocol.
    pub backend: Backend,
    /// What everything is drawn from.
    pub seed: u64,
    /// Replicas that vote.
    pub voters: u64,
    /// Replicas behind them that follow, and do not vote.
    pub learners: u64,
    /// In the end nothing reaches the leader for a while.
    pub(crate) leader_without_quorum: bool,
    pub(crate) clients: u64,
    /// How long a client waits between operations, at most.
    pub(crate) think_time: u64,
    /// A client repeats a request that is not answered for so long.
    pub(crate) request_timeout: u64,
    /// Of what clients do, in thousandths.
    pub(crate) reads_per_mille: u64,
    /// What makes the names in commands longer.
    pub(crate) padding: u64,
    /// How long faults last.
    pub(crate) faults_for: u64,
    /// The faults, in the order of their times.
    pub(crate) schedule: Vec<Planned>,
    pub(crate) latency: (u64, u64),
    /// Pieces of snapshots take up to so much longer.
    pub(crate) bulk_latency: u64,
    pub(crate) noise: Noise,
    pub(crate) disk: (u64, u64),
    pub(crate) clock_rate_percent: (u64, u64),
    pub(crate) segment_bytes: u64,
    pub(crate) snapshot_entries: u64,
    pub(crate) limits: Limits,
    /// The most commands of a batch, and batches in flight.
    pub(crate) batch_commands_max: u64,
    pub(crate) pipeline_max: u64,
    /// A fault that was drawn and had no effect is a failure; not where the faults were
    /// selected.
    pub(crate) all_delivered: bool,
    /// Another number draws delays, and all that is not planned, in another way.
    pub(crate) variation: u64,
}

/// What happens to messages all the time, in thousandths of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noise {
    pub(crate) loss: u64,
    pub(crate) duplicates: u64,
    pub(crate) reordering: u64,
}

/// The part of a seed's chance that draws batches.
const BATCHING: u64 = 9;
/// How many cards of a deck are of each kind that waits for its moment: the others
/// do little by themselves.
const COMBINED_CARDS: usize = 3;
/// Kinds of faults that are drawn one by one, each in so many of a thousand runs.
const SCHEDULED: [(Fault, u64); 28] = [
    (Fault::Kill, 350),
    (Fault::KillAll, 200),
    (Fault::PowerLoss, 350),
    (Fault::PowerLossEverywhere, 300),
    (Fault::CrashBetweenEffects, 450),
    (Fault::ForgottenElection, 500),
    (Fault::ForgetfulMajority, 500),
    (Fault::CrashInDiskWork, 450),
    (Fault::CrashWhileStarting, 300),
    (Fault::Pause, 400),
    (Fault::WipedDisk, 150),
    (Fault::RollingRestart, 200),
    (Fault::Isolate, 450),
    (Fault::CutPair, 400),
    (Fault::CutOneWay, 400),
    (Fault::Clog, 400),
    (Fault::Replay, 400),
    (Fault::TargetedReplay, 550),
    (Fault::Stall, 400),
    (Fault::DiskError, 300),
    (Fault::BrokenTransfer, 300),
    (Fault::CrashInCompaction, 300),
    (Fault::StalledInstall, 300),
    (Fault::BitRot, 250),
    (Fault::Outage, 20),
    (Fault::DiskFull, 250),
    (Fault::ClockJump, 300),
    (Fault::Transfer, 350),
];

impl Plan {
    /// The run of a seed.
    #[must_use]
    pub fn new(backend: Backend, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let calm = random.per_mille(50);
        // Not every run has every fault: what two of them do together is seen
        // better without the others.
        let rich = random.between(400, 900);
        let mut kinds: Vec<Fault> = SCHEDULED
            .into_iter()
            .filter_map(|(fault, chance)| {
                let chance = chance * rich / 1000;
                (random.per_mille(chance) && !calm).then_some(fault)
            })
            .collect();
        let slow = random.between(200, 20_000);
        let mut noise = || match random.per_mille(400) && !calm {
            true => random.between(5, 100),
            false => 0,
        };
        let noise = Noise {
            loss: noise(),
            duplicates: noise(),
            reordering: noise(),
        };
        let voters = match random.below(100) {
            0..5 => 1,
            5..28 => 5,
            _ => 3,
        };
        let learners = match random.below(100) {
            _ if voters == 1 => random.between(1, 2),
            0..15 => 1,
            _ => 0,
        };
        if voters == 1 {
            kinds.retain(|kind| !kind.needs_voters());
        }
        // Only a log that is soon cut makes a replica need a snapshot.
        let soon_cut = kinds.iter().any(|kind| kind.needs_short_logs());
        // From one fault in a second to many in an election.
        let every = random.between_powers(16_000, 800_000);
        let at_least = random.between(2_000_000, 4_000_000 + 10 * every);
        let schedule = draw_schedule(&mut random, &kinds, voters + learners, every, at_least);
        let last = schedule.last().map_or(0, |planned| planned.at);
        // From a stream of its own: small batches wait together, and are proposed
        // together. Too few of them would not keep up with what clients repeat.
        let mut batching = Random::of(seed, BATCHING, 0);
        let (batch_commands_max, pipeline_max) = match batching.per_mille(400) {
            true => (batching.between(2, 4), batching.between(3, 8)),
            false => (8_192, batching.between(1, 8)),
        };
        Self {
            backend,
            seed,
            voters,
            learners,
            leader_without_quorum: voters > 1 && random.per_mille(300),
            clients: random.between(2, 8),
            think_time: random.between_powers(500, 20_000),
            request_timeout: random.between_powers(100_000, 1_600_000),
            reads_per_mille: random.between(100, 800),
            padding: random.below(200),
            faults_for: at_least.max(last + 500_000),
            schedule,
            latency: (random.between(20, 200), slow),
            bulk_latency: match random.per_mille(300) {
                true => random.between_powers(10_000, 500_000),
                false => 0,
            },
            noise,
            disk: (random.between(50, 500), random.between(500, 30_000)),
            clock_rate_percent: if random.per_mille(300) && !calm {
                (70, 140)
            } else {
                (100, 100)
            },
            segment_bytes: 16 << 10 << random.below(3),
            snapshot_entries: random.between_powers(2, if soon_cut { 32 } else { 256 }),
            limits: Limits {
                log_tail_entries: random.between_powers(1, if soon_cut { 16 } else { 128 }) - 1,
                message_bytes_max: random.between(200, 100_000) as usize,
                inflight_messages_max: random.between(1, 64) as usize,
                ..Limits::default()
            },
            batch_commands_max,
            pipeline_max,
            all_delivered: true,
            variation: 0,
        }
    }

    /// All replicas.
    #[must_use]
    pub fn replicas(&self) -> u64 {
        self.voters + self.learners
    }

    /// How many faults are planned.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.schedule.len()
    }

    /// The same run with these of its faults only, by number.
    #[must_use]
    pub fn only(mut self, keep: &[usize]) -> Self {
        self.schedule
            .retain(|planned| keep.contains(&planned.number));
        self.all_delivered = false;
        self
    }

    /// The same run on a network and clocks that are as they should be.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.noise = Noise::default();
        self.clock_rate_percent = (100, 100);
        self.all_delivered = false;
        self
    }

    /// The same plan, with delays and all that is not planned drawn in another way.
    #[must_use]
    pub fn varied(mut self, variation: u64) -> Self {
        self.variation = variation;
        self.all_delivered &= variation == 0;
        self
    }

    /// Which way that is.
    #[must_use]
    pub fn variation(&self) -> u64 {
        self.variation
    }

    /// What the world draws from.
    pub(crate) fn chance(&self) -> u64 {
        self.seed ^ 0x0073_696d ^ self.variation.rotate_left(56)
    }

    /// The planned faults, a line each: number, time, what.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let line = |planned: &Planned| {
            format!(
                "{:>3}  {:>7.3} s  {} at replica {}",
                planned.number,
                planned.at as f64 / 1e6,
                planned.fault.name(),
                planned.node
            )
        };
        self.schedule.iter().map(line).collect()
    }

    /// The kinds of faults of this run.
    pub(crate) fn kinds(&self) -> Vec<Fault> {
        let Noise {
            loss,
            duplicates,
            reordering,
        } = self.noise;
        let noise = [
            (loss, Fault::Loss),
            (duplicates, Fault::Duplicates),
            (reordering, Fault::Reordering),
        ];
        let mut kinds: Vec<Fault> = self.schedule.iter().map(|planned| planned.fault).collect();
        kinds.extend(noise.iter().filter(|(on, _)| *on > 0).map(|(_, kind)| kind));
        if self.clock_rate_percent.0 != self.clock_rate_percent.1 {
            kinds.push(Fault::ClockRate);
        }
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }
}

/// Kinds come as from a deck of cards that is shuffled when it is through: each is
/// there, and none always follows another.
fn draw_schedule(
    random: &mut Random,
    kinds: &[Fault],
    replicas: u64,
    every: u64,
    at_least: u64,
) -> Vec<Planned> {
    let mut schedule = Vec::new();
    let mut deck: Vec<Fault> = Vec::new();
    let (mut at, mut rounds) = (0, 0);
    while !kinds.is_empty() {
        if deck.is_empty() {
            if rounds > 0 && at >= at_least {
                break;
            }
            rounds += 1;
            for kind in kinds {
                let election_crash = kind.is_combined();
                let cards = if election_crash { COMBINED_CARDS } else { 1 };
                deck.extend(std::iter::repeat_n(*kind, cards));
            }
            random.shuffle(&mut deck);
        }
        at += random.between(1, 2 * every);
        // The first time through the deck everything has its turn.
        if rounds > 1 && at >= at_least {
            break;
        }
        let Some(fault) = deck.pop() else {
            break;
        };
        schedule.push(Planned::draw(random, schedule.len(), at, fault, replicas));
    }
    schedule
}
