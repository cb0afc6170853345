//! A replica, its disk, and what is in flight between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use adapters::metadata::MetadataReader;
use consensus::{
    Consensus, CoreConfig, Index, Membership, MembershipError, PersistBatch, PersistId,
    RecoverError, Recovered, ReplicaId, Role, Term, Tick,
};
use consensus_raft::RaftCore;
use consensus_vr::VrCore;
use replica::disk::{Disk, MemoryDisk};
use replica::driver::{FileJob, Now, Replica, ReplicaConfig, ReplicaStatus};
use replica::open::{OpenConfig, OpenError};
use replica::snapshots::FileWorker;
use replica::superblock::{self, Superblock, SuperblockError};
use replica::wal::{Wal, WalConfig, WalError};
use thiserror::Error;

use crate::check::Start;
use crate::disk::{ReadErrors, UnreadableDisk};
use crate::durable::{Durable, Lost};
use crate::history::History;
use crate::plan::{Backend, Plan};
use crate::random::Random;

/// What a tick is on a clock that runs right, in microseconds.
pub(crate) const TICK_MICROS: u64 = 10_000;
const HEARTBEAT_TICKS: u64 = 5;
const ELECTION_TICKS: u64 = 20;
const GROUP: u128 = 77;
/// A segment of the log holds so many of the largest batches.
const BATCHES_IN_SEGMENT: usize = 4;
/// The smallest segments.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// Wall clocks start here.
pub(crate) const EPOCH_MICROS: u64 = 1_700_000_000_000_000;

pub(crate) struct Process {
    pub(crate) id: ReplicaId,
    /// Of its machine: how long disks take, what a crash leaves.
    pub(crate) random: Random,
    pub(crate) disk: MemoryDisk,
    pub(crate) read_errors: ReadErrors,
    pub(crate) durable: Durable,
    pub(crate) full: bool,
    pub(crate) running: Option<Running>,
    /// Counts starts, to distinguish what an earlier incarnation left in flight.
    pub(crate) starts: u64,
    pub(crate) paused_until: u64,
    /// The disk is slow with the log until then.
    pub(crate) stalled_until: u64,
    /// The same with snapshot files.
    pub(crate) files_stalled_until: u64,
    pub(crate) clock_rate_percent: u64,
    /// How far its wall clock is off.
    pub(crate) wall_offset: i64,
    /// It is to end after so many more effects, with power loss or without.
    pub(crate) crashes_after: Option<(u64, bool)>,
    pub(crate) election_crash: Option<ElectionCrash>,
    pub(crate) split_writes: Option<SplitWrites>,
    /// The machine loses power when its disk gives the next error.
    pub(crate) power_fails_with_disk: bool,
    pub(crate) files_fail: Option<FilesFail>,
    /// While it starts, this operation of its disk is the last; then power fails, or
    /// only the process ends.
    pub(crate) start_fails_at: Option<(StartFails, bool)>,
    /// While it starts, this read of its disk fails.
    pub(crate) start_reads_fail_at: u64,
    /// Power fails at this operation of the first work that makes its log shorter.
    pub(crate) compaction_fails_at: Option<u64>,
    /// What an install of a snapshot meets: the disk stands still so long.
    pub(crate) install_stalls: Option<u64>,
    /// When a byte of its disk changes.
    pub(crate) rot: Option<Rot>,
    /// The number of its last start.
    pub(crate) incarnation: u64,
}

/// Which operation of a start is the last.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StartFails {
    Operation(u64),
    /// This sync of the superblock.
    Superblock(u64),
}

/// The moment at which a byte of a disk changes, and what draws the byte.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rot {
    /// The log was made shorter.
    Compacted(u64),
    /// The log starts after a snapshot of a peer.
    Installed(u64),
}

/// A power loss so many effects after the next change of the term.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ElectionCrash {
    /// The term has changed.
    pub(crate) term_changed: bool,
    /// How many further effects it has.
    pub(crate) effects: u64,
    /// The leader of the term before, which is paused and isolated until then.
    pub(crate) leader: Option<usize>,
    /// How long the others are isolated then, in microseconds.
    pub(crate) away: u64,
    /// How long the process stays down, in microseconds.
    pub(crate) back: u64,
}

/// A power loss after one write and before the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SplitWrites {
    /// The first write is in flight. It lasts until the term changes.
    pub(crate) in_flight: bool,
    /// How long the leader is silent from then on, in microseconds.
    pub(crate) silent: u64,
    /// How long the second write is in flight before power fails, in microseconds.
    pub(crate) lasts: u64,
    /// How long the process stays down, in microseconds.
    pub(crate) back: u64,
}

