//! Nodes with a copy each, their disks and links, and what must hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use consensus::rules::lower_limits;
use consensus::{Index, ReplicaId, rule};
use partitions::replication::{
    Epoch, Event, Message, OffsetTable, PartitionReplica, Position, Record, Recovered, Settings,
    Start, TableVersion, TableWrite, Ticket, Trust,
};
use partitions::{ConsumerKey, Durability, Tag};

use crate::clients::{Attempt, Client};
use crate::log::Log;
use crate::metadata::{Command, Metadata};
use crate::random::Random;

/// Something that must not happen.
pub(crate) type Violation = String;

pub(crate) enum Operation {
    Write(Vec<Record>, Option<Bytes>),
    Truncate(Index),
    Reset(Start, Bytes),
    Sync,
    Adopt(Epoch),
    Table(TableWrite),
}

/// What of a copy survives its process, and what survives its machine.
pub(crate) struct Disk {
    pub(crate) log: Log,
    pub(crate) synced: Index,
    /// Up to here records are known to be committed.
    pub(crate) commit: Index,
    pub(crate) adopted: Epoch,
    pub(crate) trust: Trust,
    pub(crate) table: OffsetTable,
    pub(crate) table_synced: OffsetTable,
    pub(crate) table_trust: Trust,
    pub(crate) operations: VecDeque<(Ticket, Operation)>,
    pub(crate) hangs: bool,
    /// It has refused an operation: the process has to start again.
    pub(crate) failed: bool,
}

impl Disk {
    pub(crate) fn empty(trust: Trust) -> Self {
        Self {
            log: Log::default(),
            synced: Index(0),
            commit: Index(0),
            adopted: Epoch(0),
            trust,
            table: OffsetTable::default(),
            table_synced: OffsetTable::default(),
            table_trust: trust,
            operations: VecDeque::new(),
            hangs: false,
            failed: false,
        }
    }
}

pub(crate) struct Node {
    pub(crate) id: ReplicaId,
    pub(crate) replica: Option<PartitionReplica>,
    pub(crate) up: bool,
    pub(crate) registration: u64,
    /// Which state of the metadata it has applied.
    applied: usize,
    /// The log as the process has it: what is written, and what is being written.
    pub(crate) log: Log,
    /// The table as the process has it.
    pub(crate) table: OffsetTable,
    /// What is kept with the next record.
    pub(crate) kept: Option<Bytes>,
    /// Where the log may start.
    pub(crate) trim: Option<Start>,
    pub(crate) disk: Disk,
    /// Followers for which there is something to send.
    pub(crate) ready: BTreeSet<ReplicaId>,
    /// Requests that wait for an answer.
    pub(crate) open: BTreeSet<u64>,
    ticked: Duration,
    pub(crate) epoch_led: Option<Epoch>,
}

pub(crate) type Frame = (u64, Message);

/// How much goes wrong, per mille of the steps.
#[derive(Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) kill: u64,
    pub(crate) power: u64,
    pub(crate) power_all: u64,
    pub(crate) lose_disk: u64,
    pub(crate) hang: u64,
    pub(crate) fail: u64,
    pub(crate) cut: u64,
    pub(crate) isolate: u64,
    pub(crate) reconnect: u64,
    pub(crate) false_down: u64,
}

