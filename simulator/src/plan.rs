//! What a seed draws before anything happens.

use consensus::Limits;
use replica::snapshots::CHUNK_BYTES;

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
    /// In the end the disk of the leader hangs.
    pub(crate) hung_disk: bool,
    /// In the end the source of a snapshot is gone while it is fetched.
    pub(crate) lost_source: bool,
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
    /// The most of a frame of the log.
    pub(crate) frame_bytes: usize,
    /// Every start draws sizes of its own, as if its configuration had changed.
    pub(crate) mixed_sizes: bool,
    pub(crate) snapshot_entries: u64,
    /// The size of the pieces in which snapshots are sent.
    pub(crate) piece_bytes: usize,
    pub(crate) limits: Limits,
    /// The most commands of a batch, and batches in flight.
    pub(crate) batch_commands_max: u64,
    /// The most bytes of commands that wait for a batch.
    pub(crate) waiting_bytes_max: usize,
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
/// Bytes of commands that wait: so many do not come together.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// The part that draws sizes of frames and pieces, and bounds that are reached.
const SIZES: u64 = 11;
/// The part that draws what happens in the end.
const ENDS: u64 = 12;
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

/// The part of a seed's chance that draws the kinds below: a seed without them is the run
/// that it was before they came.
const LATER_KINDS: u64 = 10;
const LATER_SCHEDULED: [(Fault, u64); 9] = [
    (Fault::SplitWrites, 200),
    (Fault::MisdirectedWrite, 150),
    (Fault::ReadError, 150),
    (Fault::Reconnect, 200),
    (Fault::FullQueue, 200),
    (Fault::OvertakenTransfer, 120),
    (Fault::FirstWrite, 250),
    (Fault::LateRot, 150),
    (Fault::Mistake, 150),
];

impl Plan {
    /// The run of a seed.
    #[must_use]
    pub fn new(backend: Backend, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let calm = random.per_mille(50);
        let mut kinds = draw_kinds(&mut random, seed, calm);
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
        // In a small message a log travels in many.
        let message_bytes_max = match random.per_mille(300) {
            true => random.between_powers(200, 4_000),
            false => random.between(200, 100_000),
        } as usize;
        let sizes = Sizes::draw(seed, message_bytes_max);
        let mut ends = Random::of(seed, ENDS, 0);
        Self {
            backend,
            seed,
            voters,
            learners,
            leader_without_quorum: voters > 1 && random.per_mille(300),
            hung_disk: voters > 1 && ends.per_mille(150),
            lost_source: voters > 1 && soon_cut && ends.per_mille(100),
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
            frame_bytes: sizes.frame_bytes,
            mixed_sizes: sizes.mixed,
            piece_bytes: sizes.piece_bytes,
            snapshot_entries: random.between_powers(2, if soon_cut { 32 } else { 256 }),
            limits: Limits {
                log_tail_entries: random.between_powers(1, if soon_cut { 16 } else { 128 }) - 1,
                message_bytes_max,
                inflight_messages_max: random.between(1, 64) as usize,
                uncommitted_bytes_max: sizes.uncommitted_bytes_max,
                pending_reads_max: sizes.pending_reads_max,
                ..Limits::default()
            },
            batch_commands_max,
            waiting_bytes_max: sizes.waiting_bytes_max,
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

    /// The same run, with a disk of the leader that hangs for ever when the faults have
    /// ended, as in some runs anyway.
    #[must_use]
    pub fn with_hung_disk(mut self) -> Self {
        self.hung_disk = self.voters > 1;
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

/// Not every run has every fault: what two of them do together is seen better without the
/// others.
fn draw_kinds(random: &mut Random, seed: u64, calm: bool) -> Vec<Fault> {
    let rich = random.between(400, 900);
    let drawn = |random: &mut Random, (fault, chance): (Fault, u64)| {
        (random.per_mille(chance * rich / 1000) && !calm).then_some(fault)
    };
    let kinds = SCHEDULED.into_iter();
    let mut kinds: Vec<Fault> = kinds.filter_map(|kind| drawn(random, kind)).collect();
    let mut later = Random::of(seed, LATER_KINDS, 0);
    let more = LATER_SCHEDULED.into_iter();
    kinds.extend(more.filter_map(|kind| drawn(&mut later, kind)));
    kinds
}

/// Sizes of what is written and sent, and bounds, so small in some runs that they matter.
struct Sizes {
    frame_bytes: usize,
    piece_bytes: usize,
    mixed: bool,
    uncommitted_bytes_max: usize,
    pending_reads_max: usize,
    waiting_bytes_max: usize,
}

impl Sizes {
    fn draw(seed: u64, message_bytes_max: usize) -> Self {
        let usual = Limits::default();
        let mut random = Random::of(seed, SIZES, 0);
        let mut small = |per_mille, (low, high): (u64, u64), usually| {
            let small = random.per_mille(per_mille);
            let drawn = random.between_powers(low, high) as usize;
            if small { drawn } else { usually }
        };
        Self {
            frame_bytes: small(400, (64, 4_096), 4 << 20),
            piece_bytes: small(400, (256, 4_096), CHUNK_BYTES),
            // Raft has to have room for a message.
            uncommitted_bytes_max: message_bytes_max
                + small(200, (1, 4_000), usual.uncommitted_bytes_max),
            pending_reads_max: small(200, (1, 3), usual.pending_reads_max),
            waiting_bytes_max: small(200, (2_000, 6_000), WAITING_BYTES_MAX),
            mixed: random.per_mille(300),
        }
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