/// An error of the disk in the next work on snapshot files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilesFail {
    /// Which operation fails.
    pub(crate) at: u64,
    /// Only in work on one that a peer sends, behind so many pieces of it.
    pub(crate) receiving: Option<u64>,
    /// Power fails so long after it, if at all.
    pub(crate) power: Option<u64>,
}

impl FilesFail {
    /// Whether the disk is to fail in this work.
    pub(crate) fn applies_to(&mut self, job: &FileJob) -> bool {
        match (&mut self.receiving, job) {
            (None, _) | (Some(0), FileJob::Receive { .. }) => true,
            (Some(pieces), FileJob::Receive { .. }) => {
                *pieces -= 1;
                false
            }
            (Some(_), _) => false,
        }
    }
}

pub(crate) struct Running {
    pub(crate) replica: Replica,
    pub(crate) start: Start,
    /// What the replica was after its last event.
    pub(crate) seen: Seen,
    pub(crate) reader: MetadataReader,
    wal: Wal,
    /// For the log, in the order in which they were given to it.
    jobs: VecDeque<LogJob>,
    /// The log is made shorter after the write in flight.
    compact: Option<Index>,
    /// What the write in flight will have made durable.
    writing: Option<PersistId>,
    /// The write in flight, or the last one, resets the log to a snapshot.
    resets: bool,
    /// The log has become shorter in the last work on it.
    shortened: bool,
    /// Terms and sizes of payloads of what was given to the log and may be uncommitted.
    payloads: BTreeMap<u64, (Term, usize)>,
    /// Counts writes, to distinguish one that has taken its time from those after it.
    writes_started: u64,
    pub(crate) files: FileWorker,
    pub(crate) file_jobs: VecDeque<FileJob>,
    pub(crate) filing: bool,
    ticks: u64,
}

/// What of a replica's status is compared with the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) term: Term,
    pub(crate) role: Role,
    pub(crate) commit: Index,
    pub(crate) applied: Index,
    pub(crate) snapshot: Option<Index>,
}

impl Seen {
    pub(crate) fn of(status: &ReplicaStatus) -> Self {
        Self {
            term: status.core.term,
            role: status.core.role,
            commit: status.core.commit,
            applied: status.applied,
            snapshot: status.snapshot,
        }
    }
}

/// Sizes that a configuration has and that may change between starts.
struct Sizes {
    segment_bytes: u64,
    frame_bytes: usize,
    snapshot_entries: u64,
    batch_bytes_max: usize,
}

enum LogJob {
    Write(PersistBatch),
    Compact(Index),
}

impl Process {
    pub(crate) fn new(id: ReplicaId, clock_rate_percent: u64, random: Random) -> Self {
        Self {
            id,
            random,
            disk: MemoryDisk::new(),
            read_errors: ReadErrors::default(),
            durable: Durable::default(),
            full: false,
            running: None,
            starts: 0,
            paused_until: 0,
            stalled_until: 0,
            files_stalled_until: 0,
            clock_rate_percent,
            wall_offset: 0,
            crashes_after: None,
            election_crash: None,
            split_writes: None,
            power_fails_with_disk: false,
            files_fail: None,
            start_fails_at: None,
            start_reads_fail_at: 0,
            compaction_fails_at: None,
            install_stalls: None,
            rot: None,
            incarnation: 0,
        }
    }

    /// How long a tick of its clock takes.
    pub(crate) fn tick_micros(&self) -> u64 {
        TICK_MICROS * 100 / self.clock_rate_percent
    }

    /// Where it stands, for people.
    pub(crate) fn describe(&self) -> String {
        let Some(running) = &self.running else {
            return format!("replica {} does not run", self.id);
        };
        let status = running.replica.status();
        let core = &status.core;
        let peers = core.peers.iter().map(|peer| {
            let active = if peer.active { "" } else { ", silent" };
            format!(", {} {:?} {}{active}", peer.id, peer.state, peer.matched)
        });
        let peers: Vec<_> = peers.collect();
        let detail = status.detail.iter();
        let detail: Vec<_> = detail
            .map(|(key, value)| format!(", {key} {value}"))
            .collect();
        format!(
            "replica {} {} in term {}, log {} to {} in {} files, commit {}, applied {}{}{}",
            self.id,
            core.role.as_str(),
            core.term,
            core.first,
            core.last,
            running.log_segments(),
            core.commit,
            status.applied,
            peers.concat(),
            detail.concat()
        )
    }

    fn identity(&self, plan: &Plan) -> Superblock {
        Superblock {
            group: GROUP,
            cluster: "simulated".into(),
            replica: self.id,
            incarnation: 0,
            storage_id: self.id.0.into(),
            backend: plan.backend.name().into(),
            membership: membership(plan).ok(),
        }
    }