pub(crate) fn number(id: ReplicaId) -> usize {
    usize::try_from(id.number()).unwrap_or(0)
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now: Duration,
    pub(crate) nodes: Vec<Node>,
    pub(crate) metadata: Metadata,
    pub(crate) commands: Vec<Command>,
    pub(crate) links: BTreeMap<(usize, usize), VecDeque<Frame>>,
    pub(crate) cut: Vec<(usize, usize)>,
    pub(crate) faults: Faults,
    /// Clients send so little that a follower with the smallest window keeps up.
    calm: bool,
    pub(crate) settings: Settings,
    pub(crate) next_request: u64,
    next_registration: u64,
    /// Header and body of each record: one for ever.
    pub(crate) records: BTreeMap<Position, (Bytes, Bytes)>,
    /// What is committed, by index.
    pub(crate) committed: Vec<Record>,
    /// In which epoch each of them was.
    pub(crate) committed_by: Vec<Epoch>,
    /// The request of each offset that was visible.
    pub(crate) visible: BTreeMap<u64, Bytes>,
    /// The nodes that had each record once, with the promised durability.
    pub(crate) had: BTreeMap<Position, BTreeSet<ReplicaId>>,
    /// How much was committed at these times.
    pub(crate) commits: VecDeque<(Duration, usize)>,
    /// The messages of each request.
    pub(crate) bodies: BTreeMap<u64, Bytes>,
    pub(crate) clients: Vec<Client>,
    /// Sessions are forgotten soon.
    pub(crate) forgets: bool,
    /// What each request to a copy was.
    pub(crate) attempts: BTreeMap<u64, Attempt>,
    /// Requests with a tag.
    pub(crate) tagged: BTreeSet<u64>,
    /// Where the request with a tag is committed.
    pub(crate) tags: BTreeMap<Tag, Index>,
    pub(crate) offset_durability: Durability,
    /// Each version of the table: one for ever.
    pub(crate) tables: BTreeMap<TableVersion, OffsetTable>,
    /// Which version a request has led to.
    pub(crate) offset_versions: BTreeMap<(ConsumerKey, u64), TableVersion>,
    /// The version with the last acknowledged change of a consumer.
    pub(crate) offsets: BTreeMap<ConsumerKey, TableVersion>,
    /// The largest start of the log that was committed.
    pub(crate) start: Start,
    pub(crate) acknowledged: BTreeMap<u64, u64>,
    pub(crate) started: BTreeMap<Epoch, (ReplicaId, u64)>,
    pub(crate) counts: Counts,
}

