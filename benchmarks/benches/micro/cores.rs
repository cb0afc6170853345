//! Three cores that exchange messages without delay: the protocol alone.

use std::collections::VecDeque;
use std::hint::black_box;

use bytes::Bytes;
use consensus::{
    Committed, Consensus, CoreConfig, Effect, Input, Limits, Membership, ProposalId, Recovered,
    ReplicaId, Role, SnapshotMeta, Tick,
};
use consensus_raft::RaftCore;
use consensus_vr::VrCore;
use criterion::{BenchmarkId, Criterion, Throughput};

const REPLICAS: u64 = 3;
/// The most ticks until there is a leader.
const PATIENCE: u64 = 10_000;
/// Entries between two snapshots, which let the cores drop their log.
const SNAPSHOT_EVERY: u64 = 4_096;

pub(crate) fn benchmark(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cores/commit");
    for (name, build) in [("raft", raft as Build), ("vr", vr as Build)] {
        for (entries, bytes) in [(1, 256), (16, 256), (1, 64 << 10)] {
            let mut cores = Cores::new(build);
            let payload = Bytes::from(vec![b'v'; bytes]);
            group.throughput(Throughput::Elements(entries));
            let id = BenchmarkId::new(name, format!("{entries} of {bytes} B"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| cores.commit(entries, &payload));
            });
        }
    }
    group.finish();
}

type Build = fn(&CoreConfig) -> Box<dyn Consensus>;

fn raft(config: &CoreConfig) -> Box<dyn Consensus> {
    Box::new(RaftCore::new(config, Recovered::default()).expect("nothing to recover"))
}

fn vr(config: &CoreConfig) -> Box<dyn Consensus> {
    Box::new(VrCore::new(config, Recovered::default()).expect("nothing to recover"))
}

struct Cores {
    cores: Vec<Box<dyn Consensus>>,
    inboxes: Vec<VecDeque<(ReplicaId, Bytes)>>,
    leader: usize,
    now: Tick,
    proposed: u64,
    /// Entries that the leader proposed.
    committed: u64,
}

impl Cores {
    fn new(build: Build) -> Self {
        let ids = || (1..=REPLICAS).map(ReplicaId);
        let config = |id| CoreConfig {
            id,
            group: 1,
            membership: Membership::new(1, ids(), []).expect("different replicas"),
            heartbeat_ticks: 5,
            election_ticks: 20,
            seed: id.0,
            limits: Limits::default(),
        };
        let mut cores = Self {
            cores: ids().map(|id| build(&config(id))).collect(),
            inboxes: ids().map(|_| VecDeque::new()).collect(),
            leader: 0,
            now: Tick(0),
            proposed: 0,
            committed: 0,
        };
        let leader = (0..PATIENCE).find_map(|_| {
            cores.tick();
            let mut roles = cores.cores.iter().map(|core| core.status().role);
            roles.position(|role| role == Role::Leader)
        });
        cores.leader = leader.expect("a leader");
        cores
    }

    fn tick(&mut self) {
        self.now.0 += 1;
        for core in 0..self.cores.len() {
            self.step(core, Input::Tick);
            self.execute(core);
        }
        while self.deliver() {}
    }

    fn step(&mut self, core: usize, input: Input) {
        let done = self.cores[core].step(self.now, input);
        done.expect("a valid input");
    }

    fn commit(&mut self, entries: u64, payload: &Bytes) {
        for _ in 0..entries {
            self.proposed += 1;
            let proposal = ProposalId(self.proposed);
            let payload = payload.clone();
            self.step(self.leader, Input::Propose { proposal, payload });
        }
        self.execute(self.leader);
        while self.deliver() {}
        assert_eq!(self.committed, self.proposed);
        if self.proposed % SNAPSHOT_EVERY < entries {
            // Heartbeats, as in a cluster.
            self.tick();
        }
    }

    fn deliver(&mut self) -> bool {
        let mut any = false;
        for core in 0..self.cores.len() {
            while let Some((from, message)) = self.inboxes[core].pop_front() {
                any = true;
                self.step(core, Input::Receive { from, message });
            }
            self.execute(core);
        }
        any
    }

    fn execute(&mut self, at: usize) {
        while let Some(effect) = self.cores[at].poll() {
            match effect {
                Effect::Persist(batch) => self.step(at, Input::Persisted(batch.id)),
                Effect::Send { to, message, .. } => {
                    let from = ReplicaId(at as u64 + 1);
                    self.inboxes[to.0 as usize - 1].push_back((from, message.to_bytes()));
                }
                Effect::Commit(entries) => {
                    let own = entries.iter().filter(|entry| entry.proposal.is_some());
                    self.committed += own.count() as u64;
                    self.snapshots(at, &entries);
                }
                other => drop(black_box(other)),
            }
        }
    }

    /// Without snapshots, the log would grow to its bound.
    fn snapshots(&mut self, at: usize, entries: &[Committed]) {
        let due = entries
            .iter()
            .rfind(|committed| committed.entry.index.0.is_multiple_of(SNAPSHOT_EVERY));
        if let Some(committed) = due {
            let membership = self.cores[at].status().membership;
            let taken = SnapshotMeta {
                index: committed.entry.index,
                term: committed.entry.term,
                membership,
            };
            self.step(at, Input::SnapshotTaken(taken));
        }
    }
}