    /// Formats its disk, once.
    pub(crate) fn format(&self, plan: &Plan) -> Result<(), SuperblockError> {
        superblock::format(&self.disk, &self.identity(plan))
    }

    /// Whether a power loss at this moment leaves the snapshot as it is.
    pub(crate) fn keeps_snapshot(&self, index: Index) -> bool {
        let path = format!("snapshots/{:020}.snap", index.0);
        self.disk.is_durable(&path)
    }

    pub(crate) fn set_full(&mut self, full: bool) {
        self.full = full;
        self.disk.set_full(full);
    }

    /// Sizes of the plan, or those of a start of its own.
    fn draw_sizes(&mut self, plan: &Plan) -> Sizes {
        let planned = Sizes {
            segment_bytes: plan.segment_bytes,
            frame_bytes: plan.frame_bytes,
            snapshot_entries: plan.snapshot_entries,
            batch_bytes_max: plan.segment_bytes as usize / BATCHES_IN_SEGMENT,
        };
        if !plan.mixed_sizes {
            return planned;
        }
        let random = &mut self.random;
        Sizes {
            segment_bytes: SEGMENT_BYTES_MIN << random.below(3),
            frame_bytes: match random.per_mille(500) {
                true => plan.frame_bytes,
                false => random.between(64, 4_096) as usize,
            },
            snapshot_entries: random.between(plan.snapshot_entries / 2 + 1, plan.snapshot_entries),
            // What one replica proposes has to fit into the segments of all.
            batch_bytes_max: SEGMENT_BYTES_MIN as usize / BATCHES_IN_SEGMENT,
        }
    }

    pub(crate) fn start(&mut self, plan: &Plan, history: &History) -> Result<(), StartError> {
        self.starts += 1;
        let disk: Arc<dyn Disk> = Arc::new(UnreadableDisk {
            disk: self.disk.clone(),
            errors: self.read_errors.clone(),
        });
        let (machine, reader) = history.record();
        let sizes = self.draw_sizes(plan);
        let config = OpenConfig {
            identity: self.identity(plan),
            wal: WalConfig {
                segment_bytes: sizes.segment_bytes,
                frame_bytes: sizes.frame_bytes,
                spares_max: 1,
                ..WalConfig::new(GROUP)
            },
            replica: ReplicaConfig {
                snapshot_entries: sizes.snapshot_entries,
                batch_bytes_max: sizes.batch_bytes_max,
                waiting_bytes_max: plan.waiting_bytes_max,
                batch_commands_max: plan.batch_commands_max as usize,
                pipeline_max: plan.pipeline_max as usize,
                ..ReplicaConfig::new(self.id)
            },
        };
        let (id, durable, last) = (self.id, &mut self.durable, &mut self.incarnation);
        let (mut lost, mut of_entries) = (Ok(()), Term(0));
        let build = |incarnation, recovered: Recovered| {
            lost = durable.recovered(&recovered);
            of_entries = recovered.entries.last().map_or(of_entries, |it| it.term);
            if incarnation <= *last {
                lost = Err(Lost {
                    what: format!("incarnation {incarnation} is used again behind {last}"),
                    last_only: false,
                });
            }
            *last = incarnation;
            build(plan, id, incarnation, recovered)
        };
        let opened = replica::open::open(&disk, config, machine, build);
        lost?;
        let opened = opened?;
        let seen = Seen::of(&opened.replica.brief_status());
        self.running = Some(Running {
            start: Start {
                number: self.starts,
                recovered: seen.term.max(of_entries),
            },
            seen,
            replica: opened.replica,
            reader,
            wal: opened.wal,
            jobs: VecDeque::new(),
            compact: None,
            writing: None,
            resets: false,
            shortened: false,
            payloads: BTreeMap::new(),
            writes_started: 0,
            files: opened.files,
            file_jobs: VecDeque::new(),
            filing: false,
            ticks: 0,
        });
        Ok(())
    }
}

/// Why a process does not run.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{}", .0.what)]
    Lost(Lost),
}