/// What happened, to see that something did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) committed: u64,
    pub(crate) epochs: u64,
    pub(crate) sets: u64,
    pub(crate) recoveries: u64,
    pub(crate) cuts: u64,
    pub(crate) unknown: u64,
    pub(crate) resets: u64,
    pub(crate) trims: u64,
    pub(crate) offsets: u64,
    pub(crate) reads: u64,
    pub(crate) repetitions: u64,
    pub(crate) forced: u64,
    pub(crate) failed: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = [1, 2, 3, 3, 3, 3, 4, 5][random.below(8)];
        let min_in_sync = 1 + random.below(usize::try_from(nodes).unwrap_or(1).min(3));
        let durability = [Durability::Written, Durability::Synced][random.below(2)];
        let some = |random: &mut Random, rate: u64| if random.chance(400) { rate } else { 0 };
        let faults = Faults {
            kill: some(&mut random, 6),
            power: some(&mut random, 4),
            power_all: some(&mut random, 1),
            lose_disk: some(&mut random, 1),
            hang: some(&mut random, 3),
            fail: some(&mut random, 1),
            cut: some(&mut random, 10),
            isolate: some(&mut random, 4),
            reconnect: some(&mut random, 10),
            false_down: some(&mut random, 4),
        };
        let node = |id| Node {
            id: ReplicaId::from_number(id),
            replica: None,
            up: false,
            registration: 0,
            applied: 0,
            log: Log::default(),
            table: OffsetTable::default(),
            kept: None,
            trim: None,
            disk: Disk::empty(Trust::Trusted),
            ready: BTreeSet::new(),
            open: BTreeSet::new(),
            ticked: Duration::ZERO,
            epoch_led: None,
        };
        // Sessions are forgotten soon in some runs, and never in others.
        let sessions = [2, 3, 1024][random.below(3)];
        lower_limits(&[("sessions", sessions)]);
        let forgets = sessions < 1024;
        Self {
            nodes: (0..nodes).map(node).collect(),
            metadata: Metadata::new(nodes, min_in_sync, durability),
            commands: Vec::new(),
            links: BTreeMap::new(),
            cut: Vec::new(),
            faults,
            calm: false,
            settings: Settings {
                unsynced_messages_max: 1 + random.next() % 30,
                unsynced_bytes_max: 1 << (9 + random.below(6)),
                uncommitted_bytes_max: 1 << (9 + random.below(6)),
                append_records_max: 1 + random.next() % 6,
                append_bytes_max: 1 << (9 + random.below(3)),
                in_flight_records_max: 1 + random.next() % 12,
                in_flight_bytes_max: 1 << (9 + random.below(4)),
                segment_bytes_max: 1 << (9 + random.below(6)),
                idle_beat: Duration::from_millis(100 + random.next() % 2000),
                replica_lag_max: Duration::from_millis(200 + random.next() % 2000),
                steady: Duration::from_millis(100 + random.next() % 500),
                failover_timeout: Duration::from_millis(200 + random.next() % 1000),
                ..Settings::default()
            },
            next_request: 1,
            next_registration: 1,
            records: BTreeMap::new(),
            committed: Vec::new(),
            committed_by: Vec::new(),
            visible: BTreeMap::new(),
            had: BTreeMap::new(),
            commits: VecDeque::new(),
            bodies: BTreeMap::new(),
            clients: (1..=5).map(Client::new).collect(),
            forgets,
            attempts: BTreeMap::new(),
            tagged: BTreeSet::new(),
            tags: BTreeMap::new(),
            offset_durability: [Durability::Written, Durability::Synced][random.below(2)],
            tables: BTreeMap::new(),
            offset_versions: BTreeMap::new(),
            offsets: BTreeMap::new(),
            start: Start::default(),
            acknowledged: BTreeMap::new(),
            started: BTreeMap::new(),
            counts: Counts::default(),
            now: Duration::ZERO,
            random,
        }
    }

    /// One step of everything.
    pub(crate) fn step(&mut self) -> Result<(), Violation> {
        self.now += Duration::from_millis(1 + self.random.next() % 8);
        self.break_something();
        self.commits.push_back((self.now, self.committed.len()));
        while self.commits.len() > 400 {
            self.commits.pop_front();
        }
        for _ in 0..4 {
            let node = self.random.below(self.nodes.len());
            match self.random.below(10) {
                0 => self.start_or_apply(node)?,
                1 => self.decide(),
                2 | 3 => self.finish_operation(node)?,
                4..=7 => self.deliver()?,
                8 if self.calm && !self.random.chance(100) => {}
                8 => self.request(node)?,
                _ => self.trim(node)?,
            }
        }
        for node in 0..self.nodes.len() {
            if self.now >= self.nodes[node].ticked + Duration::from_millis(50) {
                self.nodes[node].ticked = self.now;
                self.input(node, Event::Tick)?;
                self.pump(node)?;
            }
        }
        Ok(())
    }

    /// Ends all faults.
    pub(crate) fn heal(&mut self) {
        self.faults = Faults {
            kill: 0,
            power: 0,
            power_all: 0,
            lose_disk: 0,
            hang: 0,
            fail: 0,
            cut: 0,
            isolate: 0,
            reconnect: 0,
            false_down: 0,
        };
        self.cut.clear();
        self.calm = true;
        for at in 0..self.nodes.len() {
            self.nodes[at].disk.hangs = false;
            if self.nodes[at].disk.failed {
                self.kill(at);
            }
        }
    }

    /// What keeps the copies apart although nothing fails any more.
    pub(crate) fn not_converged(&self) -> Option<String> {
        let assignment = self.metadata.latest();
        let leader = assignment.leader?;
        let leader = self.nodes.iter().find(|node| node.id == leader)?;
        let replica = leader.replica.as_ref()?;
        if !replica.leads() {
            return Some(format!(
                "{:?} does not lead epoch {}",
                leader.id, assignment.epoch
            ));
        }
        let last = replica.chain().last();
        if let Some(why) = self.wrong_segment(&leader.disk.log.records) {
            return Some(why);
        }
        let table = &leader.disk.table;
        for node in &self.nodes {
            let Some(replica) = &node.replica else {
                return Some(format!("{:?} does not run", node.id));
            };
            let common = node.disk.log.start.base.index;
            let common = common.max(leader.disk.log.start.base.index);
            let records = |log: &Log| log.between(common, log.end()).to_vec();
            let equal = records(&node.disk.log) == records(&leader.disk.log);
            if replica.chain().last() != last || node.disk.log.end() != last.index || !equal {
                let end = replica.chain().last();
                return Some(format!("{:?} ends at {end}, its leader at {last}", node.id));
            }
            if node.disk.table != *table || replica.table() != table {
                return Some(format!("{:?} has another table", node.id));
            }
            if !assignment.is_in_sync(node.id) {
                return Some(format!("{:?} is not in sync", node.id));
            }
            if !node.open.is_empty() {
                return Some(format!("{:?} has not answered {:?}", node.id, node.open));
            }
        }
        (replica.commit() < last.index).then(|| format!("{last} is not committed"))
    }

    /// An operator accepts the loss, and names the copy that is left.
    pub(crate) fn force(&mut self) {
        let assignment = self.metadata.latest();
        let live = |node: &&Node| assignment.is_live(node.id);
        let best = self.nodes.iter().filter(live);
        if let Some(node) = best.min_by_key(|node| (node.disk.trust, node.id)) {
            let command = Command::Force { leader: node.id };
            self.counts.forced += 1;
            self.commands.push(command);
        }
    }

    /// Whether an operator would have to decide.
    pub(crate) fn is_lost(&self) -> bool {
        let assignment = self.metadata.latest();
        let in_sync = self
            .nodes
            .iter()
            .filter(|node| assignment.is_in_sync(node.id));
        let kept = in_sync.filter(|node| node.disk.trust != Trust::Lost);
        kept.count() < assignment.election_quorum()
    }

    /// Starts the process of a node, or lets it apply more of the metadata.
    fn start_or_apply(&mut self, at: usize) -> Result<(), Violation> {
        let node = &mut self.nodes[at];
        if !node.up {
            node.up = true;
            node.registration = self.next_registration;
            self.next_registration += 1;
            node.log = node.disk.log.clone();
            node.table = node.disk.table.clone();
            let known = usize::try_from(node.disk.commit.min(node.log.end()).0).unwrap_or(0);
            node.disk.commit = Index(self.random.below(known + 1) as u64);
            // What was applied before is known again only when it is committed again.
            node.applied = self.random.below(node.applied + 1);
            for other in 0..self.nodes.len() {
                self.reconnect(at, other);
            }
        }
        let node = &mut self.nodes[at];
        let behind = self.metadata.states.len() - 1 - node.applied;
        node.applied += self.random.below(behind + 1);
        let assignment = self.metadata.states[node.applied].clone();
        let member = assignment.members[&node.id];
        let registered = member.registration == node.registration;
        if !registered || !member.live {
            let repeat = self.random.chance(200);
            if member.registration <= node.registration && repeat {
                self.commands.push(Command::Register {
                    node: node.id,
                    registration: node.registration,
                    trust: node.disk.trust,
                });
            }
            if !registered && rule!(ActsAfterRegistration) {
                return Ok(());
            }
        }
        match &node.replica {
            Some(_) => self.input(at, Event::Assigned(assignment)),
            None => {
                let log = &node.log;
                let recovered = Recovered {
                    chain: log.chain(),
                    first_offset: log.start.first_offset,
                    next_offset: log.next_offset(),
                    last_timestamp: log.records.last().map_or(0, |record| record.timestamp),
                    segment_bytes: log.segment().iter().map(|it| it.bytes() as u64).sum(),
                    synced: node.disk.synced,
                    synced_offset: log
                        .between(Index(0), node.disk.synced)
                        .last()
                        .map_or(log.start.first_offset, Record::next_offset),
                    commit: node.disk.commit,
                    adopted: node.disk.adopted,
                    trust: node.disk.trust,
                    table: node.table.clone(),
                    table_trust: node.disk.table_trust,
                    sessions: log.sessions(),
                };
                let (id, settings) = (node.id, self.settings);
                let replica = PartitionReplica::new(id, settings, recovered, assignment, self.now);
                self.nodes[at].replica = Some(replica);
                self.outputs(at)
            }
        }
    }

    /// The metadata decides one of the proposed commands; some are lost, some come twice.
    fn decide(&mut self) {
        if self.commands.is_empty() {
            return;
        }
        let at = self.random.below(self.commands.len());
        let command = self.commands.swap_remove(at);
        if self.random.chance(100) {
            return;
        }
        if self.random.chance(100) {
            self.commands.push(command.clone());
        }
        let before = self.metadata.latest().clone();
        self.metadata.apply(command);
        let after = self.metadata.latest();
        self.counts.epochs += u64::from(after.epoch != before.epoch);
        self.counts.sets += u64::from(after.in_sync != before.in_sync);
        self.counts.recoveries += u64::from(after.recovery != before.recovery);
    }
}
