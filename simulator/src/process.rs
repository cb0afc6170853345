//! A replica, its disk, and what is in flight between them.

use std::collections::VecDeque;
use std::sync::Arc;

use adapters::metadata::MetadataReader;
use consensus::{
    Consensus, CoreConfig, Index, Membership, MembershipError, PersistBatch, PersistId,
    RecoverError, Recovered, ReplicaId, Tick,
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
/// Wall clocks start here.
const EPOCH_MICROS: u64 = 1_700_000_000_000_000;

pub(crate) struct Process {
    pub(crate) id: ReplicaId,
    /// Of its machine: how long disks take, what a crash leaves.
    pub(crate) random: Random,
    pub(crate) disk: MemoryDisk,
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
    /// The machine loses power when its disk gives the next error.
    pub(crate) power_fails_with_disk: bool,
    pub(crate) files_fail: Option<FilesFail>,
    /// While it starts, this operation of its disk is the last; then power fails, or
    /// only the process ends.
    pub(crate) start_fails_at: Option<(u64, bool)>,
    /// Power fails at this operation of the first work that makes its log shorter.
    pub(crate) compaction_fails_at: Option<u64>,
    /// What an install of a snapshot meets: the disk stands still so long.
    pub(crate) install_stalls: Option<u64>,
    /// The number of its last start.
    pub(crate) incarnation: u64,
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
    /// What the replica was after its last event.
    pub(crate) seen: ReplicaStatus,
    pub(crate) reader: MetadataReader,
    wal: Wal,
    writes: VecDeque<PersistBatch>,
    /// Through where the log may be cut, and the batch that has to be durable before.
    compact: Option<(Index, Option<PersistId>)>,
    /// What the write in flight will have made durable.
    writing: Option<PersistId>,
    pub(crate) files: FileWorker,
    pub(crate) file_jobs: VecDeque<FileJob>,
    pub(crate) filing: bool,
    ticks: u64,
}

impl Process {
    pub(crate) fn new(id: ReplicaId, clock_rate_percent: u64, random: Random) -> Self {
        Self {
            id,
            random,
            disk: MemoryDisk::new(),
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
            power_fails_with_disk: false,
            files_fail: None,
            start_fails_at: None,
            compaction_fails_at: None,
            install_stalls: None,
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
        format!(
            "replica {} {} in term {}, log {} to {} in {} files, commit {}, applied {}{}",
            self.id,
            core.role.as_str(),
            core.term,
            core.first,
            core.last,
            running.log_segments(),
            core.commit,
            status.applied,
            peers.concat()
        )
    }

    fn identity(&self, plan: &Plan) -> Superblock {
        Superblock {
            group: GROUP,
            cluster: "simulated".into(),
            replica: self.id,
            incarnation: 0,
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

    pub(crate) fn start(&mut self, plan: &Plan, history: &History) -> Result<(), StartError> {
        self.starts += 1;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let (machine, reader) = history.record();
        let config = OpenConfig {
            identity: self.identity(plan),
            wal: WalConfig {
                segment_bytes: plan.segment_bytes,
                spares_max: 1,
                ..WalConfig::new(GROUP)
            },
            replica: ReplicaConfig {
                snapshot_entries: plan.snapshot_entries,
                batch_bytes_max: plan.segment_bytes as usize / BATCHES_IN_SEGMENT,
                batch_commands_max: plan.batch_commands_max as usize,
                pipeline_max: plan.pipeline_max as usize,
                ..ReplicaConfig::new(self.id)
            },
        };
        let (id, durable, last) = (self.id, &mut self.durable, &mut self.incarnation);
        let mut lost = Ok(());
        let build = |incarnation, recovered: Recovered| {
            lost = durable.recovered(&recovered);
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
        self.running = Some(Running {
            seen: opened.replica.status(),
            replica: opened.replica,
            reader,
            wal: opened.wal,
            writes: VecDeque::new(),
            compact: None,
            writing: None,
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
        self.writes.push_back(batch);
    }

    /// Whether the log is to be made shorter when the write in flight ends, or now.
    pub(crate) fn compacts(&self, now: bool) -> bool {
        match now {
            true => self.compact.is_some() && self.writing.is_none() && self.writes.is_empty(),
            false => self.compacts_after(self.writing),
        }
    }

    fn compacts_after(&self, written: Option<PersistId>) -> bool {
        self.compact
            .is_some_and(|(_, after)| after.is_none() || after <= written)
    }

    pub(crate) fn compact(&mut self, through: Index) {
        let after = self.writes.back().map(|batch| batch.id).or(self.writing);
        self.compact = Some((through, after));
    }

    /// Starts the next write, of everything that waits. Whether there is one.
    pub(crate) fn start_write(&mut self, durable: &mut Durable) -> Result<bool, WalError> {
        if self.writing.is_some() {
            return Ok(false);
        }
        let batches: Vec<_> = self.writes.drain(..).collect();
        let Some(last) = batches.last().map(|batch| batch.id) else {
            if let Some((through, _)) = self.compact.take() {
                self.wal.compact(through)?;
            }
            return Ok(false);
        };
        durable.start(&batches);
        self.wal.append(&batches)?;
        self.writing = Some(last);
        Ok(true)
    }

    /// The write in flight has had its time: it is fsynced, and durable.
    pub(crate) fn finish_write(
        &mut self,
        durable: &mut Durable,
    ) -> Result<Option<PersistId>, WalError> {
        let Some(last) = self.writing.take() else {
            return Ok(None);
        };
        self.wal.sync()?;
        durable.finish();
        if self.compacts_after(Some(last))
            && let Some((through, _)) = self.compact.take()
        {
            self.wal.compact(through)?;
        }
        Ok(Some(last))
    }
}