impl From<Lost> for StartError {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

fn membership(plan: &Plan) -> Result<Membership, MembershipError> {
    let voters = (1..=plan.voters).map(ReplicaId);
    Membership::new(
        1,
        voters,
        (plan.voters + 1..=plan.replicas()).map(ReplicaId),
    )
}

fn build(
    plan: &Plan,
    id: ReplicaId,
    incarnation: u64,
    recovered: Recovered,
) -> Result<Box<dyn Consensus>, RecoverError> {
    let config = CoreConfig {
        id,
        group: GROUP,
        membership: membership(plan).map_err(|error| RecoverError::Config(error.to_string()))?,
        heartbeat_ticks: HEARTBEAT_TICKS,
        election_ticks: ELECTION_TICKS,
        seed: plan.seed ^ id.0.rotate_left(48) ^ incarnation.rotate_left(24),
        limits: plan.limits.clone(),
    };
    Ok(match plan.backend {
        Backend::Raft => Box::new(RaftCore::new(&config, recovered)?),
        Backend::Vr => Box::new(VrCore::new(&config, recovered)?),
    })
}

impl Running {
    /// The moment on this process's clocks.
    pub(crate) fn now(&self, micros: u64, wall_offset: i64) -> Now {
        Now {
            tick: Tick(self.ticks),
            wall_micros: (EPOCH_MICROS + micros).saturating_add_signed(wall_offset),
        }
    }

    pub(crate) fn ticked(&mut self, ticks: u64) {
        self.ticks += ticks;
    }

    /// Segments of the log on disk.
    pub(crate) fn log_segments(&self) -> usize {
        self.wal.size().segments
    }

    pub(crate) fn write(&mut self, batch: PersistBatch) {
        self.payloads = self.payloads.split_off(&self.seen.commit.0);
        if let Some(first) = batch.entries.first() {
            self.payloads.split_off(&first.index.0);
        }
        let entries = batch.entries.iter();
        let sizes = entries.map(|entry| (entry.index.0, (entry.term, entry.payload.len())));
        self.payloads.extend(sizes);
        self.jobs.push_back(LogJob::Write(batch));
    }

    /// Sizes of the payloads after this index that are of this term.
    pub(crate) fn payloads(&self, after: Index, of: Term) -> impl Iterator<Item = usize> {
        let later = self.payloads.range(after.0 + 1..);
        later.filter_map(move |(_, (term, bytes))| (*term == of).then_some(*bytes))
    }

    /// Whether the last work on the log has made it shorter, and whether the last write has
    /// reset it to a snapshot.
    pub(crate) fn last_work(&self) -> (bool, bool) {
        (self.shortened, self.resets && self.writing.is_none())
    }

    pub(crate) fn compact(&mut self, through: Index) {
        self.jobs.push_back(LogJob::Compact(through));
    }

    /// Whether the log is made shorter when the write in flight ends.
    pub(crate) fn compacts(&self) -> bool {
        self.compact.is_some()
    }

    /// Whether nothing but that is to be done next.
    pub(crate) fn compacts_next(&self) -> bool {
        matches!(self.jobs.front(), Some(LogJob::Compact(_)))
    }

    /// Jobs for the log that wait, while none is carried out.
    pub(crate) fn jobs_waiting(&self) -> usize {
        match self.writing {
            Some(_) => 0,
            None => self.jobs.len(),
        }
    }

    /// The number of the write in flight.
    pub(crate) fn write_in_flight(&self) -> Option<u64> {
        self.writing.map(|_| self.writes_started)
    }

    /// Carries out so many of the jobs that wait, as the thread of the log does: their
    /// batches in one write, and then the log is made shorter. The number of the write,
    /// when there is one.
    pub(crate) fn start_write(
        &mut self,
        jobs: usize,
        durable: &mut Durable,
    ) -> Result<Option<u64>, WalError> {
        let mut batches = Vec::new();
        for job in self.jobs.drain(..jobs) {
            match job {
                LogJob::Write(batch) => batches.push(batch),
                LogJob::Compact(through) => self.compact = Some(through),
            }
        }
        let Some(last) = batches.last().map(|batch| batch.id) else {
            self.make_shorter()?;
            return Ok(None);
        };
        self.resets = batches.iter().any(|batch| batch.reset_to.is_some());
        durable.start(&batches);
        self.wal.append(&batches)?;
        self.writing = Some(last);
        self.writes_started += 1;
        Ok(self.write_in_flight())
    }

    fn make_shorter(&mut self) -> Result<(), WalError> {
        let before = self.log_segments();
        if let Some(through) = self.compact.take() {
            self.wal.compact(through)?;
        }
        self.shortened = self.log_segments() < before;
        Ok(())
    }

    /// The write in flight has had its time: it is fsynced, and durable.
    pub(crate) fn finish_write(
        &mut self,
        write: u64,
        durable: &mut Durable,
    ) -> Result<Option<PersistId>, WalError> {
        let Some(last) = self.writing.take_if(|_| self.writes_started == write) else {
            return Ok(None);
        };
        self.wal.sync()?;
        durable.finish();
        self.make_shorter()?;
        Ok(Some(last))
    }
}
