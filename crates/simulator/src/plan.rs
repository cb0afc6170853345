//! What a seed draws before anything happens.

use consensus::Limits;

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

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A process ends; its disk keeps what the operating system had.
    Kill,
    /// A machine loses power, and unsynced writes with it, in pieces.
    PowerLoss,
    /// All machines lose power at once.
    PowerLossEverywhere,
    /// A process stands still.
    Pause,
    /// A replica is cut off from all others.
    Isolate,
    /// Nothing passes from one replica to another.
    CutOneWay,
    /// Messages from one replica to another take very long.
    Clog,
    /// Old messages arrive once more.
    Replay,
    /// A disk takes very long.
    Stall,
    /// A disk gives errors: the replica stops.
    DiskError,
    /// An operator hands leadership over.
    Transfer,
}

pub(crate) const FAULTS: [Fault; 11] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::PowerLossEverywhere,
    Fault::Pause,
    Fault::Isolate,
    Fault::CutOneWay,
    Fault::Clog,
    Fault::Replay,
    Fault::Stall,
    Fault::DiskError,
    Fault::Transfer,
];

/// The parameters of one run. Times are in virtual microseconds.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The protocol.
    pub backend: Backend,
    /// What everything is drawn from.
    pub seed: u64,
    /// Replicas that vote.
    pub voters: u64,
    pub(crate) clients: u64,
    /// How long faults go on.
    pub(crate) faults_for: u64,
    pub(crate) fault_every: u64,
    pub(crate) faults: Vec<Fault>,
    pub(crate) latency: (u64, u64),
    pub(crate) loss_per_mille: u64,
    pub(crate) duplicates_per_mille: u64,
    pub(crate) disk: (u64, u64),
    pub(crate) clock_rate_percent: (u64, u64),
    pub(crate) snapshot_entries: u64,
    pub(crate) limits: Limits,
}

impl Plan {
    /// The run of a seed.
    #[must_use]
    pub fn new(backend: Backend, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let calm = random.per_mille(100);
        // Not every run has every fault: what two of them do together is seen
        // better without the others.
        let faults = FAULTS.into_iter().filter(|_| random.per_mille(500));
        let faults: Vec<_> = faults.collect();
        let slow = random.between(200, 20_000);
        Self {
            backend,
            seed,
            voters: if random.per_mille(250) { 5 } else { 3 },
            clients: random.between(1, 6),
            faults_for: random.between(5_000_000, 15_000_000),
            fault_every: random.between(200_000, 2_000_000),
            faults: if calm { Vec::new() } else { faults },
            latency: (random.between(20, 200), slow),
            loss_per_mille: if random.per_mille(500) {
                random.below(100)
            } else {
                0
            },
            duplicates_per_mille: if random.per_mille(500) {
                random.below(100)
            } else {
                0
            },
            disk: (random.between(50, 500), random.between(500, 30_000)),
            clock_rate_percent: if random.per_mille(300) {
                (70, 140)
            } else {
                (100, 100)
            },
            snapshot_entries: random.between(5, 200),
            limits: Limits {
                log_tail_entries: random.below(100),
                message_bytes_max: random.between(200, 100_000) as usize,
                inflight_messages_max: random.between(1, 64) as usize,
                ..Limits::default()
            },
        }
    }
}
