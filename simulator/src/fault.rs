//! Kinds of faults, and how often each of them did something.

use crate::random::Random;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process ends; its disk keeps what the operating system had.
    Kill,
    /// All processes end at the same time.
    KillAll,
    /// A machine loses power, and unsynced writes with it, in pieces.
    PowerLoss,
    /// All machines lose power at the same time.
    PowerLossEverywhere,
    /// A process ends, or its machine, between one thing that it does and the next.
    CrashBetweenEffects,
    /// A leader stands still, and is back when a replica that elects another forgets
    /// that: its machine loses power shortly after its term has changed. The
    /// other replicas are cut off.
    ForgottenElection,
    /// A minority is cut off, mostly with the leader, while the machines of the
    /// others lose power. At any time, or shortly after an election.
    ForgetfulMajority,
    /// A write becomes durable, and power fails before the next one is, in which the
    /// replica has entered a term: nothing that depends on the second may have left.
    SplitWrites,
    /// A machine loses power while its disk works.
    CrashInDiskWork,
    /// A machine loses power while a process starts.
    CrashWhileStarting,
    /// A process stands still.
    Pause,
    /// A machine comes back with an empty disk: the replica must refuse it.
    WipedDisk,
    /// An operator starts one replica after the other anew.
    RollingRestart,
    /// A replica is cut off from all others.
    Isolate,
    /// Nothing passes between two replicas.
    CutPair,
    /// Nothing passes from one replica to another.
    CutOneWay,
    /// Messages from one replica to another take very long.
    Clog,
    /// Old messages arrive once more.
    Replay,
    /// A replica gets again what it was sent before, when it may take that for
    /// news: it has been replaced and does not know, it leads anew, or it was just
    /// started again.
    TargetedReplay,
    /// A disk takes very long.
    Stall,
    /// A disk gives errors: the replica stops.
    DiskError,
    /// A replica is away until only a snapshot helps; while that arrives, its disk
    /// gives an error, and power fails soon after.
    BrokenTransfer,
    /// A machine loses power in the first work after a start that makes its log
    /// shorter.
    CrashInCompaction,
    /// A replica is away until only a snapshot helps; when it takes that for its
    /// log, its disk stands still, and nothing reaches it.
    StalledInstall,
    /// A replica is away until only a snapshot helps; before that is whole, its log catches
    /// up otherwise, and continues after the snapshot.
    OvertakenTransfer,
    /// A byte of a file of a replica that does not run changes.
    BitRot,
    /// A block of a log that is not open is overwritten by another one, as by a write that
    /// went to a wrong place.
    MisdirectedWrite,
    /// A disk cannot be read, once: in a start, or when a peer requests a snapshot.
    ReadError,
    /// A connection breaks: a part of what was on it is lost, and the rest arrives beside
    /// what the next connection brings.
    Reconnect,
    /// A link is slow, and its queue is full: what does not fit is dropped.
    FullQueue,
    /// A replica is cut off for many seconds.
    Outage,
    /// A disk has no room left.
    DiskFull,
    /// A replica's clocks jump: the wall clock either way, its ticks ahead.
    ClockJump,
    /// An operator hands leadership over.
    Transfer,
    /// A new leader, or one that it has reached, loses power while the first entry of its
    /// term is in flight. The other replicas receive nothing of that.
    FirstWrite,
    /// A byte changes in the newest frame of a log that was just made shorter, or in a
    /// snapshot that has just replaced the log.
    LateRot,
    /// An operator starts a replica with other members, with the other backend, on the disk
    /// of another replica, or without its log: it must refuse.
    Mistake,
    /// Messages are lost, all the time.
    Loss,
    /// Messages arrive twice, all the time.
    Duplicates,
    /// Messages overtake others, all the time.
    Reordering,
    /// Clocks run at different rates.
    ClockRate,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 41] = [
        Self::Kill,
        Self::KillAll,
        Self::PowerLoss,
        Self::PowerLossEverywhere,
        Self::CrashBetweenEffects,
        Self::ForgottenElection,
        Self::ForgetfulMajority,
        Self::SplitWrites,
        Self::CrashInDiskWork,
        Self::CrashWhileStarting,
        Self::Pause,
        Self::WipedDisk,
        Self::RollingRestart,
        Self::Isolate,
        Self::CutPair,
        Self::CutOneWay,
        Self::Clog,
        Self::Replay,
        Self::TargetedReplay,
        Self::Stall,
        Self::DiskError,
        Self::BrokenTransfer,
        Self::CrashInCompaction,
        Self::StalledInstall,
        Self::OvertakenTransfer,
        Self::BitRot,
        Self::MisdirectedWrite,
        Self::ReadError,
        Self::Reconnect,
        Self::FullQueue,
        Self::Outage,
        Self::DiskFull,
        Self::ClockJump,
        Self::Transfer,
        Self::FirstWrite,
        Self::LateRot,
        Self::Mistake,
        Self::Loss,
        Self::Duplicates,
        Self::Reordering,
        Self::ClockRate,
    ];

    /// Whether it waits for a moment in which several things come together.
    pub(crate) fn is_combined(self) -> bool {
        matches!(
            self,
            Self::ForgottenElection
                | Self::ForgetfulMajority
                | Self::SplitWrites
                | Self::BrokenTransfer
                | Self::StalledInstall
                | Self::OvertakenTransfer
                | Self::TargetedReplay
                | Self::FirstWrite
                | Self::LateRot
        )
    }

    /// Whether a replica is away for it until only a snapshot helps.
    pub(crate) fn needs_snapshot(self) -> bool {
        matches!(
            self,
            Self::BrokenTransfer | Self::StalledInstall | Self::OvertakenTransfer | Self::LateRot
        )
    }

    /// Whether it is about logs that are cut.
    pub(crate) fn needs_short_logs(self) -> bool {
        self.needs_snapshot() || self == Self::CrashInCompaction
    }

    /// Whether it is about who of several is elected.
    pub(crate) fn needs_voters(self) -> bool {
        matches!(
            self,
            Self::ForgottenElection
                | Self::ForgetfulMajority
                | Self::SplitWrites
                | Self::OvertakenTransfer
                | Self::Transfer
        )
    }

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillAll => "kill of all",
            Self::PowerLoss => "power loss",
            Self::PowerLossEverywhere => "power loss everywhere",
            Self::CrashBetweenEffects => "crash between effects",
            Self::ForgottenElection => "forgotten election",
            Self::ForgetfulMajority => "forgetful majority",
            Self::SplitWrites => "split writes",
            Self::CrashInDiskWork => "crash in disk work",
            Self::CrashWhileStarting => "crash while starting",
            Self::Pause => "pause",
            Self::WipedDisk => "wiped disk",
            Self::RollingRestart => "rolling restart",
            Self::Isolate => "isolation",
            Self::CutPair => "cut",
            Self::CutOneWay => "one-way cut",
            Self::Clog => "clogged link",
            Self::Replay => "replay",
            Self::TargetedReplay => "targeted replay",
            Self::Stall => "stalled disk",
            Self::DiskError => "disk error",
            Self::BrokenTransfer => "broken transfer",
            Self::CrashInCompaction => "crash in compaction",
            Self::StalledInstall => "stalled install",
            Self::OvertakenTransfer => "overtaken transfer",
            Self::BitRot => "bit rot",
            Self::MisdirectedWrite => "misdirected write",
            Self::ReadError => "read error",
            Self::Reconnect => "reconnect",
            Self::FullQueue => "full queue",
            Self::Outage => "outage",
            Self::DiskFull => "full disk",
            Self::ClockJump => "clock jump",
            Self::Transfer => "leadership transfer",
            Self::FirstWrite => "first write",
            Self::LateRot => "late rot",
            Self::Mistake => "mistaken start",
            Self::Loss => "loss",
            Self::Duplicates => "duplicates",
            Self::Reordering => "reordering",
            Self::ClockRate => "clock rates",
        }
    }
}

/// A fault that is to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Its place in the schedule of the seed.
    pub(crate) number: usize,
    /// After the faults start.
    pub(crate) at: u64,
    pub(crate) fault: Fault,
    pub(crate) node: usize,
    /// Another node, where the fault is between two.
    pub(crate) other: usize,
    pub(crate) lasts: u64,
    /// Whatever else the fault needs.
    pub(crate) draw: u64,
}

impl Planned {
    pub(crate) fn draw(
        random: &mut Random,
        number: usize,
        at: u64,
        fault: Fault,
        replicas: u64,
    ) -> Self {
        let node = random.below(replicas);
        let other = (node + 1 + random.below(replicas - 1)) % replicas;
        Self {
            number,
            at,
            fault,
            node: node as usize,
            other: other as usize,
            lasts: random.between_powers(2_000, 3_000_000),
            draw: random.next(),
        }
    }
}

/// How often faults did something: a message was lost, a disk gave an error, a
/// process that ran ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered([u64; Fault::ALL.len()]);

impl Default for Delivered {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl Delivered {
    pub(crate) fn note(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// How often this kind did something.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// How often any did.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}
